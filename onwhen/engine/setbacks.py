"""What becomes of an event, or of a rule on it, that has failed: it is tried again, waits, or is set aside.

Belongs here: from an error and a policy to the record that a commit keeps of it, as a pure function. It must not know
of turns, nor what else a commit holds.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from onwhen.engine.events import Event
from onwhen.engine.outcomes import failure_of
from onwhen.engine.retries import GiveUp, Park, RetryAfter, RetryDecision, RetryPolicy
from onwhen.engine.store import DeadLetter, Retry, key_of
from onwhen.errors import Postponed

__all__ = ["set_aside"]

_END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)


def set_aside(
    event: Event,
    rule: str,
    attempt: int,
    error: BaseException,
    policy: RetryPolicy,
    *,
    now: datetime,
    before: Retry | None,
) -> Retry | DeadLetter:
    """Return the next attempt, or what is parked, or a dead letter.

    Args:
        event: what has failed, or was put off.
        rule: id of the rule that has; "" for the event as a whole.
        attempt: number of the attempt.
        error: why.
        policy: what to do about it.
        now: the moment at which the turn began.
        before: the retry that this attempt was, if it was one.
    """
    key, first_failed, first_attempt = key_of(event, rule), now, 1
    if before is not None:
        first_failed, first_attempt = before.first_failed, before.first_attempt
    decision: RetryDecision
    if isinstance(error, Postponed):
        decision = policy.postpone(error.delay, attempt=attempt, seed=key)
        first_attempt += 1  # so that it does not count
    else:
        decision = policy.decide(error, attempt=attempt - first_attempt + 1, seed=key)
    if isinstance(decision, GiveUp):
        return DeadLetter(
            id=key,
            subject=event.subject,
            event=event,
            rule=rule,
            failure=failure_of(error),
            attempts=attempt,
            first_failed=first_failed,
            time=now,
        )
    return Retry(
        subject=event.subject,
        event=event,
        rule=rule,
        attempt=attempt + 1,
        due=_later(now, decision.delay) if isinstance(decision, RetryAfter) else now,
        in_order=policy.in_order,
        first_failed=first_failed,
        failure=failure_of(error),
        first_attempt=first_attempt,
        parked=isinstance(decision, Park),
    )


def _later(now: datetime, delay: timedelta) -> datetime:
    try:
        return now + delay
    except OverflowError:
        return _END_OF_TIME
