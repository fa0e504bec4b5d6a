"""Retry: a rule that fails is run again at once or after a short wait, within its turn.

Belongs here: which failures are tried again and how long each wait is. It must not know how what has failed is undone
(`Next.attempt`), nor what happens when it gives up: that is the rule's retry policy.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015, for full, equal and decorrelated
jitter.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Any, Final, Literal, TypeAlias, get_args

from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.errors import Postponed, RuleDefinitionError
from onwhen.middleware._options import Duration, Errors, error_test, one_of, positive_int, rule_of, seconds

__all__ = ["Jitter", "Retry", "Wait"]

Jitter: TypeAlias = Literal["full", "equal", "decorrelated", "none"]
"""How chance spreads the waits; see `Retry`."""

Wait: TypeAlias = Callable[[BaseException], Duration | None]
"""Says how long to wait at least after an error; None for as long as usual."""

_SPREAD: Final = 3.0  # of decorrelated jitter: a wait is at most this many times the one before


class Retry:
    """Runs a rule again that has failed, within its turn: for what may well work a moment later.

    What the failed attempt did is undone first. While it waits the turn goes on, and with it the rule's time-out: it
    is for waits of milliseconds. Longer ones are the rule's `RetryPolicy`, which is asked when this gives up: its
    attempts count turns, so a rule runs up to `attempts` times in each of them. What asks for its own later moment
    (`Postponed`: an open circuit, a rate limit) is left to that.

    Waits are measured by the event loop, as time-outs are, also where the bus has a clock that is moved by hand.

    Args:
        attempts: how often the rule is run at most in one turn, the first time included (a count, at least 1).
        delay: wait before the second attempt, before chance has its part (seconds, or a timedelta).
        factor: each further wait is this many times the one before (at least 1).
        max_delay: no wait is longer, unless the error asks for it (seconds, or a timedelta).
        jitter: "full", from nothing up to the wait; "equal", from half of it; "decorrelated", from `delay` up to
            three times the wait before; "none". Chance is derived from the event and the rule.
        retry_on: an exception class, a tuple of them, or a predicate on the error; others are not tried again, nor is
            what is no `Exception`, as a cancellation.
        wait: given the error, how long to wait at least (seconds, or a timedelta), None for as usual. By default an
            attribute `retry_after` of the error.
        budget: all waits of one run together are never longer (seconds, or a timedelta). A wait that would be is not
            begun: then this gives up.

    Raises:
        RuleDefinitionError: an option is out of its range.
    """

    scopes = ("rule",)

    def __init__(
        self,
        attempts: int = 3,
        *,
        delay: Duration = 0.1,
        factor: float = 2.0,
        max_delay: Duration = 2.0,
        jitter: Jitter = "full",
        retry_on: Errors = Exception,
        wait: Wait | None = None,
        budget: Duration = 5.0,
    ) -> None:
        if type(factor) not in (int, float) or not 1 <= factor < math.inf:
            raise RuleDefinitionError(f"Retry: factor={factor!r} must be a number of at least 1, and finite")
        if wait is not None and (not callable(wait) or inspect.iscoroutinefunction(wait)):
            raise RuleDefinitionError(f"Retry: wait={wait!r} must be a plain function of the error, to seconds")
        self._attempts = positive_int(attempts, "Retry: attempts")
        self._delay = seconds(delay, "Retry: delay", zero=True)
        self._factor = factor
        self._max_delay = seconds(max_delay, "Retry: max_delay", zero=True)
        self._jitter: Jitter = one_of(jitter, "Retry: jitter", *get_args(Jitter))
        self._is_meant = error_test(retry_on, "Retry: retry_on")
        self._wait = wait
        self._budget = seconds(budget, "Retry: budget", zero=True)

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, again if need be."""
        rule_of(ctx, "Retry")
        chance: Random | None = None
        attempt, wait, waited = 1, 0.0, 0.0
        while True:
            try:
                return await next.attempt()
            except Exception as error:
                if attempt >= self._attempts or isinstance(error, Postponed) or not self._is_meant(error):
                    _tell(error, attempt, waited)
                    raise
                chance = chance or Random(f"{ctx.idempotency_key}/{ctx.attempt}")
                wait = self.backoff(attempt, wait, chance.random())
                pause = max(wait, self._asked_for(error))
                if waited + pause > self._budget:
                    _tell(error, attempt, waited, f", and another wait of {pause:.3g} s is over its budget")
                    raise
            await asyncio.sleep(pause)
            attempt, waited = attempt + 1, waited + pause

    def backoff(self, attempt: int, before: float, chance: float) -> float:
        """Return how long to wait after an attempt has failed (seconds).

        Args:
            attempt: which one (1 is the first).
            before: the wait before that, 0 if there was none (seconds); for decorrelated jitter.
            chance: a number from 0 to 1.
        """
        if self._jitter == "decorrelated":
            most = max(self._delay, before) * _SPREAD
            return min(self._max_delay, self._delay + (most - self._delay) * chance)
        try:
            wait = min(self._max_delay, self._delay * self._factor ** (attempt - 1))
        except OverflowError:
            wait = self._max_delay if self._delay else 0.0
        least = {"full": 0.0, "equal": 0.5, "none": 1.0}[self._jitter]
        return wait * (least + (1 - least) * chance)

    def _asked_for(self, error: Exception) -> float:
        """Return how long an error asks to wait; nothing if it does not, or not understandably (seconds)."""
        try:
            given: Any = getattr(error, "retry_after", None) if self._wait is None else self._wait(error)
        except Exception as broken:
            error.add_note(f"Retry waited as usual, because wait raised {broken!r}")
            return 0.0
        if isinstance(given, timedelta):
            given = given.total_seconds()
        # From outside, as a header of a response: anything that is no number of seconds asks for nothing.
        return float(given) if type(given) in (int, float) and given > 0 else 0.0


def _tell(error: Exception, attempts: int, waited: float, why: str = "") -> None:
    """Leave on an error how often it was tried."""
    if attempts > 1 or why:
        times = f"{attempts} times" if attempts > 1 else "once"
        error.add_note(f"Retry has run it {times} in this turn and waited {waited:.3g} s{why}")
