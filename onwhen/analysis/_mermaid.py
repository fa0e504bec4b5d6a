"""A graph as text for Mermaid, which many pages draw where it stands.

Belongs here: the syntax. It must not know how the graph came about. Source: mermaid.js.org, "Flowcharts" and its
entity codes, by which any sign can stand in a label.
"""

from __future__ import annotations

from typing import Final

from onwhen.analysis._graph import Edge, Graph, Node
from onwhen.analysis._looks import COLOURS, INK, above, visible

__all__ = ["mermaid_of"]

_SHAPES: Final = {
    "event": '(["{}"])',
    "property": '{{{{"{}"}}}}',
    "rule": '["{}"]',
    "middleware": '[["{}"]]',
    "unknown": '(("{}"))',
}
_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:_-+*?/=()'!…")


def mermaid_of(graph: Graph) -> str:
    """Return a graph as a Mermaid flowchart."""
    number = {node.id: f"n{at}" for at, node in enumerate(graph.nodes)}
    lines = ["flowchart LR"]
    lines += [f"  {number[node.id]}{_SHAPES[node.kind].format(_label(node))}:::{node.kind}" for node in graph.nodes]
    arrows = dict.fromkeys(f"  {number[edge.source]} {_arrow(edge)} {number[edge.target]}" for edge in graph.edges)
    lines += arrows
    kinds = dict.fromkeys(node.kind for node in graph.nodes)
    for fill, stroke, kind in ((*COLOURS[kind], kind) for kind in kinds):
        lines.append(f"  classDef {kind} fill:{fill},stroke:{stroke},color:{INK}")
    return "\n".join([*lines, ""])


def _label(node: Node) -> str:
    return "<br>".join(_escaped(line) for line in (above(node), node.label) if line)


def _arrow(edge: Edge) -> str:
    words = []
    if edge.is_timer:
        words.append(edge.label if edge.label.startswith("timer") else "later")
    elif edge.label.startswith(("to ", "deleted", "deletes")):
        words.append(edge.label)
    if edge.is_muted:
        words.append("muted")
    if edge.kind == "matches":
        words.append("is one of")
    line = "-.->" if edge.is_timer or edge.is_muted or edge.kind == "matches" else "-->"
    return f'{line}|"{_escaped(", ".join(words))}"|' if words else line


def _escaped(text: str) -> str:
    """Return a text with all that could mean something as an entity code; what cannot be seen is replaced."""
    return "".join(sign if sign in _PLAIN else f"#{ord(sign)};" for sign in visible(text))
