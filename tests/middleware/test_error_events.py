"""Failures as events: what they say, to whom they go, and when there are none."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from onwhen import (
    Context,
    EventBus,
    Limits,
    Receipt,
    RetryPolicy,
    RuleSet,
    VirtualClock,
    changed,
    create_memory_storage,
    when,
)
from onwhen.errors import Postponed, RuleDefinitionError
from onwhen.middleware import ErrorEvents

RETRY = RetryPolicy(attempts=3, delay=timedelta(seconds=30), factor=1, jitter=0)


def bus_with(*rules: RuleSet, scope: Any = None, **options: Any) -> EventBus:
    bus = EventBus(*rules, store=create_memory_storage(), clock=VirtualClock())
    bus.use(ErrorEvents(**options), scope=scope)
    return bus


def failing(retry: RetryPolicy | None = None, error: BaseException | None = None, **options: Any) -> RuleSet:
    rules = RuleSet("orders")

    @rules.on("order.taken", retry=retry, **options)
    def charge(ctx: Context) -> None:
        ctx.subject.set("charged", True)
        raise error or ConnectionError("no line")

    return rules


def told(receipt: Receipt, kind: str = "error.handler_failed") -> list[Any]:
    return [event.data for event in receipt.sent if event.type == kind]


async def test_a_rule_that_fails_sends_an_event() -> None:
    """It says what failed on what, why, and what is done about it; the failure itself goes on."""
    receipt = await bus_with(failing()).emit("order.taken", "order:1")
    assert told(receipt) == [
        {
            "original_event": "order.taken",
            "property": None,
            "rule": "orders.charge",
            "error": "no line",
            "error_type": "ConnectionError",
            "subject": "order:1",
            "timestamp": "1970-01-01T00:00:00+00:00",
            "attempt": 1,
            "event_id": receipt.event.id,
            "correlation_id": receipt.event.correlation_id,
            "retry_at": None,
            "gave_up": True,
        }
    ]
    assert len(receipt.dead) == 1
    assert receipt.sent[0].subject == "order:1"
    assert receipt.changes == ()


async def test_a_rule_can_react_to_it() -> None:
    """That is what it is for: a list of failures is a subject like any other."""
    errors = RuleSet("errors")

    @errors.on("error.handler_failed")
    def note(ctx: Context) -> None:
        ctx.subject.set("list", [*ctx.subject.get("list", []), ctx.payload["rule"]])

    bus = bus_with(failing(), errors, subject="errors:all")
    await bus.emit("order.taken", "order:1")
    await bus.emit("order.taken", "order:2")
    assert (await bus.read("errors:all")).get("list") == ["orders.charge"] * 2


async def test_each_attempt_is_told_and_when_the_next_one_is() -> None:
    """To another subject than the one that waits."""
    bus = bus_with(failing(RETRY), subject="errors:all")
    seen: list[Any] = []
    bus.observe(lambda outcome: seen.extend(told(Receipt(outcome.event, _outcome=outcome))))
    await bus.emit("order.taken", "order:1")
    await bus.advance(timedelta(minutes=5))
    assert [(data["attempt"], data["retry_at"], data["gave_up"]) for data in seen] == [
        (1, "1970-01-01T00:00:30+00:00", False),
        (2, "1970-01-01T00:01:00+00:00", False),
        (3, None, True),
    ]


@pytest.mark.parametrize("scope", ["event", "rule"])
async def test_only_what_is_final_can_be_told(scope: Any) -> None:
    """Then nobody is woken for what mends itself; around rules as well, where it is worked out by the policy."""
    bus = bus_with(failing(RETRY), only_final=True, scope=scope)
    seen: list[Any] = []
    bus.observe(lambda outcome: seen.extend(told(Receipt(outcome.event, _outcome=outcome))))
    await bus.emit("order.taken", "order:1")
    await bus.advance(timedelta(minutes=5))
    assert [(data["attempt"], data["gave_up"]) for data in seen] == [(3, True)]


@pytest.mark.parametrize("scope", ["event", "rule"])
async def test_a_subject_that_is_parked_has_given_up(scope: Any) -> None:
    """Somebody has to resume it."""
    rules = failing(RetryPolicy(on_exhausted="park"))
    receipt = await bus_with(rules, subject="errors:all", scope=scope).emit("order.taken", "order:1")
    assert [data["gave_up"] for data in told(receipt)] == [True]
    assert receipt.dead == ()


async def test_whom_it_goes_to_may_depend_on_the_context() -> None:
    """A function of it names the subject."""
    bus = bus_with(
        failing(), subject=lambda ctx: f"errors:{ctx.subject.name.partition(':')[0]}", event_type="ops.broken"
    )
    (sent,) = (await bus.emit("order.taken", "order:1")).sent
    assert (sent.type, sent.subject) == ("ops.broken", "errors:order")


@pytest.mark.parametrize("wrong", [lambda ctx: ctx.nothing, lambda ctx: "", lambda ctx: None, lambda ctx: "a\nb"])
async def test_a_function_that_names_nobody_costs_no_event(wrong: Any) -> None:
    """It goes to the subject of the turn, and says why."""
    receipt = await bus_with(failing(), subject=wrong).emit("order.taken", "order:1")
    assert receipt.sent[0].subject == "order:1"
    assert receipt.sent[0].data["misdirected"].startswith("subject= of ErrorEvents: ")
    assert len(receipt.failures) == 1


async def test_a_reaction_that_fails_names_the_property() -> None:
    """And the property event as what it was run on."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def take(ctx: Context) -> None:
        ctx.subject.set("status", "open")

    @rules.on(changed("status"))
    def react(ctx: Context) -> None:
        raise ValueError

    (data,) = told(await bus_with(rules).emit("order.taken", "order:1"))
    assert (data["rule"], data["original_event"], data["property"]) == (
        "orders.react",
        "subject-property-changed",
        "status",
    )
    (data,) = told(await bus_with(rules, scope="rule").emit("order.taken", "order:1"))
    assert (data["rule"], data["property"]) == ("orders.react", "status")


