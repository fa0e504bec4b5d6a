"""Fallback: what is done in place of a rule that fails, in which order, and that nobody is deceived about it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, RetryPolicy, RuleSet, Subject, VirtualClock, changed
from onwhen.errors import CircuitOpen, Postponed, RuleDefinitionError, RuleTimeout, UnknownProperty
from onwhen.middleware import Fallback, Timeout
from onwhen.middleware.fallback import Default, LastGood
from tests.engine import turning
from tests.engine.buses import NOON, new_bus


class Order(Subject, prefix="order:"):
    rate: float = 0.0
    source: str = ""
    log: list[str] = []


class Shop:
    """A rule that asks a bank for a rate, or fails if the bank is down."""

    def __init__(self) -> None:
        self.rules = RuleSet("shop", subject=Order)
        self.clock = VirtualClock(NOON)
        self.bus = new_bus(self.rules, clock=self.clock)
        self.bank: float | BaseException = 1.25

    async def price(self, ctx: Context[Order]) -> None:
        ctx.subject.source = "bank"
        ctx.subject.log.append("bank")
        ctx.emit("asked.bank")
        await asyncio.sleep(0)
        if isinstance(self.bank, BaseException):
            raise self.bank
        ctx.subject.rate = self.bank

    def rule(self, *middleware: Any, **options: Any) -> None:
        self.rules.on("placed", middleware=middleware, **options)(self.price)

    async def order(self, number: int = 1) -> Subject:
        return await self.bus.read(f"order:{number}")


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    shop = Shop()
    async with shop.bus:
        yield shop


async def other_bank(ctx: Context[Order]) -> None:
    await asyncio.sleep(0)
    ctx.subject.rate, ctx.subject.source = 1.3, "other"
    ctx.emit("asked.other")


def nobody(ctx: Context[Order]) -> None:
    ctx.subject.source = "nobody"
    ctx.emit("asked.nobody")
    raise ConnectionError("nobody is there")


async def test_a_rule_that_works_needs_none(shop: Shop) -> None:
    """And nothing is told of one."""
    shop.rule(Fallback(other_bank))
    receipt = await shop.bus.emit("placed", "order:1")
    assert receipt.ok
    assert (await shop.order()).dict() == {"rate": 1.25, "source": "bank", "log": ["bank"]}


async def test_what_is_done_instead_is_kept_and_what_has_failed_is_undone(shop: Shop) -> None:
    """Changes, messages, and reactions to them."""
    shop.bank = OSError("down")
    shop.rules.on(changed("rate"), name="on_rate")(lambda ctx: ctx.emit("rated"))
    shop.rule(Fallback(other_bank))
    receipt = await shop.bus.emit("placed", "order:1")
    assert [event.type for event in receipt.sent] == ["asked.other", "rated"]
    assert (await shop.order()).dict() == {"rate": 1.3, "source": "other", "log": []}


async def test_the_outcome_says_what_has_failed_and_what_was_done_instead(shop: Shop) -> None:
    """It is not retried, whatever the policy."""
    seen: list[Any] = []

    async def outer(ctx: Context[Order], next: Any) -> None:
        await next()
        seen.append(ctx.get_metadata("fallback"))

    shop.bank = OSError("down")
    shop.rule(outer, Fallback(nobody, other_bank), retry=RetryPolicy(attempts=5))
    receipt = await shop.bus.emit("placed", "order:1")
    (run,) = receipt.runs
    assert (run.status, run.error, run.handled, run.retry_at, receipt.ok) == ("failed", shop.bank, True, None, False)
    assert shop.bank.__notes__ == [
        "Fallback has tried nobody, which failed: ConnectionError('nobody is there')",
        "Fallback has done other_bank instead",
    ]
    assert seen == ["other_bank"]
    assert [event.type for event in receipt.sent] == ["asked.other"]


async def test_if_nothing_works_the_rule_has_failed_with_its_own_error(shop: Shop) -> None:
    """Its policy is asked, and nothing of what was tried is kept."""
    shop.bank = OSError("down")
    shop.rule(Fallback(nobody, nobody), retry=RetryPolicy(attempts=2))
    receipt = await shop.bus.emit("placed", "order:1")
    (run,) = receipt.runs
    assert (run.error, run.handled) == (shop.bank, False)
    assert run.retry_at is not None
    assert receipt.sent == ()
    assert (await shop.order()).get("source") == ""


async def test_an_alternative_is_told_the_error(shop: Shop) -> None:
    """To choose what to do, or to raise it again."""

    def choosy(ctx: Context[Order]) -> None:
        ctx.subject.source = str(ctx.get_metadata("error"))
        if "hopeless" in ctx.subject.source:
            raise ctx.get_metadata("error")

    shop.rule(Fallback(choosy))
    for number, told in enumerate(("down", "hopeless")):
        shop.bank = OSError(told)
        await shop.bus.emit("placed", f"order:{number}")
    assert (await shop.order(0)).get("source") == "down"
    assert (await shop.order(1)).get("source") == ""
    assert not hasattr(shop.bank, "__notes__")


async def test_if_nothing_works_what_middleware_further_in_tells_of_the_failure_is_kept(shop: Shop) -> None:
    """It is still the rule's own failure."""

    async def tells(ctx: Context[Order], next: Any) -> None:
        try:
            await next()
        except OSError:
            ctx.emit("bank.down")
            raise

    shop.bank = OSError("down")
    shop.rule(Fallback(nobody), tells)
    receipt = await shop.bus.emit("placed", "order:1")
    assert [event.type for event in receipt.sent] == ["bank.down"]
    assert receipt.runs[0].error is shop.bank


