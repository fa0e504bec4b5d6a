"""What a server does when a call has reached it, written down as it does it.

Belongs here: each change of a partition as a step of the story, with what has come to its log and its outbox. It must
not know of connections, nor what the changes are for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from onwhen.engine.events import Event
from onwhen.engine.shared import Acquired, Delivered, Fired, Outgoing, Renewed, Token
from onwhen.engine.store import Accepted, Answer, Commit, CommitResult, Position, Promoted, RetryKey
from tests.simulation.fleet.history import Delivery, Released, Renewal, SetBack, Step, Taken, Trim
from tests.simulation.fleet.partition import Partition
from tests.simulation.fleet.server import ModelStore, Server
from tests.simulation.history import Appended, Committed, Discarded, Promotion, Started
from tests.simulation.loop import EPOCH
from tests.simulation.store import inline

if TYPE_CHECKING:
    from tests.simulation.fleet.world import FleetWorld

__all__ = ["Acts"]

_T = TypeVar("_T")


class Acts:
    """Does what is asked.

    Args:
        server: what keeps everything.
        world: whose story is written, and whose time it is.
    """

    def __init__(self, server: Server, world: FleetWorld) -> None:
        self.server = server
        self.store = ModelStore(server)
        self._world = world

    def part(self, partition: int) -> Partition:
        """Return a partition."""
        return self.server.partitions[partition]

    def time_of(self, partition: int) -> float:
        """Return the time by the clock of a partition's server (seconds)."""
        return (self.part(partition).now() - EPOCH).total_seconds()

    async def _done(
        self, machine: int, partition: int, call: Coroutine[Any, Any, _T], told: Callable[[float, _T], Any]
    ) -> _T:
        part = self.part(partition)
        changes, latest = part.state.changes, part.state.latest
        result = await call
        self._note(machine, partition, changes, latest, told, result)
        return result

    def _note(
        self,
        machine: int,
        partition: int,
        changes: int,
        latest: Position,
        told: Callable[[float, Any], Any],
        result: Any,
    ) -> None:
        state, time = self.part(partition).state, self._world.time
        has_more = state.latest > latest
        self._world.note(
            Step(
                time,
                machine,
                partition,
                state.changes,
                state.changes > changes,
                told(time, result),
                [entry for entry in state.log.values() if entry.position > latest] if has_more else (),
                [out for out in state.outbox.values() if out.position > latest] if has_more else (),
            )
        )

    # -- what is asked

    async def append(
        self, machine: int, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None
    ) -> Sequence[Accepted]:
        call = self.store.append(partition, events, bookmarks)
        return await self._done(
            machine, partition, call, lambda time, answers: Appended(time, partition, tuple(events), tuple(answers))
        )

    async def commit(self, machine: int, commit: Commit, by: str = "engine") -> CommitResult:
        call = self.store.commit(commit)
        return await self._done(
            machine, commit.partition, call, lambda time, result: Committed(time, commit, result, by)
        )

    async def starting(self, machine: int, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        call = self.store.starting(partition, starts)
        await self._done(machine, partition, call, lambda time, _: Started(time, partition, dict(starts)))

    async def promote(self, machine: int, partition: int, after: Position | None) -> Promoted:
        return await self._done(machine, partition, self.store.promote(partition, after), self._fired(partition))

    async def fire(self, machine: int, partition: int) -> Fired:
        return await self._done(machine, partition, self.store.fire(partition), self._fired(partition))

    def _fired(self, partition: int) -> Callable[[float, Any], Promotion]:
        ahead = self.time_of(partition) - self._world.time
        return lambda time, _: Promotion(time, partition, (), ahead)

    async def discard(self, machine: int, id: str) -> bool:
        (found, *_) = [*(part for part in range(self.store.partitions) if id in self.part(part).state.dead), -1]
        if found < 0:
            return False
        return await self._done(machine, found, self.store.discard(id), lambda time, _: Discarded(time, id))

    async def acquire(self, machine: int, partition: int, token: Token, worker: str, lease: float) -> Acquired | None:
        there = self.time_of(partition)
        call = self.store.acquire(partition, token, worker, lease)
        return await self._done(machine, partition, call, lambda _, got: Taken(there, token, worker, lease, got))

    async def renew(self, machine: int, tokens: Mapping[int, Token], lease: float) -> Mapping[int, Renewed]:
        found: dict[int, Renewed] = {}
        for partition, token in tokens.items():
            found.update(await self._renew(machine, partition, token, lease))
        return found

    async def _renew(self, machine: int, partition: int, token: Token, lease: float) -> Mapping[int, Renewed]:
        there, call = self.time_of(partition), self.store.renew({partition: token}, lease)
        return await self._done(machine, partition, call, lambda _, got: Renewal(there, token, lease, bool(got)))

    async def release(self, machine: int, partition: int, token: Token) -> bool:
        there, call = self.time_of(partition), self.store.release(partition, token)
        return await self._done(machine, partition, call, lambda _, done: Released(there, token, done))

    async def deliver(
        self, machine: int, source: int, target: int, expected: Position | None, messages: Sequence[Outgoing]
    ) -> Delivered:
        call = self.store.deliver(source, target, expected, messages)
        return await self._done(
            machine, target, call, lambda time, delivered: Delivery(time, source, expected, messages, delivered)
        )

    async def trim(self, machine: int, partition: int, token: Token, upto: Position) -> bool:
        call = self.store.trim(partition, token, upto)
        return await self._done(machine, partition, call, lambda time, done: Trim(time, token, upto, done))

    # -- what happens to it

    def fail_over(self, partition: int, loses: int, is_silent: bool) -> None:
        """Set a partition back."""
        part, time = self.part(partition), self._world.time
        lost = part.set_back(loses)
        changes = part.state.changes
        self._world.note(Step(time, 0, partition, changes, True, SetBack(time, changes, lost, is_silent)))

    def write_past(self, commit: Commit) -> Answer:
        """Commit as somebody does who knows of no engine."""
        result: CommitResult = inline(self.commit(0, commit, "stranger"))
        return result.answer
