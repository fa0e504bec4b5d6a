"""What a command that goes on for long tells on standard error: one line each, with the moment.

Belongs here: lines that go out at once, from any thread and from a signal handler. It must not know what is told.
"""

from __future__ import annotations

import os
import threading
from typing import Final

from onwhen.cli._forms import clean, shortly
from onwhen.engine.clock import SystemClock

__all__ = ["tell", "tell_last"]

_STDERR: Final = 2
_PATIENCE: Final = 1.0  # seconds that the last words may take, if whoever should read them does not


def tell(who: str, text: str) -> None:
    """Write one line, past Python's buffers: those may be in use by what a signal has interrupted.

    Args:
        who: which process says it.
        text: what it says; made harmless to a terminal.
    """
    _write(f"{shortly(SystemClock().now())} {clean(who)}: {clean(text)}\n")


def tell_last(who: str, text: str, story: str = "") -> None:
    """Write a line, and further lines under it, before the process ends; standard error may be what hangs.

    Args:
        who: which process says it.
        text: what it says.
        story: of several lines, such as a stack.
    """
    lines = "".join(f"    {clean(line)}\n" for line in story.splitlines())
    said = f"{shortly(SystemClock().now())} {clean(who)}: {clean(text)}\n{lines}"
    writing = threading.Thread(target=_write, args=(said,), daemon=True)
    writing.start()
    writing.join(_PATIENCE)


def _write(text: str) -> None:
    left = text.encode(errors="backslashreplace")
    try:
        while left:
            left = left[os.write(_STDERR, left) :]
    except OSError:  # nobody is there to read it
        return
