"""Metrics: what is counted and timed of turns and rules, under which labels, and that there is an end to these."""

import asyncio
import gc
from collections.abc import Iterator
from datetime import timedelta
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from onwhen import Context, EventBus, RetryPolicy, RuleSet, VirtualClock, changed, create_memory_storage, when
from onwhen.engine.tally import Tally
from onwhen.errors import Postponed, RuleDefinitionError
from onwhen.middleware import CircuitBreaker, Metrics
from onwhen.middleware._metrics_counts import Distribution
from tests.middleware.metrics_seen import Breaker


def bus_with(*rule_sets: RuleSet, **options: Any) -> EventBus:
    return EventBus(*rule_sets, store=create_memory_storage(), clock=VirtualClock(), **options)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    """What a scrape says of one series; None if it is not there."""
    return metrics.registry.get_sample_value(name, labels)


def series(metrics: Metrics, name: str) -> dict[tuple[str, ...], float]:
    """All series of a metric that are not 0, by the values of their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name and sample.value
    }


def orders() -> RuleSet:
    """Rules that fire, are skipped, stopped, put off, and fail with and without another attempt."""
    rules = RuleSet("orders")

    async def stop(ctx: Context, next: Any) -> None:
        pass

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        ctx.subject.set("status", "open")
        await ctx.emit("order.noted")

    @rules.on("order.taken")
    @when(lambda ctx: ctx.payload.get("gift"))
    def wrap(ctx: Context) -> None:
        raise AssertionError("never run")

    @rules.on("order.taken", middleware=[stop])
    def weigh(ctx: Context) -> None:
        raise AssertionError("never run")

    @rules.on("order.taken", retry=RetryPolicy(attempts=3, delay=timedelta(seconds=10), jitter=0))
    def charge(ctx: Context) -> None:
        raise ValueError("card refused")

    @rules.on("order.taken")
    def wait(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise Postponed("the shop is closed", delay=timedelta(seconds=30))

    @rules.on("order.weighed", retry=RetryPolicy(on_exhausted="park"))
    def scale(ctx: Context) -> None:
        raise LookupError("no scale")

    @rules.on(changed("status"))
    async def remind(ctx: Context) -> None:
        await ctx.emit("order.overdue", delay=timedelta(hours=1), key="due")

    return rules


# -- what is counted ------------------------------------------------------------------------------------------------


async def test_rules_are_counted_by_what_came_of_them() -> None:
    """Also those that a condition has skipped, which no middleware around a rule sees, and each attempt of a retry."""
    bus, metrics = bus_with(orders()), Metrics()
    bus.use(metrics)
    async with bus:
        for _ in range(2):
            await bus.emit("order.taken", "order:1")
        await bus.advance(timedelta(hours=2))
    assert series(metrics, "onwhen_rule_runs_total") == {
        ("orders.take", "fired"): 2,
        ("orders.wrap", "skipped"): 2,
        ("orders.weigh", "stopped"): 2,
        ("orders.charge", "failed"): 6,
        ("orders.wait", "postponed"): 2,
        ("orders.wait", "fired"): 2,
        ("orders.remind", "fired"): 1,
    }
    assert series(metrics, "onwhen_retries_planned_total") == {("orders.charge",): 4, ("orders.wait",): 2}
    assert value(metrics, "onwhen_retries_run_total") == 6
    assert series(metrics, "onwhen_dead_letters_total") == {("orders.charge",): 2}


async def test_messages_and_timers_are_counted() -> None:
    """Those that were sent, those that were set, and those of them that have fired."""
    bus = bus_with(orders())
    metrics = Metrics().watch(bus)
    async with bus:
        await bus.emit("order.taken", "order:1")
        sent, was_set = value(metrics, "onwhen_messages_sent_total"), value(metrics, "onwhen_timers_set_total")
        assert (sent, was_set, value(metrics, "onwhen_timers_fired_total")) == (1, 1, 0)
        await bus.advance(timedelta(hours=2))
    assert value(metrics, "onwhen_timers_fired_total") == 1


async def test_turns_are_counted_by_type_and_outcome() -> None:
    """An event that fails as a whole is one of its own; so is one that a middleware around events has stopped."""
    rules, word = RuleSet("orders"), ["go on"]

    @rules.on("order.taken")
    def take(ctx: Context) -> None: ...

    async def around(ctx: Context, next: Any) -> None:
        if word[0] == "fail":
            raise ValueError("no")
        if word[0] == "later":
            raise Postponed("not now", delay=timedelta(days=1))
        if word[0] == "go on":
            await next()

    bus = bus_with(rules)
    metrics = Metrics().watch(bus)
    bus.use(around, scope="event")
    async with bus:
        for number, said in enumerate(("go on", "stop", "fail", "later", "go on")):
            word[0] = said
            await bus.emit("order.taken", f"order:{number}")
    assert series(metrics, "onwhen_turns_total") == {
        ("order.taken", "handled"): 2,
        ("order.taken", "stopped"): 1,
        ("order.taken", "failed"): 1,
        ("order.taken", "postponed"): 1,
    }
    assert series(metrics, "onwhen_dead_letters_total") == {("(event)",): 1}
    assert series(metrics, "onwhen_retries_planned_total") == {("(event)",): 1}


async def test_a_parked_rule_is_counted() -> None:
    """Its subject waits for somebody, so it is not among the retries."""
    bus = bus_with(orders())
    metrics = Metrics().watch(bus)
    async with bus:
        await bus.emit("order.weighed", "order:1")
    assert series(metrics, "onwhen_parked_total") == {("orders.scale",): 1}
    assert series(metrics, "onwhen_retries_planned_total") == {}


async def test_events_are_counted_once() -> None:
    """One that is emitted again is a duplicate; a message of a turn comes from inside, and is neither."""
    bus = bus_with(orders())
    metrics = Metrics().watch(bus)
    async with bus:
        for _ in range(3):
            await bus.emit("order.taken", "order:1", id="7")
        await bus.emit("order.taken", "order:2")
    assert value(metrics, "onwhen_events_accepted_total") == 2
    assert value(metrics, "onwhen_events_duplicate_total") == 2


async def test_subjects_in_memory_are_not_loaded() -> None:
    """Commits less loads are the turns that a load was saved for."""
    bus = bus_with(orders())
    metrics = Metrics().watch(bus)
    async with bus:
        for number in (1, 1, 1, 2):
            await bus.emit("order.noted", f"order:{number}")
    assert value(metrics, "onwhen_subject_loads_total") == 2
    assert series(metrics, "onwhen_commits_total") == {("ok",): 4}


async def test_what_is_not_done_yet_is_shown() -> None:
    """Also what waits behind it; nothing is left when the bus is idle."""
    rules, gate = RuleSet("orders"), asyncio.Event()

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        await gate.wait()

    bus = bus_with(rules)
    metrics = Metrics().watch(bus)
    assert value(metrics, "onwhen_bus_pending_events") == 0
    async with bus:
        for number in (1, 1, 2):
            await bus.append("order.taken", f"order:{number}")
        assert value(metrics, "onwhen_bus_pending_events") == 3
        gate.set()
        await bus.idle()
        assert value(metrics, "onwhen_bus_pending_events") == 0


async def test_the_failures_of_a_rule_are_shown_from_the_start() -> None:
    """Or `rate` and `increase` would not see the first failure of one: they ask for what was there before."""
    bus = bus_with(orders())
    metrics = Metrics().watch(bus)
    assert value(metrics, "onwhen_rule_runs_total", rule="orders.charge", outcome="failed") == 0
    assert value(metrics, "onwhen_dead_letters_total", rule="orders.charge") == 0
    assert value(metrics, "onwhen_dead_letters_total", rule="(event)") == 0
    async with bus:
        await bus.emit("order.taken", "order:1")
    assert value(metrics, "onwhen_turns_total", event_type="order.taken", outcome="failed") == 0


# -- what is timed --------------------------------------------------------------------------------------------------


class Stopwatch:
    """The clock by which durations are measured, moved by hand."""

    seconds = 0.0


@pytest.fixture
def stopwatch(monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    watch = Stopwatch()
    monkeypatch.setattr("onwhen.middleware.metrics.perf_counter", lambda: watch.seconds)
    return watch


def slow(stopwatch: Stopwatch) -> RuleSet:
    """Two rules that take 0.25 and 0.5 seconds; the second one fails."""
    rules = RuleSet("slow")

    @rules.on("order.taken")
    def take(ctx: Context) -> None:
        stopwatch.seconds += 0.25

    @rules.on("order.taken")
    def charge(ctx: Context) -> None:
        stopwatch.seconds += 0.5
        raise ValueError("card refused")

    return rules


async def test_rules_and_turns_are_timed(stopwatch: Stopwatch) -> None:
    """One line switches on both, in seconds; a rule that fails has taken its time too."""
    bus, metrics = bus_with(slow(stopwatch)), Metrics()
    bus.use(metrics)
    async with bus:
        for _ in range(2):
            await bus.emit("order.taken", "order:1")
    for rule, seconds in (("slow.take", 0.5), ("slow.charge", 1.0)):
        assert value(metrics, "onwhen_rule_duration_seconds_sum", rule=rule) == seconds
        assert value(metrics, "onwhen_rule_duration_seconds_count", rule=rule) == 2
    assert value(metrics, "onwhen_turn_duration_seconds_sum", event_type="order.taken") == 1.5


@pytest.mark.parametrize(("scope", "turns", "rules"), [("event", 1, None), ("rule", None, 1)])
async def test_one_of_the_two_may_be_enough(
    stopwatch: Stopwatch, scope: Any, turns: int | None, rules: int | None
) -> None:
    """And costs half; all counts are there with each of them."""
    bus, metrics = bus_with(slow(stopwatch)), Metrics()
    bus.use(metrics, scope=scope)
    async with bus:
        await bus.emit("order.taken", "order:1")
    assert value(metrics, "onwhen_turn_duration_seconds_count", event_type="order.taken") == turns
    assert value(metrics, "onwhen_rule_duration_seconds_count", rule="slow.take") == rules
    assert value(metrics, "onwhen_rule_runs_total", rule="slow.take", outcome="fired") == 1


async def test_one_rule_may_be_timed_alone(stopwatch: Stopwatch) -> None:
    """As any middleware, it can be given to a single rule."""
    rules, metrics = RuleSet("slow"), Metrics()

    @rules.on("order.taken", middleware=[metrics])
    def take(ctx: Context) -> None:
        stopwatch.seconds += 2

    @rules.on("order.taken")
    def note(ctx: Context) -> None: ...

    async with bus_with(rules) as bus:
        await bus.emit("order.taken", "order:1")
    assert series(metrics, "onwhen_rule_duration_seconds_sum") == {("slow.take",): 2}


async def test_a_duration_counts_in_its_bucket_and_all_above(stopwatch: Stopwatch) -> None:
    """Bounds are part of their bucket; what is longer than all of them is in +Inf only."""
    rules, metrics = RuleSet("slow"), Metrics(buckets=[1, 2.5])

    @rules.on("order.taken")
    def take(ctx: Context) -> None:
        stopwatch.seconds += ctx.payload

    bus = bus_with(rules)
    bus.use(metrics)
    async with bus:
        for seconds in (0.5, 1, 2, 2.5, 3):
            await bus.emit("order.taken", "order:1", seconds)
    found = [
        value(metrics, "onwhen_rule_duration_seconds_bucket", rule="slow.take", le=le) for le in ("1.0", "2.5", "+Inf")
    ]
    assert found == [2, 4, 5]


@given(
    bounds=st.lists(st.floats(0.001, 100), min_size=1, unique=True).map(sorted),
    durations=st.lists(st.floats(0, 200) | st.sampled_from([1.0, 2.0])),
)
@example(bounds=[1.0, 2.0], durations=[0.0, 1.0, 1.5, 2.0, 2.1])
def test_a_bucket_holds_all_that_took_no_longer_than_its_bound(bounds: list[float], durations: list[float]) -> None:
    """`le` means less or equal, and the last bucket holds everything."""
    distribution = Distribution(tuple(bounds))
    for seconds in durations:
        distribution.note(seconds)
    up_to = list(accumulate(distribution.counts))
    assert up_to == [*(sum(seconds <= bound for seconds in durations) for bound in bounds), len(durations)]
    assert distribution.sum == sum(durations)


# -- labels ---------------------------------------------------------------------------------------------------------


async def test_types_without_a_rule_are_counted_together() -> None:
    """Types come from outside, and there is no end to them."""
    rules, metrics = RuleSet("orders"), Metrics()

    @rules.on("order.*")
    def take(ctx: Context) -> None: ...

    bus = bus_with(rules)
    bus.use(metrics)
    async with bus:
        for event_type in ("order.taken", "x", "y", "z"):
            await bus.emit(event_type, "order:1")
    assert series(metrics, "onwhen_turns_total") == {("order.taken", "handled"): 1, ("(other)", "handled"): 3}
    assert series(metrics, "onwhen_turn_duration_seconds_count") == {("order.taken",): 1, ("(other)",): 3}


async def test_too_many_types_are_counted_together() -> None:
    """A glob fits as many types as somebody likes to send; those that came first keep their names."""
    rules, metrics = RuleSet("orders"), Metrics(max_event_types=3)

    @rules.on("*")
    def take(ctx: Context) -> None: ...

    bus = bus_with(rules)
    bus.use(metrics)
    async with bus:
        for number in (*range(200), *range(200)):
            await bus.emit(f"type{number}", "order:1")
    found = series(metrics, "onwhen_turns_total")
    assert found == {**{(f"type{n}", "handled"): 2 for n in range(3)}, ("(other)", "handled"): 394}
    assert len(series(metrics, "onwhen_turn_duration_seconds_count")) == 4


async def test_what_changes_outside_of_a_turn_has_a_name() -> None:
    """Property events have few types, so these are always told apart."""
    bus = bus_with(orders())
    metrics = Metrics().watch(bus)
    async with bus, bus.subject("order:1") as order:
        order.set("color", "red")
    assert series(metrics, "onwhen_turns_total") == {("subject-property-changed", "handled"): 1}


async def test_no_label_is_a_subject() -> None:
    """However many there are, the number of series stays."""
    bus, metrics = bus_with(orders()), Metrics()
    bus.use(metrics)

    def count() -> int:
        return sum(len(metric.samples) for metric in metrics.registry.collect())

    async with bus:
        await bus.emit("order.taken", "order:1")
        before = count()
        for number in range(50):
            await bus.emit("order.taken", f"order:{number}")
        assert count() == before


async def test_a_type_that_could_forge_a_line_is_escaped() -> None:
    """Whoever sends an event says its type; whatever is in it, it is the value of one label."""
    rules = RuleSet("orders")

    @rules.on("*")
    def take(ctx: Context) -> None: ...

    bus = bus_with(rules)
    metrics = Metrics().watch(bus)
    forged = 'a"} 1 onwhen_dead_letters_total{rule="x"} 7 \\n\\'
    async with bus:
        await bus.emit(forged, "order:1")
    families = {
        family.name: family for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
    }
    types = {sample.labels["event_type"] for sample in families["onwhen_turns"].samples}
    assert types == {forged}
    assert {sample.labels["rule"] for sample in families["onwhen_dead_letters"].samples} == {"orders.take", "(event)"}


# -- what it is told of ---------------------------------------------------------------------------------------------


async def test_it_learns_from_the_first_event_whose_turn_that_is() -> None:
    """A bus made from another one has its middleware too; whatever runs it is counted, from its first event on."""
    metrics, bus = Metrics(), bus_with(orders())
    bus.use(metrics)
    twin = bus.twin(store=create_memory_storage(), clock=VirtualClock())
    async with bus, twin:
        await twin.emit("order.noted", "order:1")
        await bus.emit("order.noted", "order:1")
        await twin.emit("order.noted", "order:1")
    assert series(metrics, "onwhen_turns_total") == {("(other)", "handled"): 3}
    assert series(metrics, "onwhen_commits_total") == {("ok",): 3}


async def test_watching_twice_counts_once() -> None:
    """So does watching what it is used by."""
    bus, metrics = bus_with(orders()), Metrics()
    bus.use(metrics)
    metrics.watch(bus).watch(bus)
    async with bus:
        await bus.emit("order.taken", "order:1")
    assert value(metrics, "onwhen_rule_runs_total", rule="orders.take", outcome="fired") == 1
    assert value(metrics, "onwhen_events_accepted_total") == 1


async def test_what_a_bus_has_done_stays_when_it_is_gone() -> None:
    """A counter that went down would look like a restart."""
    metrics = Metrics()
    for _ in range(3):
        bus = bus_with(orders())
        metrics.watch(bus)
        async with bus:
            await bus.emit("order.weighed", "order:1")
        del bus
    assert value(metrics, "onwhen_events_accepted_total") == 3
    assert value(metrics, "onwhen_parked_total", rule="orders.scale") == 3


def test_buses_that_are_gone_take_no_room() -> None:
    """A program may make one for each thing that it tries out."""
    metrics = Metrics()

    def held() -> int:
        gc.collect()
        return sum(isinstance(one, Tally) for one in gc.get_objects())

    before = held()
    for number in range(50):
        bus = bus_with()
        bus.tally.relayed += 1
        metrics.watch(bus)
        del bus
        if number % 10 == 9:
            assert held() <= before + 10
    assert value(metrics, "onwhen_messages_relayed_total") == 50


def test_the_metrics_of_a_bus_are_found() -> None:
    """Those that it uses, around everything or one rule, are used; else there are new ones."""
    metrics, rules = Metrics(), RuleSet("orders")
    bus = bus_with()
    assert Metrics.of(bus) is not Metrics.of(bus)
    bus.use(metrics, scope="event")
    assert Metrics.of(bus) is metrics

    @rules.on("x", middleware=[metrics])
    def take(ctx: Context) -> None: ...

    assert Metrics.of(bus_with(rules)) is metrics


# -- circuits -------------------------------------------------------------------------------------------------------


async def test_circuits_are_shown_by_state() -> None:
    """One series for each state that a circuit could be in, and how many circuits are in each."""
    rules = RuleSet("calls")

    @rules.on("call", middleware=[CircuitBreaker(failures=1, open_for=60)])
    def call(ctx: Context) -> None:
        raise ConnectionError("no answer")

    bus = bus_with(rules)
    metrics = Metrics().watch(bus)
    assert series(metrics, "onwhen_circuits") == {}
    async with bus:
        await bus.emit("call", "service:1")
    (circuit,) = series(metrics, "onwhen_circuit_state")
    assert circuit[-1] == "open"
    assert value(metrics, "onwhen_circuits", state="open") == 1
    assert value(metrics, "onwhen_circuits", state="closed") == 0


def test_of_many_circuits_those_that_are_open_are_shown() -> None:
    """Keys come from a function of the user's; there may be thousands, and all are counted."""
    bus = bus_with()
    bus.use(Breaker(**{f"k{n:04}": "closed" for n in range(500)}, z="open", y="half_open"))
    metrics = Metrics().watch(bus)
    shown = series(metrics, "onwhen_circuit_state")
    assert {("z", "open"), ("y", "half_open"), ("k0000", "closed")} <= set(shown)
    assert len(shown) == 200
    assert series(metrics, "onwhen_circuits") == {("closed",): 500, ("open",): 1, ("half_open",): 1}


