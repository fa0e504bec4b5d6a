"""What happens after a rule has failed, as data: a policy decides, the engine carries the decision out.

Belongs here: the policy, its decisions and the arithmetic of delays. It must not know of clocks, stores or
rules: it is given an error and an attempt and answers with a value.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from onwhen.errors import RuleDefinitionError

__all__ = ["GiveUp", "Park", "RetryAfter", "RetryDecision", "RetryPolicy"]

_LONGEST: Final = timedelta(days=36_525)  # longer waits are a slip of the pen, and too much for arithmetic with dates


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Run the rule again once `delay` has passed."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The attempts are used up, or the error is not one to retry: set the event aside as a dead letter."""


@dataclass(frozen=True, slots=True)
class Park:
    """The same, but the subject's later events are to wait until somebody has seen to it."""


RetryDecision: TypeAlias = RetryAfter | GiveUp | Park


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often a failed rule is run again, and when.

    Args:
        attempts: how often the rule is run at most, the first time included (a count, at least 1).
        delay: wait before the second attempt, up to 100 years.
        factor: each further wait is this many times the one before (at least 1).
        max_delay: no wait is longer, jitter included; unless `delay` is longer to begin with, then all waits are that.
        jitter: up to this share of a wait is added to it (0 to 1), so that failures do not come back all at
            once. It is derived from the event and the attempt, so a turn that is run again decides the same.
        retry_on: an exception class, a tuple of them, or a predicate on the error; other errors give up at once.
        in_order: later events of the subject wait until this rule has succeeded or given up. With False they
            go on, and the retry is run when it is due.
        on_exhausted: what to do when it is not run again. "dead_letter": set the event aside, and go on with the
            subject. "park": let the subject's later events wait until somebody resumes it; see `EventBus.resume`.

    Raises:
        RuleDefinitionError: a value is out of its range.
    """

    attempts: int = 1
    delay: timedelta = timedelta(seconds=1)
    factor: float = 2.0
    max_delay: timedelta = timedelta(minutes=5)
    jitter: float = 0.1
    retry_on: type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool] = Exception
    in_order: bool = True
    on_exhausted: Literal["dead_letter", "park"] = "dead_letter"

    def __post_init__(self) -> None:
        kinds: dict[str, type | tuple[type, ...]] = {
            "attempts": int,
            "delay": timedelta,
            "factor": (int, float),
            "max_delay": timedelta,
            "jitter": (int, float),
        }
        for name, kind in kinds.items():
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                wanted = "a timedelta" if kind is timedelta else "an int" if kind is int else "a number"
                raise RuleDefinitionError(f"RetryPolicy: {name}={value!r} must be {wanted}")
        classes = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        checks = {
            f"attempts={self.attempts!r} must be at least 1": self.attempts >= 1,
            f"delay={self.delay!r} must be from 0 to 100 years": timedelta(0) <= self.delay <= _LONGEST,
            f"factor={self.factor!r} must be at least 1, and finite": 1 <= self.factor < math.inf,
            f"max_delay={self.max_delay!r} must be from 0 to 100 years": timedelta(0) <= self.max_delay <= _LONGEST,
            f"jitter={self.jitter!r} must be from 0 to 1": 0 <= self.jitter <= 1,
            f"retry_on={self.retry_on!r} must be exception classes, or a predicate on the error": (
                all(isinstance(cls, type) and issubclass(cls, BaseException) for cls in classes)
                or (callable(self.retry_on) and not isinstance(self.retry_on, type))
            ),
            f"on_exhausted={self.on_exhausted!r} must be 'dead_letter' or 'park'": (
                self.on_exhausted in ("dead_letter", "park")
            ),
            "on_exhausted='park' makes later events wait, and in_order=False lets them go on; choose one": (
                self.in_order or self.on_exhausted != "park"
            ),
        }
        for problem, fine in checks.items():
            if not fine:
                raise RuleDefinitionError(f"RetryPolicy: {problem}")

    def decide(self, error: BaseException, *, attempt: int, seed: str) -> RetryDecision:
        """Say what to do after an attempt has failed.

        Args:
            error: what the rule raised.
            attempt: the attempt that failed (1 is the first).
            seed: any stable text of this event and rule; the jitter is derived from it.
        """
        if attempt >= self.attempts or not self._retries(error):
            return Park() if self.on_exhausted == "park" else GiveUp()
        return RetryAfter(self._wait(attempt) * (1 + self.jitter * _chance(seed, attempt)))

    def postpone(self, delay: timedelta, *, attempt: int, seed: str) -> RetryAfter:
        """Say when to run what was put off; by no policy does that count as an attempt.

        Args:
            delay: how long it has to wait at least.
            attempt: the attempt that was put off (1 is the first).
            seed: see `decide`.
        """
        return RetryAfter(min(delay, _LONGEST) * (1 + self.jitter * _chance(seed, attempt)))

    def _wait(self, attempt: int) -> timedelta:
        """Return the wait without jitter; it leaves room for that, so that the longest waits are spread as well."""
        longest = max(self.delay, self.max_delay / (1 + self.jitter))
        try:
            return min(self.delay * self.factor ** (attempt - 1), longest)
        except OverflowError:
            return longest if self.delay else self.delay

    def _retries(self, error: BaseException) -> bool:
        if isinstance(self.retry_on, type | tuple):
            return isinstance(error, self.retry_on)
        try:
            return bool(self.retry_on(error))
        except Exception as broken:
            error.add_note(f"it was not retried, because retry_on raised {broken!r}")
            return False


def _chance(seed: str, attempt: int) -> float:
    """Return a number from 0 to 1 that looks like chance, and is the same each time."""
    return zlib.crc32(f"{seed}/{attempt}".encode()) / 0xFFFFFFFF
