"""Fleets on virtual time: processes with a worker or a producer each, over wires of their own to one server.

Belongs here: how several processes live on one event loop, stand still and die, and what goes wrong on their wires.
It must not know what a test is about. Time passes only when nobody has anything to do, so nothing here waits for long.
"""

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import copy_context
from datetime import timedelta
from functools import partial, wraps
from typing import Any, cast

from onwhen import Context, Event, EventBus, Limits, RetryPolicy, RuleSet
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Retry
from onwhen.engine.worker import Worker
from onwhen.errors import StoreError
from tests.simulation.fleet.loop import FleetLoop
from tests.simulation.fleet.server import ModelStore, Server
from tests.simulation.loop import SimClock
from tests.simulation.rules import HERE

LEASE = 10.0
PARK = RetryPolicy(on_exhausted="park")
RETRY = RetryPolicy(attempts=4, delay=timedelta(seconds=20), factor=1, jitter=0)
ALONE = RetryPolicy(attempts=4, delay=timedelta(seconds=20), factor=1, jitter=0, in_order=False)
_MOST_STEPS = 3_000_000  # callbacks of one test (a count)
_LOCAL = ("close",)
_CALLS = (
    *("open", "append", "bookmark", "starting", "read", "load", "commit", "promote", "dead_letter", "discard", "stats"),
    *("acquire", "renew", "release", "beat", "workers", "partition_states", "tail", "fire", "pending", "waiting"),
    *("outgoing", "deliver", "trim"),
)  # of a store, but for those that return many things one by one


class VirtualLoop(FleetLoop):
    """An event loop for one test.

    Args:
        name: what chance is drawn from.

    Attributes:
        members: the processes on it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(0.0, random.Random(name))
        self.members: list[Member] = []

    def end(self) -> None:
        """Cancel what is left, as the end of a program does, also of processes that were killed."""
        for member in self.members:
            member.come_back()
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        self.run(lambda: all(task.done() for task in left), self.steps + _MOST_STEPS)
        for task in left:
            if task.done() and not task.cancelled():
                task.exception()  # nobody waits for it any more


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on virtual time; it fails if the event loop was told of an error that the test has not taken out."""

    @wraps(test)
    def run(*args: Any, **named: Any) -> None:
        random.seed(test.__name__)  # pauses are drawn by lot
        loop = VirtualLoop(test.__name__)
        main = loop.create_task(test(*args, **named))
        try:
            assert loop.run(main.done, _MOST_STEPS), "nothing is left to run, and the test waits"
            main.result()
            assert not loop.complaints, [complaint.get("exception", complaint) for complaint in loop.complaints]
        finally:
            loop.end()

    return run


