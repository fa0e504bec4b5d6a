"""Rules that feel every interruption: retries, timers, cascades, dead letters; each notes what it saw, and when.

The APP of replays that are stopped: `tests.cli.desks:rules`, and `tests.cli.desks:mortal` for those that die. What the
rules note is part of the state, so a dump shows each thing that was done twice, not at all, in another order or at
another moment.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from datetime import timedelta
from typing import Any
from zlib import crc32

from examples.helpdesk.rules import customers, tickets
from onwhen import Context, RetryPolicy, RuleSet

HOUR = timedelta(hours=1)

desks = RuleSet("desks")
rules = [tickets, customers, desks]


def drawn(ctx: Context[Any], what: str) -> int:
    """A number from 0 to 99 that depends on the event alone."""
    assert ctx.event is not None
    return crc32(f"{ctx.event.id}/{what}".encode()) % 100


def note(ctx: Context[Any], what: str) -> None:
    """Keep what was done in the state, with the moment."""
    seen = ctx.subject.ext.get("seen", [])
    ctx.subject.ext["seen"] = [*seen[-9:], f"{ctx.now:%d %H:%M:%S.%f} {what} {ctx.attempt} {ctx.event.id[-8:]}"]


@desks.on("ticket.*", retry=RetryPolicy(attempts=3, delay=5 * HOUR))
async def ask(ctx: Context[Any]) -> None:
    """Fails now and then, in order; some of it for good."""
    if drawn(ctx, "fails") < 10 and ctx.attempt <= drawn(ctx, "times") % 5:
        raise ConnectionError("nobody answers")
    note(ctx, "ask")
    await ctx.emit("desk.asked", subject=f"desk:{drawn(ctx, 'desk') % 3}")


@desks.on("ticket.*", retry=RetryPolicy(attempts=2, delay=24 * HOUR, in_order=False))
def tell(ctx: Context[Any]) -> None:
    """Fails now and then, and lets later events go on."""
    if drawn(ctx, "tell") < 10 and ctx.attempt <= drawn(ctx, "times") % 4:
        raise ConnectionError("nobody listens")
    note(ctx, "tell")


@desks.on("ticket.*")
def remind(ctx: Context[Any]) -> None:
    """Sets timers: for the next day, where the latest one counts, and for at once."""
    if drawn(ctx, "remind") < 30:
        ctx.emit("desk.reminded", delay=24 * HOUR, key="day")
    if drawn(ctx, "now") < 10:
        ctx.emit("desk.reminded", delay=0 * HOUR, key="now")


@desks.on("desk.asked", "desk.passed", "desk.reminded")
async def pass_on(ctx: Context[Any]) -> None:
    """Cascades: one message leads to two more, which are handled in the order of the log."""
    note(ctx, ctx.event_type)
    if ctx.event_type == "desk.asked":
        for side in range(2):
            await ctx.emit("desk.passed", subject=f"desk:{(drawn(ctx, 'to') + side) % 3}")


class Dying(RuleSet):
    """No rules; the process that includes it is killed at a random moment from then on.

    How long it has (seconds, at most) is in the environment; unset, it lives.
    """

    def __init__(self) -> None:
        super().__init__("dying")
        if longest := os.environ.get("DESKS_LIVE_FOR"):
            timer = threading.Timer(random.uniform(0, float(longest)), os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()


mortal = [*rules, Dying()]
