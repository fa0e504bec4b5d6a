"""Which events a rule is seen to send: the ways in which people write that."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, StrEnum
from typing import Any

from onwhen import Container, Context, Event, RuleSet, changed
from tests.analysis.looking import Ticket, emissions, emitted, survey_of, unseen

PAID = "order.paid"
PREFIX = "order."
BY_STATUS = {"paid": "order.paid", "sent": "order.sent"}
EVERY = ("order.a", "order.b")
container = Container()
emit = container.event_bus().emit
bus = container.event_bus()


class Types(StrEnum):
    PAID = "order.paid"


class Plain(Enum):
    PAID = "order.paid"


class Names:
    PAID = "order.paid"


async def test_a_constant_is_read() -> None:
    """A literal, a module's constant, an enum's member, an attribute of a class."""

    async def rule(ctx: Context) -> None:
        await ctx.emit("order.literal")
        await ctx.emit(PAID)
        await ctx.emit(event_type=Types.PAID)
        await ctx.emit(Plain.PAID.value)
        await ctx.emit(Names.PAID)

    assert emitted(rule) == ["order.literal", "order.paid"]
    assert all(one.is_certain for one in emissions(rule))


def test_what_is_put_together_is_a_pattern() -> None:
    """What is not known is a hole in it, shown as a star."""

    def rule(ctx: Context) -> None:
        ctx.emit(f"order.{ctx.payload['step']}.done")
        ctx.emit(PREFIX + "paid")
        ctx.emit("order." + ctx.payload["step"])
        ctx.emit("a.%s" % ctx.payload["x"])  # noqa: UP031
        ctx.emit("b.{}".format(ctx.payload["x"]))

    assert emitted(rule) == ["a.*", "b.*", "order.*", "order.*.done", "order.paid"]


def test_what_cannot_be_told_is_unknown() -> None:
    """It is never left out, and never guessed."""

    def rule(ctx: Context) -> None:
        ctx.emit(ctx.payload["type"])

    assert emitted(rule) == ["?"]


def test_a_choice_is_all_of_it() -> None:
    """None of them is certain."""

    def rule(ctx: Context) -> None:
        ctx.emit("a" if ctx.payload else "b")
        kind = "c"
        if ctx.payload:
            kind = "d"
        ctx.emit(kind)
        ctx.emit(BY_STATUS[ctx.payload["status"]])

    assert emitted(rule) == ["a", "b", "c", "d", "order.paid", "order.sent"]
    assert not any(one.is_certain for one in emissions(rule))


def test_loops_over_what_is_known_are_gone_through() -> None:
    """Tuples in the code and in the module, pairs, dicts, and comprehensions."""

    def rule(ctx: Context) -> None:
        for kind in ("a", "b"):
            ctx.emit(kind)
        for kind in EVERY:
            ctx.emit(f"{kind}.again")
        for kind, whom in (("c", "x:1"), ("d", "x:2")):
            ctx.emit(kind, subject=whom)
        for number, kind in enumerate(["e"]):
            ctx.emit(kind, number)
        [ctx.emit(one) for one in BY_STATUS.values()]

    assert emitted(rule) == ["a", "b", "c", "d", "e", "order.a.again", "order.b.again", "order.paid", "order.sent"]


def test_a_name_stands_for_what_it_was_last_assigned() -> None:
    """On each way that leads there."""

    def after_a_return(ctx: Context) -> None:
        kind = "a"
        if ctx.payload:
            kind = "b"
            return
        ctx.emit(kind)

    def in_an_except(ctx: Context) -> None:
        kind = "a"
        try:
            kind = "b"
            ctx.payload["x"]
        except KeyError:
            ctx.emit(kind)

    def in_functions(ctx: Context) -> None:
        def send() -> None:
            ctx.emit(kind)

        kind = "a"
        send()
        kind = "b"
        send()

    def by_functions(ctx: Context) -> None:
        def change() -> None:
            nonlocal kind
            kind = "b"

        kind = "a"
        change()
        ctx.emit(kind)

    def by_matching(ctx: Context) -> None:
        match ctx.payload["x"]:
            case 1:
                kind = "a"
            case other:
                kind = f"{other}.b"
        ctx.emit(kind)

    assert emitted(after_a_return) == ["a"]
    assert emitted(in_an_except) == emitted(in_functions) == emitted(by_functions) == ["a", "b"]
    assert emitted(by_matching) == ["*.b", "a"]


def test_what_a_loop_puts_together_has_no_end() -> None:
    """So it is unknown, and not the first few of them."""

    def rule(ctx: Context) -> None:
        kind = "a"
        while len(kind) < ctx.payload["length"]:
            kind = kind + "a"
        ctx.emit(kind)

    assert "?" in emitted(rule)


def test_other_names_are_followed() -> None:
    """For the context, its verb, and what is assigned in a condition."""

    def rule(ctx: Context) -> None:
        context = ctx
        send = context.emit
        send("a")
        if (later := ctx.emit)("b"):
            later("c")

    assert emitted(rule) == ["a", "b", "c"]


async def test_the_bus_is_the_turn_while_a_rule_runs() -> None:
    """Its arguments come in another order; a whole event tells its type and its subject."""

    async def rule(ctx: Context) -> None:
        await emit("a", "customer:1", {"x": 1})
        await bus.append("b", ctx.subject)
        await bus.emit(Event(type="c", subject="customer:2"))

    first, second, third = emissions(rule)
    assert [str(one.type) for one in (first, second, third)] == ["a", "b", "c"]
    assert (str(first.target), second.target, str(third.target)) == ("customer:1", None, "customer:2")


def test_the_bus_of_the_context_is_a_bus() -> None:
    """For certain."""

    async def rule(ctx: Context) -> None:
        await ctx.bus.emit("a", ctx.subject.name)

    assert [(str(one.type), one.is_certain) for one in emissions(rule)] == [("a", True)]


def test_an_unknown_emitter_that_is_called_like_the_bus_is_taken_for_one() -> None:
    """But it is not certain; and a log handler is none."""

    def rule(ctx: Context, service: Any = None) -> None:
        service.bus.emit("a", ctx.subject.name)
        service.handler.emit(ctx.payload)

    assert [(str(one.type), one.is_certain) for one in emissions(rule)] == [("a", False)]


def test_whom_it_is_addressed_to_is_read() -> None:
    """As far as it is known; the subject itself is the turn's own."""

    def rule(ctx: Context[Ticket]) -> None:
        ctx.emit("a")
        ctx.emit("b", None, f"customer:{ctx.subject.owner}")
        ctx.emit("c", subject=ctx.subject)
        ctx.emit("d", subject=ctx.subject.name)
        ctx.emit("e", subject=ctx.payload["to"])

    assert [None if one.target is None else str(one.target) for one in emissions(rule, Ticket)] == [
        None,
        "customer:*",
        None,
        "ticket:*",
        "?",
    ]