def test_of_two_circuits_of_one_name_the_worse_is_shown() -> None:
    """One breaker for each of two rules may be keyed alike."""
    bus = bus_with()
    bus.use(Breaker(api="open"))
    bus.use(Breaker(api="closed"))
    assert list(series(Metrics().watch(bus), "onwhen_circuit_state")) == [("api", "open")]


async def test_circuits_with_keys_are_shown_together() -> None:
    """A key may be a subject, or come from outside; no label is made of it."""
    rules = RuleSet("calls")
    breaker = CircuitBreaker("api", key=lambda ctx: ctx.subject.name, failures=1, open_for=60)

    @rules.on("call", middleware=[breaker])
    def call(ctx: Context) -> None:
        if ctx.payload:
            raise ConnectionError("no answer")

    bus = bus_with(rules)
    async with bus:
        for number in range(3):
            await bus.emit("call", f"service:{number}", number == 1)
        metrics = Metrics().watch(bus)
        assert list(series(metrics, "onwhen_circuit_state")) == [("api", "open")]
        assert value(metrics, "onwhen_circuits", state="closed") == 2


def test_other_middleware_may_call_something_else_states() -> None:
    """A scrape does not fail over what a user's middleware is like."""

    class Places:
        def states(self, country: str) -> list[str]:
            raise LookupError(country)

        async def __call__(self, ctx: Any, next: Any, /) -> None:
            await next()

    bus = bus_with()
    bus.use(Places())
    assert value(Metrics().watch(bus), "onwhen_circuits", state="open") is None


