"""How middleware composes: order, going on, not going on, and what breaks the contract."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from onwhen.engine.chain import Middleware, Next, check, compose, name_of
from onwhen.engine.rules import RuleSet
from onwhen.errors import MiddlewareError, RuleDefinitionError
from tests.engine.turning import Thing, begin, kept, runs
from tests.engine.turning import run as run_turn


class Run:
    """Stands in for a context: a chain only notes on it who stopped it, and why."""

    def __init__(self) -> None:
        self._stopped_by = self._handled_by = ""
        self._error: BaseException | None = None
        self._raised: Any = None
        self.steps: list[str] = []


async def innermost(run: Any) -> None:
    run.steps.append("rule")


def noting(name: str) -> Middleware:
    """A middleware that notes when it is entered and left."""

    async def middleware(run: Any, next: Next) -> None:
        run.steps.append(f"{name} in")
        await next()
        run.steps.append(f"{name} out")

    return middleware


def drive(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a chain without an event loop."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def run_through(*middleware: Middleware) -> Run:
    run: Any = Run()
    drive(compose(middleware, innermost)(run))
    return run


def test_the_first_middleware_is_outermost() -> None:
    """Each is wrapped around the next; the rule is innermost."""
    assert run_through(noting("a"), noting("b")).steps == ["a in", "b in", "rule", "b out", "a out"]


def test_without_middleware_nothing_is_added() -> None:
    """A chain of none is the rule itself."""
    assert compose((), innermost) is innermost


def test_not_calling_next_stops_the_chain_and_names_who_did() -> None:
    """Outer ones are left as usual."""

    async def guard(run: Any, next: Next) -> None:
        run.steps.append("guarded")

    run = run_through(noting("a"), guard, noting("b"))
    assert run.steps == ["a in", "guarded", "a out"]
    assert run._stopped_by == "guard"


def test_an_error_passes_through_every_middleware() -> None:
    """Any of them may deal with it."""

    async def broken(run: Any) -> None:
        raise ValueError("broken")

    async def repaired(run: Any, next: Next) -> None:
        try:
            await next()
        except ValueError as error:
            run.steps.append(str(error))

    run: Any = Run()
    drive(compose((noting("a"), repaired, noting("b")), broken)(run))
    assert run.steps == ["a in", "b in", "broken", "a out"]


async def stumbles(ctx: Any, next: Next) -> None:
    raise ValueError("before")


async def forgets(ctx: Any, next: Next) -> None:
    next()


async def swallows(ctx: Any, next: Next) -> None:
    with suppress(Exception):
        await next()


async def gives_up(ctx: Any, next: Next) -> None:
    with suppress(Exception):
        await next.attempt()


@pytest.mark.parametrize("outer", [swallows, gives_up])
@pytest.mark.parametrize(("inner", "error"), [(stumbles, ValueError), (forgets, MiddlewareError)])
def test_a_rule_that_was_not_run_because_of_an_error_has_failed(outer: Any, inner: Any, error: type[Exception]) -> None:
    """Also where a middleware further out swallows the error: that deals with a failure, and the rule has not fired."""
    rules = RuleSet("r", subject=Thing)
    rules.on("go", name="rule")(lambda ctx: ctx.subject.set("n", 1))
    turn = run_turn(begin(rules, outer, inner))
    (run,) = turn.outcome().runs
    assert (run.status, run.handled, type(run.error)) == ("failed", True, error)
    assert kept(turn) == ({}, [])


def test_what_was_undone_has_not_fired_either() -> None:
    """A middleware fails after the rule; the attempt is undone as a whole, and left at that."""

    async def fails_after(ctx: Any, next: Next) -> None:
        await next()
        raise ValueError("after")

    rules = RuleSet("r", subject=Thing)
    rules.on("go", name="rule")(lambda ctx: ctx.subject.set("n", 1))
    turn = run_turn(begin(rules, gives_up, fails_after))
    (run,) = turn.outcome().runs
    assert (run.status, run.handled, repr(run.error)) == ("failed", True, "ValueError('after')")
    assert kept(turn) == ({}, [])


def test_an_attempt_that_goes_well_forgets_why_one_before_was_not_run() -> None:
    """Then the rule has fired."""
    errors = [ValueError("before")]

    async def stumbles_once(ctx: Any, next: Next) -> None:
        if errors:
            raise errors.pop()
        await next()

    async def tries_again(ctx: Any, next: Next) -> None:
        with suppress(ValueError):
            await next.attempt()
        await next.attempt()

    rules = RuleSet("r", subject=Thing)
    rules.on("go", name="rule")(lambda ctx: ctx.subject.set("n", 1))
    turn = run_turn(begin(rules, swallows, tries_again, stumbles_once))
    assert runs(turn) == [("r.rule", "fired")]
    assert kept(turn) == ({"n": b"1"}, [])


def test_an_event_whose_rules_were_not_run_because_of_an_error_was_stopped() -> None:
    """By whoever has raised it, where somebody further out has swallowed it."""
    rules = RuleSet("r", subject=Thing)
    rules.on("go", name="rule")(lambda ctx: ctx.subject.set("n", 1))
    turn = begin(rules, around=swallows)
    turn.bus.rulebook.use(stumbles, "event")
    (run,) = run_turn(turn).outcome().runs
    assert (run.rule, run.status, run.stopped_by) == ("", "stopped", "stumbles")


def test_calling_next_twice_is_an_error() -> None:
    """A rule runs once per event; retries are the policy's."""

    async def eager(run: Any, next: Next) -> None:
        await next()
        await next()

    with pytest.raises(MiddlewareError, match=r"eager called next\(\) twice"):
        run_through(eager)


