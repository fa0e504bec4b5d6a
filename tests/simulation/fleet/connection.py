"""A machine's way to the server: slow, forgetful, out of order, and cut when a partition fails over.

Belongs here: what may happen to a call on its way and back, as with a server behind a network: an error says nothing
about the effect, which may also come long after it, when others have made theirs. What a real store does about that is
done here too: a call that was given up is refused once the machine's next one has come, and one that carries a token is
not sent to another run of the server than that which has given the partition away. It must not know what the calls are
about.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from onwhen.engine.clock import Clock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.promise import Promise
from onwhen.engine.shared import Acquired, Delivered, Fired, Outgoing, PartitionState, Renewed, Token, WorkerState
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
    StoreStats,
    SubjectRecord,
    Timer,
)
from onwhen.errors import StoreError, StoreFull
from tests.simulation.fleet.acts import Acts
from tests.simulation.history import Fault
from tests.simulation.store import inline

if TYPE_CHECKING:
    from tests.simulation.fleet.machine import Machine

__all__ = ["Call", "Connection"]

_APART: Final = 1e-6  # seconds between two effects of one machine on one partition
_STALE: Final = 4.0  # seconds that an effect may come after its error

_Effect: TypeAlias = Callable[[], Coroutine[Any, Any, Any]]


class Call:
    """A call that is under way.

    Attributes:
        what: its name.
        partitions: which ones it is about.
        answer: what the caller waits for.
        is_cut: the connection is gone; what is not done yet never is.
        epochs: of each partition that it changes, how often such a call was given up before.
        runs: of each partition whose token it carries, which run of the server has to answer.
        is_waiting: it waits at the server for something to come.
    """

    __slots__ = ("_fail", "answer", "epochs", "is_cut", "is_waiting", "partitions", "runs", "what")

    def __init__(
        self,
        what: str,
        partitions: Collection[int],
        answer: asyncio.Future[Any],
        fail: Callable[[Call, str], None],
    ) -> None:
        self.what = what
        self.partitions = partitions
        self.answer = answer
        self.is_cut = False
        self.is_waiting = False
        self.epochs: Sequence[tuple[int, int]] = ()
        self.runs: Sequence[tuple[int, int]] = ()
        self._fail = fail

    def cut(self) -> None:
        """Close the connection on which it is under way."""
        self.is_cut = True
        self._fail(self, "the connection is cut")


class Connection:
    """One machine's store.

    Args:
        acts: does what is asked, and writes it down.
        machine: whose it is; once that is dead, it asks for nothing more.
    """

    def __init__(self, acts: Acts, machine: Machine) -> None:
        self._acts = acts
        self._machine = machine
        self._world = machine.world
        self._loop = machine.world.loop
        self._overdue = 0.0  # when the last call is done that was said to have failed; later ones are behind it
        self._free: dict[int, float] = {}  # when the next effect on a partition may be
        self._epochs: dict[int, int] = {}  # partition -> how often a call that changes it was given up
        self._owned: dict[int, int] = {}  # partition -> run of its server when it was acquired
        self._known: dict[int, int] = {}  # partition -> how often we have heard of another server

    @property
    def partitions(self) -> int:
        return self._acts.store.partitions

    @property
    def volatile(self) -> bool:
        return False

    # -- the way there and back

    async def _call(
        self,
        what: str,
        effect: _Effect,
        partitions: Collection[int] = (),
        *,
        writes: bool = False,
        as_owner: bool = False,
    ) -> Any:
        loop, world = self._loop, self._world
        answer: asyncio.Future[Any] = loop.create_future()
        if not self._machine.is_alive:
            return await answer  # for ever
        call = Call(what, partitions, answer, self._fail)
        fate = world.fate(what, writes)
        if self._has_failed_over(call):
            fate = fate.instead("before", "the connection was closed")
        if writes:
            call.epochs = [(partition, self._epochs.get(partition, 0)) for partition in partitions]
        if as_owner:
            call.runs = [(partition, self._owned[partition]) for partition in partitions if partition in self._owned]
        now = loop.time()
        if what == "commit" and (held := self._machine.hold()):
            now += held
        at = max(now + fate.there, self._overdue + _APART)
        if fate.kind == "before":
            self._at(at, self._fail, call, fate.error)
            return await answer
        if fate.kind == "stale":
            self._at(now + fate.there, self._fail, call, "the answer is lost, and it is done later")
            self._at(now + fate.there + _STALE * fate.back, self._do, call, effect, fate)
            return await answer
        for partition in partitions:
            at = max(at, self._free.get(partition, 0.0) + _APART)
        for partition in partitions:
            self._free[partition] = at
        if fate.kind == "late":
            self._overdue = at
            self._at(now + fate.back * (at - now), self._fail, call, "the answer is late")
        world.under_way(call)
        self._at(at, self._do, call, effect, fate)
        try:
            return await answer
        finally:
            world.is_over(call)

    def _at(self, when: float, callback: Callable[..., None], *args: Any) -> None:
        """Have something happen that does not depend on whether the machine runs."""
        self._loop.call_at(when, callback, *args, context=_NOBODY)

    def _has_failed_over(self, call: Call) -> bool:
        """Tell whether the connection to one of these partitions is to be made anew, which is an error."""
        told = False
        for partition in call.partitions:
            number = self._world.fail_overs[partition]
            told |= self._known.get(partition, number) < number
            self._known[partition] = number
        return told

    def _do(self, call: Call, effect: _Effect, fate: Any) -> None:
        if call.is_cut and not call.answer.done():
            self._fail(call, "the connection is cut")
        elif not call.is_cut:
            if reason := self._refused(call):
                if call.answer.done():
                    self._note(call, reason)
                else:
                    self._fail(call, reason)
                return
            try:
                result = inline(effect())
            except StoreError as error:
                self._at(self._loop.time() + fate.back, self._raise, call, error)
                return
            if fate.kind == "killed":
                self._machine.die()
            elif fate.kind == "lost":
                self._at(self._loop.time() + fate.back, self._fail, call, "the answer is lost")
            elif fate.kind == "fine":
                self._at(self._loop.time() + fate.back, _tell, call, result)

    def _refused(self, call: Call) -> str:
        """Return why a call is not let in; "" if it is."""
        if any(self._world.is_down(partition) for partition in call.partitions):
            return "nobody answers"
        if any(self._world.runs[partition] != run for partition, run in call.runs):
            return "it is another run of the server"
        machine = self._machine.number
        entered = [self._acts.part(partition).enter(machine, epoch) for partition, epoch in call.epochs]
        return "" if all(entered) else "it was given up"

    def _fail(self, call: Call, how: str) -> None:
        if not call.answer.done():
            for partition, epoch in call.epochs:
                self._epochs[partition] = max(self._epochs.get(partition, 0), epoch + 1)
            self._note(call, how)
            error = StoreFull if how == "full" else StoreError
            self._raise(call, error(f"{call.what}: {how}"))

    def _note(self, call: Call, how: str) -> None:
        self._world.note(Fault(self._loop.time(), f"m{self._machine.number} {call.what}: {how}"))

    def _raise(self, call: Call, error: StoreError) -> None:
        if not call.answer.done():
            call.answer.set_exception(error)

    # -- the contract of every store

    async def open(self, clock: Clock) -> bool:
        result: bool = await self._call("open", _opened)
        return result

    async def close(self) -> None:
        await self._call("close", _opened)

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
    ) -> Sequence[Accepted]:
        for event in events:
            event.detach()
        effect = partial(self._acts.append, self._machine.number, partition, events, bookmarks)
        result: Sequence[Accepted] = await self._call("append", effect, (partition,), writes=True)
        return result

    async def bookmark(self, partition: int, name: str) -> str | None:
        result: str | None = await self._call("bookmark", partial(self._acts.store.bookmark, partition, name))
        return result

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        effect = partial(self._acts.starting, self._machine.number, partition, starts)
        await self._call("starting", effect, (partition,), writes=True)

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        effect = partial(self._acts.store.read, partition, after, limit)
        result: Sequence[LogEntry] = await self._call("read", effect, (partition,))
        return result

    async def load(self, subject: str) -> SubjectRecord:
        effect = partial(self._acts.store.load, subject)
        result: SubjectRecord = await self._call("load", effect, (partition_of(subject, self.partitions),))
        return result

    def commit(self, commit: Commit) -> Promise[CommitResult]:
        """Answer in the moment in which the answer comes, as the store on Redis does."""
        promise: Promise[CommitResult] = Promise()

        def answered(call: asyncio.Task[CommitResult]) -> None:
            if call.cancelled():
                promise.fail(asyncio.CancelledError())
            elif (error := call.exception()) is not None:
                promise.fail(error)
            else:
                promise.keep(call.result())

        self._loop.create_task(self._commit(commit)).add_done_callback(answered)
        return promise

    async def _commit(self, commit: Commit) -> CommitResult:
        for event in commit.messages:
            event.detach()
        for timer in commit.timers:
            timer.event.detach()
        effect = partial(self._acts.commit, self._machine.number, commit)
        result: CommitResult = await self._call(
            "commit", effect, (commit.partition,), writes=True, as_owner=commit.token is not None
        )
        return result

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        effect = partial(self._acts.promote, self._machine.number, partition, after)
        result: Promoted = await self._call("promote", effect, (partition,), writes=True)
        return result

    async def retries(self, partition: int) -> AsyncIterator[Retry]:
        for retry in await self._call("retries", partial(_all, self._acts.store.retries(partition)), (partition,)):
            yield retry

    async def timers(self, subject: str | None = None) -> AsyncIterator[Timer]:
        for timer in await self._call("timers", partial(_all, self._acts.store.timers(subject))):
            yield timer

    async def subjects(self, prefix: str = "") -> AsyncIterator[SubjectRecord]:
        for record in await self._call("subjects", partial(_all, self._acts.store.subjects(prefix))):
            yield record

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        for letter in await self._call("dead_letters", partial(_all, self._acts.store.dead_letters())):
            yield letter

    async def dead_letter(self, id: str) -> DeadLetter | None:
        result: DeadLetter | None = await self._call("dead_letter", partial(self._acts.store.dead_letter, id))
        return result

    async def discard(self, dead_letter: str) -> bool:
        effect = partial(self._acts.discard, self._machine.number, dead_letter)
        result: bool = await self._call("discard", effect, writes=True)
        return result

    async def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        for entry in await self._call("history", partial(_all, self._acts.store.history(subject))):
            yield entry

    async def explanations(self, **asked: str | None) -> AsyncIterator[Explanation]:
        for explanation in await self._call("explanations", partial(_all, self._acts.store.explanations(**asked))):
            yield explanation

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        effect = partial(self._acts.store.exchange, key, expected, new, ttl)
        result: Cell = await self._call("exchange", effect, writes=True)
        return result

    async def stats(self) -> StoreStats:
        result: StoreStats = await self._call("stats", self._acts.store.stats)
        return result

    # -- and of one that is shared

    async def acquire(self, partition: int, token: Token, worker: str, lease: float) -> Acquired | None:
        run = self._owned[partition] = self._world.runs[partition]
        effect = partial(self._acts.acquire, self._machine.number, partition, token, worker, lease)
        result: Acquired | None = await self._call("acquire", effect, (partition,), writes=True, as_owner=True)
        if result is not None:
            self._owned[partition] = run
        return result

    async def renew(self, tokens: Mapping[int, Token], lease: float) -> Mapping[int, Renewed]:
        found: dict[int, Renewed] = {}
        calls = [self._renew(partition, token, lease) for partition, token in tokens.items()]
        for one in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(one, BaseException):
                raise one
            found |= one
        return found

    async def _renew(self, partition: int, token: Token, lease: float) -> Mapping[int, Renewed]:
        effect = partial(self._acts.renew, self._machine.number, {partition: token}, lease)
        result: Mapping[int, Renewed] = await self._call("renew", effect, (partition,), writes=True, as_owner=True)
        return result

    async def release(self, partition: int, token: Token) -> bool:
        effect = partial(self._acts.release, self._machine.number, partition, token)
        result: bool = await self._call("release", effect, (partition,), writes=True)
        return result

    async def beat(self, worker: str, note: str, ttl: float) -> Sequence[str]:
        effect = partial(self._acts.store.beat, worker, note, ttl)
        result: Sequence[str] = await self._call("beat", effect, writes=True)
        return result

    async def workers(self) -> Sequence[WorkerState]:
        result: Sequence[WorkerState] = await self._call("workers", self._acts.store.workers)
        return result

    async def partition_states(self) -> Sequence[PartitionState]:
        result: Sequence[PartitionState] = await self._call("partition_states", self._acts.store.partition_states)
        return result

    async def tail(self, partition: int, after: Position | None, limit: int, timeout: float) -> Sequence[LogEntry]:
        found: Sequence[LogEntry] = await self._call(
            "tail", partial(self._acts.store.read, partition, after, limit), (partition,)
        )
        return found or await self._wait(partition, after, limit, timeout)

    async def _wait(self, partition: int, after: Position | None, limit: int, timeout: float) -> Sequence[LogEntry]:
        """Wait at the server until there is more in a log."""
        if not self._machine.is_alive:
            return await self._loop.create_future()  # for ever
        part = self._acts.part(partition)
        call = Call("tail", (partition,), self._loop.create_future(), self._fail)
        call.is_waiting = True
        back = self._world.fate("tail", writes=False).back

        def look() -> None:
            if call.answer.done() or not self._machine.is_alive:
                self._acts.server.leave(call)
            elif part.state.latest > (after or 0) and (found := part.read(after, limit)):
                self._acts.server.leave(call)
                self._at(self._loop.time() + back, _tell, call, found)

        self._acts.server.listen(call, look)
        self._world.under_way(call)
        deadline = self._loop.call_at(self._loop.time() + timeout, _tell, call, (), context=_NOBODY)
        try:
            look()
            result: Sequence[LogEntry] = await call.answer
            return result
        finally:
            deadline.cancel()
            self._acts.server.leave(call)
            self._world.is_over(call)

    async def fire(self, partition: int) -> Fired:
        effect = partial(self._acts.fire, self._machine.number, partition)
        result: Fired = await self._call("fire", effect, (partition,), writes=True)
        return result

    async def pending(self, partition: int, positions: Collection[Position]) -> Collection[Position]:
        effect = partial(self._acts.store.pending, partition, positions)
        result: Collection[Position] = await self._call("pending", effect, (partition,))
        return result

    async def waiting(self, partition: int, keys: Collection[str]) -> Collection[str]:
        effect = partial(self._acts.store.waiting, partition, keys)
        result: Collection[str] = await self._call("waiting", effect, (partition,))
        return result

    async def outgoing(self, partition: int, after: Position | None, limit: int) -> Sequence[Outgoing]:
        effect = partial(self._acts.store.outgoing, partition, after, limit)
        result: Sequence[Outgoing] = await self._call("outgoing", effect, (partition,))
        return result

    async def deliver(
        self, source: int, target: int, expected: Position | None, messages: Sequence[Outgoing]
    ) -> Delivered:
        effect = partial(self._acts.deliver, self._machine.number, source, target, expected, tuple(messages))
        result: Delivered = await self._call("deliver", effect, (target,), writes=True)
        return result

    async def trim(self, partition: int, token: Token, upto: Position) -> bool:
        effect = partial(self._acts.trim, self._machine.number, partition, token, upto)
        result: bool = await self._call("trim", effect, (partition,), writes=True)
        return result


_NOBODY: Final = Context()  # of what happens at the server, whatever becomes of the machine


async def _opened() -> bool:
    return True


async def _all(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def _tell(call: Call, result: Any) -> None:
    if not call.answer.done():
        call.answer.set_result(result)
