"""The harness: state that is given, events that are sent, time that passes, and what a test may ask afterwards."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from onwhen import (
    ANY,
    Container,
    Context,
    Event,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    Subject,
    changed,
    create_memory_storage,
    when,
)
from onwhen.errors import PropertyTypeError, PropertyValueError, UnknownProperty
from onwhen.testing import Failed, Found, Harness, Then


class Lamp(Subject, prefix="lamp:"):
    power: int = 0
    price: Decimal = Decimal("9.90")
    tags: list[str] = []


lamps = RuleSet("lamps", subject=Lamp)


@lamps.on("lamp.switched")
def switch(ctx: Context[Lamp]) -> None:
    ctx.subject.power = ctx.payload["power"]


@lamps.on(changed("power"))
@when(lambda ctx: ctx.new_value > 100)
async def warn(ctx: Context[Lamp]) -> None:
    await ctx.emit("lamp.hot", {"power": ctx.new_value}, subject="house:1")
    await ctx.emit("lamp.cool_down", delay=timedelta(minutes=5), key="cool")


@lamps.on("lamp.cool_down")
def cool_down(ctx: Context[Lamp]) -> None:
    ctx.subject.power = 10


@lamps.on("lamp.broken", retry=RetryPolicy(attempts=2, delay=timedelta(seconds=30), jitter=0))
def fail(ctx: Context[Lamp]) -> None:
    ctx.subject.power = 7
    raise ValueError(f"attempt {ctx.attempt}")


@pytest.fixture
def lit() -> Harness:
    """A harness with the rules for lamps. Made by hand here; most tests take the `harness` fixture."""
    return Harness(lamps)


def test_the_package_offers_four_names() -> None:
    """They are imported when they are asked for."""
    import onwhen.testing

    assert dir(onwhen.testing) == ["Failed", "Found", "Harness", "Then"]
    with pytest.raises(AttributeError, match="has no attribute 'harnes'"):
        _ = onwhen.testing.harnes


# -- given


def test_given_state_is_there(lit: Harness) -> None:
    """Properties and extended properties can be set and read without an event loop."""
    lit.given("lamp:1", power=60, price=Decimal("12.50"), ext={"room": "kitchen"})
    lamp = lit.then.state("lamp:1", power=60, price=Decimal("12.50"), tags=[])
    assert lamp.ext == {"room": "kitchen"}


async def test_given_state_sets_off_no_rule(lit: Harness) -> None:
    """It is what was before the test, so nothing reacts to it."""
    lit.given("lamp:1", power=500)
    await lit.advance(timedelta(hours=1))
    lit.then.emitted().never()
    lit.then.timers().never()
    lit.then.state("lamp:1", power=500)


def test_given_leaves_what_it_does_not_mention(lit: Harness) -> None:
    """Several calls add up, and can be chained."""
    lit.given("lamp:1", power=60, ext={"room": "hall"}).given("lamp:1", tags=["old"], ext={"floor": 2})
    assert lit.then.state("lamp:1", power=60, tags=["old"]).ext == {"room": "hall", "floor": 2}


def test_subjects_without_a_class_take_any_property(lit: Harness) -> None:
    """A dynamic subject is given JSON values."""
    lit.given("house:1", rooms=["hall", "kitchen"])
    lit.then.state("house:1", rooms=["hall", "kitchen"])
    with pytest.raises(PropertyTypeError):
        lit.given("house:1", built=Decimal(1900))


def test_given_values_are_validated(lit: Harness) -> None:
    """A value that a rule could not set cannot be given, and then nothing is."""
    with pytest.raises(PropertyValueError, match="power"):
        lit.given("lamp:1", tags=["new"], power="bright")
    with pytest.raises(UnknownProperty, match="powr"):
        lit.given("lamp:1", powr=60)
    assert lit.then.subjects() == []


async def test_a_rule_sees_what_was_given_between_events() -> None:
    """State given after an event is what the next event finds; its rules run once, on that state."""
    seen: list[int] = []
    rules = RuleSet("rules", subject=Lamp)

    @rules.on("lamp.seen")
    def look(ctx: Context[Lamp]) -> None:
        seen.append(ctx.subject.power)
        ctx.subject.power += 1

    harness = Harness(rules)
    await harness.when("lamp.seen", "lamp:1")
    harness.given("lamp:1", power=40)
    await harness.when("lamp.seen", "lamp:1")
    assert seen == [0, 40]
    harness.then.state("lamp:1", power=41)


# -- when


async def test_when_returns_the_receipt(lit: Harness) -> None:
    """Which rules fired for this one event is in there."""
    receipt = await lit.when("lamp.switched", "lamp:1", {"power": 60})
    assert receipt.fired == ("lamps.switch",)
    assert [run.status for run in receipt.runs] == ["fired", "skipped"]


async def test_when_takes_whole_events(lit: Harness) -> None:
    """An event from elsewhere can be sent as it is; one of the same id is not handled twice."""
    event = Event("lamp.switched", "lamp:1", {"power": 60}, id="42")
    assert (await lit.when(event)).status == "handled"
    assert (await lit.when(event)).status == "duplicate"


async def test_when_takes_attributes_of_the_event() -> None:
    """Id, time and extensions reach the rules."""
    rules = RuleSet("rules")
    seen: list[Event] = []

    @rules.on("lamp.switched")
    def look(ctx: Context[Subject]) -> None:
        seen.append(ctx.event)

    moment = datetime(2020, 1, 2, tzinfo=UTC)
    await Harness(rules).when("lamp.switched", "lamp:1", id="42", time=moment, extensions={"tenant": "a"})
    assert [(event.id, event.time, event.extensions["tenant"]) for event in seen] == [("42", moment, "a")]


# -- time


async def test_time_passes_only_when_told_to(lit: Harness) -> None:
    """A timer fires at its own moment while the clock is moved past it."""
    start = lit.now
    await lit.when("lamp.switched", "lamp:1", {"power": 500})
    await lit.advance(timedelta(minutes=4, seconds=59))
    lit.then.state("lamp:1", power=500)
    await lit.advance(start + timedelta(minutes=5))
    lit.then.state("lamp:1", power=10)
    assert lit.now == start + timedelta(minutes=5)


def test_the_first_moment_can_be_chosen() -> None:
    """The clock starts at the epoch, or where the test says."""
    assert Harness().now == datetime(1970, 1, 1, tzinfo=UTC)
    assert Harness(start=datetime(2024, 2, 29, tzinfo=UTC)).now == datetime(2024, 2, 29, tzinfo=UTC)


async def test_retries_run_as_time_passes(lit: Harness) -> None:
    """Each attempt that failed is told, with the moment of the next one."""
    await lit.when("lamp.broken", "lamp:1")
    assert lit.then.failures("lamps.fail").once().retry_at == lit.now + timedelta(seconds=30)
    lit.then.dead_letters().never()

    await lit.advance(timedelta(minutes=1))
    first, second = lit.then.failures("lamps.fail", error=ValueError).times(2)
    assert (first.attempt, second.attempt, second.retry_at) == (1, 2, None)
    assert lit.then.dead_letters("lamps.fail").once().failure.message == "attempt 2"


# -- which rules


async def test_rule_sets_can_be_included_later() -> None:
    """`include` can be chained."""
    harness = Harness().include(lamps)
    await harness.when("lamp.switched", "lamp:1", {"power": 60})
    harness.then.state("lamp:1", power=60)


async def test_the_rules_of_a_bus_can_be_tested_without_touching_it() -> None:
    """Rules, middleware and limits are those of the bus; store and clock are the harness's own."""
    calls: list[str] = []

    async def note(ctx: Any, next: Any) -> None:
        calls.append(ctx.rule.id)
        await next()

    bus = EventBus(lamps, store=create_memory_storage(), limits=Limits(max_event_bytes=100))
    bus.use(note)
    harness = Harness(bus=bus)
    await harness.when("lamp.switched", "lamp:1", {"power": 60})
    harness.then.state("lamp:1", power=60)
    assert calls == ["lamps.switch"]
    assert harness.bus.limits.max_event_bytes == 100
    assert (await bus.store.stats()).subjects == 0


