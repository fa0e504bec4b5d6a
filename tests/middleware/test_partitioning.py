"""Partitioning: each instance handles what is its own, and together they handle everything once."""

from collections import Counter
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen import Context, Event, EventBus, RuleSet, VirtualClock, create_memory_storage, partition_of
from onwhen.errors import MiddlewareError, RuleDefinitionError
from onwhen.middleware import Partitioning
from tests.middleware.places import dead


def noting(handled: list[tuple[str, int]]) -> RuleSet:
    rules = RuleSet("readings")

    @rules.on("reading")
    def note(ctx: Context) -> None:
        handled.append((ctx.event.id, ctx.get_metadata("partition")))
        if ctx.payload:
            ctx.emit("reading", None, ctx.payload)

    return rules


def instance(handled: list[tuple[str, int]], partitioning: Partitioning) -> EventBus:
    bus = EventBus(noting(handled), store=create_memory_storage())
    bus.use(partitioning)
    return bus


@settings(max_examples=25, deadline=None)
@given(
    instances=st.integers(1, 5),
    partitions=st.integers(5, 16),
    subjects=st.lists(st.text("abcü✓ /:-0123456789", min_size=1, max_size=8), min_size=1, max_size=30),
)
async def test_instances_that_are_fed_the_same_handle_each_event_once(
    instances: int, partitions: int, subjects: list[str]
) -> None:
    """However many there are, and whatever the subjects are called."""
    handled: list[tuple[str, int]] = []
    async with AsyncExitStack() as stack:
        buses = [
            await stack.enter_async_context(instance(handled, Partitioning(partitions, own=f"{place}/{instances}")))
            for place in range(instances)
        ]
        for number, subject in enumerate(subjects):
            for bus in buses:
                await bus.emit("reading", subject, id=f"e{number}")
    assert sorted(handled) == sorted(
        (f"e{number}", partition_of(subject, partitions)) for number, subject in enumerate(subjects)
    )


async def test_what_is_another_ones_is_stopped() -> None:
    """No rule is considered, and the outcome says who stopped it."""
    handled: list[tuple[str, int]] = []
    async with instance(handled, Partitioning(4, own=[])) as bus:
        (run,) = (await bus.emit("reading", "a")).runs
        assert (run.rule, run.status, run.stopped_by) == ("", "stopped", "Partitioning")
    assert handled == []


async def test_what_a_rule_sends_elsewhere_is_forwarded() -> None:
    """Through the common source; whoever owns the subject handles it, once."""
    handled: list[tuple[str, int]] = []
    buses: list[EventBus] = []
    forwarded: list[str] = []

    async def broadcast(event: Event) -> None:
        forwarded.append(event.id)
        for bus in buses:
            await bus.append(event)

    buses += [instance(handled, Partitioning(3, own=place, forward=broadcast)) for place in range(3)]
    names = [next(name for name in map(str, range(99)) if partition_of(name, 3) == number) for number in range(3)]
    async with AsyncExitStack() as stack:
        for bus in buses:
            await stack.enter_async_context(bus)
        receipts = [await bus.emit(Event("reading", names[0], names[2], id="e", source="/meter")) for bus in buses]
        for bus in buses:
            await bus.idle()
    assert len(forwarded) == 1
    assert [receipt.event.subject for receipt in receipts[0].walk()] == [names[0], names[2]]
    assert Counter(handled) == {("e", 0): 1, (forwarded[0], 2): 1}


async def test_what_a_rule_sends_elsewhere_later_is_forwarded_too() -> None:
    """A timer begins a chain of its own, but what it brings was sent here as well."""
    rules, forwarded = RuleSet("readings"), list[Event]()

    @rules.on("reading")
    def remind(ctx: Context) -> None:
        ctx.emit("reminder", ctx.payload, ctx.payload, delay=timedelta(minutes=5))

    async def forward(event: Event) -> None:
        forwarded.append(event)

    elsewhere = next(name for name in "bcdefgh" if partition_of(name, 2) != partition_of("a", 2))
    async with EventBus(rules, store=create_memory_storage(), clock=VirtualClock()) as bus:
        bus.use(Partitioning(2, own=partition_of("a", 2), forward=forward))
        await bus.emit("reading", "a", elsewhere)
        await bus.advance(timedelta(minutes=5))
    assert [(event.type, event.subject) for event in forwarded] == [("reminder", elsewhere)]