@pytest.mark.parametrize("on", [ConnectionError, (KeyError, ConnectionError), lambda error: "down" in str(error)])
async def test_only_what_is_meant_is_dealt_with(shop: Shop, on: Any) -> None:
    """By class, or by a predicate."""
    shop.rule(Fallback(other_bank, on=on))
    for number, error in enumerate((ConnectionError("down"), OSError("other"))):
        shop.bank = error
        await shop.bus.emit("placed", f"order:{number}")
    assert (await shop.order(0)).get("source") == "other"
    assert (await shop.order(1)).get("source") == ""


async def test_an_open_circuit_is_answered_at_once(shop: Shop) -> None:
    """Or waits, if one says so; it is no less a failure because only a middleware has raised it."""

    async def open_circuit(ctx: Context[Order], next: Any) -> None:
        ctx.subject.log.append("breaker")
        raise CircuitOpen("open", delay=timedelta(minutes=1))

    waiting = RuleSet("waiting", subject=Order)
    waiting.on(
        "placed",
        middleware=[Fallback(other_bank, on=lambda error: not isinstance(error, Postponed)), open_circuit],
    )(other_bank)
    shop.bus.include(waiting)
    shop.rule(Fallback(other_bank), open_circuit)
    receipt = await shop.bus.emit("placed", "order:1")
    runs = {run.rule: run for run in receipt.runs}
    assert (runs["shop.price"].status, runs["shop.price"].handled) == ("failed", True)
    assert isinstance(runs["shop.price"].error, CircuitOpen)
    assert runs["waiting.other_bank"].status == "postponed"
    assert (await shop.order()).dict() == {"rate": 1.3, "source": "other", "log": []}


async def test_a_time_out_further_in_is_dealt_with(shop: Shop) -> None:
    """One further out is not: then the alternative is late as well."""

    async def hangs(ctx: Context[Order]) -> None:
        await asyncio.Event().wait()

    shop.rules.on("a", middleware=[Fallback(other_bank), Timeout(0.01)], name="inner")(hangs)
    shop.rules.on("b", middleware=[Timeout(0.01), Fallback(hangs, other_bank)], name="outer")(hangs)
    async with asyncio.timeout(3):
        (inner,) = (await shop.bus.emit("a", "order:1")).runs
        (outer,) = (await shop.bus.emit("b", "order:2")).runs
    assert (isinstance(inner.error, RuleTimeout), inner.handled) == (True, True)
    assert (isinstance(outer.error, RuleTimeout), outer.handled) == (True, False)
    assert (await shop.order(1)).get("source") == "other"
    assert (await shop.order(2)).get("source") == ""


def ends(ctx: Any) -> None:
    raise KeyboardInterrupt


def fails(ctx: Any) -> None:
    raise OSError


