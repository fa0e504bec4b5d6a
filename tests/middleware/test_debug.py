"""An event's way, printed: what a developer sees, and what cannot be made to be seen."""

import io
import re
import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from onwhen import (
    Context,
    Event,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    Subject,
    VirtualClock,
    changed,
    create_memory_storage,
    when,
)
from onwhen.errors import Postponed, RuleDefinitionError
from onwhen.middleware import Debug


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Card(BaseModel):
    number: int


class User(Subject, prefix="user:"):
    card: Card | None = None


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def bus_with(*rules: RuleSet, scope: Any = None, limits: Limits | None = None, **options: Any) -> EventBus:
    bus = EventBus(*rules, store=create_memory_storage(), clock=VirtualClock(), limits=limits)
    bus.use(Debug(**options), scope=scope)
    return bus


def without_times(text: str) -> str:
    return re.sub(r"[0-9.]+ m?s\b", "0 ms", text)


def orders() -> RuleSet:
    rules = RuleSet("orders")

    def is_gift(ctx: Context) -> bool:
        return bool(ctx.payload.get("gift"))

    @rules.on("order.taken")
    async def take(ctx: Context) -> None:
        ctx.subject.set("status", "open")
        ctx.subject.set("seen", 1, muted=True)
        await ctx.emit("parcel.packed", {"of": "order:1"}, "parcel:1")
        await ctx.emit("order.overdue", delay=timedelta(days=1), key="due")
        ctx.cancel("reminder")

    @rules.on("order.taken")
    @when(is_gift)
    def wrap(ctx: Context) -> None: ...

    @rules.on("order.taken")
    def charge(ctx: Context) -> None:
        raise ValueError("card\nrefused")

    @rules.on(changed("status"))
    def note(ctx: Context) -> None:
        ctx.subject.delete("seen")

    return rules


async def test_a_cascade_is_printed_event_by_event() -> None:
    """What came in, the subject before, each rule with what it did, and how long it took; messages are indented."""
    out = io.StringIO()
    bus = bus_with(orders(), stream=out)
    await bus.emit("order.taken", "order:1", {"total": 12}, id="e1")
    (sent,) = re.findall(r"parcel.packed to parcel:1, id (\S+)", out.getvalue())
    where = re.search(r"skipped, (.*)", out.getvalue())
    assert where is not None
    assert "is_gift" in where[1]
    assert (
        without_times(out.getvalue().replace(where[1], "is_gift"))
        == f"""\
order.taken to order:1, id e1
    data {{"total": 12}}
    before {{}}
    orders.take fired in 0 ms
        status: null -> "open"
        seen: null -> 1, muted
        sends parcel.packed to parcel:1
        sets a timer for 1970-01-02T00:00:00+00:00: order.overdue to order:1
        cancels timer reminder
    orders.wrap skipped, is_gift
    orders.charge failed in 0 ms: ValueError: card\\nrefused
        set aside as a dead letter
    orders.note on status, by orders.take: fired in 0 ms
        seen: 1 -> deleted
    handled in 0 ms
    parcel.packed to parcel:1, id {sent}
        data {{"of": "order:1"}}
        before {{}}
        no rule matched
        handled in 0 ms
"""
    )


async def test_the_subject_is_shown_as_it_was_before() -> None:
    """Not as the rules have left it."""
    out = io.StringIO()
    bus = bus_with(orders(), stream=out)
    async with bus.subject("order:1") as order:
        order.set("status", "new", muted=True)
    await bus.emit("order.taken", "order:1")
    assert 'before {"status": "new"}' in out.getvalue()
    assert 'status: "new" -> "open"' in out.getvalue()


