"""One life of a simulated process: an event loop, a bus on it, and those who ask the bus for something.

Belongs here: what is lost when the process is killed. It must not know what is drawn by lot, nor what is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final

from onwhen import EventBus, Limits
from onwhen.engine.events import Event
from onwhen.engine.store import Retry
from onwhen.errors import BusClosed, StoreError
from tests.simulation.asking import Asking
from tests.simulation.history import Life, Sent
from tests.simulation.loop import SimClock, SimLoop
from tests.simulation.plan import Action
from tests.simulation.rules import HERE, TURN_TIMEOUT, rules
from tests.simulation.store import SimStore, inline

if TYPE_CHECKING:
    from tests.simulation.world import World

__all__ = ["Process"]

_MOST_STEPS: Final = 100_000  # callbacks in one life (a count); a world needs some thousands
_PATIENCE: Final = 400.0  # seconds until all has to be at rest, once nothing goes wrong any more
_AGAIN: Final = 0.5  # seconds until somebody asks again who was told of an error


class Process(Asking):
    """A process, from its start until it has done all, is closed or is killed.

    Args:
        world: which world it lives in.
        number: which of its processes it is.
        kill_at: after how many callbacks it is killed (a count); 0 for not at all.
    """

    def __init__(self, world: World, number: int, kill_at: int) -> None:
        self.world = world
        self.number = number
        self.is_alive = True
        self.loop = SimLoop(world.time, world.chance)
        self._kill_at = kill_at
        self._is_closed = False
        self._is_done = False
        self._is_killed = False
        self._killed_by = ""

    # -- life

    def live(self) -> bool:
        """Live; True if all is done."""
        world = self.world
        world.note(Life(world.time, "started", self.number))
        context = copy_context()
        context.run(HERE.set, self)
        context.run(self._begin)
        has_more = self.loop.run(self._is_over, _MOST_STEPS)
        self.is_alive = False
        for complaint in self.loop.complaints:
            error = complaint.get("exception")
            if not isinstance(error, StoreError):  # that is what is told of work left behind at the end
                raise RuntimeError(f"the event loop was told: {complaint['message']}: {error!r}") from error
        if not has_more:
            raise RuntimeError("nothing is left to run, and not all is done")
        if self._is_killed:
            world.note(Life(world.time, "killed", self.number, self._killed_by))
        return self._is_done

    def _begin(self) -> None:
        plan = self.world.plan
        self.bus = EventBus(
            *rules(),
            store=SimStore(self.world.core, self),
            clock=SimClock(self.loop),
            limits=Limits(max_concurrent_turns=plan.concurrent, hot_subjects=plan.hot, turn_timeout=TURN_TIMEOUT),
        )
        self._main = self.loop.create_task(self._run())

    def _is_over(self) -> bool:
        if self._kill_at and self.loop.steps >= self._kill_at and not self.world.is_quiet:
            self.die()
        return not self.is_alive or self._main.done()

    def die(self, by: str = "") -> None:
        """Be no more: whatever code of this process still runs reaches nobody."""
        self.is_alive, self._is_killed, self._killed_by = False, True, by

    async def killed_by(self, event: str, rule: str, times: int) -> None:
        """Die of a rule on an event, the first so many times that it comes here."""
        if self.is_alive and self.world.strikes(f"{event} {rule}") <= times:
            self.die(event)
            await self.loop.create_future()

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        await asyncio.sleep(seconds)

    def sent(self, ctx: Any, event: Event) -> None:
        """Note that a rule has asked for an event to be sent."""
        if self.is_alive:
            parent = (ctx.event.source, ctx.event.id)
            sent = Sent(self.world.time, parent, ctx.rule.id, ctx.attempt, ctx._index - 1, event.id)
            self.world.note(sent)

    # -- what happens in it

    async def _run(self) -> None:
        await self._insist(self.bus.start)
        begun = [self._begin_action(action) for action in self.world.open_actions()]
        await asyncio.gather(*begun)
        if self._is_closed or self.world.open_actions():
            self._is_closed = True
            await self._close()
            return
        self.world.is_quiet = True
        await self._come_to_rest()
        await self._close()
        self._is_done = True

    async def _close(self) -> None:
        self.world.note(Life(self.world.time, "closing", self.number))
        await self._insist(self.bus.close)
        self.world.note(Life(self.world.time, "closed", self.number))

    def _begin_action(self, action: Action) -> asyncio.Task[None]:
        return self.loop.create_task(self._act(action))

    async def _act(self, action: Action) -> None:
        wait = action.time - self.loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        if self._is_closed:
            return  # in the next life
        ways: dict[str, Callable[[Action], Awaitable[bool]]] = {
            "emit": self._emit,
            "append": self._append,
            "session": self._session,
            "foreign": self._foreign,
            "close": self._leave,
            "replay": self._replay,
            "discard": self._discard,
            "resume": self._resume,
            "skip": self._skip,
        }
        if await ways[action.what](action):
            self.world.done.add(action.tag)

    async def _insist(self, call: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await call()
            except StoreError:
                await asyncio.sleep(_AGAIN)

    # -- what somebody asks for; True if it need not be asked for again

    async def _emit(self, action: Action) -> bool:
        assert action.event is not None
        while True:
            self._call(action)
            try:
                receipt = await self.bus.emit(action.event)
            except StoreError as error:
                self._returned("emit", action.tag, type(error).__name__)
                await asyncio.sleep(_AGAIN)
            except BusClosed:
                return False
            else:
                self._returned("emit", action.tag, receipt.status)
                return True

    async def _append(self, action: Action) -> bool:
        assert action.event is not None
        while True:
            self._call(action)
            try:
                receipt = await self.bus.append(action.event)
            except StoreError as error:
                self._returned("append", action.tag, type(error).__name__)
                await asyncio.sleep(_AGAIN)
            except BusClosed:
                return False
            else:
                self._returned("append", action.tag, receipt.status)
                return True

    async def _leave(self, action: Action) -> bool:
        self._is_closed = True
        return True

    # -- the end

    async def _come_to_rest(self) -> None:
        """See to it that nothing waits any more: replay what is dead, resume what is parked, wait for the rest."""
        until, world = self.loop.time() + _PATIENCE, self.world
        while self.loop.time() < until:
            await self.bus.idle()
            store = self.world.core.store
            retries: list[Retry] = [r for n in range(store.partitions) for r in inline(_listed(store.retries(n)))]
            stats = inline(store.stats())
            parked = {retry.subject for retry in retries if retry.parked}
            if stats.timers or any(retry.subject not in parked for retry in retries):
                await asyncio.sleep(_AGAIN)
                continue
            letters = [x for x in inline(_listed(store.dead_letters())) if x.id not in world.replayed]
            if letters:
                for letter in letters:
                    world.replayed.add(letter.id)
                    await self.bus.replay(letter.id)
                continue
            if not retries:
                return
            for name in sorted(parked):
                world.resumed[name] += 1
                await (self.bus.resume(name) if world.resumed[name] < 3 else self.bus.skip(name))


async def _listed(items: Any) -> list[Any]:
    return [item async for item in items]