async def test_rules_in_a_container_can_be_tested() -> None:
    """As those of a bus: what is written with `container.handlers()` needs no rule set of its own."""
    container = Container()
    on, _, _, emit = container.handlers()

    @on("lamp.switched")
    async def forward(ctx: Context[Subject]) -> None:
        await emit("house.lit", "house:1")  # the container's emit, inside a turn of the harness: the turn's own

    harness = Harness(bus=container.event_bus())
    await harness.when("lamp.switched", "lamp:1")
    harness.then.emitted("house.lit", to="house:1").once()


def test_limits_are_given_or_taken_from_a_bus() -> None:
    """Not both, because one of them would be ignored."""
    assert Harness(limits=Limits(max_depth=3)).bus.limits.max_depth == 3
    bus = EventBus(store=create_memory_storage())
    with pytest.raises(TypeError, match="not both"):
        Harness(bus=bus, limits=Limits())


# -- then: state


def test_a_state_that_differs_names_what_differs(lit: Harness) -> None:
    """All of it, and what was expected; the rest is left out."""
    lit.given("lamp:1", power=60, tags=["old"])
    with pytest.raises(AssertionError) as failure:
        lit.then.state("lamp:1", power=100, tags=["new"], price=Decimal("9.90"))
    told = str(failure.value)
    assert "lamp:1 is not as expected\n" in told
    assert "  power: expected 100, but it is 60\n" in told
    assert "  tags: expected ['new'], but it is ['old']\n" in told
    assert "price" not in told