async def test_retries_and_what_was_put_off_say_when() -> None:
    """And which attempt it is."""
    rules = RuleSet("orders")
    errors = iter([Postponed("not now", delay=timedelta(seconds=5)), ValueError("bad")])

    @rules.on("order.taken", retry=RetryPolicy(attempts=2, delay=timedelta(seconds=30), jitter=0))
    def charge(ctx: Context) -> None:
        for error in errors:
            raise error

    out = io.StringIO()
    bus = bus_with(rules, stream=out)
    await bus.emit("order.taken", "order:1")
    await bus.advance(timedelta(minutes=1))
    told = without_times(out.getvalue())
    assert "orders.charge postponed in 0 ms: onwhen.errors.Postponed: not now\n" in told
    assert "        to be run again at 1970-01-01T00:00:05" in told
    assert ", attempt 2\n" in told
    assert "orders.charge failed in 0 ms: ValueError: bad\n        to be run again at 1970-01-01T00:00:35" in told
    assert ", attempt 3\n" in told


async def test_what_middleware_does_is_told() -> None:
    """It stops rules or events, and deals with errors."""
    out = io.StringIO()
    bus = bus_with(orders(), stream=out)

    async def doorman(ctx: Any, next: Any) -> None:
        if ctx.rule is None and ctx.event_type == "parcel.packed":
            return
        if ctx.rule is None:
            ctx.subject.set("passed", True)
            await next()
        elif ctx.rule.id != "orders.take":
            with suppress(ValueError):
                await next()

    bus.use(doorman, scope="event")
    bus.use(doorman)
    await bus.emit("order.taken", "order:1")
    await bus.emit("parcel.packed", "parcel:1")
    told = without_times(out.getvalue())
    assert "    orders.take stopped by doorman\n" in told
    assert "    orders.charge failed in 0 ms: ValueError: card\\nrefused\n        handled by a middleware\n" in told
    assert told.endswith("    stopped by doorman in 0 ms\n")


@pytest.mark.parametrize("swallows", [False, True])
async def test_an_event_that_fails_as_a_whole_says_so(swallows: bool) -> None:
    """Also if a middleware further in has swallowed the error; what was planned for a single rule is not done."""
    rules = RuleSet("orders")

    @rules.on("order.taken", retry=RetryPolicy(attempts=2))
    def charge(ctx: Context) -> None:
        raise ValueError("card refused")

    @rules.on("order.taken")
    def note(ctx: Context) -> None:
        raise ValueError("no note")

    @rules.on("order.taken", changed("n"))
    def spin(ctx: Context) -> None:
        ctx.subject.set("n", lambda n: (n or 0) + 1)

    out = io.StringIO()
    bus = bus_with(rules, stream=out, limits=Limits(max_reactions=2))

    async def swallow(ctx: Any, next: Any) -> None:
        with suppress(Exception):
            await next()

    if swallows:
        bus.use(swallow, scope="event")
    await bus.emit("order.taken", "order:1")
    *told, last = without_times(out.getvalue()).splitlines()
    assert last.startswith("    failed as a whole, nothing of it is kept: onwhen.errors.CascadeLimit: ")
    for failed in (
        "orders.charge failed in 0 ms: ValueError: card refused",
        "orders.note failed in 0 ms: ValueError: no",
    ):
        index = next(index for index, line in enumerate(told) if failed in line)
        assert told[index + 1].startswith("    orders.")  # the next rule


async def test_an_event_that_was_put_off_as_a_whole_did_not_fail() -> None:
    """Around one rule that is told in the same way."""
    out = io.StringIO()
    bus = bus_with(orders(), stream=out)

    async def closed(ctx: Any, next: Any) -> None:
        raise Postponed("closed", delay=timedelta(hours=8))

    bus.use(closed, scope="event")
    await bus.emit("order.taken", "order:1")
    assert out.getvalue().endswith("    postponed as a whole, nothing of it is kept: onwhen.errors.Postponed: closed\n")
    rules, alone = RuleSet("shop"), io.StringIO()
    rules.on("order.taken", name="take", middleware=[Debug(stream=alone), closed])(lambda ctx: None)
    await EventBus(rules, store=create_memory_storage(), clock=VirtualClock()).emit("order.taken", "order:1")
    assert "    shop.take postponed in" in alone.getvalue()