async def until(condition: Callable[[], object], seconds: float = 120.0) -> None:
    """Wait for something that happens within so many virtual seconds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def names(partition: int, partitions: int, count: int = 1) -> list[str]:
    """Return names of subjects that belong to a partition."""
    found, number = list[str](), 0
    while len(found) < count:
        if partition_of(name := f"s{number}", partitions) == partition:
            found.append(name)
        number += 1
    return found


def name(partition: int, partitions: int) -> str:
    """Return the name of a subject of a partition."""
    return names(partition, partitions)[0]


class Wire(ModelStore):
    """A process's store: each call travels, and may fail on its way there or back, be held up, or never be answered.

    Args:
        server: what keeps everything.
        delay: how long a call travels, and its answer as well (seconds).

    Attributes:
        calls: names and arguments of all calls, in order.
        down: seconds after which every call fails without effect; None if the wire is in order.
    """

    def __init__(self, server: Server, delay: float = 0.0005) -> None:
        super().__init__(server)
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.down: float | None = None
        self.most_read = 0
        self._delay = delay
        self._faults: list[tuple[str, deque[str] | str, Callable[..., bool]]] = []
        self._held: list[tuple[str, asyncio.Future[None]]] = []
        self._arrival = {"there": 0.0, "back": 0.0}
        for called in (*_LOCAL, *_CALLS):
            setattr(self, called, partial(self._call, called, getattr(super(), called)))

    @property
    def counts(self) -> Counter[str]:
        """How often each call was made."""
        return Counter(called for called, _ in self.calls)

    def fail(self, called: str, *outcomes: str, when: Callable[..., bool] = lambda *_: True) -> None:
        """Say what becomes of the next calls: "before", "after", "held" (its answer), "hung", or "" for nothing.

        Args:
            called: name of the call.
            outcomes: one for each call.
            when: which calls are meant, by their arguments.
        """
        self._faults.append((called, deque(outcomes), when))

    def fail_always(self, called: str, outcome: str = "before", when: Callable[..., bool] = lambda *_: True) -> None:
        """Say what becomes of all calls until `heal`."""
        self._faults.append((called, outcome, when))

    def heal(self) -> None:
        """Let nothing fail any more, and let go of what is held."""
        self._faults.clear()
        self.down = None
        held, self._held = self._held, []
        for _, future in held:
            if not future.done():
                future.set_result(None)

    def held(self, called: str) -> int:
        """Return how many answers to a call are held up (a count)."""
        return sum(one == called and not future.done() for one, future in self._held)

    async def retries(self, partition: int) -> Any:
        for retry in await self._call("retries", self._listed, partition):
            yield retry

    async def _listed(self, partition: int) -> list[Retry]:
        return [retry async for retry in super().retries(partition)]

    async def _call(self, called: str, effect: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        self.calls.append((called, args))
        outcome = self._outcome(called, args)
        if called in ("append", "commit"):
            for event in args[1] if called == "append" else args[0].messages:
                event.detach()
        if called not in _LOCAL:
            await self._travel("there")
        if self.down is not None and called not in _LOCAL:
            await asyncio.sleep(self.down)
            raise StoreError(f"{called}: the server is away")
        if outcome == "before":
            raise StoreError(f"{called} was not done")
        if outcome == "hung":
            await self._hold(called)
        result = await effect(*args, **named)
        if called in ("read", "tail"):
            self.most_read = max(self.most_read, len(result))
        if outcome == "held":
            await self._hold(called)
        if called not in _LOCAL:
            await self._travel("back")
        if outcome == "after" or (self.down is not None and called not in _LOCAL):
            raise StoreError(f"{called} was done, but nobody has heard of it")
        return result

    def _outcome(self, called: str, args: tuple[Any, ...]) -> str:
        for meant, outcomes, when in self._faults:
            if meant == called and outcomes and when(*args):
                return outcomes if isinstance(outcomes, str) else outcomes.popleft()
        return ""

    async def _hold(self, called: str) -> None:
        future = asyncio.get_running_loop().create_future()
        self._held.append((called, future))
        await future

    async def _travel(self, way: str) -> None:
        """Arrive behind all that was sent before this way."""
        loop = asyncio.get_running_loop()
        when = self._arrival[way] = max(self._arrival[way] + 1e-7, loop.time() + self._delay)
        future = loop.create_future()
        timer = loop.call_at(when, lambda: future.done() or future.set_result(None))
        try:
            await future
        finally:
            timer.cancel()


class Member:
    """A process with a worker in it.

    Attributes:
        worker: the worker.
        bus: its bus.
        wire: its store.
        task: runs the worker; None before `start`.
    """

    def __init__(self, loop: FleetLoop, worker: Worker, wire: Wire) -> None:
        self.worker = worker
        self.bus = worker.bus
        self.wire = wire
        self.task: asyncio.Task[None] | None = None
        self._loop = loop
        self._is_alive = True
        self._stands_still = False
        self._late: list[asyncio.Handle] = []

    @property
    def owned(self) -> frozenset[int]:
        """What it believes to own."""
        return self.worker.status().owned

    async def start(self) -> "Member":
        """Start it, and wait until it has looked around for the first time."""
        self.begin()
        await self.worker.started()
        return self

    def begin(self) -> None:
        """Start it."""
        context = copy_context()
        context.run(HERE.set, cast(Any, self))
        self.task = self._loop.create_task(self.worker.run(), context=context)

    async def stop(self, seconds: float = 60.0) -> None:
        """Stop it, and wait until it has handed all over."""
        self.worker.stop()
        await self.ended(seconds)

    async def ended(self, seconds: float = 120.0) -> None:
        """Wait until it has ended, and raise what it has ended with."""
        assert self.task is not None
        async with asyncio.timeout(seconds):
            await asyncio.wait([self.task])
        self.task.result()

    def kill(self) -> None:
        """Let nothing of it run any more."""
        self._is_alive = False

    def stand_still(self) -> None:
        """Let nothing of it run until `go_on`, as SIGSTOP does, while time goes on for all others."""
        self._stands_still = True

    def go_on(self) -> None:
        """Let it go on, unless it is dead; what was due meanwhile is late."""
        self._stands_still = False
        late, self._late = self._late, []
        self._loop.resume(late)

    def come_back(self) -> None:
        """Let it live again, to be cleared away."""
        self._is_alive = True
        self.go_on()

    def admits(self, handle: asyncio.Handle) -> bool:
        """Tell the loop whether a callback of this process may run now."""
        if self._is_alive and not self._stands_still:
            return True
        self._late.append(handle)
        return False


class Fleet:
    """A server, and who is connected with it.

    Args:
        partitions: how many there are (a count).
        ahead: by how much the clock of each partition's server is ahead (seconds).
        server: see `Server`.

    Attributes:
        clocks: the clocks of the servers.
    """

    def __init__(self, partitions: int = 4, *, ahead: float = 0.0, **server: Any) -> None:
        self.loop = cast(VirtualLoop, asyncio.get_running_loop())
        self.clock = SimClock(self.loop)
        self.partitions = partitions
        self.clocks = [SimClock(self.loop, ahead) for _ in range(partitions)]
        self.server = Server(partitions, clocks=self.clocks, **server)
        self.members: list[Member] = []

    def bus(self, *rule_sets: RuleSet, limits: Limits | None = None, wire: Wire | None = None) -> EventBus:
        """Make a bus on a wire of its own."""
        return EventBus(*rule_sets, store=wire or Wire(self.server), clock=self.clock, limits=limits)

    def member(self, *rule_sets: RuleSet, limits: Limits | None = None, delay: float = 0.0005, **worker: Any) -> Member:
        """Make a process with a worker; its id is `w1`, `w2`, ... if no other is given."""
        wire = Wire(self.server, delay)
        worker.setdefault("id", f"w{len(self.members) + 1}")
        worker.setdefault("lease", LEASE)
        member = Member(self.loop, Worker(self.bus(*rule_sets, limits=limits, wire=wire), **worker), wire)
        self.members.append(member)
        self.loop.members.append(member)
        return member

    def owner(self, partition: int) -> str | None:
        """Return who owns a partition, as the server sees it."""
        return self.server.partitions[partition].look().owner

    def owners(self) -> Counter[str | None]:
        """Return how many partitions each worker owns, as the server sees it."""
        return Counter(self.owner(number) for number in range(self.partitions))

    def pending(self) -> int:
        """Return how many events are pending, and how many messages not delivered (a count)."""
        parts = self.server.partitions
        under_way = 0
        for number, part in enumerate(parts):
            for out in part.state.outbox.values():
                under_way += out.position > parts[out.target].state.watermarks.get(number, 0)
        return under_way + sum(len(part.state.log) for part in parts)

    def post(self, type: str, subject: str, *payloads: Any) -> list[int]:
        """Put events into the log, as many producers do within a moment; return their positions."""
        events = [Event(type, subject, payload, time=self.clock.now()) for payload in payloads]
        for event in events:
            event.detach()
        answers = self.server.of(subject).append(events, None)
        self.server.wake()
        return [answer.position for answer in answers if answer.position is not None]

    async def rest(self, seconds: float = 120.0) -> None:
        """Wait until nothing is pending."""
        await until(lambda: not self.pending(), seconds)

    def value(self, subject: str, property: str) -> Any:
        """Return what is stored of a subject; None if nothing is."""
        record = self.server.of(subject).state.subjects.get(subject)
        text = None if record is None else record.properties.get(property)
        return None if text is None else json.loads(text)


class Notes:
    """Rules that note what is run, where and when; what is stored of it is in the subject's `order`."""

    def __init__(self) -> None:
        self.rules = RuleSet("notes")
        self.runs: list[tuple[str, Any]] = []  # subject and payload, as they begin
        self.gates: dict[str, asyncio.Event] = {}  # subject -> what its turns wait at
        self.seconds: dict[str, float] = {}  # subject -> how long its turns take
        self.broken: set[str] = set()  # subjects at which what is fragile fails
        self.unsteady: set[str] = set()  # subjects at which it fails the first time

        @self.rules.on("noted")
        async def note(ctx: Context) -> None:
            subject = ctx.subject.name
            self.runs.append((subject, ctx.payload))
            if (gate := self.gates.get(subject)) is not None:
                await gate.wait()
            if seconds := self.seconds.get(subject):
                await asyncio.sleep(seconds)
            ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload])

        @self.rules.on("fragile", retry=PARK)
        async def fragile(ctx: Context) -> None:
            await self.try_it(ctx)

        @self.rules.on("retried", retry=RETRY)
        async def retried(ctx: Context) -> None:
            await self.try_it(ctx)

        @self.rules.on("retried.alone", retry=ALONE)
        async def alone(ctx: Context) -> None:
            await self.try_it(ctx)

        @self.rules.on("timed")
        def set_timer(ctx: Context) -> None:
            to, seconds, payload = ctx.payload
            ctx.emit("noted", payload, to, delay=timedelta(seconds=seconds))

        @self.rules.on("passed")
        def pass_on(ctx: Context) -> None:
            for to, payload in ctx.payload:
                ctx.emit("noted", payload, to)

    async def try_it(self, ctx: Context) -> None:
        """Fail at a subject that is broken, or note the payload in its `order`."""
        self.runs.append((ctx.subject.name, ctx.payload))
        if seconds := self.seconds.get(ctx.subject.name):
            await asyncio.sleep(seconds)
        if ctx.subject.name in self.broken or (ctx.subject.name in self.unsteady and ctx.attempt == 1):
            raise LookupError("broken")
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload])

    def of(self, subject: str) -> Sequence[Any]:
        """Return the payloads that turns of a subject have begun with."""
        return [payload for name, payload in self.runs if name == subject]