@pytest.mark.parametrize(("function", "alternative"), [(ends, fails), (fails, ends)])
def test_the_end_of_the_program_is_not_dealt_with(function: Any, alternative: Any) -> None:
    """Neither where the rule raises it, nor where an alternative does."""
    rules = RuleSet("r", subject=turning.Thing)
    rules.on("go", name="rule", middleware=[Fallback(alternative, other_bank)])(function)
    turn = turning.begin(rules)
    with pytest.raises(KeyboardInterrupt):
        turn.run().send(None)
    assert turning.kept(turn) == ({}, [])


def test_nothing_is_done_where_somebody_further_in_has_swallowed_the_end_of_the_program() -> None:
    """The run has failed, whatever error is left of it."""

    async def swallows(ctx: Any, next: Any) -> None:
        try:
            await next()
        except KeyboardInterrupt:
            raise OSError from None

    rules = RuleSet("r", subject=turning.Thing)
    rules.on("go", name="rule", middleware=[Fallback(lambda ctx: None), swallows])(ends)
    turn = turning.begin(rules)
    with suppress(KeyboardInterrupt, StopIteration):
        turn.run().send(None)
    assert not turn.outcome().runs[0].handled


# -- defaults and last good values


async def test_a_default_sets_properties(shop: Shop) -> None:
    """The same for everybody; a function is given the current value."""
    shop.bank = OSError("down")
    shop.rule(Fallback(Default(rate=1.0, source="default", log=lambda log: [*log, "again"])))
    for _ in range(2):
        await shop.bus.emit("placed", "order:1")
    assert (await shop.order()).dict() == {"rate": 1.0, "source": "default", "log": ["again", "again"]}
    assert "Default(rate=1.0" in shop.bank.__notes__[-1]


async def test_the_last_good_values_are_those_of_the_same_key(shop: Shop) -> None:
    """Of whichever subject; what was worked on in place since is not among them."""
    last = LastGood("rate", "log", key=lambda ctx: ctx.payload["currency"])
    shop.rule(Fallback(last))
    shop.rules.on("placed", name="later")(lambda ctx: ctx.subject.log.append("later"))
    for number, (currency, rate) in enumerate([("usd", 1.1), ("usd", 1.2), ("gbp", 0.9)]):
        shop.bank = rate
        await shop.bus.emit("placed", f"order:{number}", {"currency": currency})
    shop.bank = OSError("down")
    for number, currency in ((10, "usd"), (11, "gbp"), (12, "chf")):
        await shop.bus.emit("placed", f"order:{number}", {"currency": currency})
    assert [(await shop.order(number)).get("rate") for number in (10, 11, 12)] == [1.2, 0.9, 0.0]
    assert (await shop.order(10)).get("log") == ["bank", "later"]
    assert "NothingGood" in shop.bank.__notes__[-1]


async def test_each_rule_has_its_own_last_good_values(shop: Shop) -> None:
    """Also where several have the same object."""
    last = LastGood("rate", key=lambda ctx: "usd")
    shop.rule(Fallback(last))
    shop.rules.on("asked", name="other", middleware=[Fallback(last, Default(rate=1.0))])(shop.price)
    await shop.bus.emit("placed", "order:1")
    shop.bank = OSError("down")
    await shop.bus.emit("asked", "order:2")
    assert (await shop.order(2)).get("rate") == 1.0


async def test_last_good_values_may_be_too_old(shop: Shop) -> None:
    """By the clock of the bus; then what comes next is asked."""
    shop.rule(Fallback(LastGood("rate", max_age=timedelta(hours=1)), Default(rate=1.0)))
    await shop.bus.emit("placed", "order:1")
    shop.bank = OSError("down")
    found = []
    for hours in (1, 0.001):
        await shop.bus.advance(timedelta(hours=hours))
        await shop.bus.emit("placed", "order:2")
        found.append((await shop.order(2)).get("rate"))
    assert found == [1.25, 1.0]


async def test_only_a_success_is_remembered(shop: Shop) -> None:
    """Neither what was done instead, nor a rule that was stopped."""

    async def closed(ctx: Context[Order], next: Any) -> None:
        ctx.subject.rate = 99.0
        if ctx.payload != "closed":
            await next()

    shop.rule(Fallback(LastGood("rate"), other_bank), closed)
    await shop.bus.emit("placed", "order:1", "closed")
    shop.bank = OSError("down")
    await shop.bus.emit("placed", "order:2")
    await shop.bus.emit("placed", "order:3")
    assert (await shop.order(3)).get("source") == "other"


