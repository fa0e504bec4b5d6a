"""The way of what was appended to the log into the lanes: in the order of the log, whichever answer comes first.

Belongs here: order among calls to the store that are under way. It must not know what the calls are, nor what
becomes of what they have appended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from onwhen.engine.work import Work

__all__ = ["Arrivals", "Call"]


class Call:
    """A call to the store that may append to the log."""

    __slots__ = ("works",)

    def __init__(self) -> None:
        self.works: Sequence[Work] | None = None


class Arrivals:
    """Lets in what calls have appended, once all calls that were made before are answered too.

    Calls take effect in the order in which they are made. Their answers may overtake each other, and one whose
    answer was lost is made again: then what it appends may stand behind what a later one did. So nothing is let in
    while an earlier call is open, and what comes in together is sorted by its position.

    Args:
        let_in: called with pieces of work, in the order of the log.
    """

    def __init__(self, let_in: Callable[[Sequence[Work]], None]) -> None:
        self._let_in = let_in
        self._calls: deque[Call] = deque()

    def calling(self) -> Call:
        """Note that a call is about to be made; `arrived` has to follow, whatever becomes of it."""
        call = Call()
        self._calls.append(call)
        return call

    def arrived(self, call: Call, works: Sequence[Work]) -> None:
        """Note what a call has appended, once that is known; nothing if it failed."""
        call.works = works
        calls = self._calls
        if calls[0] is not call:
            return
        found: list[Work] = []
        while calls and calls[0].works is not None:
            found.extend(calls.popleft().works or ())
        found.sort(key=_position)  # of several partitions, each is in order
        self._let_in(found)


def _position(work: Work) -> int:
    return work.position or 0  # retries have none, and wait for nothing
