"""Single flight: which calls are one, who is given its answer, and who can end it."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen import Context, RuleSet, Subject
from onwhen.errors import MiddlewareError, RuleDefinitionError, RuleTimeout
from onwhen.middleware import SingleFlight
from tests.engine.buses import new_bus, until


class Order(Subject, prefix="order:"):
    rate: float = 0.0


class Bank:
    """A service that answers when it is told to, and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.answer: float | Exception = 1.25

    async def rate(self, currency: str = "usd") -> float:
        self.calls.append(currency)
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            await asyncio.sleep(0)  # it lets go of its connection
            await asyncio.sleep(0)
            raise
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


# -- the call itself


async def test_rules_that_ask_the_same_at_the_same_time_are_given_one_answer() -> None:
    """On whichever subject; another key is another call."""
    bank, flight = Bank(), SingleFlight()
    rules = RuleSet("r", subject=Order)

    @rules.on("placed")
    async def price(ctx: Context[Order]) -> None:
        ctx.subject.rate = await flight.run(ctx.payload, lambda: bank.rate(ctx.payload))

    async with asyncio.timeout(5), new_bus(rules) as bus:
        emits = [asyncio.create_task(bus.emit("placed", f"order:{n}", "usd" if n else "gbp")) for n in range(10)]
        await settle()
        bank.gate.set()
        assert all(receipt.ok for receipt in await asyncio.gather(*emits))
        assert bank.calls == ["gbp", "usd"]
        assert [(await bus.read(f"order:{n}")).get("rate") for n in range(10)] == [1.25] * 10
        await bus.emit("placed", "order:1", "usd")
        assert bank.calls == ["gbp", "usd", "usd"]


async def test_its_error_is_everybodys() -> None:
    """And the next one asks anew."""
    bank, flight = Bank(), SingleFlight(ttl=60)
    bank.answer = OSError("down")
    asking = [asyncio.create_task(flight.run("k", bank.rate)) for _ in range(3)]
    await settle()
    bank.gate.set()
    assert await asyncio.gather(*asking, return_exceptions=True) == [bank.answer] * 3
    bank.answer = 2.0
    assert await flight.run("k", bank.rate) == 2.0
    assert len(bank.calls) == 2


