"""What the tests of the contract are written with: a store that is open, a clock, and short ways to say things.

Belongs here: how a test gets its store, and what it puts into it. It must not know what a store owes anybody.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any, Final, TypeVar

from onwhen.engine.clock import VirtualClock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import is_shared
from onwhen.engine.store import (
    Accepted,
    Answer,
    Commit,
    CommitResult,
    DeadLetter,
    Explanation,
    Failure,
    LogEntry,
    Position,
    Promoted,
    Retry,
    Store,
    SubjectWrite,
    Timer,
)

__all__ = ["NOON", "Bench", "StoreCase", "event", "explained", "letter", "listed", "on_store", "retry"]

NOON: Final = datetime(2026, 11, 5, 12, 0, 0, 123456, tzinfo=UTC)
_FAILURE: Final = Failure(type="LookupError", message="not there", traceback="Traceback:\n  in f\n")
_LIMIT: Final = 60  # seconds that one test may take; a store that never answers fails

_T = TypeVar("_T")
_Test = Callable[..., Awaitable[None]]


class StoreCase:
    """How the tests get the store that they are about."""

    step: timedelta = timedelta(hours=1)
    """How far the tests move the clock at a time; a store that has a clock of its own sets something short."""

    def make_store(
        self, *, partitions: int = 1, dedup_window: int = 100_000, history: int = 0, explanations: int = 1_000
    ) -> Store:
        """Return a new and empty store, which nobody has opened yet; called once in most tests.

        Args:
            partitions: how many partitions it has (a count).
            dedup_window: how many accepted events it remembers by source and id (a count).
            history: how many commits it keeps to be looked at (a count).
            explanations: how many explanations each partition keeps (a count).
        """
        raise NotImplementedError("make_store: return a new store of the kind that is tested")

    def make_again(self, store: Store) -> Store | None:
        """Return another store over the same data, as a new process would make it.

        Args:
            store: what `make_store` or `make_again` has returned; it was closed, unless stores of this kind are shared.

        Returns:
            The other store; None if everything is lost with `store` itself, which is then opened again.
        """
        return None

    def now(self, clock: VirtualClock) -> datetime:
        """Return the time by the store's clock, which is `clock` unless the store has one of its own."""
        return clock.now()

    async def pass_time(self, clock: VirtualClock, by: timedelta) -> None:
        """Let time go by on the store's clock; a store that has one of its own sleeps."""
        clock.advance(by)


class Bench:
    """A store under test that is open, and short ways to use it.

    Attributes:
        case: where the store comes from.
        store: the store.
        clock: what it was opened with.
    """

    def __init__(self, case: StoreCase, store: Store, clock: VirtualClock | None = None) -> None:
        self.case = case
        self.store = store
        self.clock = VirtualClock(NOON) if clock is None else clock
        self.start = case.now(self.clock)

    async def reopen(self) -> bool:
        """Close the store and go on with another one over the same data, if there can be one."""
        await self.store.close()
        self.store = self.case.make_again(self.store) or self.store
        return await self.store.open(self.clock)

    def after(self, steps: int) -> datetime:
        """Return the moment so many steps after the start of the test."""
        return self.start + steps * self.case.step

    async def step(self, steps: int = 1) -> None:
        """Let so many steps go by."""
        await self.case.pass_time(self.clock, steps * self.case.step)

    def now(self) -> datetime:
        """Return the time by the store's clock."""
        return self.case.now(self.clock)

    def partition(self, subject: str) -> int:
        """Return the partition of a subject."""
        return partition_of(subject, self.store.partitions)

    def name_in(self, partition: int) -> str:
        """Return the name of a subject of a partition."""
        return next(name for n in range(1000) if self.partition(name := f"s{n}") == partition)

    async def relay(self) -> None:
        """Deliver what is under way between partitions; a store that is not shared leaves nothing under way."""
        if not is_shared(self.store):
            return
        everywhere = range(self.store.partitions)
        for source, target in product(everywhere, everywhere):
            watermark = (await self.store.deliver(source, target, None, [])).watermark
            found = await self.store.outgoing(source, watermark, 10_000)
            messages = [message for message in found if message.target == target]
            if messages:
                delivered = await self.store.deliver(source, target, watermark, messages)
                assert delivered.is_accepted

    # -- the log

    async def accept(self, *ids: str) -> Sequence[Accepted]:
        """Append events to the subject "a", at once."""
        return await self.store.append(self.partition("a"), [event(id) for id in ids])

    async def log(self, partition: int = 0) -> Sequence[LogEntry]:
        """Return all that is pending in a partition."""
        return await self.store.read(partition, None, 10_000)

    async def pending(self, partition: int = 0) -> list[str]:
        """Return ids of all that is pending in a partition."""
        return [entry.event.id for entry in await self.log(partition)]

    # -- commits

    async def commit(self, subject: str = "a", **fields: Any) -> CommitResult:
        """Commit on what is stored now, unless another version is given."""
        if "version" not in fields:
            fields["version"] = (await self.store.load(subject)).version
        return await self.store.commit(Commit(partition=self.partition(subject), subject=subject, **fields))

    async def ok(self, subject: str = "a", **fields: Any) -> CommitResult:
        """Commit what has to be stored."""
        result = await self.commit(subject, **fields)
        assert result.answer is Answer.OK
        return result

    async def write(self, subject: str = "a", **properties: bytes) -> CommitResult:
        """Set properties of a subject."""
        return await self.ok(subject, write=SubjectWrite(set=properties))

    async def remove(self, subject: str = "a") -> CommitResult:
        """Remove a subject."""
        return await self.ok(subject, write=SubjectWrite(remove=True))

    # -- timers and retries

    def timer(self, key: str, due: datetime, subject: str = "a", to: str | None = None, id: str | None = None) -> Timer:
        """Return a timer that a subject sets, for itself unless another one is named."""
        return Timer(subject=subject, key=key, due=due, event=event(id or f"{subject}/{key}", to or subject))

    async def promote(self, partition: int = 0, after: Position | None = None) -> Promoted:
        """Move what is due to the log."""
        return await self.store.promote(partition, after)

    async def retries(self, partition: int = 0) -> list[Retry]:
        """Return all retries of a partition."""
        return await listed(self.store.retries(partition))

    async def timers(self, subject: str | None = None) -> list[tuple[str, str]]:
        """Return subject and key of all timers."""
        return [(timer.subject, timer.key) for timer in await listed(self.store.timers(subject))]

    async def letters(self) -> list[str]:
        """Return ids of all dead letters."""
        return [letter.id for letter in await listed(self.store.dead_letters())]

    async def names(self, prefix: str = "") -> list[str]:
        """Return names of all subjects."""
        return [record.name for record in await listed(self.store.subjects(prefix))]

    async def dump(self) -> list[Any]:
        """Return all that the store tells about itself; equal if nothing has changed."""
        everything: list[Any] = [await self.store.stats()]
        for partition in range(self.store.partitions):
            everything += [await self.log(partition), await self.retries(partition)]
        for iterator in (
            self.store.subjects(),
            self.store.timers(),
            self.store.dead_letters(),
            self.store.explanations(),
        ):
            everything.append(await listed(iterator))
        return everything


