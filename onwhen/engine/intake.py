"""The way of emitted events into the log: in the order of the calls, those that come meanwhile all at once.

Belongs here: acceptance of events that come from outside. It must not know what happens to an event after it was
accepted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final

from onwhen.engine.arrivals import Arrivals, Call
from onwhen.engine.events import Event
from onwhen.engine.resend import GoesOn, a_few_times, insist, positions
from onwhen.engine.store import Accepted, Store
from onwhen.engine.tally import Tally
from onwhen.engine.work import Work
from onwhen.errors import StoreError, StoreFull

__all__ = ["Intake"]

_BATCH: Final = 500  # events that are appended at once (a count)


class Intake:
    """Takes events in for one partition.

    Args:
        partition: number of the partition.
        store: whose log it is.
        arrivals: where accepted events go.
        ready: awaited before the first event is appended.
        log_ahead: called with names of subjects before anything of theirs is put into the log.
        goes_on: whether to ask the store again what nobody waits for.
        tally: what is accepted is counted here.
        others_handle: it is others who handle what is in the log, and they read it there.
    """

    def __init__(
        self,
        partition: int,
        store: Store,
        arrivals: Arrivals,
        ready: Callable[[], Awaitable[None]],
        log_ahead: Callable[[Iterable[str]], Awaitable[None]],
        goes_on: GoesOn,
        tally: Tally,
        *,
        others_handle: bool = False,
    ) -> None:
        self.is_running = False
        self._partition = partition
        self._store = store
        self._arrivals = arrivals
        self._ready = ready
        self._log_ahead = log_ahead
        self._goes_on = goes_on
        self._tally = tally
        self._others_handle = others_handle
        self._waiting: deque[Work] = deque()
        self._batch: list[Work] = []
        self._missing: dict[str, list[Event]] = {}  # of a source with a bookmark, what was not accepted
        self._is_refused = False

    def put(self, work: Work) -> bool:
        """Put an event in line; True if `run` is to be called, because it is not running."""
        self._waiting.append(work)
        return not self.is_running

    def work(self) -> Iterator[Work]:
        """Go through what is in line, and what is being appended."""
        yield from self._batch
        yield from self._waiting

    async def run(self) -> None:
        """Append what is in line, until nothing is. Two calls at a time could overtake each other on the way."""
        self.is_running = True
        try:
            await self._ready()
            while self._waiting:
                self._batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                self._batch = [work for work in self._batch if self._may_be_next(work)]
                if self._batch:
                    await self._take_in(self._batch)
                self._batch = []
        except BaseException as error:
            for work in self.work():
                work.fail(error)
            self._waiting.clear()
            if not isinstance(error, Exception):
                raise
        finally:
            self.is_running = False

    async def _take_in(self, batch: Sequence[Work]) -> None:
        call, found = self._arrivals.calling(), list[Work]()
        try:
            await self._log_ahead({work.event.subject: None for work in batch})
            self._is_refused = True
            answers = await insist(partial(self._append, batch, call), a_few_times)
            new = len(batch) if call.late else sum(answer.is_new for answer in answers)  # else ours, by the lost answer
            self._tally.accepted += new
            self._tally.duplicates += len(batch) - new
            found = _accepted(batch, answers, is_late=call.late and self._others_handle)
        except StoreError as error:
            for work in batch:
                work.fail(error)
            if not (self._is_refused or self._others_handle):
                found = await self._find(batch)
        except Exception as error:
            for work in batch:
                work.fail(error)
        finally:
            self._note_missing(batch)
            self._arrivals.arrived(call, found)

    def _may_be_next(self, work: Work) -> bool:
        """Refuse what would move a bookmark past an event that was not accepted; that one has to come first."""
        missing = self._missing.get(work.bookmark[0]) if work.bookmark is not None else None
        if missing is None:
            return True
        if work.event == missing[0]:
            missing.pop(0)
            if not missing:
                del self._missing[work.bookmark[0]]  # type: ignore[index]
            return True
        first = missing[0]
        work.fail(
            StoreError(
                f"{first.type} to {first.subject}, id {first.id}, was read before and not accepted; emit it first"
            )
        )
        return False

    def _note_missing(self, batch: Sequence[Work]) -> None:
        refused = [work for work in batch if work.bookmark is not None and not work.is_accepted]
        for work in reversed(refused):
            assert work.bookmark is not None
            self._missing.setdefault(work.bookmark[0], []).insert(0, work.event)
        if refused:
            self._waiting = deque(work for work in self._waiting if self._may_be_next(work))

    async def _append(self, batch: Sequence[Work], call: Call) -> Sequence[Accepted]:
        bookmarks = {work.bookmark[0]: work.bookmark[1] for work in batch if work.bookmark is not None}
        try:
            return await self._store.append(self._partition, [work.event for work in batch], bookmarks or None)
        except StoreError as error:
            call.late = True
            self._tally.store_errors += 1
            # Only a full store says that nothing was stored; an answer that was lost before that says nothing.
            self._is_refused = self._is_refused and isinstance(error, StoreFull)
            raise

    async def _find(self, batch: Sequence[Work]) -> list[Work]:
        """Return what was accepted after all, though nobody could be told."""

        def goes_on(tries: int, error: StoreError) -> bool:
            while self._waiting:
                self._waiting.popleft().fail(StoreError("the store does not answer; this event was not accepted"))
            return self._goes_on(tries, error)

        try:
            found = await insist(partial(positions, self._store, [work.event for work in batch]), goes_on)
        except StoreError:
            return []  # the bus is closing; what is in the log is taken up when it is opened again
        for work, position in zip(batch, found, strict=True):
            work.position, work.again, work.is_accepted = position, True, position is not None
        return [work for work in batch if work.position is not None]


def _accepted(batch: Sequence[Work], answers: Sequence[Accepted], *, is_late: bool) -> list[Work]:
    """Note what became of events; return those that are to be handled.

    Args:
        batch: the events.
        answers: what the store has said of each.
        is_late: it was asked before, and others may have handled meanwhile what it accepted then.
    """
    found = []
    for work, answer in zip(batch, answers, strict=True):
        work.position, work.again, work.is_accepted = answer.position, not answer.is_new, True
        if answer.position is not None:
            work.tell_accepted()
            found.append(work)
        elif is_late:
            if work.receipt is not None:
                work.receipt.status = "handled"  # by this emit or by one before: nobody can tell
            work.settle()
        else:
            work.duplicate()
    return found
