"""A thread that sees whether the event loop of a worker still turns, and what it hangs in if it does not.

Belongs here: looking at an event loop from outside, and telling what was seen. It must not know what is done about it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Final, Self

from onwhen.cli._silence import Silence
from onwhen.engine.turns import Turn

__all__ = ["Stalled", "Watchdog"]

_LOOKS: Final = 10  # looks while the loop may be silent (a count)
_LONGEST: Final = 1.0  # seconds between two looks, at most
_FRAMES: Final = 12  # frames of a stack that are told, the innermost ones (a count)
_RUNS_TURN: Final = Turn.run.__code__
_RUNS_RULE: Final = Turn._run_rules.__code__


class Stalled:
    """An event loop that was seen not to turn.

    Attributes:
        seconds: for how long.
        rule: id of the rule that holds it up; "" if it is none.
        event: what the rule handles, as `type to subject`; "" if that is not known.
        stack: what it hangs in, innermost frame last.
    """

    def __init__(self, seconds: float, rule: str, event: str, stack: str) -> None:
        self.seconds = seconds
        self.rule = rule
        self.event = event
        self.stack = stack

    def __str__(self) -> str:
        who = f"the rule {self.rule} blocks the event loop" if self.rule else "the event loop is blocked"
        at = f" at {self.event}" if self.event else ""
        return f"{who}{at}: it has not turned for {self.seconds:.0f} s"


class Watchdog:
    """Looks at the running event loop, which is that of the thread that makes this, until it is left.

    A process that was stopped for a while, or a machine that slept, is not taken for a loop that hangs: only time in
    which this thread ran as well is counted.

    Args:
        patience: how long the loop may be silent (seconds).
        on_stall: called once, on the thread of the watchdog, if it was silent for longer.
        every: called at each look, on the thread of the watchdog.
    """

    def __init__(
        self,
        patience: float,
        on_stall: Callable[[Stalled], None],
        every: Callable[[], None] | None = None,
    ) -> None:
        self._patience = patience
        self._on_stall = on_stall
        self._every = every
        self._pause = min(_LONGEST, patience / _LOOKS)
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._beats = 0
        self._ended = threading.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._watch, name="onwhen-watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._beat()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        self._beats += 1
        self._timer = self._loop.call_later(self._pause / 2, self._beat)

    def _watch(self) -> None:
        silence = Silence(self._pause)
        while not self._ended.wait(self._pause):
            if self._every is not None:
                self._every()
            seconds = silence.look(self._beats)
            if seconds > self._patience and not self._ended.is_set():
                self._on_stall(self._seen(seconds))
                return

    def _seen(self, seconds: float) -> Stalled:
        frame = sys._current_frames().get(self._watched)
        if frame is None:
            return Stalled(seconds, "", "", "")
        stack = "".join(traceback.format_stack(frame, limit=_FRAMES))
        rule, event = _culprit(frame)
        return Stalled(seconds, rule, event, stack)


def _culprit(innermost: FrameType) -> tuple[str, str]:
    """Return which rule a stack is in, with its conditions and middleware, and which event it handles."""
    rule = ""
    frame: FrameType | None = innermost
    while frame is not None:
        if frame.f_code is _RUNS_RULE and not rule:
            rule = str(frame.f_locals.get("rule", ""))
        if frame.f_code is _RUNS_TURN:
            turn = frame.f_locals["self"]
            return rule, f"{turn.event.type} to {turn.event.subject}"
        frame = frame.f_back
    return rule, ""