async def test_a_message_that_is_refused_is_told() -> None:
    """With the way that led there."""
    rules = RuleSet("orders")

    @rules.on("order.again")
    async def again(ctx: Context) -> None:
        await ctx.emit("order.again")

    out = io.StringIO()
    await bus_with(rules, stream=out, limits=Limits(max_depth=1)).emit("order.again", "order:1")
    assert "refuses order.again: " in out.getvalue()
    assert "orders.again -> order.again" in out.getvalue()


async def test_a_deep_cascade_stays_on_the_screen() -> None:
    """It is not indented for ever."""
    out = io.StringIO()
    bus = bus_with(RuleSet("none"), stream=out)
    await bus.emit(Event("deep", "order:1", depth=60))
    assert out.getvalue().startswith(" " * 4 * 8 + "deep")


async def test_secrets_can_be_left_out() -> None:
    """Of data, of properties, and of their changes."""
    rules = RuleSet("users")

    @rules.on("user.joined")
    def join(ctx: Context) -> None:
        ctx.subject.set("password", "hush-2")
        ctx.subject.set("login", {"password": "hush-3"})

    @rules.on(changed("password"))
    def note(ctx: Context) -> None: ...

    out = io.StringIO()
    bus = bus_with(rules, stream=out, redact=["password"])
    async with bus.subject("user:1") as user:
        user.set("password", "hush-0")  # an event that comes from outside of turns
    await bus.emit("user.joined", "user:1", {"password": "hush-1"})
    assert "hush" not in out.getvalue()
    assert 'password: "***" -> "***"' in out.getvalue()


async def test_secrets_inside_of_typed_properties_are_left_out_too() -> None:
    """Values are shown in their JSON form, in which names can be found."""
    rules = RuleSet("users", subject=User)

    @rules.on("user.joined")
    def join(ctx: Context[User]) -> None:
        ctx.subject.card = Card(number=4242)

    out = io.StringIO()
    await bus_with(rules, stream=out, redact=["number"]).emit("user.joined", "user:1")
    assert 'card: null -> {"number": "***"}' in out.getvalue()
    assert "4242" not in out.getvalue()


async def test_a_subject_that_is_deleted_and_one_that_is_parked() -> None:
    """What else may become of one."""
    rules = RuleSet("users")

    @rules.on("user.left")
    def leave(ctx: Context) -> None:
        ctx.subject.flush()

    @rules.on("user.left", retry=RetryPolicy(on_exhausted="park"))
    def fail(ctx: Context) -> None:
        raise ValueError

    out = io.StringIO()
    await bus_with(rules, stream=out).emit("user.left", "user:1")
    assert "        deletes the subject\n" in out.getvalue()
    assert "ValueError\n        its subject is parked\n" in out.getvalue()


async def test_around_one_rule_there_are_two_lines_per_run() -> None:
    """What it ran on, and how it went."""
    out = io.StringIO()
    rules = RuleSet("orders")

    async def doorman(ctx: Any, next: Any) -> None:
        if ctx.payload.get("bad") is not None:
            await next()

    @rules.on("order.taken", middleware=[Debug(stream=out), doorman])
    def take(ctx: Context) -> None:
        if ctx.payload["bad"]:
            raise ValueError("bad")

    bus = EventBus(rules, store=create_memory_storage())
    for number, data in enumerate(({"bad": False}, {"bad": True}, {})):
        await bus.emit("order.taken", "order:1", data, id=f"e{number}")
    assert without_times(out.getvalue()).splitlines() == [
        "order.taken to order:1, id e0",
        "    orders.take fired in 0 ms",
        "order.taken to order:1, id e1",
        "    orders.take failed in 0 ms: ValueError: bad",
        "order.taken to order:1, id e2",
        "    orders.take stopped by doorman in 0 ms",
    ]


# -- where it is printed -------------------------------------------------------------------------------------------


