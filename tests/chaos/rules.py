"""The rules of the service that is killed. Each keeps in the state what it has seen, and finds fault with it at once.

Belongs here: rules. What they should do with an event is in the plan.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from onwhen import Context, RetryPolicy, RuleSet, Subject, changed
from tests.chaos.plan import ITEMS, chance, fails, mix, next_of

__all__ = ["Account", "Item", "rules"]

MOMENT = timedelta(milliseconds=15)


class Item(Subject, prefix="item:"):
    """A subject under load.

    Attributes:
        last: emitter -> number of its latest event that was counted.
        sure: the same, of the rule that is retried in order.
        seen: what, and emitter -> how often it was, and the sum of what stands for each.
        latest: emitter -> number of the event whose message, or timer, came last.
        gaps: rule, emitter, number of an event, and of the one before it where that is not the one that it should be.
        waits: emitter and number of the event that `insist` has not done yet: all others have to wait for that.
        overtaken: emitter and number of each event that was overtaken while it waited.
        wrong: what else was found to be wrong.
    """

    last: dict[str, int] = {}
    sure: dict[str, int] = {}
    seen: dict[str, tuple[int, int]] = {}
    latest: dict[str, int] = {}
    gaps: list[tuple[str, int, int, int]] = []
    waits: tuple[int, int] | None = None
    overtaken: list[tuple[int, int]] = []
    wrong: list[str] = []


class Account(Subject, prefix="account:"):
    """A subject that is changed from outside; each change has to be told once, and in order."""

    n: int = 0
    told: int = 0
    wrong: list[str] = []


items = RuleSet("items", subject=Item)
accounts = RuleSet("accounts", subject=Account)
rules = (items, accounts)


def of(ctx: Context[Any]) -> tuple[int, int]:
    """The emitter of an event, and its number."""
    return ctx.payload["e"], ctx.payload["n"]


def see(ctx: Context[Item], what: str) -> None:
    """Note that something has come."""
    emitter, number = of(ctx)
    if what != "attempt":  # which waits for nobody
        look_behind(ctx)
    count, total = ctx.subject.seen.get(f"{what} {emitter}", (0, 0))
    ctx.subject.seen[f"{what} {emitter}"] = (count + 1, total + mix(emitter, number))


def look_behind(ctx: Context[Item]) -> None:
    """Note if something is handled that should have waited for an earlier event."""
    waits = ctx.subject.waits
    if waits is not None and fails(*waits, "insist") < 3:
        ctx.subject.overtaken.append(waits)


def in_order(ctx: Context[Item], what: str) -> None:
    """Note that something has come, which has to come in the order in which it was emitted."""
    emitter, number = of(ctx)
    key = f"{what} {emitter}"
    if number <= ctx.subject.latest.get(key, -1):
        ctx.subject.wrong.append(f"{key}: {number} after {ctx.subject.latest[key]}")
    ctx.subject.latest[key] = number
    see(ctx, what)


@items.on("work")
async def count(ctx: Context[Item]) -> None:
    """Counts, and sends messages and sets timers."""
    emitter, number = of(ctx)
    look_behind(ctx)
    follows(ctx, ctx.subject.last, number - ITEMS)
    ctx.subject.waits = emitter, number
    data = {"e": emitter, "n": number}
    if chance(emitter, number, "slow") < 0.02:
        await asyncio.sleep(0.004)
    if chance(emitter, number, "pass") < 0.4:
        await ctx.emit("passed", data, f"item:{next_of(emitter, number)}")
    if chance(emitter, number, "ring") < 0.08:
        due = ctx.now + timedelta(milliseconds=20 + 80 * chance(emitter, number, "when"))
        await ctx.emit("rung", {**data, "due": due.timestamp()}, delay=due - ctx.now, key=f"{emitter}.{number}")
    if chance(emitter, number, "replace") < 0.2:
        await ctx.emit("replaced", data, delay=MOMENT, key="latest")
    elif chance(emitter, number, "cancel") < 0.1:
        await ctx.cancel("latest")


def follows(ctx: Context[Item], last: dict[str, int], before: int) -> None:
    """Note an event, which has to be the next one of its emitter to this subject."""
    emitter, number = of(ctx)
    known = last.get(str(emitter), -1)
    if known != max(before, -1):
        ctx.subject.gaps.append((ctx.rule.id.rpartition(".")[2], emitter, number, known))
    last[str(emitter)] = number


@items.on("work", retry=RetryPolicy(attempts=3, delay=MOMENT, factor=1))
async def insist(ctx: Context[Item]) -> None:
    """Fails now and then, and lets later events wait; sometimes for good."""
    emitter, number = of(ctx)
    if ctx.attempt <= fails(emitter, number, "insist"):
        raise ConnectionError("nobody answers")
    before = number - ITEMS
    while before >= 0 and fails(emitter, before, "insist") > 3:
        before -= ITEMS
    follows(ctx, ctx.subject.sure, before)
    ctx.subject.waits = None


@items.on("work", retry=RetryPolicy(attempts=3, delay=MOMENT, factor=1, in_order=False))
def attempt(ctx: Context[Item]) -> None:
    """Fails now and then, and lets later events go on."""
    if ctx.attempt <= fails(*of(ctx), "attempt"):
        raise ConnectionError("nobody answers")
    see(ctx, "attempt")


@items.on("passed")
async def pass_on(ctx: Context[Item]) -> None:
    """Passes some on, once more."""
    emitter, number = of(ctx)
    in_order(ctx, "passed")
    if chance(emitter, number, "on") < 0.3:
        await ctx.emit("ended", {"e": emitter, "n": number}, f"item:{next_of(emitter, number + 1)}")


@items.on("ended")
def end(ctx: Context[Item]) -> None:
    """The end of a cascade."""
    in_order(ctx, "ended")


@items.on("rung")
def ring(ctx: Context[Item]) -> None:
    """A timer that nobody replaces: it fires once, and not early."""
    if ctx.now.timestamp() < ctx.payload["due"]:
        ctx.subject.wrong.append(f"early: {ctx.payload}")
    see(ctx, "rung")


@items.on("replaced")
def replace(ctx: Context[Item]) -> None:
    """A timer that is replaced and cancelled again and again."""
    in_order(ctx, "replaced")


@accounts.on(changed("n"))
def tell(ctx: Context[Account]) -> None:
    """What is changed from outside is told as messages."""
    if (ctx.old_value or 0) != ctx.subject.told or ctx.new_value != ctx.subject.told + 1:
        ctx.subject.wrong.append(f"told {ctx.old_value} -> {ctx.new_value} after {ctx.subject.told}")
    ctx.subject.told += 1