async def test_cancelling_the_first_to_ask_leaves_the_others_their_call() -> None:
    """It goes on for whoever is left."""
    bank, flight = Bank(), SingleFlight()
    first, second = (asyncio.create_task(flight.run("k", bank.rate)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    bank.gate.set()
    assert await second == 1.25
    assert first.cancelled()
    assert (len(bank.calls), bank.cancelled) == (1, 0)


async def test_a_call_that_nobody_waits_for_is_cancelled() -> None:
    """Whoever asks in that moment is given a call of its own."""
    bank, flight = Bank(), SingleFlight()
    asking = [asyncio.create_task(flight.run("k", bank.rate)) for _ in range(2)]
    await settle()
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    third = asyncio.create_task(flight.run("k", bank.rate))  # while the first call has not ended yet
    await settle()
    fourth = asyncio.create_task(flight.run("k", bank.rate))
    await settle()
    assert (len(bank.calls), bank.cancelled) == (2, 1)
    bank.gate.set()
    assert await asyncio.gather(third, fourth) == [1.25, 1.25]


async def test_an_answer_may_be_kept_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for longer, and not for more keys than may be."""
    loop, moved = asyncio.get_running_loop(), 0.0
    real = loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + moved)
    bank, flight = Bank(), SingleFlight(ttl=60, limit=2)
    bank.gate.set()
    for key in ("a", "b", "c", "c", "b"):
        await flight.run(key, lambda key=key: bank.rate(key))  # type: ignore[misc]
    assert bank.calls == ["a", "b", "c"]
    moved = 61.0
    await flight.run("c", lambda: bank.rate("c"))
    await flight.run("a", lambda: bank.rate("a"))
    assert bank.calls == ["a", "b", "c", "c", "a"]


async def test_what_the_call_emits_is_no_turns_own() -> None:
    """The turns of those who share it know nothing of it; so it is an event from outside."""
    flight = SingleFlight()
    rules = RuleSet("r", subject=Order)
    bus = new_bus(rules)

    async def call() -> str:
        return (await bus.emit("asked", "order:9")).status

    @rules.on("placed")
    async def price(ctx: Context[Order]) -> None:
        assert await flight.run("k", call) == "handled"

    async with asyncio.timeout(5), bus:
        receipt = await bus.emit("placed", "order:1")
        assert receipt.ok
        assert receipt.sent == ()


STEP = st.tuples(st.sampled_from(["ask", "cancel", "answer", "fail", "settle"]), st.integers(0, 20))


@settings(max_examples=200, deadline=None)
@given(steps=st.lists(STEP, max_size=50))
def test_nobody_is_left_waiting_and_no_call_is_made_twice_at_once(steps: list[tuple[str, int]]) -> None:
    """However askers come, are cancelled, and calls end: at most one call of a key that somebody waits for."""
    asyncio.run(_attack(steps))


async def _attack(steps: list[tuple[str, int]]) -> None:
    flight = SingleFlight()
    calls: list[asyncio.Future[int]] = []
    asking: list[asyncio.Task[int]] = []

    async def call() -> int:
        calls.append(asyncio.get_running_loop().create_future())
        return await calls[-1]

    for step, number in steps:
        waiting = [task for task in asking if not task.done()]
        open_calls = [future for future in calls if not future.done()]
        if step == "ask":
            asking.append(asyncio.create_task(flight.run("k", call)))
        elif step == "cancel" and waiting:
            waiting[number % len(waiting)].cancel()
        elif step == "answer" and open_calls:
            open_calls[-1].set_result(number)
        elif step == "fail" and open_calls:
            open_calls[-1].set_exception(OSError())
        elif step == "settle":
            await settle()
            assert sum(not future.done() for future in calls) <= 1
            assert any(not task.done() for task in asking) == any(not future.done() for future in calls)
    await settle()
    for future in calls:
        if not future.done():
            future.set_result(0)
    await settle()
    assert all(task.done() for task in asking)
    for task in asking:
        with suppress(OSError, asyncio.CancelledError):
            task.result()
    flights = flight._flights(asyncio.get_running_loop())
    assert (flights.under_way, flights.runs) == ({}, {})


# -- as middleware


def filling(bank: Bank, *middleware: Any) -> RuleSet:
    """A rule whose effect is outside."""
    rules = RuleSet("r", subject=Order)

    @rules.on("stale", middleware=middleware)
    async def fill(ctx: Context[Order]) -> None:
        await bank.rate(ctx.payload or "usd")

    return rules


async def test_of_equal_rules_one_is_run_and_the_others_are_stopped() -> None:
    """The outcome says which did what; the next event is run again."""
    bank = Bank()
    async with asyncio.timeout(5), new_bus(filling(bank, SingleFlight())) as bus:
        emits = [asyncio.create_task(bus.emit("stale", f"order:{n}")) for n in range(4)]
        await settle()
        bank.gate.set()
        runs = [receipt.runs[0] for receipt in await asyncio.gather(*emits)]
        assert [run.status for run in runs] == ["fired", "stopped", "stopped", "stopped"]
        assert runs[1].stopped_by == "SingleFlight"
        await bus.emit("stale", "order:5")
        assert len(bank.calls) == 2


async def test_if_it_fails_the_next_one_is_run() -> None:
    """One after the other, until one succeeds; so nothing is lost."""
    bank = Bank()
    bank.answer = OSError("down")
    async with asyncio.timeout(5), new_bus(filling(bank, SingleFlight())) as bus:
        emits = [asyncio.create_task(bus.emit("stale", f"order:{n}")) for n in range(4)]
        await settle()
        bank.gate.set()
        statuses = [receipt.runs[0].status for receipt in await asyncio.gather(*emits)]
        assert statuses == ["failed"] * 4
        assert len(bank.calls) == 4


async def test_a_failure_that_somebody_has_dealt_with_is_none_that_stands_in() -> None:
    """Nor is a rule that was stopped further in."""
    bank = Bank()
    bank.answer = OSError("down")

    async def deals(ctx: Context[Order], next: Any) -> None:
        with suppress(OSError):
            await next()

    async def guard(ctx: Context[Order], next: Any) -> None:
        if ctx.payload != "closed":
            await next()

    bank.gate.set()
    async with new_bus(filling(bank, SingleFlight(ttl=60), deals, guard)) as bus:
        statuses = [(await bus.emit("stale", "order:1", key)).runs[0].status for key in ("closed", "a", "b")]
        assert statuses == ["stopped", "failed", "failed"]


async def test_a_success_may_stand_in_for_a_while() -> None:
    """For equal keys, by default for the rule."""
    bank = Bank()
    bank.gate.set()
    async with new_bus(filling(bank, SingleFlight(ttl=60, key=lambda ctx: ctx.payload))) as bus:
        statuses = [(await bus.emit("stale", "order:1", key)).runs[0].status for key in ("a", "b", "a")]
        assert statuses == ["fired", "fired", "stopped"]


async def test_a_late_leader_makes_place_for_the_next() -> None:
    """Its time-out cancels it alone."""
    bank = Bank()
    rules = RuleSet("r", subject=Order)

    @rules.on("stale", middleware=[SingleFlight()], timeout=0.02)
    async def fill(ctx: Context[Order]) -> None:
        if len(bank.calls) == 1:
            bank.gate.set()
        await bank.rate()

    async with asyncio.timeout(5), new_bus(rules) as bus:
        first = asyncio.create_task(bus.emit("stale", "order:1"))
        await until(lambda: len(bank.calls) == 1)
        await first
        assert (await bus.emit("stale", "order:2")).runs[0].status == "fired"


async def test_one_that_gives_up_waiting_leaves_the_others_alone() -> None:
    """The one that is run knows nothing of it."""
    bank, flight = Bank(), SingleFlight(key=lambda ctx: "k")
    rules = filling(bank, flight)
    rules.on("hurry", name="hasty", middleware=[flight], timeout=0.02)(lambda ctx: None)
    async with asyncio.timeout(5), new_bus(rules) as bus:
        first = asyncio.create_task(bus.emit("stale", "order:1"))
        await until(lambda: len(bank.calls) == 1)
        (run,) = (await bus.emit("hurry", "order:2")).runs
        assert isinstance(run.error, RuleTimeout)
        bank.gate.set()
        assert (await first).runs[0].status == "fired"


async def test_around_events_it_is_refused() -> None:
    """An event of another subject cannot stand in for one."""
    bus = new_bus(filling(Bank()))
    bus.use(SingleFlight(), scope="event")
    async with bus:
        assert isinstance((await bus.emit("stale", "order:1")).error, MiddlewareError)


@pytest.mark.parametrize("options", [{"ttl": 0}, {"key": "currency"}, {"limit": 0}])
def test_options_are_checked_when_it_is_made(options: dict[str, Any]) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(RuleDefinitionError, match=f"SingleFlight: {next(iter(options))}="):
        SingleFlight(**options)