def test_timers_and_their_keys_are_told_from_messages() -> None:
    """delay= and at= make a timer, None does not."""

    def rule(ctx: Context) -> None:
        ctx.emit("a", delay=timedelta(days=1), key="sla")
        ctx.emit("b", at=ctx.now, key=f"of-{ctx.payload['x']}")
        ctx.emit("c", delay=None)

    assert [(one.is_timer, str(one.key)) for one in emissions(rule)] == [(True, "sla"), (True, "of-*"), (False, "None")]


def test_what_a_condition_stands_before_is_not_certain() -> None:
    """An if, a loop, an and, an early return, an exception that is caught."""

    def rule(ctx: Context) -> None:
        ctx.emit("first")
        if ctx.payload:
            ctx.emit("if")
        ctx.payload and ctx.emit("and")
        try:
            ctx.emit("try")
        except ValueError:
            ctx.emit("except")
        finally:
            ctx.emit("finally")
        with asyncio.Lock():  # type: ignore[attr-defined]
            ctx.emit("with")
        if ctx.payload:
            return
        ctx.emit("last")

    certain = {str(one.type): one.is_certain for one in emissions(rule)}
    assert [name for name, is_certain in certain.items() if is_certain] == ["first", "finally", "with"]


# -- functions that are called ------------------------------------------------------------------------------------


async def notify(ctx: Context, kind: str, /, *, loud: bool = False) -> None:
    await ctx.emit(f"notice.{kind}")
    if loud:
        await ctx.emit("notice.loud")


def type_of(status: str) -> str:
    if status == "paid":
        return "order.paid"
    return "order.other"


def subject_of(ctx: Context) -> Any:
    return ctx.subject


def back_and_forth(ctx: Context, depth: int = 0) -> None:
    ctx.emit("deep")
    back_and_forth(ctx, depth + 1)


async def test_functions_are_followed_with_what_they_are_given() -> None:
    """Parameters, defaults, and what they return."""

    async def rule(ctx: Context) -> None:
        await notify(ctx, "shipped")
        await asyncio.gather(notify(ctx, "a"), notify(ctx, "b"))
        await ctx.emit(type_of(ctx.payload["status"]))

    assert emitted(rule) == ["notice.a", "notice.b", "notice.loud", "notice.shipped", "order.other", "order.paid"]


def test_functions_that_call_themselves_come_to_an_end() -> None:
    """Whatever they pass on."""
    assert emitted(lambda ctx: back_and_forth(ctx)) == ["deep"]


def test_functions_in_the_function_are_followed() -> None:
    """Closures and lambdas; also those that somebody else may call."""

    def rule(ctx: Context) -> None:
        def send(kind: str) -> None:
            ctx.emit(kind)

        send("a")
        later = lambda: ctx.emit("b")  # noqa: E731
        asyncio.get_event_loop().call_soon(later)

        def never_called() -> None:
            ctx.emit("c")

    assert emitted(rule) == ["a", "b", "c"]


