"""Lanes: one piece of work at a time per subject, many subjects at once, up to a limit.

Belongs here: order, concurrency and fairness. It must not know what the work is, nor what a store or a rule is.
"""

from __future__ import annotations

import asyncio
import heapq
import math
from collections import deque
from collections.abc import Callable, Coroutine, Hashable, Iterator, Sequence
from contextvars import Context
from itertools import count
from typing import Any, Final, Generic, Protocol, TypeVar

import msgspec

from onwhen.engine._eager import EagerStarter
from onwhen.engine.endings import TAKEN_AWAY, ends_the_loop
from onwhen.engine.room import Room

__all__ = ["LATER", "Dispatcher"]

_BURST: Final = 100  # pieces of work that are started before the event loop gets its turn (1 to 3 ms)
_LONGEST: Final = 0.01  # seconds after which it gets it all the same: rules may take longer, and block it


LATER: Final = object()
"""Returned by a handler whose work goes on, though it holds no task up."""


class _Work(Protocol):
    @property
    def context(self) -> Context:
        """The context variables of whoever asked for the work; it is done in a copy."""
        ...

    @property
    def order(self) -> float:
        """Where it stands among all work, if only one piece is done at a time."""
        ...

    def fail(self, error: BaseException) -> bool:
        """Tell whoever waits for the work why it was not done; False if nobody does."""
        ...


_W = TypeVar("_W", bound=_Work)


class _Lane(msgspec.Struct, Generic[_W], eq=False):
    """The work of one subject, in order; most lanes are gone before anything has had to wait in them."""

    name: str
    active: _W | None = None
    ready: bool = False
    holds: set[Hashable] | tuple[()] = ()
    work: deque[_W] | tuple[()] = ()
    urgent: deque[_W] | tuple[()] = ()

    def put(self, work: _W) -> None:
        """Put work at the end."""
        if not self.work:
            self.work = deque()
        self.work.append(work)

    def put_by_order(self, work: _W) -> None:
        """Put work ahead of what comes later by its `order`."""
        later: list[_W] = []
        while self.work and self.work[-1].order > work.order:
            later.append(self.work.pop())
        self.put(work)
        for passed in reversed(later):
            self.put(passed)

    def put_urgent(self, work: _W, *, first: bool = False) -> None:
        """Put work ahead of all that is not urgent, or of everything."""
        if not self.urgent:
            self.urgent = deque()
        if first:
            self.urgent.appendleft(work)
        else:
            self.urgent.append(work)

    def has_next(self) -> bool:
        """Tell whether there is work that may be done now."""
        return bool(self.urgent or (self.work and not self.holds))

    def first(self) -> _W:
        """Return the next piece of work."""
        waiting = self.urgent or self.work
        assert waiting
        return waiting[0]

    def next(self) -> _W:
        """Take the next piece of work."""
        waiting = self.urgent or self.work
        assert waiting
        return waiting.popleft()


class _Ready(Generic[_W]):
    """The lanes that may start, by the order of their next piece of work."""

    def __init__(self) -> None:
        self._lanes: list[tuple[float, int, _Lane[_W]]] = []
        self._numbers = count()

    def append(self, lane: _Lane[_W]) -> None:
        """Put a lane in."""
        heapq.heappush(self._lanes, (lane.first().order, next(self._numbers), lane))

    def is_last(self) -> bool:
        """Tell whether there is only work that comes after all that has an order."""
        return self._lanes[0][0] == math.inf

    def popleft(self) -> _Lane[_W]:
        """Take the first one out."""
        return heapq.heappop(self._lanes)[2]

    def __len__(self) -> int:
        return len(self._lanes)