async def test_what_was_never_set_is_not_a_good_value(shop: Shop) -> None:
    """A rule that works and sets nothing leaves the declared default, which is nobody's last good value."""

    @shop.rules.on("checked", middleware=[Fallback(LastGood("rate"), Default(rate=1.0))])
    def check(ctx: Context[Order]) -> None:
        if ctx.payload == "down":
            raise OSError

    for number, payload in enumerate(["fine", "down"]):
        await shop.bus.emit("checked", f"order:{number}", payload)
    assert (await shop.order(1)).get("rate") == 1.0


async def test_a_property_that_is_not_there_is_told_at_once(shop: Shop) -> None:
    """Not only when it is needed."""
    shop.rule(Fallback(LastGood("rat")))
    (run,) = (await shop.bus.emit("placed", "order:1")).runs
    assert isinstance(run.error, UnknownProperty)


async def test_an_error_that_several_runs_share_is_told_of_once(shop: Shop) -> None:
    """As that of a call that they made together."""
    shop.bank = OSError("down")
    shop.rule(Fallback(Default(rate=1.0)))
    for number in range(3):
        await shop.bus.emit("placed", f"order:{number}")
    assert shop.bank.__notes__ == ["Fallback has done Default(rate=1.0) instead"]


async def test_the_keys_that_are_remembered_are_bounded(shop: Shop) -> None:
    """Those used longest ago go first."""
    last = LastGood("rate", key=lambda ctx: ctx.subject.name, limit=2)
    shop.rule(Fallback(last, Default(rate=-1)))
    for number in (1, 2, 1, 3):
        await shop.bus.emit("placed", f"order:{number}")
    shop.bank = OSError("down")
    for number in (1, 2, 3):
        await shop.bus.emit("placed", f"order:{number}")
    assert [(await shop.order(number)).get("rate") for number in (1, 2, 3)] == [1.25, -1, 1.25]
    await shop.bus.emit("placed", "order:1")
    shop.bank = 1.3
    await shop.bus.emit("placed", "order:4")
    shop.bank = OSError("down")
    for number in (1, 3):
        await shop.bus.emit("placed", f"order:{number}")
    assert [(await shop.order(number)).get("rate") for number in (1, 3)] == [1.25, -1]


async def test_adaptive_asks_first_what_has_worked_of_late(shop: Shop) -> None:
    """Among functions next to each other; a default stays behind them."""
    down = {"a": True, "b": False}
    asked: list[str] = []

    def alternative(name: str) -> Any:
        def ask(ctx: Context[Order]) -> None:
            asked.append(name)
            if down[name]:
                raise OSError

        return ask

    shop.bank = OSError("down")
    shop.rule(Fallback(alternative("a"), alternative("b"), Default(rate=1.0), adaptive=True))
    for _ in range(3):
        await shop.bus.emit("placed", "order:1")
    assert asked == ["a", "b", "b", "b"]
    down.update(a=False, b=True)
    for _ in range(10):
        await shop.bus.emit("placed", "order:1")
    asked.clear()
    await shop.bus.emit("placed", "order:1")
    assert asked == ["a"]
    down.update(a=True)
    await shop.bus.emit("placed", "order:1")
    assert (await shop.order()).get("rate") == 1.0


@pytest.mark.parametrize("alternatives", [(), (3,), (Default,), ("other_bank",)])
def test_something_to_fall_back_on_is_needed(alternatives: Any) -> None:
    """A function, or one of the two that are made for it."""
    with pytest.raises(RuleDefinitionError, match="Fallback"):
        Fallback(*alternatives)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Fallback(nobody, on=3), "Fallback: on=3"),
        (lambda: Default(), "Default needs"),
        (lambda: LastGood(), "LastGood"),
        (lambda: LastGood("rate", max_age=-1), "LastGood: max_age=-1"),
        (lambda: LastGood("rate", key="rate"), "LastGood: key='rate'"),
        (lambda: LastGood("rate", limit=0), "LastGood: limit=0"),
    ],
)
def test_options_are_checked_when_it_is_made(make: Any, told: str) -> None:
    """With the name of the one that is wrong."""
    with pytest.raises(RuleDefinitionError, match=told):
        make()
