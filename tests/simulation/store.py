"""The store that a simulated process sees: slow, forgetful and out of order, in front of one that keeps everything.

Belongs here: what may happen to a call on its way to a store and back, within what the contract allows: an error says
nothing about the effect; answers come in any order; but calls that append to one partition's log take effect in the
order in which they were made, and a read of it sees what those before have appended. It must not know what the calls
are about.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from onwhen.engine.clock import Clock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import (
    Accepted,
    Answer,
    Cell,
    Commit,
    CommitResult,
    DeadLetter,
    Explanation,
    HistoryEntry,
    LogEntry,
    Position,
    Promoted,
    Retry,
    RetryKey,
    Store,
    StoreStats,
    SubjectRecord,
    Timer,
)
from onwhen.errors import StoreError, StoreFull
from tests.simulation.files import InlineSqliteStore
from tests.simulation.history import Appended, Committed, Discarded, Fault, Promotion, Started
from tests.simulation.loop import SimClock

if TYPE_CHECKING:
    from tests.simulation.process import Process

__all__ = ["Core", "SimStore", "inline"]

_WRITES: Final = frozenset({"append", "commit", "promote", "starting", "discard", "exchange"})
_Effect: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]
_APART: Final = 1e-6  # seconds between two effects on one log


def inline(call: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that never suspends, and return what it returns."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("the store that keeps everything has suspended")


class Core:
    """The store that keeps everything, and the history of what it did.

    Args:
        store: the store; its calls must not suspend.
        world: whose history is written, and whose time it is.
    """

    def __init__(self, store: Store, world: Any) -> None:
        self.store = store
        self._world = world
        self._latest: list[Position | None] = [None] * store.partitions

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None
    ) -> Sequence[Accepted]:
        answers = await self.store.append(partition, events, bookmarks)
        self._note(partition, [answer.position for answer in answers if answer.is_new])
        self._world.note(Appended(self._world.time, partition, tuple(events), tuple(answers)))
        return answers

    async def commit(self, commit: Commit, by: str = "engine") -> CommitResult:
        result = await self.store.commit(commit)
        for event, position in zip(commit.messages, result.appended, strict=result.answer is Answer.OK):
            self._note(partition_of(event.subject, self.store.partitions), [position])
        self._world.note(Committed(self._world.time, commit, result, by))
        return result

    async def promote(self, partition: int, *after: Any) -> Promoted:
        promoted = await self.store.promote(partition, *after)
        entries: list[LogEntry] = []
        for number in range(self.store.partitions):
            found = await self.store.read(number, self._latest[number], 1000)
            self._note(number, [entry.position for entry in found])
            entries.extend(found)
        self._world.note(Promotion(self._world.time, partition, tuple(entries), self._world.plan.ahead))
        return promoted

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        await self.store.starting(partition, starts)
        self._world.note(Started(self._world.time, partition, dict(starts)))

    async def discard(self, id: str) -> bool:
        found = await self.store.discard(id)
        if found:
            self._world.note(Discarded(self._world.time, id))
        return found

    def crash(self) -> None:
        """Have the process that has it open be killed, if there is one."""
        if isinstance(self.store, InlineSqliteStore):
            self.store.crash()

    def _note(self, partition: int, positions: Iterable[Position | None]) -> None:
        latest = self._latest[partition] or 0
        self._latest[partition] = max([latest, *(position or 0 for position in positions)]) or None


class SimStore:
    """One process's way to the store.

    Args:
        core: what keeps everything.
        process: whose store it is; once that is dead, nothing comes through.
    """

    def __init__(self, core: Core, process: Process) -> None:
        self._core = core
        self._process = process
        self._overdue = 0.0  # when the last call is done that was said to have failed; later ones are behind it
        self._free = [0.0] * core.store.partitions  # when the next effect on a partition's log may be

    @property
    def partitions(self) -> int:
        return self._core.store.partitions

    @property
    def volatile(self) -> bool:
        return False

    # -- the way there and back

    async def _call(self, what: str, effect: _Effect, appends_to: Iterable[int] = (), reads: Iterable[int] = ()) -> Any:
        process = self._process
        answer: asyncio.Future[Any] = process.loop.create_future()
        if not process.is_alive:
            return await answer  # for ever
        fate = process.world.fate(what, what in _WRITES)
        loop, now = process.loop, process.loop.time()
        at = max(now + fate.there, self._overdue + _APART)
        if fate.kind == "before":
            loop.call_at(at, self._fail, answer, what, fate.error)
            return await answer
        for partition in (*appends_to, *reads):
            at = max(at, self._free[partition] + _APART)
        for partition in appends_to:
            self._free[partition] = at
        if fate.kind == "late":
            self._overdue = at
            loop.call_at(now + fate.back * (at - now), self._fail, answer, what, "the answer is late")
        loop.call_at(at, self._do, what, effect, answer, fate)
        return await answer

    def _do(self, what: str, effect: _Effect, answer: asyncio.Future[Any], fate: Any) -> None:
        try:
            result = inline(effect())
        except StoreError as error:
            self._process.loop.call_later(fate.back, self._raise, answer, error)
            return
        if fate.kind == "killed":
            self._process.die()
        elif fate.kind == "lost":
            self._process.loop.call_later(fate.back, self._fail, answer, what, "the answer is lost")
        elif fate.kind == "fine":
            self._process.loop.call_later(fate.back, _tell, answer, result)

    def _fail(self, answer: asyncio.Future[Any], what: str, how: str) -> None:
        self._process.world.note(Fault(self._process.world.time, f"{what}: {how}"))
        error = StoreFull if how == "full" else StoreError
        self._raise(answer, error(f"{what}: {how}"))

    def _raise(self, answer: asyncio.Future[Any], error: StoreError) -> None:
        if not answer.done():
            answer.set_exception(error)

    # -- the contract

    async def open(self, clock: Clock) -> bool:
        ours = SimClock(self._process.loop, self._process.world.plan.ahead)
        result: bool = await self._call("open", partial(self._core.store.open, ours))
        return result

    async def close(self) -> None:
        await self._call("close", partial(self._core.store.close))

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        for event in events:
            event.detach()
        result: Sequence[Accepted] = await self._call(
            "append", partial(self._core.append, partition, events, bookmarks), (partition,)
        )
        return result

    async def bookmark(self, partition: int, name: str) -> str | None:
        result: str | None = await self._call("bookmark", partial(self._core.store.bookmark, partition, name))
        return result

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        await self._call("starting", partial(self._core.starting, partition, starts))

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        effect = partial(self._core.store.read, partition, after, limit)
        result: Sequence[LogEntry] = await self._call("read", effect, reads=(partition,))
        return result

    async def load(self, subject: str) -> SubjectRecord:
        result: SubjectRecord = await self._call("load", partial(self._core.store.load, subject))
        return result

    async def commit(self, commit: Commit) -> CommitResult:
        for event in commit.messages:
            event.detach()
        touched = {partition_of(event.subject, self.partitions) for event in commit.messages}
        result: CommitResult = await self._call("commit", partial(self._core.commit, commit), sorted(touched))
        return result

    async def promote(self, partition: int, *after: Any) -> Promoted:
        everywhere = range(self.partitions)
        result: Promoted = await self._call("promote", partial(self._core.promote, partition, *after), everywhere)
        return result

    async def retries(self, partition: int) -> AsyncIterator[Retry]:
        for retry in await self._call("retries", partial(_all, self._core.store.retries(partition))):
            yield retry

    async def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        for timer in await self._call("timers", partial(_all, self._core.store.timers(subject))):
            yield timer

    async def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        for record in await self._call("subjects", partial(_all, self._core.store.subjects(prefix))):
            yield record

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        for letter in await self._call("dead_letters", partial(_all, self._core.store.dead_letters())):
            yield letter

    async def dead_letter(self, id: str) -> DeadLetter | None:
        result: DeadLetter | None = await self._call("dead_letter", partial(self._core.store.dead_letter, id))
        return result

    async def discard(self, dead_letter: str) -> bool:
        result: bool = await self._call("discard", partial(self._core.discard, dead_letter))
        return result

    async def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        for entry in await self._call("history", partial(_all, self._core.store.history(subject))):
            yield entry

    async def explanations(self, **asked: str | None) -> AsyncIterator[Explanation]:
        for explanation in await self._call("explanations", partial(_all, self._core.store.explanations(**asked))):
            yield explanation

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        result: Cell = await self._call("exchange", partial(self._core.store.exchange, key, expected, new, ttl))
        return result

    async def stats(self) -> StoreStats:
        result: StoreStats = await self._call("stats", partial(self._core.store.stats))
        return result


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def _tell(answer: asyncio.Future[Any], result: Any) -> None:
    if not answer.done():
        answer.set_result(result)