def test_calling_next_without_awaiting_it_is_an_error() -> None:
    """The rest would never run."""

    async def forgetful(run: Any, next: Next) -> None:
        next()

    with pytest.raises(MiddlewareError, match=r"forgetful called next\(\) and did not await it"):
        run_through(forgetful)


async def test_awaiting_next_only_in_part_is_an_error() -> None:
    """A task that still runs when the middleware returns is cut off, so that it cannot do anything unseen."""
    done: list[str] = []

    async def slow(run: Any) -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(3600)
        done.append("rule")

    async def hasty(run: Any, next: Next) -> None:
        rest = next()
        rest.send(None)

    run: Any = Run()
    with pytest.raises(MiddlewareError, match="hasty"):
        await compose((hasty,), slow)(run)
    assert done == []


def test_next_is_of_no_use_once_the_middleware_has_returned() -> None:
    """What it has left behind cannot run the rule later, outside its turn."""
    kept: list[Callable[[], Any]] = []

    async def leaving(run: Any, next: Next) -> None:
        kept.append(next)

    run_through(leaving)
    with pytest.raises(MiddlewareError, match=r"leaving called next.* after it had returned"):
        kept[0]()


async def test_next_may_be_awaited_in_a_task_of_its_own() -> None:
    """As asyncio.wait_for and task groups do."""

    async def bounded(run: Any, next: Next) -> None:
        await asyncio.wait_for(asyncio.create_task(next()), 10)

    run: Any = Run()
    await compose((bounded,), innermost)(run)
    assert run.steps == ["rule"]


async def test_one_call_cannot_be_awaited_twice() -> None:
    """Neither one after the other nor in two tasks: the error is Python's own."""

    async def twice(run: Any, next: Next) -> None:
        rest = next()
        await rest
        await rest

    async def shared(run: Any, next: Next) -> None:
        rest = next()

        async def wait() -> None:
            await rest

        await asyncio.gather(wait(), wait())

    async def slow(run: Any) -> None:
        await asyncio.sleep(0)

    for middleware, told in ((twice, "already awaited"), (shared, "being awaited already")):
        run: Any = Run()
        with pytest.raises(RuntimeError, match=told):
            await compose((middleware,), slow)(run)


async def test_two_tasks_cannot_both_go_on() -> None:
    """The second to call is refused, whether the first has ended or not."""

    async def parallel(run: Any, next: Next) -> None:
        async def go_on() -> None:
            await next()

        await asyncio.gather(go_on(), go_on())

    async def slow(run: Any) -> None:
        await asyncio.sleep(3600)

    with pytest.raises(MiddlewareError, match=r"parallel called next\(\) twice"):
        await compose((parallel,), slow)(Run())  # type: ignore[arg-type]


