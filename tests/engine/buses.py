"""Buses and rules that the tests of the bus share."""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from onwhen import (
    Context,
    EventBus,
    RuleSet,
    create_memory_storage,
)

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
USER: ContextVar[str] = ContextVar("user", default="nobody")


def new_bus(*rule_sets: RuleSet, **options: Any) -> EventBus:
    options.setdefault("store", create_memory_storage())
    return EventBus(*rule_sets, **options)


async def value(bus: EventBus, subject: str, name: str) -> Any:
    return (await bus.read(subject)).get(name)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens within seconds."""
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


def counter() -> RuleSet:
    """Rules that count events, the slow way: a turn that overlaps another one would lose a count."""
    rules = RuleSet("counter")

    @rules.on("counted")
    async def count(ctx: Context) -> None:
        before = ctx.subject.get("n", 0)
        for _ in range(ctx.payload.get("steps", 0)):
            await asyncio.sleep(0)
        ctx.subject.set("n", before + 1)
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload.get("number", 0)])

    return rules


class Stops:
    """A rule that can be stopped at each of its awaits, and a cascade behind it."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.rules = RuleSet("stops")

        @self.rules.on("first")
        async def first(ctx: Context) -> None:
            ctx.subject.set("a", ctx.subject.get("a", 0) + 1)
            await self.gate.wait()
            await asyncio.sleep(0)
            ctx.subject.set("b", ctx.subject.get("b", 0) + 1)
            await ctx.emit("second", None, "other")

        @self.rules.on("second")
        async def second(ctx: Context) -> None:
            await asyncio.sleep(0)
            ctx.subject.set("n", ctx.subject.get("n", 0) + 1)

        self.bus = new_bus(self.rules)