async def test_conditions_and_time_outs_fail_too() -> None:
    """Around events all of them are seen."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    @when(lambda ctx: ctx.payload["total"])
    def conditional(ctx: Context) -> None: ...

    @rules.on("order.taken", timeout=0.01)
    async def hang(ctx: Context) -> None:
        await asyncio.Event().wait()

    receipt = await bus_with(rules).emit("order.taken", "order:1")
    assert [data["error_type"] for data in told(receipt)] == ["KeyError", "onwhen.errors.RuleTimeout"]


async def test_around_one_rule_it_tells_of_that_rule() -> None:
    """What it says is the same."""
    rules = RuleSet("orders")

    @rules.on("order.taken", middleware=[ErrorEvents(subject="errors:all")], retry=RETRY)
    def charge(ctx: Context) -> None:
        raise ConnectionError("no line")

    @rules.on("order.taken")
    def other(ctx: Context) -> None:
        raise ValueError

    bus = EventBus(rules, store=create_memory_storage(), clock=VirtualClock())
    (data,) = told(await bus.emit("order.taken", "order:1"))
    whole = bus_with(failing(RETRY), subject="errors:all")
    (other_data,) = told(await whole.emit("order.taken", "order:1"))
    ids = {"event_id": data["event_id"], "correlation_id": data["correlation_id"]}
    assert data == {**other_data, **ids}


@pytest.mark.parametrize("scope", ["event", "rule"])
async def test_around_rules_it_foretells_what_the_engine_decides(scope: Any) -> None:
    """Jitter included; also where a run that was postponed has not counted as an attempt."""
    rules = RuleSet("orders")
    policy = RetryPolicy(attempts=2, delay=timedelta(seconds=30), jitter=1)

    @rules.on("order.taken", retry=policy)
    def charge(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise Postponed("not now", delay=timedelta(seconds=5))
        raise ConnectionError

    bus = bus_with(rules, scope=scope, subject="errors:all")
    seen: list[Any] = []
    due: list[Any] = []

    def look(outcome: Any) -> None:
        seen.extend(told(Receipt(outcome.event, _outcome=outcome)))
        due.extend(run.retry_at and run.retry_at.isoformat() for run in outcome.runs if run.status == "failed")

    bus.observe(look)
    await bus.emit("order.taken", "order:1")
    await bus.advance(timedelta(minutes=5))
    assert [data["retry_at"] for data in seen] == due
    assert [data["attempt"] for data in seen] == [2, 3]
    assert due[0] is not None
    assert due[1] is None


@pytest.mark.parametrize("kind", ["error.handler_failed", "error.other", "ops.broken"])
@pytest.mark.parametrize("scope", ["event", "rule"])
async def test_what_fails_on_an_error_sends_nothing(kind: str, scope: Any) -> None:
    """Or a rule that handles errors, and has one, would feed itself."""
    rules = RuleSet("orders")

    @rules.on("*")
    def fail(ctx: Context) -> None:
        ctx.subject.set("n", 1)
        raise ValueError

    receipt = await bus_with(rules, event_type="ops.broken", scope=scope).emit(kind, "order:1")
    assert receipt.sent == ()
    assert len(receipt.failures) == 1


async def test_a_rule_that_handles_errors_may_fail_on_them() -> None:
    """The cascade ends there."""
    errors = RuleSet("errors")

    @errors.on("error.*")
    def note(ctx: Context) -> None:
        raise ValueError("and again")

    receipt = await bus_with(failing(), errors).emit("order.taken", "order:1")
    assert [rule for rule, _ in receipt.failures] == ["orders.charge", "errors.note"]
    assert sum(len(told(one)) for one in receipt.walk()) == 1


@pytest.mark.parametrize("scope", ["event", "rule"])
async def test_what_was_put_off_or_dealt_with_is_not_told(scope: Any) -> None:
    """Neither is a failure that anybody would have to hear of."""
    postponed = await bus_with(failing(error=Postponed("later", delay=timedelta(1))), scope=scope).emit(
        "order.taken", "order:1"
    )
    assert postponed.sent == ()
    bus = bus_with(failing(), scope=scope)

    async def forgive(ctx: Any, next: Any) -> None:
        with suppress(ConnectionError):
            await next()

    bus.use(forgive)
    handled = await bus.emit("order.taken", "order:1")
    assert handled.runs[0].handled
    assert handled.sent == ()


@pytest.mark.parametrize("scope", ["event", "rule"])
async def test_what_ends_the_program_is_nobodys_failure(scope: Any) -> None:
    """It goes through, and nobody is asked whom to tell."""
    asked: list[Any] = []
    bus = bus_with(failing(error=KeyboardInterrupt()), scope=scope, subject=lambda ctx: asked.append(ctx) or "x")
    with pytest.raises(KeyboardInterrupt):
        await bus.emit("order.taken", "order:1")
    assert asked == []


async def test_an_event_that_fails_as_a_whole_sends_nothing() -> None:
    """Nothing of such a turn is kept; its dead letter says it."""
    rules = RuleSet("orders")

    @rules.on("order.taken", changed("n"))
    def spin(ctx: Context) -> None:
        ctx.subject.set("n", lambda n: (n or 0) + 1)

    bus = EventBus(rules, store=create_memory_storage(), limits=Limits(max_reactions=3))
    bus.use(ErrorEvents())
    receipt = await bus.emit("order.taken", "order:1")
    assert receipt.sent == ()
    assert len(receipt.dead) == 1


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("half \ud800"), ValueError("x" * 1_000_000)])
async def test_an_errors_text_cannot_break_the_event(error: Exception) -> None:
    """It is cut, and what no store could hold is escaped."""
    (data,) = told(await bus_with(failing(error=error)).emit("order.taken", "order:1"))
    assert len(data["error"]) <= 2000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"event_type": ""}, "ErrorEvents: type: empty"),
        ({"event_type": 7}, "ErrorEvents: type: a string is needed"),
        ({"subject": ""}, "ErrorEvents: subject: empty"),
        ({"subject": 7}, "subject=7 must be a name, or a plain function"),
        ({"subject": RuleSet}, "must be a name, or a plain function"),
        ({"only_final": "yes"}, "only_final='yes' must be True or False"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    """Not when the first rule fails."""
    with pytest.raises(RuleDefinitionError, match=message):
        ErrorEvents(**options)
