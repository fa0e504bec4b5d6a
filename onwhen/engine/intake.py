"""The way of emitted events into the log: in the order of the calls, those that come meanwhile all at once.

Belongs here: acceptance of events that come from outside. It must not know what happens to an event after it was
accepted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final

from onwhen.engine.resend import a_few_times, insist
from onwhen.engine.store import Accepted, Store
from onwhen.engine.work import Work

__all__ = ["Intake"]

_BATCH: Final = 500  # events that are appended at once (a count)


class Intake:
    """Takes events in for one partition.

    Args:
        partition: number of the partition.
        store: whose log it is.
        ready: awaited before the first event is appended.
        accepted: called with pieces of work, in the order of the log, and what became of the event of each.
        log_ahead: called with names of subjects before anything of theirs is put into the log.
    """

    def __init__(
        self,
        partition: int,
        store: Store,
        ready: Callable[[], Awaitable[None]],
        accepted: Callable[[Sequence[Work], Sequence[Accepted]], None],
        log_ahead: Callable[[Iterable[str]], Awaitable[None]],
    ) -> None:
        self.is_running = False
        self._partition = partition
        self._store = store
        self._ready = ready
        self._accepted = accepted
        self._log_ahead = log_ahead
        self._waiting: deque[Work] = deque()

    def put(self, work: Work) -> bool:
        """Put an event in line; True if `run` is to be called, because it is not running."""
        self._waiting.append(work)
        return not self.is_running

    async def run(self) -> None:
        """Append what is in line, until nothing is. Two calls at a time could overtake each other on the way."""
        self.is_running = True
        batch: list[Work] = []
        try:
            await self._ready()
            while self._waiting:
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _BATCH))]
                try:
                    await self._log_ahead({work.event.subject: None for work in batch})
                    answers = await self._append(batch)
                except Exception as error:
                    for work in batch:
                        work.fail(error)
                else:
                    self._accepted(batch, answers)
                batch = []
        except BaseException as error:
            for work in (*batch, *self._waiting):
                work.fail(error)
            self._waiting.clear()
            if not isinstance(error, Exception):
                raise
        finally:
            self.is_running = False

    async def _append(self, batch: Sequence[Work]) -> Sequence[Accepted]:
        events = [work.event for work in batch]
        return await insist(partial(self._store.append, self._partition, events), a_few_times)