def event(id: str, subject: str = "a", source: str = "/desk") -> Event:
    """Return an event."""
    return Event("opened", subject, id=id, source=source)


def retry(of: Event, rule: str = "r.f", due: datetime = NOON, **changes: Any) -> Retry:
    """Return a retry of a rule."""
    fields: dict[str, Any] = {"attempt": 2, "in_order": True, "first_failed": NOON, "failure": _FAILURE} | changes
    return Retry(subject=of.subject, event=of, rule=rule, due=due, **fields)


def letter(id: str, of: Event | None = None, **changes: Any) -> DeadLetter:
    """Return a dead letter."""
    of = of or event(id)
    fields: dict[str, Any] = {
        "rule": "r.f",
        "failure": _FAILURE,
        "attempts": 3,
        "first_failed": NOON,
        "time": NOON,
    } | changes
    return DeadLetter(id=id, subject=of.subject, event=of, **fields)


def explained(by: str, correlation: str = "c", subject: str = "a", **changes: Any) -> Explanation:
    """Return why a turn did what it did, on an event."""
    fields: dict[str, Any] = {"time": NOON, "body": b'{"event": "%s"}' % by.encode()} | changes
    return Explanation(subject=subject, correlation=correlation, event=by, **fields)


async def listed(iterator: AsyncIterator[_T]) -> list[_T]:
    """Return all that is iterated over."""
    return [item async for item in iterator]


def on_store(**options: int) -> Callable[[_Test], Callable[..., None]]:
    """Run an async test on a store that is open, on an event loop of its own, whatever plugins pytest has.

    Args:
        **options: what the store is made with.
    """

    def decorate(test: _Test) -> Callable[..., None]:
        def run(self: StoreCase, **params: Any) -> None:
            asyncio.run(_on_store(test, self, options, params))

        signature = inspect.signature(test)
        run.__name__, run.__qualname__ = test.__name__, test.__qualname__
        run.__module__, run.__doc__ = test.__module__, test.__doc__
        # pytest asks for what the test is given besides: all but the bench
        kept = [parameter for name, parameter in signature.parameters.items() if name != "at"]
        run.__signature__ = signature.replace(parameters=kept, return_annotation=None)  # type: ignore[attr-defined]
        return run

    return decorate


async def _on_store(test: _Test, case: StoreCase, options: dict[str, int], params: dict[str, Any]) -> None:
    at = Bench(case, case.make_store(**options))
    async with asyncio.timeout(_LIMIT):
        await at.store.open(at.clock)
        try:
            await test(case, at, **params)
        finally:
            await at.store.close()
