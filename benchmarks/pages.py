"""The page about speed: each command writes its part of it, and leaves the other's as it is.

Belongs here: where parts begin. It must not know what they say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from benchmarks.rounds import ROOT

__all__ = ["PAGE", "write_fleet", "write_main"]

PAGE: Final = ROOT / "docs" / "performance.md"
_MARK: Final = "<!-- From here on written by `python -m benchmarks.fleet --report`. -->\n"


def write_main(text: str, page: Path = PAGE) -> None:
    """Write the page anew, but for the part about workers over Redis."""
    _, mark, fleet = page.read_text().partition(_MARK)
    page.write_text(f"{text}\n{mark}{fleet}" if mark else text)


def write_fleet(text: str, page: Path = PAGE) -> None:
    """Write the part about workers over Redis anew."""
    page.write_text(f"{page.read_text().partition(_MARK)[0].rstrip()}\n\n{_MARK}\n{text}")
