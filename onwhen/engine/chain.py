"""How middleware composes: each one is wrapped around the next, the rule or the event is innermost.

Belongs here: the contract of a middleware and its checks, and how the rest of a chain is tried again. It must not know
what is innermost, nor what a failure of the run as a whole leads to.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from onwhen.errors import MiddlewareError, RuleDefinitionError

if TYPE_CHECKING:
    from onwhen.engine.context import Context

__all__ = ["Call", "Middleware", "Next", "Scope", "check", "compose", "name_of", "undone_if_it_fails"]

Scope: TypeAlias = Literal["rule", "event"]
"""Around each run of a rule, or once around the whole turn of an event."""

Call: TypeAlias = "Callable[[Context[Any]], Coroutine[Any, Any, None]]"
"""What a chain is made into: given the context of a run, it runs."""


class Middleware(Protocol):
    """A function that is wrapped around rules or events: `async def mw(ctx, next): ...; await next(); ...`.

    Not calling `next` stops the rule or the event; the outcome names the middleware that did.
    """

    def __call__(self, ctx: Any, next: Any, /) -> Awaitable[None]:
        """Do something before `await next()`, after it, instead of it, or around it."""
        ...


class Next:
    """What a middleware calls to go on; at most once, and awaited.

    A middleware around rules that deals with failures calls `attempt` instead: as long as it fails, it may be called
    again.
    """

    __slots__ = ("_before", "_call", "_ctx", "_is_over", "_may_repeat", "_name", "_rest")

    _before: tuple[dict[str, Any], dict[str, str] | None]

    def __init__(self, call: Call, ctx: Context[Any], name: str) -> None:
        self._call = call
        self._ctx = ctx
        self._name = name
        self._rest: Coroutine[Any, Any, None] | None = None
        self._is_over = False
        self._may_repeat = False

    def __call__(self) -> Coroutine[Any, Any, None]:
        """Return the rest of the chain, to be awaited.

        Raises:
            MiddlewareError: it was called before, or the middleware has returned.
        """
        self._check_open()
        if self._rest is not None:
            raise MiddlewareError(f"middleware {self._name} called next() twice; a rule runs once per event")
        self._rest = self._call(self._ctx)
        return self._rest

    def attempt(self) -> Coroutine[Any, Any, None]:
        """Return the rest of the chain, to be awaited; if that raises an `Exception`, this may be called again.

        What has failed is undone first, see `undone_if_it_fails`, and what it left as metadata and stamps is
        forgotten when the next attempt begins.

        Raises:
            MiddlewareError: the rest has succeeded, was cancelled or is under way, it was called as `next()`, the
                middleware has returned, or is around a whole event.
        """
        self._check_open()
        ctx = self._ctx
        if ctx.rule is None:
            raise MiddlewareError(f"middleware {self._name} called next.attempt(), which is for rules, not for events")
        if self._rest is not None and not self._may_repeat:
            raise MiddlewareError(
                f"middleware {self._name} called next.attempt() again, but not after a failure; a rule that has run "
                f"is not run again"
            )
        if self._rest is None:
            self._before = dict(ctx._metadata or ()), ctx._stamps
        else:
            ctx._error, ctx._raised, ctx._stopped_by, ctx._handled_by = None, None, "", ""
            metadata, ctx._stamps = self._before
            ctx._metadata = dict(metadata)
        self._may_repeat = False
        self._rest = self._attempt()
        return self._rest

    async def _attempt(self) -> None:
        ctx = self._ctx
        try:
            await undone_if_it_fails(ctx, self._call)
        except Exception as error:
            self._may_repeat = ctx._error is None or isinstance(ctx._error, Exception)
            if ctx._error is None:
                ctx._raised = error, self._name  # all that was run is undone
            raise

    def _check_open(self) -> None:
        if self._is_over:
            raise MiddlewareError(f"middleware {self._name} called next() after it had returned; await what it starts")

    def finished(self) -> bool:
        """Tell whether the rest of the chain was run.

        Raises:
            MiddlewareError: it was called, but not awaited to its end.
        """
        self._is_over = True
        rest = self._rest
        if rest is None:
            return False
        if getattr(rest, "cr_frame", None) is not None:
            raise MiddlewareError(f"middleware {self._name} called next() and did not await it; write 'await next()'")
        return True

    def abandon(self) -> bool:
        """Cut off what of the rest still runs, in a task for instance; tell whether the rest had come to its end."""
        self._is_over = True
        rest = self._rest
        if rest is None:
            return False
        if getattr(rest, "cr_frame", None) is None:
            return True
        with suppress(RuntimeError, ValueError):  # it does not end when it is told to: then there is no more to do
            rest.close()
        return False


def compose(middleware: Sequence[Middleware], innermost: Call) -> Call:
    """Wrap middleware around a call.

    Args:
        middleware: outermost first.
        innermost: what the last `next` runs.
    """
    call = innermost
    for one in reversed(middleware):
        call = _link(one, call)
    return call


async def undone_if_it_fails(ctx: Context[Any], call: Callable[[Context[Any]], Awaitable[None]]) -> None:
    """Run a part of a run that leaves nothing of what it did, if it fails, but what middleware did about the failure.

    That stays if the error is the rule's own, as it does when the run as a whole fails: it tells of what has happened,
    that a circuit has opened for instance.

    Args:
        ctx: of the run.
        call: what to run.
    """
    state = ctx._effects.state
    mark, index = state.mark(), ctx._index
    try:
        await call(ctx)
        state.collect()
    except BaseException as error:
        is_sound = error is ctx._error
        if is_sound:
            try:
                state.collect()
            except Exception:
                is_sound = False
        if not is_sound:
            state.rollback(mark)
        if len(state.log) == mark:
            ctx._index = index  # so that what is sent in the end has the ids that it would have had at once
        raise


def check(middleware: Any) -> None:
    """Refuse what cannot be a middleware, with an error that says what can."""
    if isinstance(middleware, type):
        name = middleware.__name__
        raise RuleDefinitionError(f"{name} is a class, and a middleware is an object of it: write {name}(...)")
    call = getattr(type(middleware), "__call__", None)  # noqa: B004
    if not (inspect.iscoroutinefunction(middleware) or inspect.iscoroutinefunction(call)):
        raise RuleDefinitionError(f"a middleware must be an 'async def mw(ctx, next)', not {middleware!r}")
    try:
        inspect.signature(middleware, follow_wrapped=False).bind(None, None)
    except ValueError:  # there is nothing that says what it takes
        return
    except TypeError as error:
        name = name_of(middleware)
        raise RuleDefinitionError(
            f"middleware {name} must take two arguments, the context and what to call to go on, as in "
            f"'async def {name}(ctx, next)', but called so it says: {error}"
        ) from None


def name_of(middleware: Any) -> str:
    """Return the name by which outcomes and errors call a middleware."""
    function = inspect.unwrap(middleware.func if isinstance(middleware, partial) else middleware)
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _link(middleware: Middleware, inner: Call) -> Call:
    name = name_of(middleware)

    async def call(ctx: Context[Any]) -> None:
        next = Next(inner, ctx, name)
        try:
            await middleware(ctx, next)
            was_run = next.finished()
        except BaseException as error:
            if not next.abandon() or ctx._raised is not None:
                ctx._raised = error, name
            raise
        if not was_run:
            ctx._stopped_by = name
            return
        if ctx._raised is not None:
            _own_up(ctx, *ctx._raised)
        if ctx._error is not None and not ctx._handled_by:
            ctx._handled_by = name

    return call


def _own_up(ctx: Context[Any], error: BaseException, name: str) -> None:
    """Say what has become of a run whose rest a middleware has kept from being run, by an error that was swallowed."""
    ctx._raised = None
    if ctx.rule is None:
        ctx._stopped_by = name
    elif ctx._error is None:
        ctx._error = error