# -- how it is made -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"buckets": []}, "buckets="),
        ({"buckets": [1, 1]}, "ascending"),
        ({"buckets": [2, 1]}, "ascending"),
        ({"buckets": [0, 1]}, "buckets="),
        ({"buckets": [1, float("inf")]}, "buckets="),
        ({"buckets": [1, float("nan")]}, "buckets="),
        ({"buckets": ["1"]}, "buckets="),
        ({"buckets": "12"}, "buckets="),
        ({"buckets": 3}, "buckets="),
        ({"max_event_types": 0}, "max_event_types=0"),
        ({"max_event_types": True}, "max_event_types=True"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], told: str) -> None:
    """Are refused when it is made."""
    with pytest.raises(RuleDefinitionError, match=told):
        Metrics(**options)


def test_a_registry_of_the_users_holds_it_once() -> None:
    """Beside what is in there; a second one would give two values to one series."""

    class Own:
        def collect(self) -> Iterator[Metric]:
            return iter(())

    registry = CollectorRegistry()
    registry.register(Own())  # type: ignore[arg-type]
    metrics = Metrics(registry)
    assert metrics.registry is registry
    assert registry.get_sample_value("process_start_time_seconds") is None
    with pytest.raises(RuleDefinitionError, match="share one Metrics"):
        Metrics(registry)


def test_only_a_bus_or_a_worker_can_be_watched() -> None:
    """What is given by mistake is refused with what would do."""
    with pytest.raises(RuleDefinitionError, match="an EventBus or a Worker"):
        Metrics().watch(create_memory_storage())  # type: ignore[arg-type]


def test_the_process_is_measured_too() -> None:
    """In a registry of its own: memory, processor time, open files."""
    assert value(Metrics(), "process_resident_memory_bytes")
