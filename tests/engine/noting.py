"""Rules that note the order in which they are run, and what tests of that order share."""

import asyncio

from onwhen import Context, EventBus, RuleSet
from tests.engine.buses import value


def notes() -> RuleSet:
    """Rules that keep the order in which a subject's events were handled, and send on what they are told to."""
    rules = RuleSet("notes")

    @rules.on("noted")
    def note(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload])

    @rules.on("pass")
    async def pass_on(ctx: Context) -> None:
        for _ in range(ctx.payload.get("steps", 0)):
            await asyncio.sleep(0)
        for number in ctx.payload["numbers"]:
            ctx.emit("noted", number, "a")

    return rules


async def order(bus: EventBus, subject: str = "a") -> list[object]:
    found: list[object] = await value(bus, subject, "order")
    return found


async def settle() -> None:
    """Let everything that can happen by itself happen."""
    for _ in range(50):
        await asyncio.sleep(0)


def gated(gate: asyncio.Event, waiting: list[str]) -> RuleSet:
    """Rules as `notes`, and one that waits at a gate before it sends its subject's name."""
    rules = notes()

    @rules.on("gated")
    async def wait(ctx: Context) -> None:
        waiting.append(ctx.subject.name)
        await gate.wait()
        ctx.emit("noted", ctx.subject.name, "a")

    return rules
