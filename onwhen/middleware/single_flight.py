"""Single flight: equal calls that are made at the same time are one call, whose answer all are given.

Belongs here: calls under way, who waits for them, and answers that are kept for a while. It must not know what is
called.

Source: the package `singleflight` of Go's `golang.org/x/sync`, for the name and what it promises.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Any, Final, TypeVar, cast
from weakref import WeakKeyDictionary

from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.engine.turns import RUNNING
from onwhen.middleware._options import Duration, Key, key_function, positive_int, rule_of, seconds

__all__ = ["SingleFlight"]

_ENDED: Final = object()

T = TypeVar("T")


class SingleFlight:
    """Makes one call of equal ones that are under way at the same time in this process.

    For the call itself, in a rule:

        rates = SingleFlight(ttl=60)

        @rules.on("order.placed")
        async def price(ctx):
            rate = await rates.run(ctx.payload["currency"], lambda: fetch_rate(ctx.payload["currency"]))

    The first to ask makes the call, and all who ask meanwhile, on whichever subject, are given its answer or its
    error; the next one asks anew. The call is cancelled only when all who wait for it are.

    As middleware, for rules whose effect is outside, such as one that fills a cache: while one is run, others of the
    same key wait, and if it succeeds they are stopped, and the outcome says so. If it fails, the next one is run. Do
    not use it around a rule that changes its subject or sends anything: that would then not happen.

    Args:
        key: for middleware: function of the context; equal keys are equal runs. By default the rule.
        ttl: how long an answer, or a run that succeeded, stands in for later ones (seconds, or a timedelta, by the
            event loop's clock); None for only as long as it is under way. An error never does.
        limit: answers that are kept at the same time (a count); those kept longest go first.

    Raises:
        RuleDefinitionError: an option is out of its range.
    """

    scopes = ("rule",)

    def __init__(self, *, key: Key | None = None, ttl: Duration | None = None, limit: int = 1000) -> None:
        self._key = key_function(key, "SingleFlight: key")
        self._ttl = None if ttl is None else seconds(ttl, "SingleFlight: ttl")
        self._limit = positive_int(limit, "SingleFlight: limit")
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Flights] = WeakKeyDictionary()

    async def run(self, key: str, call: Callable[[], Awaitable[T]]) -> T:
        """Return what a call returns, or what one that is under way with the same key does.

        Args:
            key: what tells calls apart.
            call: makes it; run apart from the rule, so it must not use the rule's context or subject. What it
                returns is given to several rules: they must not change it.

        Raises:
            Exception: whatever the call raises; the same object for all who wait for it, and with it notes on it.
        """
        loop = asyncio.get_running_loop()
        flights = self._flights(loop)
        kept = flights.kept_answer(("call", key), loop.time())
        if kept is not _ENDED:
            return cast(T, kept)
        flight = flights.under_way.get(key)
        if flight is None:
            flight = self._begin(flights, key, call, loop)
        flight.waiting += 1
        try:
            return cast(T, await asyncio.shield(flight.task))
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                flights.forget(key, flight)  # the next one who asks is not to be given a cancellation

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, or wait for an equal run that has; if that succeeds, stop."""
        rule_of(ctx, "SingleFlight")
        loop = asyncio.get_running_loop()
        flights, key = self._flights(loop), self._key(ctx)
        while flights.kept_answer(("run", key), loop.time()) is _ENDED:
            ahead = flights.runs.get(key)
            if ahead is None:
                await self._lead(ctx, next, flights, key, loop)
                return
            if await asyncio.shield(ahead):
                return

    async def _lead(
        self, ctx: Context[Any], next: Next, flights: _Flights, key: str, loop: asyncio.AbstractEventLoop
    ) -> None:
        mine = flights.runs[key] = loop.create_future()
        worked = False
        try:
            await next()
            worked = ctx._error is None and not ctx._stopped_by
            if worked:
                self._keep(flights, ("run", key), None, loop)
        finally:
            del flights.runs[key]
            mine.set_result(worked)

    def _begin(
        self, flights: _Flights, key: str, call: Callable[[], Awaitable[T]], loop: asyncio.AbstractEventLoop
    ) -> _Flight:
        async def make() -> T:
            return await call()

        # What it emits cannot be a turn's own: the turns of all others who wait would know nothing of it.
        context = copy_context()
        context.run(RUNNING.set, None)
        flight = flights.under_way[key] = _Flight(
            loop.create_task(make(), context=context, name="onwhen-single-flight")
        )

        def landed(task: asyncio.Task[Any]) -> None:
            flights.forget(key, flight)
            if not task.cancelled() and task.exception() is None:  # asking for it also says that somebody knows of it
                self._keep(flights, ("call", key), task.result(), loop)

        flight.task.add_done_callback(landed)
        return flight

    def _keep(self, flights: _Flights, key: tuple[str, str], answer: Any, loop: asyncio.AbstractEventLoop) -> None:
        if self._ttl is None:
            return
        flights.kept[key] = loop.time() + self._ttl, answer
        flights.kept.move_to_end(key)
        while len(flights.kept) > self._limit:
            flights.kept.popitem(last=False)

    def _flights(self, loop: asyncio.AbstractEventLoop) -> _Flights:
        flights = self._loops.get(loop)
        if flights is None:
            flights = self._loops[loop] = _Flights()
        return flights


class _Flight:
    """A call under way, and how many wait for it."""

    __slots__ = ("task", "waiting")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.waiting = 0


class _Flights:
    """What is under way on one event loop, and what is kept."""

    __slots__ = ("kept", "runs", "under_way")

    def __init__(self) -> None:
        self.under_way: dict[str, _Flight] = {}
        self.runs: dict[str, asyncio.Future[bool]] = {}
        self.kept: OrderedDict[tuple[str, str], tuple[float, Any]] = OrderedDict()

    def kept_answer(self, key: tuple[str, str], now: float) -> Any:
        """Return the answer that is kept for a key, or `_ENDED`."""
        if (found := self.kept.get(key)) is None:
            return _ENDED
        until, answer = found
        if now < until:
            return answer
        del self.kept[key]
        return _ENDED

    def forget(self, key: str, flight: _Flight) -> None:
        """Let the next one who asks ask anew."""
        if self.under_way.get(key) is flight:
            del self.under_way[key]
