"""Lanes: order per subject, concurrency across subjects up to a limit, holds, fairness."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.engine.dispatch import Dispatcher

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


@dataclass
class Job:
    """Work for a dispatcher: what is to be done, in the context it was made in."""

    subject: str
    number: int = 0
    does: Callable[[], Coroutine[Any, Any, None]] | None = None
    context: Context = field(default_factory=copy_context)
    told: list[BaseException] = field(default_factory=list)
    order: float = 0

    def fail(self, error: BaseException) -> bool:
        self.told.append(error)
        return True


class Shop:
    """A dispatcher that notes what was begun and done, and how much at once."""

    def __init__(self, limit: int = 1000) -> None:
        self.dispatcher: Dispatcher[Job] = Dispatcher(self._handle, limit, asyncio.get_running_loop())
        self.begun: list[tuple[str, int]] = []
        self.done: list[tuple[str, int]] = []
        self.now: set[str] = set()
        self.most = 0

    async def _handle(self, job: Job) -> None:
        assert job.subject not in self.now, "two at once on one subject"
        self.now.add(job.subject)
        self.most = max(self.most, len(self.now))
        self.begun.append((job.subject, job.number))
        try:
            if job.does is not None:
                await job.does()
            self.done.append((job.subject, job.number))
        finally:
            self.now.discard(job.subject)

    def submit(
        self, subject: str, number: int = 0, does: Callable[[], Coroutine[Any, Any, None]] | None = None
    ) -> bool:
        is_free = self.dispatcher.submit(subject, Job(subject, number, does))
        self.dispatcher.pump()
        return is_free

    async def idle(self) -> None:
        async with asyncio.timeout(10):
            await self.dispatcher.idle()


def waits_for(gate: asyncio.Event) -> Callable[[], Coroutine[Any, Any, None]]:
    async def wait() -> None:
        await gate.wait()

    return wait


def yields(times: int) -> Callable[[], Coroutine[Any, Any, None]]:
    async def wait() -> None:
        for _ in range(times):
            await asyncio.sleep(0)

    return wait


async def test_work_that_does_not_suspend_is_done_at_once() -> None:
    """When `submit` returns, such work is done."""
    shop = Shop()
    assert shop.submit("a")
    assert shop.done == [("a", 0)]


async def test_nothing_overtakes_what_is_submitted_together() -> None:
    """Lanes are filled first: what the first piece of work leads to comes after the rest of the batch."""
    shop = Shop()

    async def leads_on() -> None:
        shop.submit("b", 2)

    shop.dispatcher.submit("a", Job("a", 0, leads_on))
    shop.dispatcher.submit("b", Job("b", 1))
    assert shop.begun == []
    shop.dispatcher.pump()
    assert shop.done == [("a", 0), ("b", 1), ("b", 2)]


@given(
    jobs=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=60),
    limit=st.integers(1, 5),
)
def test_order_per_subject_within_the_limit(jobs: list[tuple[str, int]], limit: int) -> None:
    """However long the pieces take, those of a subject are done in order, and never more subjects than allowed."""

    async def main() -> None:
        shop = Shop(limit)
        for number, (subject, steps) in enumerate(jobs):
            shop.submit(subject, number, yields(steps))
            if steps == 3:
                await asyncio.sleep(0)
        await shop.idle()
        for subject in "abcd":
            wanted = [number for number, (name, _) in enumerate(jobs) if name == subject]
            assert [number for name, number in shop.done if name == subject] == wanted
        assert shop.most <= limit

    asyncio.run(main())


async def test_many_subjects_at_once_but_no_more_than_the_limit() -> None:
    """The limit is reached, and what is above it starts as soon as there is room."""
    shop, gate = Shop(limit=7), asyncio.Event()
    for number in range(20):
        shop.submit(f"s{number}", number, waits_for(gate))
    assert len(shop.begun) == 7
    gate.set()
    await shop.idle()
    assert shop.most == 7
    assert len(shop.done) == 20


async def test_a_hold_lets_work_wait() -> None:
    """Held work waits, says so, and goes on when each hold is taken back; other subjects do not wait."""
    shop, gate = Shop(), asyncio.Event()
    shop.submit("a", 1, waits_for(gate))
    shop.submit("a", 2)
    assert [job.number for job in shop.dispatcher.hold("a", "x")] == [2]
    shop.dispatcher.hold("a", "y")
    shop.dispatcher.hold("a", "y")
    gate.set()
    await shop.idle()
    assert not shop.submit("a", 3)
    assert shop.submit("b", 1)
    assert shop.done == [("a", 1), ("b", 1)]
    for name in "yyz":  # only one of these holds it
        shop.dispatcher.release("a", name)
        shop.dispatcher.pump()
        assert len(shop.done) == 2
    shop.dispatcher.release("a", "x")
    shop.dispatcher.pump()
    assert shop.done[2:] == [("a", 2), ("a", 3)]
    shop.dispatcher.release("a", "x")  # one too many is no error
    shop.dispatcher.pump()
    assert shop.submit("a", 4)


async def test_urgent_work_goes_first_and_through_a_hold() -> None:
    """A retry is run while the rest of its subject waits for it."""
    shop, gate = Shop(), asyncio.Event()
    shop.submit("a", 1, waits_for(gate))
    shop.submit("a", 2)
    shop.dispatcher.hold("a", "x")
    shop.dispatcher.submit_urgent("a", Job("a", 3))
    gate.set()
    await shop.idle()
    assert shop.done == [("a", 1), ("a", 3)]
    shop.dispatcher.release("a", "x")
    shop.dispatcher.pump()
    assert shop.done == [("a", 1), ("a", 3), ("a", 2)]


async def test_knows_the_work_of_a_subject() -> None:
    """What is being done counts as well as what waits."""
    shop, gate = Shop(), asyncio.Event()
    shop.submit("a", 1, waits_for(gate))
    shop.submit("a", 2)
    shop.dispatcher.submit_urgent("a", Job("a", 3))
    assert [job.number for job in shop.dispatcher.work_of("a")] == [1, 3, 2]
    gate.set()
    await shop.idle()
    assert list(shop.dispatcher.work_of("a")) == []


async def test_subjects_that_are_done_cost_nothing() -> None:
    """A lane lives as long as it has work or a hold."""
    shop = Shop()
    for number in range(100):
        shop.submit(f"s{number}")
    shop.dispatcher.hold("held", "x")
    shop.dispatcher.release("held", "x")
    shop.dispatcher.pump()
    await shop.idle()
    assert not shop.dispatcher._lanes


async def test_work_that_sets_off_work_does_not_nest() -> None:
    """A chain of thousands, each piece submitting the next, needs no deep stack."""
    shop = Shop()

    def link(left: int) -> Callable[[], Coroutine[Any, Any, None]]:
        async def submit_next() -> None:
            if left:
                shop.submit(f"s{left % 7}", left, link(left - 1))

        return submit_next

    shop.submit("first", 0, link(5000))
    await shop.idle()
    assert len(shop.done) == 5001


async def test_work_that_blocks_leaves_the_loop_its_turn_after_each_piece() -> None:
    """Not after a hundred, which could be minutes in which no lease is renewed."""
    shop, ticks = Shop(), []

    async def blocks() -> None:
        time.sleep(0.011)  # noqa: ASYNC251 - that is the point

    async def tick() -> None:
        while True:
            ticks.append(len(shop.done))
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0)
    for number in range(10):
        shop.dispatcher.submit(f"s{number}", Job(f"s{number}", number, blocks))
    shop.dispatcher.pump()
    await shop.idle()
    ticker.cancel()
    assert set(range(1, 10)) <= set(ticks)


async def test_work_that_never_suspends_leaves_the_loop_its_turn() -> None:
    """While thousands of pieces run that never suspend, timers and other tasks go on."""
    shop, ticks = Shop(), []

    async def tick() -> None:
        while True:
            ticks.append(len(shop.done))
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    for number in range(5000):
        shop.submit("a" if number % 2 else f"s{number}", number)
    await shop.idle()
    ticker.cancel()
    assert len(shop.done) == 5000
    assert len([count for count in ticks if 0 < count < 5000]) >= 20


async def test_subjects_take_turns() -> None:
    """A subject with much to do does not keep another one waiting until it is through."""
    shop, gate = Shop(limit=1), asyncio.Event()
    shop.submit("first", 0, waits_for(gate))
    for number in range(50):
        shop.submit("busy", number, yields(1))
    shop.submit("other", 0)
    gate.set()
    await shop.idle()
    assert shop.done.index(("other", 0)) < 5


async def test_each_piece_runs_in_a_copy_of_its_own_context() -> None:
    """Work sees the context variables of whoever asked for it, though it waits behind another's, and leaks nothing."""
    shop, gate, seen = Shop(), asyncio.Event(), []

    async def look() -> None:
        await gate.wait()
        seen.append(COLOUR.get())
        COLOUR.set("leaked")

    for colour in ("red", "green", "blue"):
        context = copy_context()
        context.run(COLOUR.set, colour)
        job = Job("a", 0, look, context)
        shop.dispatcher.submit("a", job)
        shop.dispatcher.pump()
        if colour == "blue":
            shop.dispatcher.submit("a", job)  # the same context once more
            shop.dispatcher.pump()
    gate.set()
    await shop.idle()
    assert seen == ["red", "green", "blue", "blue"]
    assert COLOUR.get() == "none"


