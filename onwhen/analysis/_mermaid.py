"""A graph as text for Mermaid, which many pages draw where it stands.

Belongs here: the syntax. It must not know how the graph came about. Source: mermaid.js.org, "Flowcharts" and its
entity codes, by which any sign can stand in a label.
"""

from __future__ import annotations

from typing import Final

from onwhen.analysis._graph import Edge, Graph, Node

__all__ = ["mermaid_of"]

_SHAPES: Final = {
    "event": '(["{}"])',
    "property": '{{{{"{}"}}}}',
    "rule": '["{}"]',
    "middleware": '[["{}"]]',
    "unknown": '(("{}"))',
}
_CLASSES: Final = {
    "event": "fill:#e3effd,stroke:#3b7dd8,color:#1c2430",
    "property": "fill:#e2f5e6,stroke:#3c9a55,color:#1c2430",
    "rule": "fill:#fff3d6,stroke:#c98a10,color:#1c2430",
    "middleware": "fill:#f0e7fb,stroke:#8a5cc7,color:#1c2430",
    "unknown": "fill:#fde5e5,stroke:#d24a4a,color:#1c2430",
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
    lines += [f"  classDef {kind} {_CLASSES[kind]}" for kind in kinds]
    return "\n".join([*lines, ""])


def _label(node: Node) -> str:
    above = "middleware" if node.kind == "middleware" else node.group
    return f"{_escaped(above)}<br>{_escaped(node.label)}" if above else _escaped(node.label)


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
    return "".join(sign if sign in _PLAIN else f"#{ord(sign)};" if sign.isprintable() else "#65533;" for sign in text)
