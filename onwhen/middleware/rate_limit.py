"""Rate limit: so many runs in so long and no more; the others wait, are put off, or dropped.

Belongs here: the middleware around a rule or an event: which limit a run belongs to, and what becomes of one that is
too early. It must not know how a limit decides (`_gcra`) or where it is kept (`_limits`).
"""

from __future__ import annotations

import asyncio
from math import ceil, floor
from typing import TYPE_CHECKING, Any, Final, Literal

from onwhen.engine.chain import Next
from onwhen.engine.context import DEFERRED, Context
from onwhen.errors import RateLimited, RuleDefinitionError
from onwhen.middleware._by_key import ByKey
from onwhen.middleware._gcra import Pace, Queue
from onwhen.middleware._limits import Limit, Local, Together
from onwhen.middleware._moments import delay_for
from onwhen.middleware._options import (
    LONGEST,
    Duration,
    Key,
    key_function,
    microseconds,
    one_of,
    plain_name,
    positive_int,
)
from onwhen.middleware._shared import Shared, cell_key

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["RateLimit"]

_EVENTS: Final = "events"  # the limit of what is around whole events


class RateLimit:
    """Lets through `rate` runs per `per`, and a `burst` of them at once after a pause.

        @orders.on("order.paid", middleware=[RateLimit(10, per=1, shared=True)])  # the bank takes ten in a second
        bus.use(RateLimit(100, per=60, key=lambda ctx: ctx.subject.name, when_exceeded="drop"), scope="event")

    In any stretch of time t, at most `burst` + t * `rate` / `per` runs begin (the generic cell rate algorithm). A run
    is judged when it comes, so what comes late, after a worker was down for instance, cannot come all at once.

    What is too early is put off (`RateLimited`), by default, and comes back without having used up an attempt. The
    places at which they come back are one behind the other, at the pace of the limit; those who have one go before all
    that come anew. With `when_exceeded="wait"` a run waits within its turn if its place comes within `max_wait`, or
    else is put off. That holds up its subject, and counts towards the rule's time-out; it is measured by the event
    loop, also where the bus has a clock that is moved by hand. With "drop" a run is stopped, and the outcome says so:
    nothing is run later. But no failure is dropped: what has failed before, and is to be run again, is put off.

    Each run counts, also one that fails; and a turn that is run again, because its subject moved on or its process
    died, counts again: never too many are let through, perhaps one too few.

    Who shares a limit: by default each process counts for itself, and begins anew when it starts. With `shared` all
    workers of the store do, by the store's clock, for one call to the store per run, or a few where several decide at
    the same moment. If the store does not answer, each worker keeps the limit for itself until it does, going on from
    what it knows. All that share a limit have to be given the same options.

    Args:
        rate: how many (more than 0).
        per: in how long (seconds or a timedelta).
        burst: how many may begin at once after a pause (a count); by default `rate`, rounded down, but at least 1. With
            1 they are evenly spaced.
        name: which limit, for several rules that share one. By default each rule has its own, by its id.
        key: function of the context that returns which limit, as a text; below `name` if there is one. At most 10,000
            are remembered, those that were used last.
        shared: among all workers of the store.
        when_exceeded: "postpone", "wait" or "drop".
        max_wait: how long to "wait" at most (seconds or a timedelta).

    Raises:
        RuleDefinitionError: an option is not what it must be.
    """

    def __init__(
        self,
        rate: float,
        per: Duration = 1.0,
        burst: int | None = None,
        *,
        name: str | None = None,
        key: Key | None = None,
        shared: bool = False,
        when_exceeded: Literal["postpone", "wait", "drop"] = "postpone",
        max_wait: Duration = 1.0,
    ) -> None:
        period = microseconds(per, "RateLimit: per")
        if type(rate) not in (int, float) or not 0 < rate <= period or period / rate > LONGEST * 1e6:
            raise RuleDefinitionError(
                f"RateLimit: rate={rate!r:.80} must be more than 0, at most one in a microsecond and at least one in "
                f"100 years"
            )
        if burst is None:
            burst = max(floor(rate), 1)
        # Rounded up: rather a little slower than was said than a little faster.
        self._pace = Pace(ceil(period / rate), positive_int(burst, "RateLimit: burst"))
        self._name = plain_name(name, "RateLimit: name")
        self._key = None if key is None else key_function(key, "RateLimit: key")
        self._shared = one_of(shared, "RateLimit: shared", True, False)
        one_of(when_exceeded, "RateLimit: when_exceeded", "postpone", "wait", "drop")
        longest = microseconds(max_wait, "RateLimit: max_wait", zero=True)
        self._max_wait = longest if when_exceeded == "wait" else 0
        self._drops = when_exceeded == "drop"
        self._limits = ByKey(self._make)

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on if the limit allows it, or as soon as it does."""
        key = self._key_for(ctx)
        limit = self._limits.of(ctx.bus, key)
        again = ctx.attempt > 1 or (ctx.rule is None and DEFERRED in ctx.event.extensions)
        drops = self._drops and not again
        permit, now = await limit.take(again=again, waits=not drops)
        if permit.wait:
            if drops:
                return
            await self._wait(ctx, key, limit, permit.wait, now)
        await next()

    async def _wait(self, ctx: Context[Any], key: str, limit: Limit, wait: int, now: int) -> None:
        """Return once the limit allows it.

        Raises:
            RateLimited: that would take too long.
        """
        rest = self._max_wait
        while wait:
            if wait > rest:
                told = f"rate limit {key!r} is used up; {ctx.rule or 'the event'} is run when its place in line comes"
                raise RateLimited(told, delay=delay_for(ctx, wait))
            rest -= wait
            await asyncio.sleep(wait / 1e6)
            permit, now = await limit.take(again=True, waits=True, moment=now + wait)
            wait = permit.wait

    def _key_for(self, ctx: Context[Any]) -> str:
        if self._key is None:
            return self._name or (ctx.rule.id if ctx.rule is not None else _EVENTS)
        return f"{self._name}/{self._key(ctx)}" if self._name else self._key(ctx)

    def _make(self, bus: EventBus, key: str) -> Limit:
        if not self._shared:
            return Local(self._pace, bus.clock)
        return Together(self._pace, Shared(bus.store, bus.clock, cell_key("rate_limit", key), Queue))