def test_a_state_can_be_described_by_predicates(lit: Harness) -> None:
    """Where a value is not known exactly, a function says what has to hold for it."""
    lit.given("lamp:1", power=60)

    def is_bright(power: int) -> bool:
        return power > 50

    lit.then.state("lamp:1", power=is_bright, tags=ANY)
    lit.given("lamp:1", power=40)
    with pytest.raises(AssertionError, match=r"expected something for which .*is_bright holds, but it is 40"):
        lit.then.state("lamp:1", power=is_bright)


@pytest.mark.parametrize(
    ("is_now", "expected"),
    [(1, True), (True, 1), (1, 1.0), (0.0, 0), ([1, {"a": [0]}], [1, {"a": [False]}]), ({"a": 1}, {"a": 1.0})],
)
async def test_values_of_different_types_are_different(is_now: object, expected: object) -> None:
    """As they are for the engine: 1, 1.0 and True, inside lists and dicts as well."""
    rules = RuleSet("echo")

    @rules.on("told")
    def pass_on(ctx: Context) -> None:
        ctx.emit("heard", {"n": ctx.payload["n"]})

    harness = Harness(rules).given("house:1", n=is_now)
    await harness.when("told", "house:1", {"n": is_now})
    harness.then.state("house:1", n=is_now)
    harness.then.emitted("heard", data={"n": is_now}).once()
    harness.then.emitted("heard", data={"n": expected}).never()
    with pytest.raises(AssertionError) as failure:
        harness.then.state("house:1", n=expected)
    assert f"  n: expected {expected!r}, but it is {is_now!r}\n" in str(failure.value)


def test_a_property_that_is_not_there_is_not_none(lit: Harness) -> None:
    """The message says so, because a dynamic subject has no defaults."""
    lit.given("house:1", rooms=4)
    with pytest.raises(AssertionError, match="floors: expected 2, but it has no value"):
        lit.then.state("house:1", floors=2)
    with pytest.raises(UnknownProperty, match="powr"):
        lit.then.state("lamp:1", powr=3)


def test_stored_subjects_are_listed_by_name(lit: Harness) -> None:
    """For tests about what is created and deleted."""
    lit.given("lamp:2", power=1).given("house:1", rooms=1).given("lamp:1", power=1)
    assert lit.then.subjects() == ["house:1", "lamp:1", "lamp:2"]
    assert lit.then.subjects("lamp:") == ["lamp:1", "lamp:2"]


# -- then: messages, timers, failures


