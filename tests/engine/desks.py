"""A bus whose rules fail while they are told to, and park their subject; several tests use it."""

import asyncio
from datetime import timedelta
from typing import Any

from onwhen import (
    Context,
    EventBus,
    RetryPolicy,
    RuleSet,
    VirtualClock,
)
from onwhen.engine.store import Retry, Store
from tests.engine.buses import value

PARK = RetryPolicy(on_exhausted="park")
TWICE = RetryPolicy(attempts=2, delay=timedelta(seconds=10), jitter=0, on_exhausted="park")


class Desk:
    """A bus with rules that fail while they are told to, and then park their subject."""

    def __init__(self, store: Store, policy: RetryPolicy = PARK) -> None:
        self.broken = {"one", "two"}
        self.runs: list[tuple[str, Any, int]] = []
        self.rules = RuleSet("desk")
        self.bus = EventBus(self.rules, store=store, clock=VirtualClock())
        for name in ("one", "two"):
            self.rules.on(f"go.{name}", "go.both", name=name, retry=policy)(self.rule(name))

        @self.rules.on("noted")
        def note(ctx: Context) -> None:
            ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload])

    def rule(self, name: str) -> Any:
        async def run(ctx: Context) -> None:
            self.runs.append((name, ctx.payload, ctx.attempt))
            await asyncio.sleep(0)
            if name in self.broken:
                raise LookupError(f"{name} is broken")
            ctx.subject.set("order", [*ctx.subject.get("order", []), name])

        return run

    async def parked(self, subject: str | None = None) -> list[Retry]:
        return [retry async for retry in self.bus.parked(subject)]

    async def order(self) -> Any:
        return await value(self.bus, "a", "order")