# -- when work is cut short


async def test_an_error_is_reported_and_the_work_stays_first_in_its_lane() -> None:
    """The event loop's exception handler hears of it; it is done again before the next piece of its subject."""
    reports: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: reports.append(details))
    shop = Shop()
    errors = [LookupError("broken")]

    async def fail_once() -> None:
        if errors:
            raise errors.pop()

    shop.submit("a", 1, fail_once)
    await shop.idle()
    assert [str(details["exception"]) for details in reports] == ["broken"]
    assert shop.done == []
    shop.submit("a", 2)
    assert shop.done == [("a", 1), ("a", 2)]


async def test_an_interrupt_goes_to_who_waits_and_leaves_everything_in_order() -> None:
    """KeyboardInterrupt is for whoever waits for the work; other subjects go on, and the work is first next time."""
    shop, interrupts = Shop(limit=1), [KeyboardInterrupt()]

    async def interrupted_once() -> None:
        shop.submit("b", 1)  # is ready, and has to wait for the limit
        await asyncio.sleep(0)
        if interrupts:
            raise interrupts.pop()

    job = Job("a", 1, interrupted_once)
    shop.dispatcher.submit("a", job)
    shop.dispatcher.pump()
    async with asyncio.timeout(5):
        while not shop.done:
            await asyncio.sleep(0)
    assert [type(error) for error in job.told] == [KeyboardInterrupt]
    assert shop.done == [("b", 1)]
    shop.submit("a", 2)
    await shop.idle()
    assert [number for name, number in shop.done if name == "a"] == [1, 2]