class Dispatcher(Generic[_W]):
    """Hands work to a function, in order per subject.

    Work is put into lanes first, and started by `pump`. If its handling is cut short, it stays first in its lane:
    work that was cancelled is done again at once, unless the loop ends; after an error, when the lane is next set off.

    Args:
        handle: does one piece of work, and handles its own errors. One that leaves it is reported to the event
            loop; one that ends the program, as KeyboardInterrupt, leaves the event loop if nobody waits for the work.
            If it returns `LATER`, the work is done once `finish` is called.
        limit: how many subjects are worked on at the same time (a count). With 1, all work is done one after the
            other, by its `order`; else whoever is ready first comes first.
        loop: the event loop that all of this happens on.
        room: for work that is `LATER`, shared with other dispatchers; None for no limit.
    """

    def __init__(
        self,
        handle: Callable[[_W], Coroutine[Any, Any, object]],
        limit: int,
        loop: asyncio.AbstractEventLoop,
        room: Room | None = None,
    ) -> None:
        self._room = room
        self._later = 0
        self._handle = handle
        self._limit = self._full_limit = limit
        self._loop = loop
        self._lanes: dict[str, _Lane[_W]] = {}
        self._ordered: _Ready[_W] | None = _Ready() if limit == 1 else None
        self._ready: deque[_Lane[_W]] | _Ready[_W] = deque() if self._ordered is None else self._ordered
        self._active = 0
        self._expected = 0
        self._ahead = 0
        self._pumping = False
        self._is_ending = False
        self._is_alone = False
        self._is_halted = False
        self._is_called = False
        self._started = 0
        self._since = 0.0
        self._starter = EagerStarter(loop)
        self._idle: list[asyncio.Future[None]] = []

    def do(self, subject: str, work: _W) -> bool:
        """Do work now, if nothing of the subject is ahead of it and there is room; False if it was not done."""
        if subject in self._lanes or self._pumping or self._expected or self._active >= self._limit:
            return False  # also while something is on its way that stands earlier in the log
        if self._is_its_turn():
            return False
        lane: _Lane[_W] = _Lane(subject, work)
        self._lanes[subject] = lane
        self._active += 1
        self._count_start()
        self._pumping = True
        try:
            self._starter.start(self._do(lane, work), work.context.copy())
        finally:
            self._pumping = False
            if self._ready:
                self.pump()
        return True

    def submit(self, subject: str, work: _W) -> bool:
        """Put work at the end of a subject's lane; False if the lane is held, so that it has to wait.

        What belongs together is submitted together, and only then `pump` starts it: the first piece of work may
        run to its end at once, and what it leads to must not overtake the rest.
        """
        lane = self._lane(subject)
        if self._ordered is None:
            lane.put(work)
        else:
            lane.put_by_order(work)
        self._set_off(lane)
        return not lane.holds

    def submit_urgent(self, subject: str, work: _W) -> None:
        """Put work ahead of everything else of a subject, a hold included; `pump` starts it."""
        lane = self._lane(subject)
        lane.put_urgent(work)
        self._set_off(lane)

    def hold(self, subject: str, by: Hashable) -> Sequence[_W]:
        """Let a subject's work wait until nothing holds it any more; return what waits."""
        lane = self._lane(subject)
        lane.holds = {*lane.holds, by}
        return tuple(lane.work)

    def release(self, subject: str, by: Hashable) -> None:
        """Take a hold of a subject back, if there is one by this name; `pump` starts what has waited."""
        lane = self._lanes.get(subject)
        if lane is not None and by in lane.holds:
            lane.holds = {*lane.holds} - {by}
            self._set_off(lane)

    def withdraw(self, subject: str, length: int, may_be: Callable[[_W], bool]) -> list[_W]:
        """Take waiting work of a subject back, as if it had never been submitted; what is urgent stays.

        Args:
            subject: whose.
            length: how many pieces of work stay, the first ones (a count).
            may_be: which of the others are taken.
        """
        lane = self._lanes.get(subject)
        if lane is None or len(lane.work) <= length:
            return []
        waiting = list(lane.work)
        later = waiting[length:]
        lane.work = deque([*waiting[:length], *(work for work in later if not may_be(work))])
        return [work for work in later if may_be(work)]

    def subjects_with_lines(self, length: int) -> list[str]:
        """Return the subjects of which more pieces of work wait than a length (a count)."""
        return [lane.name for lane in self._lanes.values() if len(lane.work) > length]

    def active_on(self, subject: str) -> _W | None:
        """Return the work that is being done on a subject."""
        lane = self._lanes.get(subject)
        return lane.active if lane is not None else None

    def active_subjects(self) -> list[str]:
        """Return the subjects that are worked on."""
        return [lane.name for lane in self._lanes.values() if lane.active is not None]

    def work_of(self, subject: str) -> Iterator[_W]:
        """Go through a subject's work, that which is being done included."""
        lane = self._lanes.get(subject)
        if lane is not None:
            if lane.active is not None:
                yield lane.active
            yield from lane.urgent
            yield from lane.work

    def waiting(self, subject: str) -> int:
        """Return how much work of a subject waits (a count)."""
        lane = self._lanes.get(subject)
        return len(lane.work) if lane is not None else 0

    def is_held(self, subject: str) -> bool:
        """Tell whether a subject's work waits until something is done that holds it."""
        lane = self._lanes.get(subject)
        return lane is not None and bool(lane.holds)

    def not_held(self) -> Iterator[_W]:
        """Go through the work that nothing holds: what is done, and what can be done in its turn."""
        for lane in self._lanes.values():
            if not lane.holds:
                yield from self.work_of(lane.name)

    def one_by_one(self, only: bool) -> None:
        """Work on one subject at a time, or again on as many as the limit allows."""
        self._is_alone = only
        self._set_limit()

    def allow(self, limit: int) -> None:
        """Work on so many subjects at the same time from now on (a count); see `limit`."""
        self._full_limit = limit
        self._set_limit()
        self.pump()

    def halt(self) -> None:
        """Start nothing more; `idle` waits for what is being done, and the rest is dropped with the dispatcher."""
        self._is_halted = True
        self._set_limit()

    def _set_limit(self) -> None:
        self._limit = 0 if self._is_halted else 1 if self._is_alone else self._full_limit

    def all_work(self) -> Iterator[_W]:
        """Go through the work of all subjects."""
        for subject in self._lanes:
            yield from self.work_of(subject)

    def start(self, coroutine: Coroutine[Any, Any, None], context: Context) -> None:
        """Run a coroutine as work is done: now, and on its own if it suspends."""
        self._starter.start(coroutine, context)

    def interrupt(self, work: _W, error: BaseException) -> None:
        """End the program with an error: whoever waits for the work is told, or else it leaves the event loop."""
        if not work.fail(error):
            self._loop.call_soon(_raise, error)  # raised here, it would end whatever has started this

    def expect(self, *, ahead: bool = False) -> None:
        """Count something that will submit work as work, for `idle`, until `expected`.

        Args:
            ahead: where all is done by its order, nothing else is begun meanwhile.
        """
        self._expected += 1
        self._ahead += ahead

    def expected(self, *, ahead: bool = False) -> None:
        """Note that what was expected has come."""
        self._expected -= 1
        self._ahead -= ahead
        if self._ordered and not self._ahead:
            self.pump()
        if self._idle:
            self._wake_idle()

    async def idle(self) -> None:
        """Wait until nothing is worked on, nothing is ready and nothing is about to be."""
        self.pump()
        while self.is_busy():
            waiter = self._loop.create_future()
            self._idle.append(waiter)
            await waiter

    def cancel(self) -> None:
        """Cancel what is being done."""
        self._starter.cancel(TAKEN_AWAY)

    def close(self) -> None:
        """Let go of the idle tasks; work that waits is dropped with the dispatcher."""
        self._starter.close()
        if self._room is not None:
            self._room.forget(self)
        while self._later:
            self._leave_room()

    def _lane(self, subject: str) -> _Lane[_W]:
        lane = self._lanes.get(subject)
        if lane is None:
            lane = self._lanes[subject] = _Lane(subject)
        return lane

    def _set_off(self, lane: _Lane[_W]) -> None:
        """Make a lane ready if it has something to do, or drop it if there is nothing left of it."""
        if lane.active is not None or lane.ready:
            return
        if lane.has_next():
            lane.ready = True
            self._ready.append(lane)
        elif not (lane.holds or lane.work):
            self._lanes.pop(lane.name, None)

    def pump(self) -> None:
        """Start lanes that are ready. Work that sets off other lanes does not nest: it is taken up here."""
        if self._pumping or (self._ready and self._is_started_at_the_end()):
            return
        self._pumping = True
        while self._ready and self._active < self._limit and (self._room is None or self._room.is_there(self)):
            if self._is_its_turn():
                # Emits whose rules never suspend would keep timers, sockets and Ctrl-C waiting for ever.
                self._loop.call_soon(self._pump_on)
                return
            self._count_start()
            if self._ordered is not None and (self._ahead or (self._expected and self._ordered.is_last())):
                break  # what is on its way comes first, as it would if it were here already
            lane = self._ready.popleft()
            lane.ready = False
            if lane.has_next():  # it may have been held since
                lane.active = work = lane.next()
                self._active += 1
                self._starter.start(self._do(lane, work), work.context.copy())
        self._pumping = False

    def _count_start(self) -> None:
        if not self._started:
            self._since = self._loop.time()
            self._loop.call_soon(self._turned)
        self._started += 1

    def _turned(self) -> None:
        """Note that the event loop has had its turn."""
        self._started = 0

    def _is_its_turn(self) -> bool:
        """Tell whether the event loop should have its turn before more is started."""
        return self._started >= _BURST or (self._started > 0 and self._loop.time() - self._since > _LONGEST)

    def _pump_on(self) -> None:
        self._started = 0
        self._pumping = False
        self.pump()
        self._wake_idle()

    async def _do(self, lane: _Lane[_W], work: _W) -> None:
        try:
            answer = await self._handle(work)
        except BaseException as error:
            if not self._loop.is_running():  # it is gone, and this is only being cleared away
                raise
            lane.put_urgent(work, first=True)
            lane.active = None
            self._active -= 1
            if isinstance(error, asyncio.CancelledError):
                # Whoever started this has not asked for it, so it is not told.
                if not self._is_loop_ending():
                    self._set_off(lane)
                    self._loop.call_soon(self.pump)
                self._wake_idle()
                return
            self._wake_idle()
            self._loop.call_soon(self.pump)
            if isinstance(error, Exception):
                work.fail(error)
                message = f"{lane.name}: what failed is tried again with its next event"
                self._loop.call_exception_handler({"message": message, "exception": error})
            else:
                self.interrupt(work, error)
        else:
            if answer is not LATER:
                self._finish(lane)
            elif lane.active is work and self._room is not None:  # else it is done already
                self._later += 1
                self._room.take()

    def finish(self, subject: str) -> None:
        """Note that the work on a subject is done whose handling has returned `LATER`."""
        self._leave_room()
        self._end(self._lanes[subject])

    def again(self, subject: str) -> None:
        """Do the work on a subject once more whose handling has returned `LATER`."""
        lane = self._lanes[subject]
        assert lane.active is not None
        self._leave_room()
        lane.put_urgent(lane.active, first=True)
        self._end(lane)

    def _end(self, lane: _Lane[_W]) -> None:
        """End what was `LATER`; many come at once, so what is ready is begun together, a moment later."""
        self._set_free(lane)
        if self._ready and not self._is_called:
            self._is_called = True
            self._loop.call_soon(self._called)

    def _called(self) -> None:
        self._is_called = False
        self.pump()
        self._wake_idle()

    def ready(self) -> int:
        """Return how many subjects have something that is ready to be begun (a count)."""
        return len(self._ready)

    def _leave_room(self) -> None:
        if self._room is not None and self._later:
            self._later -= 1
            self._room.leave()

    def _finish(self, lane: _Lane[_W]) -> None:
        self._set_free(lane)
        if self._ready:
            self.pump()

    def _set_free(self, lane: _Lane[_W]) -> None:
        lane.active = None
        self._active -= 1
        if lane.work or lane.urgent or lane.holds:
            self._set_off(lane)
        else:
            del self._lanes[lane.name]
        if self._idle:  # also if something is ready: it is not begun any more after `halt`
            self._wake_idle()

    def _is_started_at_the_end(self) -> bool:
        """Tell whether what would be started now would be dropped at once, because the loop ends."""
        if self._is_ending:
            return True
        task = asyncio.current_task(self._loop)
        return task is not None and task.cancelling() > 0 and self._is_loop_ending()

    def _is_loop_ending(self) -> bool:
        if not self._is_ending:
            self._is_ending = ends_the_loop(self._loop)
        return self._is_ending

    def is_busy(self) -> bool:
        """Tell whether something is done, could be done now, or is about to be submitted."""
        return bool(self._active or self._expected or (self._ready and not self._is_halted))

    def _wake_idle(self) -> None:
        if self._idle and not self.is_busy():
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)


def _raise(error: BaseException) -> None:
    raise error
