"""Timeout: a rule, or a whole event, may take only so long.

Belongs here: the same bound as a rule's own `timeout=`, for a rule set, all rules or events, or a part of a chain. It
must not know how what is late is cut off (`engine.endings`), nor what a failure leads to.
"""

from __future__ import annotations

import asyncio
from typing import Any

from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_turn, timed
from onwhen.errors import RuleTimeout
from onwhen.middleware._options import Duration
from onwhen.middleware._options import seconds as checked

__all__ = ["Timeout"]


class Timeout:
    """Fails a rule with `RuleTimeout` that takes too long, with all middleware that is further in.

    The rule is cancelled where it waits, and what it did is undone; one that blocks without waiting cannot be cut off.
    Unlike the rule's own `timeout=`, which is around everything, what is further out can deal with it: `Retry` tries
    again, `CircuitBreaker` counts it. The error's `seconds` say which of several time-outs it was.

    Around events (`bus.use(Timeout(60), scope="event")`) what is late fails as a whole.

    Args:
        seconds: how long it may take (seconds, or a timedelta).

    Raises:
        RuleDefinitionError: that is no duration.
    """

    scopes = ("rule",)

    def __init__(self, seconds: Duration) -> None:
        self._seconds = checked(seconds, "Timeout: seconds")

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, for so long."""
        rule, state = ctx.rule, ctx._effects.state
        if rule is None:
            what = f"all that is run on {ctx.event_type} to {ctx.subject.name}"
            await self._bounded(next, what)
            return
        mark = state.mark()
        try:
            await self._bounded(next, rule.id)
        except RuleTimeout as error:
            if error is not ctx._error and (ctx._error is None or not ends_the_turn(ctx._error)):
                # It stands for the rule's own failure, so what is further out may tell of it, and that is kept.
                state.rollback(mark)
                ctx._error = error
            raise

    async def _bounded(self, next: Next, what: str) -> None:
        if (rest := timed(next(), what, self._seconds, asyncio.get_running_loop())) is not None:
            await rest