async def test_it_goes_to_standard_error_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    """Which is no terminal here."""
    await bus_with(orders()).emit("order.taken", "order:1")
    told = capsys.readouterr()
    assert told.out == ""
    assert "orders.take fired" in told.err
    assert "\x1b" not in told.err


async def test_on_a_terminal_it_has_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is red; the texts are the same. Long lines are not folded."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain, coloured = io.StringIO(), Terminal()
    for out in (plain, coloured):
        await bus_with(orders(), stream=out).emit("order.taken", "order:1", {"text": "[red]x" * 30}, id="e1")
    assert "\x1b[1;31m    orders.charge failed" in coloured.getvalue()
    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured.getvalue())
    assert without_times(stripped) == without_times(plain.getvalue())


async def test_without_rich_a_terminal_has_no_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not something that everybody has installed."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    out = Terminal()
    await bus_with(orders(), stream=out).emit("order.taken", "order:1")
    assert "orders.take fired" in out.getvalue()
    assert "\x1b" not in out.getvalue()


async def test_a_stream_that_cannot_take_it_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed, full, in ASCII only, or not there at all."""
    closed = io.StringIO()
    closed.close()
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for stream in (closed, Full(), narrow):
        receipt = await bus_with(RuleSet("none"), stream=stream).emit("order.täken", "order:1")
        assert receipt.ok
    monkeypatch.setattr(sys, "stderr", None)
    assert (await bus_with(RuleSet("none")).emit("order.taken", "order:1")).ok
    narrow.seek(0)
    assert narrow.read().startswith("order.t\\xe4ken to order:1")


@pytest.mark.parametrize("options", [{"stream": "stderr"}, {"redact": "password"}])
def test_options_that_cannot_be_are_refused_at_once(options: dict[str, Any]) -> None:
    """Not when the first event comes."""
    with pytest.raises(RuleDefinitionError, match=next(iter(options))):
        Debug(**options)


# -- what it cannot be made to say ---------------------------------------------------------------------------------


async def test_a_type_cannot_be_indented_by_who_sends_it() -> None:
    """What is indented is told of an event, not by one."""
    out = io.StringIO()
    bus = bus_with(RuleSet("none"), stream=out)
    await bus.emit("    orders.take fired", "order:1")
    assert out.getvalue().startswith("\\x20   orders.take fired to order:1, id ")


TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cn")), min_size=1, max_size=20)


@given(TEXTS, TEXTS, st.recursive(st.text(max_size=20), lambda inner: st.dictionaries(st.text(max_size=9), inner)))
async def test_nothing_from_outside_controls_the_terminal(kind: str, subject: str, data: Any) -> None:
    """Each line is one that we began, and printable."""
    rules = RuleSet("orders")

    @rules.on("*")
    def fail(ctx: Context) -> None:
        ctx.subject.set("\x1b[2J\u202e", data)
        raise ValueError(f"{subject}\x1b[2J\n{data}")

    out = io.StringIO()
    bus = EventBus(rules, store=create_memory_storage())
    bus.use(Debug(stream=out))
    await bus.emit(kind, subject, data)
    lines = out.getvalue().split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    assert [line for line in lines if not line.startswith(" ")] == lines[:1]


async def test_it_changes_nothing_of_what_rules_do() -> None:
    """Receipts with and without it are the same."""

    def told(receipt: Any) -> list[tuple[Any, ...]]:
        return [(run.rule, run.status, run.stopped_by, repr(run.error), run.changes) for run in receipt.runs]

    bare = await EventBus(orders(), store=create_memory_storage()).emit("order.taken", "order:1")
    watched = await bus_with(orders(), stream=io.StringIO()).emit("order.taken", "order:1")
    assert told(watched) == told(bare)


async def test_what_ends_the_program_goes_through() -> None:
    """And is not printed as a failure."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def interrupted(ctx: Context) -> None:
        raise KeyboardInterrupt

    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt):
        await bus_with(rules, stream=out).emit("order.taken", "order:1")
    assert out.getvalue() == ""
