"""How a worker's process comes to its end: when it is asked to, at once, or to be started again.

Belongs here: signals, deadlines and exit codes. It must not know what the process does until then.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from types import FrameType
from typing import Any, Final, NoReturn, Self

__all__ = ["RESTARTS", "STALLED", "Ending", "LastMoments", "begin_again", "restarts"]

STALLED: Final = 75
"""Exit code of a worker that made no progress and is to be started again (EX_TEMPFAIL of sysexits)."""

RESTARTS: Final = "_ONWHEN_RESTARTS"
"""Environment variable in which a process that starts itself again hands down when it did."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_MAX_RESTARTS: Final = 10  # within an hour; what hangs again and again is somebody else's to decide
_HOUR: Final = 3600.0  # seconds
_LAST: Final = 2.0  # seconds for what lets go of things at the very end


class Ending:
    """Listens for SIGTERM and SIGINT while it is entered, in the main thread.

    The first one asks to stop. A second one cuts short what is under way; so does the grace period.

    Args:
        stop: called at the first signal, in the main thread, wherever that is.
        cut: called at the second.
        grace: how long stopping may take (seconds).

    Attributes:
        signal: the first signal that was heard; 0 for none.
    """

    def __init__(self, stop: Callable[[], None], cut: Callable[[], None], grace: float) -> None:
        self._stop = stop
        self._cut = cut
        self._grace = grace
        self._since = 0.0
        self._deadline = float("inf")
        self._is_cut = False
        self._before: dict[int, Any] = {}
        self.signal = 0

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._heard) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _heard(self, number: int, _: FrameType | None) -> None:
        now = monotonic()
        if not self.signal:
            self.signal, self._since = number, now
            self._deadline = now + self._grace + _LAST
            self._stop()
        elif not self._is_cut:
            self._is_cut = True
            self._deadline = now + _LAST
            self._cut()

    def look(self) -> None:
        """End the process if it should have ended by now; to be called now and then, on any thread."""
        if monotonic() > self._deadline:
            os._exit(128 + self.signal)

    @property
    def code(self) -> int:
        """The exit code: 0, or 128 and the signal if it was cut short."""
        was_late = self.signal and monotonic() - self._since >= self._grace
        return 128 + self.signal if self._is_cut or was_late else 0


class LastMoments:
    """Ends the process with an exit code though threads of its are still at work, which it would wait for.

    Python waits for the threads of executors, at the end of an event loop and of the process. What a rule has handed to
    one, a call that never returns say, is lost to it anyway when its turn was cut short.
    """

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def begin(self, code: int) -> None:
        """Give what is left a moment, from now on."""
        self._timer = threading.Timer(_LAST, os._exit, (code,))
        self._timer.daemon = True
        self._timer.start()

    def end(self, code: int) -> None:
        """End the process now if it would have to wait; else let it go on to its end."""
        if self._timer is None:
            return
        self._timer.cancel()
        own = threading.current_thread()
        if any(not thread.daemon and thread is not own for thread in threading.enumerate()):
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(code)


def restarts(environment: Mapping[str, str], now: float) -> str | None:
    """Return what a process is to hand down when it starts itself again; None if it has done so often enough.

    Args:
        environment: what it was handed.
        now: the time (seconds since the epoch).
    """
    before = [float(one) for one in environment.get(RESTARTS, "").split(",") if one]
    lately = [one for one in before if now - _HOUR < one <= now]
    return None if len(lately) >= _MAX_RESTARTS else ",".join(f"{one:.0f}" for one in (*lately, now))


def begin_again(handed_down: str) -> NoReturn:
    """Start this process again, with the same arguments, in place of what it is now; on any thread.

    Args:
        handed_down: what `restarts` has returned.
    """
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, RESTARTS: handed_down})
