"""Stores that behave badly, and processes that end in the middle: what several tests of the engine attack with."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from types import CoroutineType
from typing import Any

from onwhen import Event
from onwhen.engine.clock import Clock
from onwhen.engine.store import (
    Accepted,
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
from onwhen.errors import StoreError


class Flaky:
    """A store on a wire: it writes events out, each call takes time, and any may fail, before or after its effect.

    Args:
        store: what keeps things in the end.
        fails: name of a call ("append", "load", "commit", "promote", "open", "read", "exchange") -> what becomes of
            each, one after the other: "before" or "after" its effect it fails, "" it does not. What comes after
            succeeds.
    """

    def __init__(self, store: Store, **fails: Sequence[str]) -> None:
        self.store = store
        self.fails = {name: list(outcomes) for name, outcomes in fails.items()}
        self.calls: list[str] = []
        self._last: asyncio.Future[None] | None = None

    @property
    def partitions(self) -> int:
        return self.store.partitions

    @property
    def volatile(self) -> bool:
        return False

    async def _call(self, name: str, call: Any) -> Any:
        self.calls.append(name)
        outcomes = self.fails.get(name)
        outcome = outcomes.pop(0) if outcomes else ""
        loop = asyncio.get_running_loop()
        ahead, self._last = self._last, loop.create_future()
        mine = self._last
        try:
            await asyncio.sleep(0)
            if ahead is not None and ahead.get_loop() is loop and not ahead.done():
                await asyncio.wait([ahead])  # calls take effect in the order in which they were made
            if outcome == "before":
                raise StoreError(f"{name} was not done")
            result = await call
        finally:
            if not loop.is_closed():
                mine.set_result(None)
        await self._answer(name)
        if outcome == "after":
            raise StoreError(f"{name} was done, but nobody has heard of it")
        return result

    async def _answer(self, name: str) -> None:
        """Let the answer to a call travel."""
        await asyncio.sleep(0)

    async def open(self, clock: Clock) -> bool:
        result: bool = await self._call("open", _later(self.store.open, clock))
        return result

    async def close(self) -> None:
        await self.store.close()

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        for event in events:
            event.detach()
        append = _later(self.store.append, partition, events, bookmarks)
        result: Sequence[Accepted] = await self._call("append", append)
        return result

    async def bookmark(self, partition: int, name: str) -> str | None:
        return await self.store.bookmark(partition, name)

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        await self._call("starting", _later(self.store.starting, partition, starts))

    def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        return self.store.history(subject)

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        result: Sequence[LogEntry] = await self._call("read", _later(self.store.read, partition, after, limit))
        return result

    async def load(self, subject: str) -> SubjectRecord:
        result: SubjectRecord = await self._call("load", _later(self.store.load, subject))
        return result

    async def commit(self, commit: Commit) -> CommitResult:
        for event in commit.messages:
            event.detach()
        result: CommitResult = await self._call("commit", _later(self.store.commit, commit))
        return result

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        result: Promoted = await self._call("promote", _later(self.store.promote, partition, after))
        return result

    def retries(self, partition: int) -> AsyncIterator[Retry]:
        return self.store.retries(partition)

    def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        return self.store.timers(subject)

    def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        return self.store.subjects(prefix)

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        return self.store.dead_letters()

    async def dead_letter(self, id: str) -> DeadLetter | None:
        return await self.store.dead_letter(id)

    async def discard(self, dead_letter: str) -> bool:
        return await self.store.discard(dead_letter)

    def explanations(self, *, correlation: str | None = None, subject: str | None = None) -> AsyncIterator[Explanation]:
        return self.store.explanations(correlation=correlation, subject=subject)

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        result: Cell = await self._call("exchange", _later(self.store.exchange, key, expected, new, ttl))
        return result

    async def stats(self) -> StoreStats:
        return await self.store.stats()


class _later:
    """A call that is made when it is awaited, and never if it is not."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = lambda: function(*arguments)

    def __await__(self) -> Any:
        return self.call().__await__()


class Late(Flaky):
    """A store whose effects take place in the order of the calls, and whose answers arrive in any order.

    Args:
        store: what keeps things in the end.
        chance: how long each answer takes, in steps of the event loop; None: they arrive at once, unless held.
        fails: see `Flaky`.
    """

    def __init__(self, store: Store, chance: random.Random | None = None, **fails: Sequence[str]) -> None:
        super().__init__(store, **fails)
        self.chance = chance
        self.held: list[tuple[str, asyncio.Future[None]]] = []
        self._holds: list[str] = []

    def hold(self, *names: str) -> None:
        """Hold the next answers to calls of these names, one each, until they are let go."""
        self._holds.extend(names)

    def let_go(self, number: int = 0) -> None:
        """Let an answer arrive that is held."""
        self.held.pop(number)[1].set_result(None)

    async def _answer(self, name: str) -> None:
        await super()._answer(name)
        for _ in range(self.chance.randrange(8) if self.chance else 0):
            await asyncio.sleep(0)
        if name in self._holds:
            self._holds.remove(name)
            future = asyncio.get_running_loop().create_future()
            self.held.append((name, future))
            await future


def process(main: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run a program until it ends or is killed (see `kill`), and clear away what is left of it.

    Returns:
        Whether it was killed.
    """
    loop = asyncio.new_event_loop()
    task = loop.create_task(main())
    task.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    for left in asyncio.all_tasks(loop):
        left._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine = left.get_coro()
        assert isinstance(coroutine, CoroutineType)
        while coroutine.cr_frame is not None:  # now, and from the outside in, as a garbage collector might not
            with suppress(RuntimeError):  # clean-up that awaits
                coroutine.close()
    loop.close()
    if not task.done():
        return True
    task.result()
    return False


async def kill() -> None:
    """Kill the process, as a signal would: nothing that waits goes on, nothing is told."""
    asyncio.get_running_loop().stop()
    await asyncio.get_running_loop().create_future()
