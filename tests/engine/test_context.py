"""What a rule is given: what happened, who it happened to, and the checks of the verbs."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from types import SimpleNamespace
from typing import Any, cast

import pytest

from onwhen.engine.bus import EventBus
from onwhen.engine.context import Context
from onwhen.engine.effects import Cancelled, Effects, Refused
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
from onwhen.engine.limits import Limits
from onwhen.engine.occurrences import Occurrence, change_data
from onwhen.engine.rules import Rule
from onwhen.engine.state import Change
from onwhen.engine.store import SubjectRecord, Timer
from onwhen.engine.subjects import Subject
from onwhen.errors import SubjectStateError

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)


class Account(Subject, prefix="account:"):
    balance: Decimal = Decimal(0)
    opened: datetime | None = None


async def nobody(name: str) -> Subject:
    raise AssertionError(name)


def effects(cls: type[Subject] = Account, name: str = "account:1") -> Effects:
    state = cls._state_of(SubjectRecord(name=name, properties={}, ext={}))
    subject = cls._of(state)
    bus = SimpleNamespace(limits=Limits(), read=nobody, source="/bank")
    return Effects(subject, state, cast(EventBus, bus), NOW)


def context(occurrence: Occurrence | None = None, rule: str = "a.r", **facts: Any) -> Context[Account]:
    record = effects()
    account: Any = record.subject
    declared = Rule(id=rule, function=print, subject=Account, triggers=[], conditions=[])
    occurrence = occurrence or Occurrence.of_event(Event("paid", "account:1", {"sum": 3}, id="e1"), account)
    return Context(account, declared, occurrence, record, **facts)


def logged(ctx: Context[Any], kind: type) -> list[Any]:
    return [entry for entry in ctx._effects.state.log if isinstance(entry, kind)]


# -- what happened ---------------------------------------------------------------------------------------------


def test_an_event_is_told_as_it_came() -> None:
    """Its data is the payload."""
    ctx = context()
    assert (ctx.event_type, ctx.event.id, ctx.payload) == ("paid", "e1", {"sum": 3})
    assert (ctx.property_name, ctx.old_value, ctx.new_value, dict(ctx.extra)) == (None, None, None, {})
    assert ctx.now == NOW
    assert repr(ctx) == "<Context paid to account:1, rule a.r>"


def test_no_data_is_an_empty_payload() -> None:
    """So that a rule may ask it for a key; bytes stay bytes."""
    subject = effects().subject
    assert context(Occurrence.of_event(Event("paid", "account:1"), subject)).payload == {}
    assert context(Occurrence.of_event(Event("paid", "account:1", b"raw"), subject)).payload == b"raw"


def test_a_property_change_of_the_same_turn_is_told_with_live_values() -> None:
    """And its event is made only when somebody asks for it."""
    record = effects()
    parent = Occurrence.of_event(
        Event("paid", "account:1", id="e1", extensions={"traceparent": "00-1"}), record.subject
    )
    change = Change("balance", Decimal("0.10"), Decimal("0.30"), extra={"why": "interest"})
    occurrence = Occurrence.of_change(SUBJECT_PROPERTY_CHANGED, change, parent, ("a.pay", 1, -1), record)
    ctx = context(occurrence)
    assert (ctx.property_name, ctx.old_value, ctx.new_value) == ("balance", Decimal("0.10"), Decimal("0.30"))
    assert ctx.extra == {"why": "interest"}
    event = ctx.event
    assert event is ctx.event
    assert event.data == {
        "property_name": "balance",
        "old_value": "0.10",
        "value": "0.30",
        "extra": {"why": "interest"},
    }
    assert (event.type, event.subject, event.source, event.time) == (
        SUBJECT_PROPERTY_CHANGED, "account:1", "/bank", NOW,
    )  # fmt: skip
    assert (event.causation_id, event.correlation_id) == ("e1", "e1")
    assert event.depth == 0  # it is handled in the turn of its cause
    assert event.extensions == {"traceparent": "00-1"}


def test_a_property_event_from_outside_brings_its_values_as_json() -> None:
    """They are read as the declaration says, so a rule sees the same types in both cases."""
    record = effects()
    data = {"property_name": "balance", "old_value": None, "value": "0.30", "extra": {"why": "interest"}}
    ctx = context(Occurrence.of_event(Event(SUBJECT_PROPERTY_CHANGED, "account:1", data), record.subject))
    assert (ctx.property_name, ctx.old_value, ctx.new_value) == ("balance", None, Decimal("0.30"))
    assert ctx.extra == {"why": "interest"}
    data = {"property_name": "opened", "old_value": "2024-02-29T12:00:00Z"}
    ctx = context(Occurrence.of_event(Event(SUBJECT_PROPERTY_DELETED, "account:1", data), record.subject))
    assert (ctx.property_name, ctx.old_value, ctx.new_value) == ("opened", NOW, None)


def test_a_property_that_is_not_declared_any_more_is_its_json() -> None:
    """An event may be older than the class."""
    record = effects()
    data = {"property_name": "gone", "old_value": 1, "value": [2]}
    ctx = context(Occurrence.of_event(Event(SUBJECT_PROPERTY_CHANGED, "account:1", data), record.subject))
    assert (ctx.old_value, ctx.new_value) == (1, [2])
    assert change_data(record.subject, Change("gone", [2], None, "deleted")) == {
        "property_name": "gone",
        "old_value": [2],
    }


@pytest.mark.parametrize("data", [None, b"raw", [1], {}, {"property_name": None}, {"extra": 3}])
def test_a_property_event_from_outside_may_say_anything(data: Any) -> None:
    """What does not name a property is about none."""
    event = Event(SUBJECT_PROPERTY_CHANGED, "account:1", data)
    ctx = context(Occurrence.of_event(event, effects().subject))
    assert (ctx.property_name, ctx.old_value, ctx.new_value, dict(ctx.extra)) == (None, None, None, {})


def test_a_deleted_subject_is_told_without_data() -> None:
    """There is nothing left of it to tell."""
    record = effects()
    parent = Occurrence.of_event(Event("close", "account:1", id="e1"), record.subject)
    change = Change("", None, None, "flushed")
    ctx = context(Occurrence.of_change(SUBJECT_DELETED, change, parent, ("a.r", 1, -1), record))
    assert (ctx.event.data, ctx.property_name) == (None, None)


def test_the_idempotency_key_names_event_and_rule() -> None:
    """It does not change with the attempt; another source may use the same ids, so it counts."""
    first, second = context(attempt=1), context(attempt=2)
    assert first.idempotency_key == second.idempotency_key
    other = Occurrence.of_event(Event("paid", "account:1", id="e1", source="/shop"), effects().subject)
    keys = {first.idempotency_key, context(other).idempotency_key, context(rule="a.s").idempotency_key}
    assert {len(key) for key in keys} == {32}
    assert len(keys) == 3


def test_a_key_of_a_timer_is_a_str() -> None:
    """A StrEnum member is the str it stands for; anything else is refused, not ignored."""

    class Key(StrEnum):
        SLA = "sla"

    ctx = context()
    ctx.cancel(Key.SLA)
    assert [type(entry.key) for entry in logged(ctx, Cancelled)] == [str]
    for wrong in (None, 5):
        with pytest.raises(TypeError, match="must be a str"):
            ctx.cancel(wrong)  # type: ignore[arg-type]


def test_a_key_of_a_timer_is_text() -> None:
    """Half of a surrogate pair cannot be stored, and would keep the whole turn from it."""
    ctx = context()
    with pytest.raises(ValueError, match="surrogate"):
        ctx.cancel("\ud800")
    with pytest.raises(ValueError, match="surrogate"):
        ctx.emit("late", delay=timedelta(seconds=1), key="\ud800")


# -- messages and timers ---------------------------------------------------------------------------------------


async def test_emit_may_be_awaited_or_not() -> None:
    """It has done its work either way, and gives the event."""
    ctx = context()
    done = ctx.emit("next", {"n": 1})
    assert done.event is not None
    assert await done is done.event
    assert (await ctx.emit("next")) is not None
    assert await ctx.cancel("sla") is None
    assert [event.data for event in logged(ctx, Event)] == [{"n": 1}, None]


def test_a_message_goes_to_the_own_subject_unless_it_names_another() -> None:
    """By name, or by a subject; its source is that of the bus, its time that of the turn."""
    ctx = context()
    ctx.emit("a")
    ctx.emit("b", subject="customer:9", extensions={"tenant": "x"})
    ctx.emit("c", None, ctx.subject)
    first, second, third = logged(ctx, Event)
    assert (first.subject, second.subject, third.subject) == ("account:1", "customer:9", "account:1")
    assert (first.source, first.time, second.extensions) == ("/bank", NOW, {"tenant": "x"})


def test_what_is_emitted_knows_its_cause_and_its_root() -> None:
    """Correlation is the root's id, causation the parent's, and the depth counts messages."""
    root = Event("start", "account:1", id="root", depth=2, correlation_id="first")
    ctx = context(Occurrence.of_event(root, effects().subject))
    ctx.emit("a")
    (event,) = logged(ctx, Event)
    assert (event.correlation_id, event.causation_id, event.depth) == ("first", "root", 3)


def test_ids_of_emitted_events_are_derived() -> None:
    """The same rule on the same event emits the same ids, each attempt and each emit its own."""

    def ids(**facts: Any) -> list[str]:
        ctx = context(**facts)
        for _ in range(3):
            ctx.emit("a")
        return [event.id for event in logged(ctx, Event)]

    assert ids() == ids()
    assert len({*ids(), *ids(attempt=2), *ids(rule="a.s")}) == 9


@pytest.mark.parametrize("when", [{"delay": timedelta(hours=1)}, {"at": NOW + timedelta(hours=1)}])
def test_a_timer_is_a_message_for_later(when: dict[str, Any]) -> None:
    """Due after a while, or at a moment; its time is when it is due."""
    ctx = context()
    event = ctx.emit("late", key="sla", **when).event
    (timer,) = logged(ctx, Timer)
    assert not isinstance(timer, str)
    assert (timer.subject, timer.key, timer.due, timer.event) == ("account:1", "sla", NOW + timedelta(hours=1), event)
    assert timer.event.time == timer.due
    assert logged(ctx, Event) == []


def test_a_timer_without_a_key_is_one_of_its_own() -> None:
    """Its event's id is its key, so it replaces no other."""
    ctx = context()
    events = [ctx.emit("late", delay=timedelta(hours=1)).event for _ in range(2)]
    assert [timer.key for timer in logged(ctx, Timer)] == [event and event.id for event in events]


