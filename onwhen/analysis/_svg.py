"""A graph as a picture that needs nothing else: SVG.

Belongs here: shapes, colours and words of a drawing. It must not know where things go (`_layout`), nor how the graph
came about. Colours are such that it can be read on a light and on a dark page; each shape has its own, so nothing is
said by colour alone. Source: Scalable Vector Graphics (SVG) 1.1, W3C.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from onwhen.analysis._graph import Edge, Graph, Node
from onwhen.analysis._layout import Box, Line, lay_out
from onwhen.analysis._looks import COLOURS, INK, LINE, LINES, above, visible

__all__ = ["svg_of"]

_MARGIN: Final = 24.0  # around the whole (pixels)
_CELL: Final = 7.83  # width of a character of a label (pixels): 0.602 of 13, of the fonts below the widest
_SMALL_CELL: Final = 6.63  # of a character of the line above it: 0.602 of 11
_LONGEST: Final = 44  # characters of a label (a count)
_PADDING: Final = 15.0
_LEGEND: Final = 46.0  # height of the legend (pixels)

_STYLE: Final = "\n".join(
    [
        f"\ntext{{font:13px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;fill:{INK}}}",
        ".small{font-size:11px;fill:#5b6675}",
        ".shape{stroke-width:1.4}",
        *(f".{kind} .shape{{fill:{fill};stroke:{border}}}" for kind, (fill, border) in COLOURS.items()),
        ".pattern .shape{stroke-dasharray:5 3}",
        f".edge{{fill:none;stroke:{LINE};stroke-width:1.4}}",
        *(f".{kind}{{stroke:{LINES[kind]}}}" for kind in ("emits", "sets")),
        f".unsure{{stroke:{COLOURS['unknown'][1]}}}",
        ".timer{stroke-dasharray:9 4}",
        ".muted{stroke-dasharray:2 3}",
        ".matches{stroke-dasharray:1 4;stroke-linecap:round}",
        ".legend{fill:#6e7987;font-size:11px}\n",
    ]
)
_HEADS: Final = {"grey": LINE, "blue": LINES["emits"], "green": LINES["sets"], "red": COLOURS["unknown"][1]}


def svg_of(graph: Graph, title: str = "") -> str:
    """Return a drawing of a graph; the same graph is always drawn alike.

    Args:
        graph: what is drawn.
        title: its name, for those who cannot see it and for the title bar.
    """
    number = {node.id: at for at, node in enumerate(graph.nodes)}
    between: dict[tuple[int, int], list[Edge]] = defaultdict(list)
    for edge in graph.edges:
        between[number[edge.source], number[edge.target]].append(edge)
    layout = lay_out([_size(node) for node in graph.nodes], list(between))
    legend = _legend(graph)
    width = max(layout.width, sum(length for _, length in legend)) + 2 * _MARGIN
    height = layout.height + 2 * _MARGIN + (_LEGEND if legend else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" height="{_n(height)}" '
        f'viewBox="0 0 {_n(width)} {_n(height)}" role="img" aria-label="{_attribute(title or "rules")}">',
        f"<title>{_text(title or 'rules')}</title>",
        f"<style>{_STYLE}</style>",
        "<defs>",
        *(
            f'<marker id="head-{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" '
            f'markerUnits="userSpaceOnUse" orient="auto"><path d="M0 1 10 5 0 9z" fill="{colour}"/></marker>'
            for name, colour in _HEADS.items()
        ),
        "</defs>",
        f'<g transform="translate({_n(_MARGIN)} {_n(_MARGIN)})">',
    ]
    for pair, edges in between.items():
        path = _loop(layout.boxes[pair[0]]) if pair[0] == pair[1] else _path(layout.lines[pair])
        parts.append(_drawn_edge(edges, path, graph.nodes[pair[0]], graph.nodes[pair[1]]))
    parts += [_drawn_node(node, box) for node, box in zip(graph.nodes, layout.boxes, strict=True)]
    parts.append("</g>")
    x = _MARGIN
    for drawn, length in legend:
        parts.append(f'<g transform="translate({_n(x)} {_n(height - _MARGIN)})">{drawn}</g>')
        x += length
    return "\n".join([*parts, "</svg>", ""])


# -- nodes -------------------------------------------------------------------------------------------------------


def _size(node: Node) -> tuple[float, float]:
    if node.kind == "unknown":
        return 32.0, 32.0
    width = max(_cells(_cut(node.label)) * _CELL, _cells(_cut(above(node))) * _SMALL_CELL)
    beside = 2 * _PADDING + (10.0 if node.kind in ("property", "event") else 0.0)
    return max(width + beside, 60.0), 46.0 if above(node) else 34.0


def _drawn_node(node: Node, box: Box) -> str:
    x, y, w, h = box.x, box.y, box.width, box.height
    if node.kind == "unknown":
        shape = f'<circle class="shape" cx="{_n(x + w / 2)}" cy="{_n(y + h / 2)}" r="{_n(w / 2)}"/>'
    elif node.kind == "property":
        corners = [(x + 9, y), (x + w - 9, y), (x + w, y + h / 2), (x + w - 9, y + h), (x + 9, y + h), (x, y + h / 2)]
        points = " ".join(f"{_n(px)},{_n(py)}" for px, py in corners)
        shape = f'<polygon class="shape" points="{points}"/>'
    else:
        round = {"event": h / 2, "rule": 5.0}.get(node.kind, 0.0)
        shape = f'<rect class="shape" x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}" rx="{_n(round)}"/>'
    middle, small = _n(x + w / 2), above(node)
    words = ""
    if small:
        words += f'<text class="small" x="{middle}" y="{_n(y + 17)}" text-anchor="middle">{_text(_cut(small))}</text>'
    base = y + 34 if small else y + h / 2 + 4.5
    words += f'<text x="{middle}" y="{_n(base)}" text-anchor="middle">{_text(_cut(node.label))}</text>'
    classes = f"{node.kind} pattern" if node.is_pattern else node.kind
    told = [f"{node.kind} {node.group}{'.' if node.group else ''}{node.label}", *node.notes]
    if node.place is not None:
        told.append(str(node.place))
    return f'<g class="{classes}"><title>{_text(chr(10).join(told))}</title>{shape}{words}</g>'


def _cut(text: str) -> str:
    return text if _cells(text) <= _LONGEST else f"{text[: _LONGEST // 2]}…{text[-_LONGEST // 3 :]}"


def _cells(text: str) -> int:
    """Return how many cells of a fixed width a text takes."""
    return sum(2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text)


# -- edges -------------------------------------------------------------------------------------------------------


def _drawn_edge(edges: Sequence[Edge], path: str, source: Node, target: Node) -> str:
    classes, head = _look(edges, target)
    told = "\n".join(dict.fromkeys(_told(edge, source, target) for edge in edges))
    line = f'<path class="edge {classes}" d="{path}" marker-end="url(#head-{head})"/>'
    return f"<g><title>{_text(told)}</title>{line}</g>"


def _look(edges: Sequence[Edge], target: Node) -> tuple[str, str]:
    """Return classes and colour of a line that stands for some edges; the plain ones decide."""
    kind = edges[0].kind
    colour = {"emits": "blue", "sets": "green", "defers": "blue"}.get(kind, "grey")
    classes: list[str] = ["emits" if kind == "defers" else kind]
    if target.kind == "unknown":
        classes, colour = ["unsure"], "red"
    if all(edge.is_timer for edge in edges):
        classes.append("timer")
    if all(edge.is_muted for edge in edges):
        classes.append("muted")
    return " ".join(classes), colour


def _told(edge: Edge, source: Node, target: Node) -> str:
    words = [source.label, "may match" if edge.kind == "matches" and not edge.is_certain else edge.kind, target.label]
    if edge.label:
        words.append(f"({edge.label})")
    if edge.is_muted:
        words.append("muted")
    if edge.kind in ("emits", "sets") and not edge.is_certain:
        words.append("sometimes")
    if edge.place is not None:
        words.append(f"at {edge.place}")
    return " ".join(words)


def _path(line: Line) -> str:
    (x, y), *rest = line.points
    drawn = [f"M{_n(x)} {_n(y)}"]
    for at, (nx, ny) in enumerate(rest):
        if at % 2 == 0 or abs(ny - y) < 0.05:
            if abs(nx - x) >= 0.05 or at == len(rest) - 1:
                drawn.append(f"L{_n(nx)} {_n(ny)}")
        else:
            half = _n((x + nx) / 2)
            drawn.append(f"C{half} {_n(y)} {half} {_n(ny)} {_n(nx)} {_n(ny)}")
        x, y = nx, ny
    return "".join(drawn)


def _loop(box: Box) -> str:
    x, y = box.x + box.width / 2, box.y
    return f"M{_n(x + 12)} {_n(y)}C{_n(x + 20)} {_n(y - 20)} {_n(x - 20)} {_n(y - 20)} {_n(x - 12)} {_n(y)}"


# -- the legend --------------------------------------------------------------------------------------------------


def _legend(graph: Graph) -> list[tuple[str, float]]:
    """Return what the lines stand for that the picture has, and how much room each takes (pixels)."""
    found = []
    for classes, head, words in _lines_of(graph):
        line = f'<path class="edge {classes}" d="M0 -4L30 -4" marker-end="url(#head-{head})"/>'
        text = f'<text class="legend" x="37" y="0">{words}</text>'
        found.append((line + text, 37 + len(words) * _SMALL_CELL + 22))
    return found


def _lines_of(graph: Graph) -> Iterator[tuple[str, str, str]]:
    kinds = {edge.kind for edge in graph.edges}
    if "triggers" in kinds:
        yield "triggers", "grey", "triggers"
    if "emits" in kinds:
        yield "emits", "blue", "emits"
    if any(edge.is_timer for edge in graph.edges):
        yield "emits timer", "blue", "later, by a timer"
    if "sets" in kinds:
        yield "sets", "green", "sets"
    if any(edge.is_muted for edge in graph.edges):
        yield "sets muted", "green", "sets muted"
    if "matches" in kinds:
        yield "matches", "grey", "is one of"
    if any(node.kind == "unknown" for node in graph.nodes):
        yield "unsure", "red", "cannot be told"


def _n(value: float) -> str:
    return f"{value:z.1f}".removesuffix(".0")


def _text(text: str) -> str:
    return escape("\n".join(map(visible, text.split("\n"))))


def _attribute(text: str) -> str:
    return _text(text).replace('"', "&quot;")
