"""One life of a simulated machine: a worker, or somebody who produces events; and how it ends or stands still.

Belongs here: what is lost when the machine is killed. It must not know what is drawn by lot, nor what is right.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final, TypeVar

from onwhen import EventBus, Limits
from onwhen.engine.events import Event
from onwhen.engine.outcomes import Receipt
from onwhen.engine.worker import Worker
from onwhen.errors import BusClosed, StoreError, WorkerStalled
from tests.simulation.asking import Asking
from tests.simulation.fleet.connection import Connection
from tests.simulation.fleet.plan import Upset
from tests.simulation.history import Life, Sent
from tests.simulation.loop import SimClock
from tests.simulation.plan import Action
from tests.simulation.rules import HERE, TURN_TIMEOUT, rules

if TYPE_CHECKING:
    from tests.simulation.fleet.world import FleetWorld

__all__ = ["Machine", "ProducerMachine", "WorkerMachine"]

_AGAIN: Final = 0.5  # seconds until somebody asks again who was told of an error
_PATIENCE: Final = 8.0  # seconds that somebody waits for an event to be handled

_T = TypeVar("_T")


class Machine:
    """A machine, from its start until it ends or is killed.

    Args:
        world: which world it is in.
        number: which of its machines it is.
        ahead: by how much its clock is wrong (seconds).
        upset: what happens to it; None for nothing.
    """

    def __init__(self, world: FleetWorld, number: int, ahead: float, upset: Upset | None) -> None:
        self.world = world
        self.number = number
        self.is_alive = True
        self.upset = upset
        self._ahead = ahead
        self._steps = 0
        self._commits = 0
        self._waiting: list[asyncio.Handle] | None = None
        self._context = Context()
        self._context.run(HERE.set, self)  # type: ignore[arg-type]

    def start(self) -> None:
        """Begin to live."""
        self.world.note(Life(self.world.time, f"{self.kind} started", self.number))
        self._main = self.spawn(self._run())
        self._main.add_done_callback(self._has_ended)

    @property
    def kind(self) -> str:
        raise NotImplementedError

    def spawn(self, coro: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run something on this machine."""
        return self.world.loop.create_task(coro, context=self._context.copy())

    def _bus(self) -> EventBus:
        plan = self.world.plan
        return EventBus(
            *rules(),
            store=Connection(self.world.acts, self),
            clock=SimClock(self.world.loop, self._ahead),
            limits=Limits(max_concurrent_turns=plan.concurrent, hot_subjects=plan.hot, turn_timeout=TURN_TIMEOUT),
        )

    async def _run(self) -> None:
        raise NotImplementedError

    # -- standing still, and the end

    def admits(self, handle: asyncio.Handle) -> bool:
        """Tell whether a callback is to be run now; see `Standing`."""
        if not self.is_alive:
            return False
        if self._waiting is not None:
            self._waiting.append(handle)
            return False
        self._steps += 1
        upset = self.upset
        if upset is None or upset.what == "hold" or self._steps < upset.after or self.world.is_quiet:
            return True
        return self._suffer(upset, handle)

    def hold(self) -> float:
        """Perhaps stand still when a commit is about to be sent; return for how long (seconds)."""
        upset = self.upset
        if upset is None or upset.what != "hold" or self.world.is_quiet:
            return 0.0
        self._commits += 1
        if self._commits < upset.after:
            return 0.0
        self.upset = None
        self._stand_still(upset.seconds, [])
        return upset.seconds

    def _suffer(self, upset: Upset, handle: asyncio.Handle) -> bool:
        self.upset = None
        if upset.what == "kill":
            self.die(back_after=upset.seconds)
            return False
        if upset.what == "stop":
            self.stop()
            return True
        self._stand_still(upset.seconds, [handle])
        return False

    def _stand_still(self, seconds: float, waiting: list[asyncio.Handle]) -> None:
        self.world.note(Life(self.world.time, f"stands still for {seconds:.1f} s", self.number))
        self._waiting = waiting
        self.world.later(seconds, self.go_on)

    def go_on(self) -> None:
        """Go on as if nothing had happened."""
        if self._waiting is not None:
            if self.is_alive:
                self.world.note(Life(self.world.time, "goes on", self.number))
                self.world.loop.resume(self._waiting)
            self._waiting = None

    def stop(self) -> None:
        """End in good order."""

    def die(self, by: str = "", back_after: float = 0.2) -> None:
        """Be no more: whatever code of this machine still runs reaches nobody."""
        if self.is_alive:
            self.is_alive = False
            self.world.note(Life(self.world.time, "killed", self.number, by))
            self.world.ended(self, back_after)

    def _has_ended(self, main: asyncio.Task[None]) -> None:
        if self.is_alive:
            self.is_alive = False
            error = None if main.cancelled() else main.exception()
            self.world.note(Life(self.world.time, "ended" if error is None else f"ended: {error!r}", self.number))
            if error is not None and not isinstance(error, StoreError | WorkerStalled):
                self.world.fail(error)
            self.world.ended(self, 0.2)

    # -- what rules ask for

    async def killed_by(self, event: str, rule: str, times: int) -> None:
        """Die of a rule on an event, the first so many times that it comes here."""
        if self.is_alive and self.world.strikes(f"{event} {rule}") <= times:
            self.die(event)
            await self.world.loop.create_future()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    def sent(self, ctx: Any, event: Event) -> None:
        """Note that a rule has asked for an event to be sent."""
        if self.is_alive:
            parent = (ctx.event.source, ctx.event.id)
            self.world.note(Sent(self.world.time, parent, ctx.rule.id, ctx.attempt, ctx._index - 1, event.id))


