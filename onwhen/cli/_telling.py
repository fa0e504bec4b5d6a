"""What a command that goes on for long tells on standard error: one line each, with the moment, as text or JSON.

Belongs here: lines that go out at once, from any thread and from a signal handler. It must not know what is told.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Final, Literal

from onwhen.cli._forms import clean, shortly
from onwhen.engine.clock import SystemClock

__all__ = ["tell", "tell_as", "tell_last"]

_STDERR: Final = 2
_PATIENCE: Final = 1.0  # seconds that the last words may take, if whoever should read them does not


_as_json = False


def tell_as(form: Literal["text", "json"]) -> None:
    """Tell everything in a form from now on: that of the log records which go the same way."""
    global _as_json
    _as_json = form == "json"


def tell(who: str, text: str) -> None:
    """Write one line, past Python's buffers: those may be in use by what a signal has interrupted.

    Args:
        who: which process says it.
        text: what it says; made harmless to a terminal.
    """
    _write(_line(who, text))


def tell_last(who: str, text: str, story: str = "") -> None:
    """Write a line, and further lines under it, before the process ends; standard error may be what hangs.

    Args:
        who: which process says it.
        text: what it says.
        story: of several lines, such as a stack.
    """
    writing = threading.Thread(target=_write, args=(_line(who, text, story),), daemon=True)
    writing.start()
    writing.join(_PATIENCE)


def _line(who: str, text: str, story: str = "") -> str:
    now = SystemClock().now()
    if _as_json:
        said = {"time": now.isoformat().replace("+00:00", "Z"), "level": "INFO", "logger": "onwhen.cli"}
        said |= {"message": text, "worker": who} | ({"story": story} if story else {})
        return json.dumps(said) + "\n"
    lines = "".join(f"    {clean(line)}\n" for line in story.splitlines())
    return f"{shortly(now)} {clean(who)}: {clean(text)}\n{lines}"


def _write(text: str) -> None:
    left = text.encode(errors="backslashreplace")
    try:
        while left:
            left = left[os.write(_STDERR, left) :]
    except OSError:  # nobody is there to read it
        return
