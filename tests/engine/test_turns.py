"""A turn: one event, the rules on it and the reactions to what they change. Most of it without an event loop."""

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from onwhen.engine.bus import EventBus
from onwhen.engine.clock import VirtualClock
from onwhen.engine.context import Context
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
from onwhen.engine.rules import RuleSet, changed, deleted, when
from onwhen.storage.memory import create_memory_storage
from tests.engine.turning import NOW, Thing, begin, committed, run, runs


@pytest.fixture
def rules() -> RuleSet:
    return RuleSet("r", subject=Thing)


# -- rules and conditions --------------------------------------------------------------------------------------


def test_rules_run_by_priority_and_then_in_order_of_registration(rules: RuleSet) -> None:
    """Each sees what those before it have done."""
    seen: list[int] = []
    for name, priority in (("b", 0), ("c", -1), ("a", 1)):

        def rule(ctx: Context[Thing]) -> None:
            seen.append(ctx.subject.n)
            ctx.subject.n += 1

        rules.on("go", name=name, priority=priority)(rule)
    turn = run(begin(rules))
    assert runs(turn) == [("r.a", "fired"), ("r.b", "fired"), ("r.c", "fired")]
    assert seen == [0, 1, 2]
    write = committed(turn).write
    assert write is not None
    assert write.set["n"] == b"3"


