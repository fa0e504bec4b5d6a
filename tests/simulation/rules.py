"""The rules that the simulated processes run: each does what the event's data tells it to.

Belongs here: how a script is carried out through the engine. What it should come to is worked out by `model`, which
must not share code with this. Each run of a rule leaves a line in the subject itself, so that one that is lost or
comes twice can be seen in what is stored.

A script is a list of steps: `["add", k]` to the property n, `["note", text]`, `["bag", key, value]` in place,
`["del"]` the note, `["emit", subject, data]`, `["timer", key, delay, subject, data]`, `["cancel", key]`, `["flush"]`,
`["sleep", seconds]`, `["fail", n]` in the first n attempts, `["kill", n]` the process the first n times. The rule
`again` has a middleware around it that tells others of a failure, and counts it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from onwhen import SUBJECT_DELETED, Context, RetryPolicy, RuleSet, Subject, changed, when

if TYPE_CHECKING:
    from tests.simulation.process import Process

__all__ = ["DELAY", "HERE", "LINES", "POLICIES", "RULES", "TIMEOUT", "TURN_TIMEOUT", "Account", "Unwilling", "rules"]

HERE: ContextVar[Process] = ContextVar("simulated_process")
"""The process that the running code is part of; one that was killed notes nothing any more."""

Next: TypeAlias = Callable[[], Awaitable[None]]

POLICIES: Final = {  # rule -> attempts, whether later events wait, whether it is parked in the end
    "first": (1, True, False),
    "again": (3, True, False),
    "later": (3, False, False),
    "slow": (2, True, False),
    "park": (2, True, True),
    "react": (2, True, False),
}
DELAY: Final = timedelta(seconds=2)  # until a rule is run again for the first time; twice as long after that
LINES: Final = 4  # of what has run, as a subject tells it (a count)
TIMEOUT: Final = 2.0  # seconds; what sleeps longer in the rule `slow` is late
TURN_TIMEOUT: Final = 3.0  # seconds; when all rules of an event together sleep longer, it is late as a whole


class Unwilling(Exception):
    """What a script said that a rule should raise."""


class Account(Subject, prefix="acc:"):
    """A typed subject; the others are dynamic."""

    n: int = 0
    note: str = ""
    bag: dict[str, int] = {}
    runs: list[list[Any]] = []
    money: Decimal = Decimal(0)
    alien: int = 0
    alarms: int = 0


def _policy(rule: str) -> RetryPolicy:
    attempts, in_order, parks = POLICIES[rule]
    more: dict[str, Any] = {"on_exhausted": "park"} if parks else {}
    return RetryPolicy(attempts=attempts, delay=DELAY, in_order=in_order, **more)


RULES: Final = RuleSet("sim")
_TYPED: Final = RuleSet("typed", Account)


def rules() -> Sequence[RuleSet]:
    """Return the rule sets of a simulated process."""
    return RULES, _TYPED


def _asked(rule: str) -> Any:
    return when(lambda ctx: rule in ctx.payload.get("rules", ()))


def _note(ctx: Context[Any], rule: str, tag: str) -> None:
    """Leave a line; only the latest few are kept, or long histories would cost more than they tell."""
    line = [tag, rule, ctx.attempt]
    if isinstance(ctx.subject, Account):
        ctx.subject.runs.append(line)
        del ctx.subject.runs[:-LINES]
    else:
        ctx.subject.set("runs", lambda runs: [*(runs or ()), line][-LINES:])


def _quick(ctx: Context[Any], rule: str) -> None:
    _note(ctx, rule, ctx.payload["tag"])
    for step in ctx.payload["rules"][rule]:
        _carry_out(ctx, step)


async def _slow(ctx: Context[Any], rule: str) -> None:
    _note(ctx, rule, ctx.payload["tag"])
    for step in ctx.payload["rules"][rule]:
        if step[0] == "sleep":
            await HERE.get().sleep(step[1])
        elif step[0] == "kill":
            await HERE.get().killed_by(ctx.event.id, rule, step[1])
        else:
            _carry_out(ctx, step)


def _carry_out(ctx: Context[Any], step: Sequence[Any]) -> None:
    verb, *args = step
    subject = ctx.subject
    if verb == "add":
        subject.set("n", lambda n: (n or 0) + args[0])
    elif verb == "note":
        subject.set("note", args[0])
    elif verb == "bag":
        if not subject.has("bag"):
            subject.set("bag", {})
        subject.get("bag")[args[0]] = args[1]
    elif verb == "del":
        if subject.has("note"):
            subject.delete("note")
    elif verb == "emit":
        _sent(ctx, ctx.emit("do", args[1], args[0]).event)
    elif verb == "timer":
        key, delay, name, data = args
        _sent(ctx, ctx.emit("do", data, name, delay=timedelta(seconds=delay), key=key).event)
    elif verb == "cancel":
        ctx.cancel(args[0])
    elif verb == "flush":
        subject.flush()
    elif verb == "fail":
        if ctx.attempt <= args[0]:
            raise Unwilling(f"attempt {ctx.attempt} of {args[0]}")
    else:
        raise AssertionError(verb)


def _sent(ctx: Context[Any], event: Any) -> None:
    HERE.get().sent(ctx, event)


@RULES.on("do", retry=_policy("first"))
@_asked("first")
def first(ctx: Context[Any]) -> None:
    _quick(ctx, "first")


async def alarm(ctx: Context[Any], next: Next) -> None:
    """Tell of a failure; what this does is kept, though the rule is undone and will be run again."""
    try:
        await next()
    except Unwilling:
        ctx.subject.set("alarms", lambda n: (n or 0) + 1)
        data = {"tag": f"alarm {ctx.attempt} of {ctx.payload['tag']}", "rules": {}}
        _sent(ctx, ctx.emit("do", data, "dyn:alarms").event)
        raise


@RULES.on("do", retry=_policy("again"), middleware=[alarm])
@_asked("again")
async def again(ctx: Context[Any]) -> None:
    await _slow(ctx, "again")


@RULES.on("do", retry=_policy("later"))
@_asked("later")
def later(ctx: Context[Any]) -> None:
    _quick(ctx, "later")


@RULES.on("do", retry=_policy("slow"), timeout=TIMEOUT)
@_asked("slow")
async def slow(ctx: Context[Any]) -> None:
    await _slow(ctx, "slow")


@RULES.on("do", retry=_policy("park"))
@_asked("park")
def park(ctx: Context[Any]) -> None:
    _quick(ctx, "park")


@RULES.on(changed("n"), retry=_policy("react"))
def react(ctx: Context[Any]) -> None:
    """Fail now and then, by the value; else tell of it, now and then, another subject."""
    value = ctx.new_value
    _note(ctx, "react", f"n={value}")
    if value % 7 == 3 and ctx.attempt == 1:
        raise Unwilling("a three")
    if value % 4 == 1:
        data = {"tag": f"{ctx.subject.name}={value}", "rules": {}}
        _sent(ctx, ctx.emit("do", data, "dyn:tally").event)


@RULES.on(SUBJECT_DELETED)
def mourn(ctx: Context[Any]) -> None:
    data: Mapping[str, Any] = {"tag": f"{ctx.subject.name} is gone", "rules": {"first": [["add", 1]]}}
    _sent(ctx, ctx.emit("do", data, "dyn:graves").event)


@_TYPED.on(changed("n"))
def pay(ctx: Context[Account]) -> None:
    ctx.subject.money += Decimal("0.10")