@pytest.mark.parametrize("suspends", [False, True])
def test_an_interrupt_that_nobody_waits_for_leaves_the_event_loop(suspends: bool) -> None:
    """The program ends with it, as if it had been raised in any task; what has started the work is not hurt."""
    said = []

    class Alone(Job):
        def fail(self, error: BaseException) -> bool:
            return False

    async def interrupted() -> None:
        if suspends:
            await asyncio.sleep(0)
        raise KeyboardInterrupt

    async def main() -> None:
        shop = Shop()
        shop.dispatcher.submit("a", Alone("a", 1, interrupted))
        shop.dispatcher.pump()
        said.append("submitted")
        await asyncio.sleep(3600)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert said == ["submitted"]


async def test_idle_waits_for_what_is_about_to_be_submitted() -> None:
    """Whoever will submit work says so with `expect`."""
    shop, order = Shop(), []

    async def later() -> None:
        shop.dispatcher.expect()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.append("submitted")
        shop.submit("a", 1, yields(1))
        shop.dispatcher.expected()

    task = asyncio.create_task(later())
    await asyncio.sleep(0)
    await shop.idle()
    order.append("idle")
    await task
    assert order == ["submitted", "idle"]
    assert shop.done == [("a", 1)]


async def test_cancelling_idle_stops_the_waiting_only() -> None:
    """Others that wait for the same are woken all the same."""
    shop, gate = Shop(), asyncio.Event()
    shop.submit("a", 1, waits_for(gate))
    first, second = asyncio.create_task(shop.idle()), asyncio.create_task(shop.idle())
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert shop.done == [("a", 1)]