async def test_what_still_runs_when_a_middleware_raises_is_cut_off() -> None:
    """A task that it has left behind cannot go on with the rule, outside of its run."""
    gate, steps = asyncio.Event(), list[str]()
    tasks: list[asyncio.Task[None]] = []

    async def slow(run: Any) -> None:
        steps.append("begun")
        try:
            await gate.wait()
            steps.append("done")
        finally:
            steps.append("ended")

    async def raising(run: Any, next: Next) -> None:
        tasks.append(asyncio.create_task(next()))
        await asyncio.sleep(0)
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        await compose((raising,), slow)(Run())  # type: ignore[arg-type]
    gate.set()
    await asyncio.sleep(0)
    assert steps == ["begun", "ended"]
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert isinstance(tasks[0].exception(), RuntimeError)  # Python's own: there is nothing left to be awaited


async def test_next_is_of_no_use_once_the_middleware_has_raised() -> None:
    """As once it has returned."""
    kept: list[Callable[[], Any]] = []

    async def raising(run: Any, next: Next) -> None:
        kept.append(next)
        raise OSError("mine")

    with pytest.raises(OSError, match="mine"):
        run_through(raising)
    with pytest.raises(MiddlewareError, match=r"raising called next.* after it had returned"):
        kept[0]()


def test_what_a_middleware_returns_is_not_looked_at() -> None:
    """There is nobody to be given it."""

    async def returning(run: Any, next: Next) -> int:
        await next()
        return 42

    assert run_through(returning).steps == ["rule"]  # type: ignore[arg-type]


# -- what can be a middleware ----------------------------------------------------------------------------------


class Callable_:
    """An object that is a middleware."""

    async def __call__(self, ctx: Any, next: Next) -> None:
        await next()


async def plain(ctx: Any, next: Next, extra: int = 0) -> None:
    await next()


@pytest.mark.parametrize("middleware", [plain, Callable_(), Callable_().__call__, functools.partial(plain, extra=1)])
def test_anything_async_and_callable_can_be_a_middleware(middleware: Any) -> None:
    """Functions, methods, partial functions and objects."""
    check(middleware)
    assert run_through(middleware).steps == ["rule"]


def sync(ctx: Any, next: Next) -> None:
    raise AssertionError


@pytest.mark.parametrize("thing", [sync, lambda ctx, next: None, "plain", None])
def test_what_is_not_async_is_refused(thing: Any) -> None:
    """Where it is declared, not at the first event."""
    with pytest.raises(RuleDefinitionError, match="async def mw"):
        check(thing)


def test_a_class_is_refused() -> None:
    """It was to be called, most likely."""
    with pytest.raises(RuleDefinitionError, match=r"write Callable_\(\.\.\.\)"):
        check(Callable_)


async def too_few(ctx: Any) -> None:
    raise AssertionError


async def too_many(ctx: Any, next: Next, bank: Any) -> None:
    raise AssertionError


async def by_name(*, ctx: Any, next: Next) -> None:
    raise AssertionError


@pytest.mark.parametrize("function", [too_few, too_many, by_name, functools.partial(too_many, bank=1, next=2)])
def test_what_does_not_take_two_arguments_is_refused(function: Any) -> None:
    """Where it is declared, with what it takes."""
    with pytest.raises(RuleDefinitionError, match=r"must take two arguments.*\(ctx, next\)', but .*arguments?"):
        check(function)


def test_a_decorator_may_give_what_else_a_middleware_needs() -> None:
    """What counts is what it takes once it is decorated."""

    @functools.wraps(too_many)
    async def decorated(ctx: Any, next: Next) -> None:
        await next()

    check(decorated)


def test_a_middleware_has_a_name_for_outcomes() -> None:
    """That of the function, or of the object's class."""
    assert name_of(plain) == "plain"
    assert name_of(functools.partial(plain, extra=1)) == "plain"
    assert name_of(Callable_()) == "Callable_"
