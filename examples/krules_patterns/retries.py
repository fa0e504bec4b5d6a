"""Retries with exponential back-off: as a handler of its own, with a timer, and by the engine's policy."""

from __future__ import annotations

from asyncio import sleep
from dataclasses import dataclass, field
from datetime import timedelta

from onwhen import Container, Context, RetryPolicy


@dataclass
class Response:
    """What the service answers."""

    status: int

    @property
    def ok(self) -> bool:
        return self.status < 400


@dataclass
class ApiClient:
    """A service outside, which answers as it is told to."""

    statuses: list[int] = field(default_factory=list)

    async def call(self) -> Response:
        return Response(self.statuses.pop(0))


api_client = ApiClient()

# -- the handler counts and waits by itself: almost as KRules has it. It works, but the subject waits with it: no other
#    event of the same subject is handled meanwhile. And if the process ends, the turn is run again from its start.

sleeping = Container()
on, when, middleware, emit = sleeping.handlers()


@on("api.call")
@when(lambda ctx: ctx.subject.get("retry_count", 0) < 3)
async def call_with_retry(ctx: Context) -> None:
    """Retry failed API calls."""
    try:
        response = await api_client.call()

        if response.ok:
            ctx.subject.set("retry_count", 0, muted=True)
            ctx.subject.set("last_success", ctx.now.isoformat())
        else:
            raise Exception(f"API error: {response.status}")

    except Exception as e:
        # Increment retry count
        retry_count = ctx.subject.get("retry_count", 0) + 1
        ctx.subject.set("retry_count", retry_count, muted=True)

        if retry_count < 3:
            # Exponential backoff
            await sleep(2**retry_count)
            await ctx.emit("api.call")  # Retry
        else:
            # Max retries reached
            await ctx.emit("api.call_failed", {"error": str(e), "retries": retry_count})


# -- the same with a timer in place of the sleep: it is stored with the count, in one commit, and outlives the process

timed = Container()
on, when, middleware, emit = timed.handlers()


@on("api.call")
@when(lambda ctx: ctx.subject.get("retry_count", 0) < 3)
async def call_with_timer(ctx: Context) -> None:
    """Retry failed API calls, and let the subject go on meanwhile."""
    try:
        response = await api_client.call()

        if response.ok:
            ctx.subject.set("retry_count", 0, muted=True)
            ctx.subject.set("last_success", ctx.now.isoformat())
        else:
            raise Exception(f"API error: {response.status}")

    except Exception as e:
        retry_count = ctx.subject.get("retry_count", 0) + 1
        ctx.subject.set("retry_count", retry_count, muted=True)

        if retry_count < 3:
            await ctx.emit("api.call", delay=timedelta(seconds=2**retry_count))
        else:
            await ctx.emit("api.call_failed", {"error": str(e), "retries": retry_count})


# -- the engine's way: the rule says what it does, the policy what happens when it fails

by_policy = Container()
on, when, middleware, emit = by_policy.handlers()


@on("api.call", retry=RetryPolicy(attempts=3, delay=timedelta(seconds=2), factor=2, jitter=0))
async def call_with_policy(ctx: Context) -> None:
    response = await api_client.call()
    if not response.ok:
        raise Exception(f"API error: {response.status}")
    ctx.subject.set("last_success", ctx.now.isoformat())