def test_a_timer_starts_a_chain_of_its_own() -> None:
    """Time passes before it fires, so one that sets itself again is a schedule; one due at once is not."""
    deep = Event("tick", "account:1", id="e", depth=64)
    ctx = context(Occurrence.of_event(deep, effects().subject))
    later, at_once = ctx.emit("tick", delay=timedelta(seconds=1)).event, ctx.emit("tick", delay=timedelta(0)).event
    assert later is not None
    assert (later.depth, later.causation_id, later.correlation_id) == (0, "e", "e")
    assert [refused.event for refused in logged(ctx, Refused)] == [at_once]


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        ({"delay": timedelta(1), "at": NOW}, ValueError, "delay or at, not both"),
        ({"key": "sla"}, ValueError, "key='sla' names a timer"),
        ({"delay": 30}, TypeError, "delay=30 must be a timedelta"),
        ({"at": "2024-01-01"}, TypeError, "must be a datetime"),
        ({"at": datetime(2024, 1, 1)}, ValueError, "no time zone"),  # noqa: DTZ001
        ({"data": {1}}, ValueError, "set is not a JSON value"),
        ({"data": "x" * 2**20}, ValueError, "bytes are more than the limit"),
        ({"subject": ""}, ValueError, "subject: empty"),
    ],
)
def test_what_cannot_be_sent_is_refused_where_it_is_emitted(
    arguments: dict[str, Any], error: type[Exception], problem: str
) -> None:
    """Nothing of it is recorded."""
    ctx = context()
    with pytest.raises(error, match=problem):
        ctx.emit("late", **arguments)
    assert ctx._effects.state.log == []


def test_after_the_turn_nothing_can_be_sent() -> None:
    """What a rule has left running would otherwise be lost in silence."""
    ctx = context()
    ctx._effects.is_over = True
    for verb in (lambda: ctx.emit("a"), lambda: ctx.cancel("sla")):
        with pytest.raises(SubjectStateError, match="after the turn of account:1 has ended"):
            verb()


# -- between middlewares ---------------------------------------------------------------------------------------


def test_metadata_is_shared_by_all_that_runs_around_one_rule() -> None:
    """With a default for what nobody left."""
    ctx = context()
    assert ctx.get_metadata("user") is None
    assert ctx.get_metadata("user", "nobody") == "nobody"
    ctx.set_metadata("user", None)
    assert ctx.get_metadata("user", "nobody") is None


def test_rules_see_what_was_left_around_the_whole_event() -> None:
    """But not what was left around another rule."""
    outer = context()
    first, second = context(around=outer), context(around=outer)
    outer.set_metadata("user", "ada")
    first.set_metadata("user", "bob")
    assert (first.get_metadata("user"), second.get_metadata("user"), outer.get_metadata("user")) == (
        "bob",
        "ada",
        "ada",
    )
