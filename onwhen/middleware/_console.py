"""Lines for a developer's eyes, with colours where there can be some.

Belongs here: how lines get onto a stream, whatever it can take. It must not know what they tell.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple, TextIO

__all__ = ["Line", "show"]

_STEP: Final = "    "


class Line(NamedTuple):
    """One line.

    Attributes:
        level: how far it is indented, in steps.
        text: what it says, without anything that controls a terminal.
        style: how it may look, as `rich` calls it.
    """

    level: int
    text: str
    style: str = ""


def show(lines: Sequence[Line], stream: TextIO | None, indent: int) -> None:
    """Write lines in one go; on a terminal in colours, if `rich` is installed.

    Args:
        lines: what to write.
        stream: where; None for standard error, as it is now.
        indent: how far all of it is indented, in steps.
    """
    out: TextIO | None = stream if stream is not None else sys.stderr  # None where there is none
    if out is None:
        return
    encoding = getattr(out, "encoding", None) or "utf-8"
    plain = [line._replace(text=f"{_STEP * (indent + line.level)}{line.text}") for line in lines]
    try:
        out.write(_written(plain, out).encode(encoding, "backslashreplace").decode(encoding))
        out.flush()
    except (OSError, ValueError):  # nobody is there to read it, or it is closed
        return


def _written(lines: Sequence[Line], out: TextIO) -> str:
    if out.isatty():
        with suppress(ImportError):
            from rich.console import Console
            from rich.text import Text

            console = Console(file=out)
            with console.capture() as captured:
                for line in lines:
                    console.print(Text(line.text, line.style), soft_wrap=True)
            return captured.get()
    return "".join(f"{line.text}\n" for line in lines)
