"""The cases in onwhen: a bus over a store in memory, with receipts, as `await bus.emit(...)` comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.cases import LEVEL, MANY, MIDDLEWARES, SUBJECT, TEMPERATURES, THRESHOLD
from benchmarks.serving import Program, Tally, serve
from onwhen import Context, EventBus, RuleSet, Subject, __version__, changed, create_memory_storage, when


def _bus(rules: RuleSet) -> EventBus:
    return EventBus(rules, store=create_memory_storage())


def _counting(tally: Tally, name: str) -> Callable[[Context[Subject]], Any]:
    async def rule(ctx: Context[Subject]) -> None:
        tally.fired += 1

    rule.__name__ = rule.__qualname__ = name
    return rule


def one_rule() -> Program:
    rules, tally = RuleSet("devices"), Tally()

    @rules.on("device.checked")
    @when(lambda ctx: ctx.payload["level"] > THRESHOLD)
    async def count(ctx: Context[Subject]) -> None:
        tally.fired += 1

    return Program(_bus(rules).emit, [("device.checked", SUBJECT, {"level": LEVEL})], tally)


def many_rules() -> Program:
    rules, tally = RuleSet("devices"), Tally()
    types = [f"device.checked.{number}" for number in range(MANY)]
    for number, event_type in enumerate(types):
        condition = when(lambda ctx: ctx.payload["level"] > THRESHOLD)
        rules.on(event_type)(condition(_counting(tally, f"count_{number}")))
    bus = _bus(rules)
    for _ in range(MIDDLEWARES):

        async def go_on(ctx: Any, next: Any) -> None:
            await next()

        bus.use(go_on)
    return Program(bus.emit, [(event_type, SUBJECT, {"level": LEVEL}) for event_type in types], tally)


def reaction() -> Program:
    rules, tally = RuleSet("devices"), Tally()

    @rules.on("device.measured")
    async def measure(ctx: Context[Subject]) -> None:
        ctx.subject.set("temperature", ctx.payload["temperature"])

    @rules.on(changed("temperature"))
    @when(lambda ctx: ctx.new_value > THRESHOLD)
    async def count(ctx: Context[Subject]) -> None:
        tally.fired += 1

    events = [("device.measured", SUBJECT, {"temperature": temperature}) for temperature in TEMPERATURES]
    return Program(_bus(rules).emit, events, tally)


if __name__ == "__main__":
    serve("onwhen", __version__, {"rule": one_rule, "many": many_rules, "reaction": reaction})