async def test_what_another_source_has_sent_is_no_message_of_ours() -> None:
    """Whatever has caused it there: whoever owns the subject is sent it as well."""
    handled: list[tuple[str, int]] = []
    async with instance(handled, Partitioning(4, own=[])) as bus:
        receipt = await bus.emit(Event("reading", "a", source="/meter", causation_id="x"))
        assert receipt.runs[0].stopped_by == "Partitioning"


async def test_what_a_rule_sends_elsewhere_is_never_dropped() -> None:
    """Without a way to go it fails, with an error that says what is missing."""
    handled: list[tuple[str, int]] = []
    async with instance(handled, Partitioning(2, own=partition_of("a", 2))) as bus:
        elsewhere = next(name for name in "bcdefgh" if partition_of(name, 2) != partition_of("a", 2))
        receipt = await bus.emit("reading", "a", elsewhere)
        assert not receipt.ok
        (letter,) = await dead(bus)
        assert "forward=" in letter.failure.message


# -- what an instance owns


@pytest.mark.parametrize(
    ("own", "numbers"),
    [("0-2,7", {0, 1, 2, 7}), ("1/4", {1, 5}), ("worker-3/4", {3, 7}), (3, {3}), (range(2), {0, 1}), ((), set())],
)
def test_what_is_owned_can_be_said_in_several_ways(own: Any, numbers: set[int]) -> None:
    """Numbers, ranges, or a place among equals."""
    assert Partitioning(8, own=own).own == numbers


def test_the_environment_may_say_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So all instances run the same code; what is given in code goes before."""
    monkeypatch.setenv("ONWHEN_OWN", "2/4")
    assert Partitioning(8).own == {2, 6}
    assert Partitioning(8, own=1).own == {1}
    monkeypatch.setenv("ONWHEN_OWN", "nine")
    with pytest.raises(RuleDefinitionError, match="ONWHEN_OWN='nine': give partitions"):
        Partitioning(8)
    monkeypatch.delenv("ONWHEN_OWN")
    with pytest.raises(RuleDefinitionError, match="nothing says"):
        Partitioning(8)


@pytest.mark.parametrize("host", ["meter-3", "meter-3.meters.default.svc"])
def test_the_host_name_may_say_it(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """As that of a StatefulSet's pod does."""
    monkeypatch.setattr("socket.gethostname", lambda: host)
    assert Partitioning(8, of=4).own == {3, 7}
    monkeypatch.setattr("socket.gethostname", lambda: "laptop")
    with pytest.raises(RuleDefinitionError, match="give partitions"):
        Partitioning(8, of=4)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"partitions": 0}, "Partitioning: partitions=0"),
        ({"partitions": 4, "own": 4}, "there is no partition 4; there are 4"),
        ({"partitions": 4, "own": [True]}, "there is no partition True"),
        ({"partitions": 4, "own": "4"}, "there is no partition 4"),
        ({"partitions": 4, "own": 1.5}, "must be numbers"),
        ({"partitions": 4, "own": 1, "of": 2}, "give one of them"),
        ({"partitions": 4, "of": 0}, "Partitioning: of=0"),
        ({"partitions": 4, "own": 1, "forward": "nats"}, "Partitioning: forward='nats'"),
    ],
)
def test_options_are_checked_when_it_is_made(options: dict[str, Any], told: str) -> None:
    """With what is wrong about them."""
    with pytest.raises(RuleDefinitionError, match=told):
        Partitioning(**options)


async def test_around_a_single_rule_it_is_refused() -> None:
    """Then the other rules of a foreign event would be run."""
    rules = RuleSet("r")
    rules.on("reading", name="rule", middleware=[Partitioning(1, own=0)])(lambda ctx: None)
    async with EventBus(rules, store=create_memory_storage()) as bus:
        (run,) = (await bus.emit("reading", "a")).runs
        assert isinstance(run.error, MiddlewareError)
