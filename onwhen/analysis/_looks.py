"""What drawings of all kinds have in common.

Belongs here: colours and words. It must not know the syntax of any kind.
"""

from __future__ import annotations

from typing import Final

from onwhen.analysis._graph import EdgeKind, Node, NodeKind

__all__ = ["COLOURS", "INK", "LINE", "LINES", "above", "visible"]

COLOURS: Final[dict[NodeKind, tuple[str, str]]] = {
    "event": ("#e3effd", "#3b7dd8"),
    "rule": ("#fff3d6", "#c98a10"),
    "property": ("#e2f5e6", "#3c9a55"),
    "middleware": ("#f0e7fb", "#8a5cc7"),
    "unknown": ("#fde5e5", "#d24a4a"),
}
"""Inside and border of each kind of box: to be read on a light and on a dark page."""

INK: Final = "#1c2430"
LINE: Final = "#7d8896"
LINES: Final[dict[EdgeKind, str]] = {
    "emits": COLOURS["event"][1],
    "sets": COLOURS["property"][1],
    "defers": COLOURS["event"][1],
}
"""Colours of lines that are not like the others."""


def above(node: Node) -> str:
    """Return the small line above a label."""
    return "middleware" if node.kind == "middleware" else node.group


def visible(text: str) -> str:
    """Return a line with a replacement for each sign that cannot be seen."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