def test_sync_and_async_rules_and_conditions(rules: RuleSet) -> None:
    """All four may be mixed; one that does not suspend needs no event loop."""

    async def is_small(ctx: Any) -> bool:
        return ctx.subject.n < 1  # type: ignore[no-any-return]

    @rules.on("go")
    @when(is_small)
    @when(lambda ctx: is_small(ctx))
    async def first(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1

    @rules.on("go")
    @when(lambda ctx: is_small(ctx))
    def second(ctx: Context[Thing]) -> None:
        raise AssertionError

    turn = run(begin(rules))
    assert runs(turn) == [("r.first", "fired"), ("r.second", "skipped")]


def test_conditions_are_tested_in_order_and_the_first_that_does_not_hold_is_named(rules: RuleSet) -> None:
    """Those below it are not asked."""
    asked: list[str] = []

    def says(name: str, answer: Any) -> Callable[[Any], Any]:
        def condition(ctx: Any) -> Any:
            asked.append(name)
            return answer

        condition.__qualname__ = name
        return condition

    @when(says("top", 1))
    @rules.on("go")
    @when(says("middle", ""), says("last", True))
    def rule(ctx: Any) -> None:
        raise AssertionError

    (only,) = run(begin(rules)).outcome().runs
    assert (only.status, str(only.condition)) == ("skipped", "middle")
    assert asked == ["top", "middle"]


def test_what_a_condition_does_is_undone_if_the_rule_is_skipped(rules: RuleSet) -> None:
    """Asking leaves no trace."""

    def nosy(ctx: Any) -> bool:
        ctx.subject.n = 9
        ctx.subject.tags.append("seen")
        ctx.emit("asked")
        return False

    @rules.on("go")
    @when(nosy)
    def rule(ctx: Any) -> None: ...

    commit = committed(run(begin(rules)))
    assert (commit.write, list(commit.messages)) == (None, [])


def test_a_trigger_asks_for_values(rules: RuleSet) -> None:
    """A rule whose values do not fit is skipped, by no condition."""

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        ctx.subject.n = 5

    @rules.on(changed("n", from_=0, to=1), changed("n", to=lambda n: n > 9))
    def rule(ctx: Context[Thing]) -> None: ...

    first, second = (run for run in run(begin(rules)).outcome().runs if run.rule == "r.rule")
    assert (first.status, second.status, second.condition) == ("fired", "skipped", None)


def test_a_rule_may_return_anything_that_can_be_awaited(rules: RuleSet) -> None:
    """A lambda that emits, for example."""
    rules.on("go", name="rule")(lambda ctx: ctx.emit("next"))
    assert [event.type for event in committed(run(begin(rules))).messages] == ["next"]


def test_an_event_that_no_rule_is_for_is_handled_all_the_same(rules: RuleSet) -> None:
    """Its turn writes nothing."""
    turn = run(begin(rules))
    assert runs(turn) == []
    assert committed(turn).write is None


# -- reactions -------------------------------------------------------------------------------------------------


def test_reactions_run_after_the_rule_first_in_first_out(rules: RuleSet) -> None:
    """Those of reactions come after those that wait already."""
    order: list[str] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1
        ctx.subject.m = 1
        order.append("go")

    @rules.on(changed("n"))
    def on_n(ctx: Context[Thing]) -> None:
        order.append(f"n={ctx.new_value}")
        ctx.subject.price = Decimal(2)

    @rules.on(changed("m"))
    def on_m(ctx: Context[Thing]) -> None:
        order.append(f"m={ctx.new_value}")

    @rules.on(changed("price"))
    def on_price(ctx: Context[Thing]) -> None:
        order.append(f"price={ctx.new_value}")

    @rules.on("go", priority=-1)
    def last(ctx: Context[Thing]) -> None:
        order.append("last")

    run(begin(rules))
    assert order == ["go", "last", "n=1", "m=1", "price=2"]


def test_each_set_that_changed_the_value_is_one_event(rules: RuleSet) -> None:
    """One that did not is none; a reaction sees the values of its own change, and the subject as it is by then."""
    seen: list[tuple[int, int, int]] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        for n in (1, 1, 2, 2, 1):
            ctx.subject.n = n

    @rules.on(changed("n"))
    def on_n(ctx: Context[Thing]) -> None:
        seen.append((ctx.old_value, ctx.new_value, ctx.subject.n))

    run(begin(rules))
    assert seen == [(0, 1, 1), (1, 2, 1), (2, 1, 1)]


def test_a_change_in_place_is_one_event(rules: RuleSet) -> None:
    """However many steps it took."""
    seen: list[tuple[list[str], list[str]]] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.tags.append("b")
        ctx.subject.tags.append("c")

    @rules.on(changed("tags"))
    def on_tags(ctx: Context[Thing]) -> None:
        seen.append((ctx.old_value, ctx.new_value))

    run(begin(rules, stored={"tags": b'["a"]'}))
    assert seen == [(["a"], ["a", "b", "c"])]


def test_a_muted_change_is_stored_but_nobody_is_told(rules: RuleSet) -> None:
    """The outcome has it."""

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.set("n", 1, muted=True)

    @rules.on("*")
    def everything(ctx: Context[Thing]) -> None: ...

    turn = run(begin(rules))
    assert runs(turn) == [("r.go", "fired"), ("r.everything", "fired")]
    (change,) = turn.outcome().runs[0].changes
    assert (change.new, change.muted) == (1, True)


def test_extra_reaches_the_reaction(rules: RuleSet) -> None:
    """What the writer passed along."""
    seen: list[Any] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.set("n", 1, extra={"why": "audit"})
        ctx.subject.set("m", 1)

    @rules.on(changed())
    def on_any(ctx: Context[Thing]) -> None:
        seen.append((ctx.property_name, dict(ctx.extra), "extra" in ctx.payload))

    run(begin(rules))
    assert seen == [("n", {"why": "audit"}, True), ("m", {}, False)]


def test_outcomes_say_which_rule_caused_a_reaction(rules: RuleSet) -> None:
    """And which property it is about."""

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1

    @rules.on(changed("n"))
    def on_n(ctx: Context[Thing]) -> None: ...

    first, second = run(begin(rules)).outcome().runs
    assert (first.cause, first.property, first.event_type) == ("", "", "go")
    assert (second.cause, second.property, second.event_type) == ("r.go", "n", SUBJECT_PROPERTY_CHANGED)


def test_reactions_do_not_add_depth(rules: RuleSet) -> None:
    """The chain of messages is no longer for them; the cause is the property event, the root stays."""

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.n = 1

    @rules.on(changed("n"))
    def on_n(ctx: Context[Thing]) -> None:
        ctx.subject.m = 1

    events: list[Event] = []

    @rules.on(changed("m"))
    def on_m(ctx: Context[Thing]) -> None:
        events.append(ctx.event)
        ctx.emit("next")

    (message,) = committed(run(begin(rules, event=Event("go", "thing:1", id="root", depth=5)))).messages
    assert (message.depth, message.correlation_id, message.causation_id) == (6, "root", events[0].id)
    assert events[0].depth == 5


def test_a_property_event_from_outside_is_like_a_reaction(rules: RuleSet) -> None:
    """It comes as a message with JSON values; the rule sees the declared types."""
    seen: list[Any] = []

    @rules.on(changed("price", from_=Decimal("0.1"), to=lambda price: price > Decimal("0.2")))
    def on_price(ctx: Context[Thing]) -> None:
        seen.append((ctx.old_value, ctx.new_value, dict(ctx.extra)))

    data = {"property_name": "price", "old_value": "0.1", "value": "0.3", "extra": {"by": "ops"}}
    run(begin(rules, event=Event(SUBJECT_PROPERTY_CHANGED, "thing:1", data)))
    assert seen == [(Decimal("0.1"), Decimal("0.3"), {"by": "ops"})]


async def test_store_outside_a_turn_sends_such_events() -> None:
    """Typed values make the round trip through the event."""
    seen: list[Any] = []
    rules = RuleSet("r", subject=Thing)

    @rules.on(changed("price", "tags"))
    def on_any(ctx: Context[Thing]) -> None:
        seen.append((ctx.property_name, ctx.old_value, ctx.new_value))

    bus = EventBus(rules, store=create_memory_storage(), clock=VirtualClock(NOW))
    async with bus, bus.subject("thing:1") as thing:
        thing.set("price", Decimal("0.10"))
        thing.set("tags", ["a"])
    assert seen == [("price", Decimal(0), Decimal("0.10")), ("tags", [], ["a"])]


# -- deletion --------------------------------------------------------------------------------------------------


def test_deleting_a_property_is_an_event(rules: RuleSet) -> None:
    """With the value it had."""
    seen: list[Any] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.delete("n")
        ctx.subject.delete("m")

    @rules.on(deleted("n", from_=7), deleted("m"))
    def on_deleted(ctx: Context[Thing]) -> None:
        seen.append((ctx.property_name, ctx.old_value, ctx.new_value, ctx.event_type))

    run(begin(rules, stored={"n": b"7"}))
    assert seen == [("n", 7, None, SUBJECT_PROPERTY_DELETED)]


def test_deleting_a_subject_tells_of_each_property_and_then_of_the_subject(rules: RuleSet) -> None:
    """In one turn."""
    seen: list[Any] = []

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.subject.flush()

    @rules.on(deleted(), SUBJECT_DELETED)
    def on_deleted(ctx: Context[Thing]) -> None:
        seen.append((ctx.event_type, ctx.property_name))

    commit = committed(run(begin(rules, stored={"n": b"7", "m": b"8"})))
    assert seen == [(SUBJECT_PROPERTY_DELETED, "n"), (SUBJECT_PROPERTY_DELETED, "m"), (SUBJECT_DELETED, None)]
    assert commit.write is not None
    assert commit.write.remove
    assert commit.cancel_all


def test_deleting_a_subject_cancels_its_timers_also_those_of_this_turn(rules: RuleSet) -> None:
    """But not those that are set afterwards."""

    @rules.on("go", priority=1)
    def before(ctx: Context[Thing]) -> None:
        ctx.emit("late", delay=timedelta(1), key="from another rule")

    @rules.on("go")
    def go(ctx: Context[Thing]) -> None:
        ctx.emit("late", delay=timedelta(1), key="before")
        ctx.subject.flush()
        ctx.emit("late", delay=timedelta(1), key="after")

    commit = committed(run(begin(rules)))
    assert commit.cancel_all
    assert [timer.key for timer in commit.timers] == ["after"]