def test_functions_that_are_passed_on_may_be_called() -> None:
    """With what is passed along."""

    def rule(ctx: Context) -> None:
        list(map(ctx.emit, ("a", "b")))
        asyncio.to_thread(notify, ctx, "c")

    assert emitted(rule) == ["a", "b", "notice.c", "notice.loud"]


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        args[0].emit("before")
        return function(*args, **kwargs)

    return wrapper


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    """Keep the function where no reader finds it."""
    wrapper = functools.partial(list)
    return functools.update_wrapper(lambda ctx: wrapper(), function)


@decorated
def wrapped(ctx: Context) -> None:
    ctx.emit("inside")


@hidden
def behind(ctx: Context) -> None:
    ctx.emit("inside")


@functools.lru_cache
def cached(ctx: Context) -> None:
    ctx.emit("inside")


@dataclass
class Service:
    prefix: str

    def rule(self, ctx: Context) -> None:
        ctx.emit(f"{self.prefix}.done")

    def __call__(self, ctx: Context) -> None:
        ctx.emit(f"{self.prefix}.called")


def test_decorators_are_looked_behind() -> None:
    """What they do themselves is seen as well."""
    assert emitted(wrapped) == ["before", "inside"]
    assert emitted(behind) == emitted(cached) == ["inside"]


def test_methods_partials_and_objects_know_their_own() -> None:
    """Attributes of the object, arguments of the partial."""
    service = Service("depot")
    assert emitted(service.rule) == ["depot.done"]
    assert emitted(service) == ["depot.called"]
    assert emitted(functools.partial(notify, loud=True)) == ["notice.*", "notice.loud"] or emitted(
        functools.partial(notify, loud=True)
    ) == ["?", "notice.loud"]


# -- what cannot be seen ------------------------------------------------------------------------------------------


def test_code_without_source_is_unseen() -> None:
    """A rule made by exec, and one that calls such a function."""
    names: dict[str, Any] = {}
    exec("def made(ctx): ctx.emit('x')", names)
    made = names["made"]

    def rule(ctx: Context) -> None:
        made(ctx)

    assert len(unseen(made)) == 1
    assert unseen(rule) == ["passes the context or the subject to made(), whose source is not there"]


def test_whoever_is_given_the_context_may_do_anything() -> None:
    """If nobody knows who that is; what is only printed or logged is not meant."""

    def rule(ctx: Context, outside: Any = None) -> None:
        print(ctx, ctx.subject)  # noqa: T201
        outside.service.handle(ctx)
        outside.context = ctx

    assert unseen(rule) == [
        "passes the context or the subject to outside.service.handle(), which cannot be followed",
        "keeps the context or the subject in .context",
    ]


def test_a_rule_that_puts_itself_off_is_seen() -> None:
    """By ctx.defer."""
    from onwhen.analysis._reader import Known, read

    def rule(ctx: Any) -> None:
        ctx.defer(delay=timedelta(seconds=1), key="wait")

    assert len(read(rule, Known()).deferrals) == 1


def test_what_a_function_imports_is_looked_up() -> None:
    """If the module is there."""

    def rule(ctx: Context) -> None:
        import tests.analysis.looking as found
        from tests.analysis import looking
        from tests.analysis.looking import KIND

        ctx.emit(KIND)
        ctx.emit(f"{found.KIND}.a")
        ctx.emit(f"{looking.KIND}.b")

    assert emitted(rule) == ["looking", "looking.a", "looking.b"]


def test_a_bus_that_is_given_who_knows_what_is_unseen() -> None:
    """And arguments that are spread out are not guessed."""

    async def rule(ctx: Context) -> None:
        await emit(ctx.payload["event"])
        await ctx.emit(*ctx.payload["arguments"])
        await ctx.emit("a", **ctx.payload["options"])

    assert emitted(rule) == ["?", "a"]
    assert [str(one.target) for one in emissions(rule) if str(one.type) == "a"] == ["?"]
    assert unseen(rule) == ["calls emit with an event that cannot be told"]


def test_the_type_of_the_event_itself_is_known() -> None:
    """As far as the triggers say it."""
    rules = RuleSet("rules")

    @rules.on("order.*", "ping", changed("a"))
    def rule(ctx: Context) -> None:
        ctx.emit(f"{ctx.event_type}.seen")
        ctx.subject.set(f"{ctx.property_name}_seen", 1)

    (seen,) = survey_of(rules).rules
    types = {"order.*.seen", "ping.seen", "subject-property-changed.seen"}
    assert {str(one.type) for one in seen.reading.emissions} == types
    assert {str(one.property) for one in seen.reading.writes} == {"*_seen"}
