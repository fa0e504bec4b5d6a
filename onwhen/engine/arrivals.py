"""The way of what was appended to the log into the lanes: in the order of the log, whichever answer comes first.

Belongs here: order among calls to the store that are under way. It must not know what the calls are, nor what
becomes of what they have appended.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from onwhen.engine.work import Work

__all__ = ["Arrivals", "Call"]


class Call:
    """A call to the store that may append to the log.

    Attributes:
        number: which one, counted from 1 in the order in which calls are made.
        late: it was made more than once, because no answer came, or is several: what it has appended may stand
            behind what any of the calls has that were made since.
        until: number of the call up to which all have to be answered before anything of this one is let in.
        works: what it has appended, once that is known.
    """

    __slots__ = ("late", "number", "until", "works")

    def __init__(self, number: int) -> None:
        self.number = self.until = number
        self.late = False
        self.works: Sequence[Work] | None = None


class Arrivals:
    """Lets in what calls have appended, once all calls that were made before are answered too.

    Calls take effect in the order in which they are made. Their answers may overtake each other, and one whose
    answer was lost is made again: then what it appends may stand behind what a later one did. So nothing is let in
    while an earlier call is open, nor what a late one has appended before all are answered that were made until
    then; and what comes in together is sorted by its position.

    Args:
        let_in: called with pieces of work, in the order of the log.
    """

    def __init__(self, let_in: Callable[[Sequence[Work]], None]) -> None:
        self._let_in = let_in
        self._calls: deque[Call] = deque()
        self._made = 0

    def give_up(self) -> None:
        """Let nothing in any more; what waits is let go of, and stays in the log."""

        def settle(works: Sequence[Work]) -> None:
            for work in works:
                work.settle()

        self._let_in = settle

    def calling(self) -> Call:
        """Note that a call is about to be made; `arrived` has to follow, whatever becomes of it."""
        self._made += 1
        call = Call(self._made)
        self._calls.append(call)
        return call

    def work(self) -> Iterator[Work]:
        """Go through what has arrived and is not let in yet."""
        for call in self._calls:
            yield from call.works or ()

    def arrived(self, call: Call, works: Sequence[Work]) -> None:
        """Note what a call has appended, once that is known; nothing if it failed."""
        call.works = works
        if call.late:
            call.until = self._made
        calls, until, ready = self._calls, 0, 0
        for count, first in enumerate(calls, 1):
            if first.works is None:
                break
            until = max(until, first.until)
            if first.number >= until:
                ready = count
        if not ready:
            return
        found: list[Work] = []
        for _ in range(ready):
            found.extend(calls.popleft().works or ())
        found.sort(key=_position)  # of several partitions, each is in order
        self._let_in(found)


def _position(work: Work) -> int:
    return work.position or 0  # retries have none, and wait for nothing
