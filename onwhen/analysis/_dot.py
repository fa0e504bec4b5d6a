"""A graph as text for Graphviz.

Belongs here: the syntax. It must not know how the graph came about. Source: graphviz.org, "DOT Language".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from onwhen.analysis._graph import Edge, Graph, Node
from onwhen.analysis._looks import COLOURS, INK, LINE, LINES, above, visible

__all__ = ["dot_of"]

_LOOKS: Final = {
    "event": 'shape=box, style="rounded,filled{}"',
    "property": 'shape=hexagon, style="filled{}"',
    "rule": 'shape=box, style="filled{}"',
    "middleware": 'shape=box, peripheries=2, style="filled{}"',
    "unknown": 'shape=circle, style="filled{}"',
}


def dot_of(graph: Graph) -> str:
    """Return a graph as a directed graph in the DOT language."""
    number = {node.id: f"n{at}" for at, node in enumerate(graph.nodes)}
    lines = [
        "digraph onwhen {",
        '  graph [rankdir=LR, bgcolor="transparent", nodesep=0.25, ranksep=0.6];',
        f'  node [fontname="monospace", fontsize=11, fontcolor="{INK}"];',
        f'  edge [fontname="monospace", fontsize=9, fontcolor="#6e7987", color="{LINE}", arrowsize=0.7];',
    ]
    lines += [f"  {number[node.id]} [{_node(node)}];" for node in graph.nodes]
    lines += [f"  {number[edge.source]} -> {number[edge.target]} [{_edge(edge)}];" for edge in graph.edges]
    return "\n".join([*lines, "}", ""])


def _node(node: Node) -> str:
    label = _lines(above(node), node.label)
    told = _lines(node.kind, *node.notes, "" if node.place is None else str(node.place))
    look = _LOOKS[node.kind].format(",dashed" if node.is_pattern else "")
    fill, border = COLOURS[node.kind]
    return f'label={_quoted(label)}, {look}, fillcolor="{fill}", color="{border}", tooltip={_quoted(told)}'


def _edge(edge: Edge) -> str:
    facts: dict[str, str] = {}
    if edge.label:
        facts["label"] = edge.label
    if edge.kind in LINES:
        facts["color"] = LINES[edge.kind]
    if edge.is_timer or edge.is_muted:
        facts["style"] = "dashed"
    elif edge.kind == "matches":
        facts["style"] = "dotted"
    told = f"{edge.kind}{', muted' if edge.is_muted else ''}{'' if edge.is_certain else ', sometimes'}"
    facts["tooltip"] = told if edge.place is None else f"{told}, at {edge.place}"
    return _listed(facts)


def _listed(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={_quoted(_lines(value))}" for name, value in facts.items())


def _lines(*lines: str) -> str:
    """Return lines as one text; what cannot be seen is replaced."""
    return "\n".join(visible(line) for line in lines if line)


def _quoted(text: str) -> str:
    """Return a text as a quoted string, in which a backslash stands for itself."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