class WorkerMachine(Machine):
    """A machine on which a worker runs.

    Args:
        place: in whose place it is (a number); upsets and assigned partitions go with it.
    """

    def __init__(self, world: FleetWorld, number: int, ahead: float, upset: Upset | None, place: int) -> None:
        super().__init__(world, number, ahead, upset)
        self.place = place
        plan = world.plan
        own = range(place, plan.partitions, plan.workers) if plan.static else None
        self.worker = Worker(
            self._bus(),
            id=f"w{number}",
            lease=plan.lease,
            own=own,
            grace=plan.grace,
            prefetch=plan.prefetch,
            stall=20.0,
        )

    @property
    def kind(self) -> str:
        return "worker"

    async def _run(self) -> None:
        await self.worker.run()

    def stop(self) -> None:
        """Finish what is under way, hand over, end."""
        self.world.note(Life(self.world.time, "is stopped", self.number))
        self.world.loop.call_soon(self.worker.stop, context=self._context)


class ProducerMachine(Asking, Machine):
    """A machine on which events are emitted, subjects stored and failures looked after.

    Args:
        place: in whose place it is (a number); what is asked for goes with it.
        actions: what it is to ask for.
    """

    def __init__(
        self,
        world: FleetWorld,
        number: int,
        ahead: float,
        upset: Upset | None,
        place: int,
        actions: Sequence[Action],
    ) -> None:
        super().__init__(world, number, ahead, upset)
        self.place = place
        self.bus = self._bus()
        self._actions = deque(actions)
        self._is_stopped = asyncio.Event()

    @property
    def kind(self) -> str:
        return "producer"

    async def _run(self) -> None:
        async with self.bus:
            await asyncio.gather(*(self.spawn(self._act(action)) for action in self._actions))
            await self._is_stopped.wait()

    def stop(self) -> None:
        """End when all was asked for."""
        self.world.loop.call_soon(self._is_stopped.set, context=self._context)

    async def _act(self, action: Action) -> None:
        wait = action.time - self.world.time
        if wait > 0:
            await asyncio.sleep(wait)
        ways: dict[str, Callable[[Action], Awaitable[bool]]] = {
            "emit": self._emit,
            "append": self._emit,
            "session": self._session,
            "foreign": self._foreign,
            "close": self._roll,
            "replay": self._replay,
            "discard": self._discard,
            "resume": self._resume,
            "skip": self._skip,
        }
        if await ways[action.what](action):
            self.world.done.add(action.tag)

    # -- what somebody asks for; True if it need not be asked for again

    async def _emit(self, action: Action) -> bool:
        assert action.event is not None
        while True:
            self._call(action)
            try:
                if action.what == "emit":
                    receipt = await self.bus.emit(action.event)
                else:
                    receipt = await self.bus.append(action.event)
            except StoreError as error:
                self._returned(action.what, action.tag, type(error).__name__)
                await asyncio.sleep(_AGAIN)
            except BusClosed:
                return False
            else:
                self._returned(action.what, action.tag, receipt.status)
                if action.what == "emit":
                    self.spawn(self._wait_for(action.tag, receipt))
                return True

    async def _wait_for(self, tag: str, receipt: Receipt) -> None:
        try:
            await receipt.handled(_PATIENCE)
        except (StoreError, TimeoutError) as error:
            self._returned("handled", tag, type(error).__name__)
        else:
            self._returned("handled", tag, receipt.status)

    async def _roll(self, action: Action) -> bool:
        """Stop a worker in good order; another one comes."""
        self.world.roll()
        return True
