"""The page about speed: each command writes its part of it, and leaves the others' as they are.

Belongs here: where parts begin. It must not know what they say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.rounds import ROOT

__all__ = ["PAGE", "write_fleet", "write_main", "write_middleware"]

PAGE: Final = ROOT / "docs" / "performance.md"
_MARK: Final = "<!-- From here on written by `python -m benchmarks.{} --report`. -->\n"
_PARTS: Final = ("fleet", "middleware")
"""The parts that follow the main one, in this order, by the commands that write them."""


def write_main(text: str, page: Path = PAGE) -> None:
    """Write the page anew, but for the parts below."""
    _write("", text, page)


def write_fleet(text: str, page: Path = PAGE) -> None:
    """Write the part about workers over Redis anew."""
    _write("fleet", f"\n{text}", page)


def write_middleware(text: str, page: Path = PAGE) -> None:
    """Write the part about what middleware costs anew."""
    _write("middleware", f"\n{text}", page)


def _write(part: str, text: str, page: Path) -> None:
    found = _parted(page.read_text()) | {part: text}
    whole = found[""].rstrip() + "\n"
    for name in _PARTS:
        if name in found:
            whole += f"\n{_MARK.format(name)}{found[name].rstrip()}\n"
    page.write_text(whole)


def _parted(page: str) -> dict[str, str]:
    """Return the parts of a page, by the commands that write them; the main one has no name."""
    parts = {}
    for name in reversed(_PARTS):
        page, mark, rest = page.partition(_MARK.format(name))
        if mark:
            parts[name] = rest
    return parts | {"": page}