async def test_emitted_finds_messages_by_type_receiver_and_data(lit: Harness) -> None:
    """What rules sent, not what the test sent."""
    await lit.when("lamp.switched", "lamp:1", {"power": 500})
    await lit.when("lamp.switched", "lamp:2", {"power": 700})
    assert [event.data["power"] for event in lit.then.emitted("lamp.hot", to="house:1").times(2)] == [500, 700]
    assert lit.then.emitted("lamp.*", data={"power": 700}).once().causation_id is not None
    lit.then.emitted("lamp.hot", to="house:2").never()
    lit.then.emitted("lamp.switched").never()


async def test_a_timers_message_counts_once_it_is_due(lit: Harness) -> None:
    """Until then it is among the timers."""
    await lit.when("lamp.switched", "lamp:1", {"power": 500})
    timer = lit.then.timers("cool", of="lamp:1").once()
    assert timer.due == lit.now + timedelta(minutes=5)
    lit.then.timers(of="lamp:2").never()
    lit.then.emitted("lamp.cool_down").never()

    await lit.advance(timedelta(minutes=5))
    lit.then.timers().never()
    lit.then.emitted("lamp.cool_down", to="lamp:1").once()


async def test_what_a_failed_rule_sent_was_never_sent() -> None:
    """It is undone with the rest, be it one rule or a whole event that failed."""
    rules = RuleSet("rules")

    @rules.on("a.failed")
    async def fail_after_sending(ctx: Context[Subject]) -> None:
        await ctx.emit("a.sent")
        raise ValueError("no")

    @rules.on("a.cycle", changed("n"))
    async def spin(ctx: Context[Subject]) -> None:
        ctx.subject.n = ctx.subject.get("n", 0) + 1
        await ctx.emit("a.sent")

    harness = Harness(rules)
    await harness.when("a.failed", "a:1")
    await harness.when("a.cycle", "a:1")
    harness.then.emitted().never()
    whole = harness.then.failures("").once()
    assert isinstance(whole, Failed)
    assert "rules.spin" in str(whole.error)


async def test_found_is_a_list_that_can_be_counted(lit: Harness) -> None:
    """So plain asserts work as well as checks that tell what there was instead."""
    await lit.when("lamp.switched", "lamp:1", {"power": 500})
    found = lit.then.emitted("lamp.hot")
    assert isinstance(found, Found)
    assert len(found) == 1
    assert lit.then.emitted("lamp.cold") == []
    with pytest.raises(AssertionError) as failure:
        lit.then.emitted("lamp.cold", to="house:1").once()
    told = str(failure.value)
    assert told.startswith("expected one message lamp.cold to house:1, found none\n")
    assert "messages sent:\n  lamp.hot to house:1 {'power': 500}\n" in told


async def test_a_check_that_does_not_hold_says_what_there_was(lit: Harness) -> None:
    """Timers and failures too, and that there were none."""
    with pytest.raises(AssertionError, match=r"expected 2 timers 'cool' of lamp:1, found none\ntimers set: none"):
        lit.then.timers("cool", of="lamp:1").times(2)
    await lit.when("lamp.switched", "lamp:1", {"power": 500})
    with pytest.raises(AssertionError, match=r"expected no timer, found 1\ntimers set:\n  'cool' of lamp:1: lamp.cool"):
        lit.then.timers().never()
    await lit.when("lamp.broken", "lamp:1")
    with pytest.raises(AssertionError, match=r"failures:\n  lamps.fail on lamp.broken to lamp:1: ValueError"):
        lit.then.failures().never()
    with pytest.raises(AssertionError, match=r"expected one failure of lamps.fail with KeyError, found none"):
        lit.then.failures("lamps.fail", error=KeyError).once()


async def test_dead_letters_that_nobody_asked_about_are_known(lit: Harness) -> None:
    """The plugin fails a test over them; asking for failures or dead letters says that they are expected."""
    await lit.when("lamp.broken", "lamp:1")
    assert lit.unasked() == []  # it will be tried again
    await lit.advance(timedelta(minutes=1))
    assert [letter.rule for letter in lit.unasked()] == ["lamps.fail"]
    lit.then.failures()
    assert lit.unasked() == []
    assert isinstance(lit.then, Then)
