"""Standard output and standard error, made ready for whatever a command may write to them.

Belongs here: what they can take, and what is done if there is none. It must not know what is written.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

__all__ = ["clear_screen", "is_utf8", "prepare_streams"]


def prepare_streams() -> bool:
    """Make both take any text: what their encoding does not have is escaped.

    Returns:
        Whether there is a standard output; if it is closed, that was told.
    """
    out: TextIO | None = sys.stdout  # None if it is closed
    err: TextIO | None = sys.stderr
    if err is None:
        _fill(2)  # or the next file that is opened would be standard error
        err = sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115, it stays open as long as we run
    if out is None:
        _fill(1)
        print("onwhen: cannot write output: it is closed", file=err)
        return False
    for stream in (out, err):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return True


def clear_screen() -> None:
    """Begin anew at the top of a terminal; elsewhere, and on one that cannot do that, after an empty line."""
    can = sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    print("\x1b[H\x1b[J" if can else "", end="" if can else "\n")


def is_utf8() -> bool:
    """Tell whether standard output can take any text as it is."""
    return (sys.stdout.encoding or "utf-8").lower().replace("_", "-") in ("utf-8", "utf8")


def _fill(number: int) -> None:
    """Let a file number that is closed lead nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    if null != number:
        os.dup2(null, number)
        os.close(null)
