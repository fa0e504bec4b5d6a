"""How middleware composes: each one is wrapped around the next, the rule or the event is innermost.

Belongs here: the contract of a middleware and its checks. It must not know what is wrapped, a rule or a whole
event, nor what a failure leads to.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from onwhen.errors import MiddlewareError, RuleDefinitionError

if TYPE_CHECKING:
    from onwhen.engine.context import Context

__all__ = ["Call", "Middleware", "Next", "Scope", "check", "compose", "name_of"]

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
    """What a middleware calls to go on; at most once, and awaited."""

    __slots__ = ("_call", "_ctx", "_is_over", "_name", "_rest")

    def __init__(self, call: Call, ctx: Context[Any], name: str) -> None:
        self._call = call
        self._ctx = ctx
        self._name = name
        self._rest: Coroutine[Any, Any, None] | None = None
        self._is_over = False

    def __call__(self) -> Coroutine[Any, Any, None]:
        """Return the rest of the chain, to be awaited.

        Raises:
            MiddlewareError: it was called before, or the middleware has returned.
        """
        if self._is_over:
            raise MiddlewareError(f"middleware {self._name} called next() after it had returned; await what it starts")
        if self._rest is not None:
            raise MiddlewareError(f"middleware {self._name} called next() twice; a rule runs once per event")
        self._rest = self._call(self._ctx)
        return self._rest

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
            rest.close()
            raise MiddlewareError(f"middleware {self._name} called next() and did not await it; write 'await next()'")
        return True


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


def check(middleware: Any) -> None:
    """Refuse what cannot be a middleware, with an error that says what can."""
    call = getattr(type(middleware), "__call__", None)  # noqa: B004
    if not (inspect.iscoroutinefunction(middleware) or inspect.iscoroutinefunction(call)):
        raise RuleDefinitionError(f"a middleware must be an 'async def mw(ctx, next)', not {middleware!r}")


def name_of(middleware: Any) -> str:
    """Return the name by which outcomes and errors call a middleware."""
    function = inspect.unwrap(middleware.func if isinstance(middleware, partial) else middleware)
    return str(getattr(function, "__name__", None) or type(function).__name__)


def _link(middleware: Middleware, inner: Call) -> Call:
    name = name_of(middleware)

    async def call(ctx: Context[Any]) -> None:
        next = Next(inner, ctx, name)
        await middleware(ctx, next)
        if not next.finished():
            ctx._stopped_by = name

    return call
