"""What waits, as records: a timer, a rule that failed and is run again, and what was set aside.

Belongs here: plain data that a commit stores for later, part of the storage contract (see `store`). It must not know
when anything of it is due, nor how it is kept.
"""

from __future__ import annotations

from datetime import datetime
from hashlib import blake2b
from typing import TypeAlias

import msgspec

from onwhen.engine.events import Event

__all__ = ["DeadLetter", "Failure", "Retry", "RetryKey", "Timer", "key_of"]

RetryKey: TypeAlias = str
"""Which waiting retry is meant: what `key_of` makes of the event, the rule and the attempt."""


def key_of(event: Event, rule: str, attempt: int | None = None) -> str:
    """Return what stands for a rule at an event, however often it is run, or for one run: 32 hexadecimal digits.

    Args:
        event: what the rule is run on. Two sources may use the same ids, so both count.
        rule: id of the rule; "" for the event as a whole.
        attempt: number of the attempt that is meant; None for all of them.
    """
    run = "" if attempt is None else f"\0{attempt}"
    # No attribute holds a NUL, so no two of these texts are the same.
    return blake2b(
        f"{event.source}\0{event.id}\0{rule}{run}".encode(), digest_size=16, person=b"onwhen.rule"
    ).hexdigest()


class Timer(msgspec.Struct, frozen=True, kw_only=True):
    """An event to be delivered at `due`. A subject has at most one timer per key: a later one replaces it."""

    subject: str
    key: str
    due: datetime
    event: Event


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it is kept: the class's name, the message, and the traceback as text."""

    type: str
    message: str
    traceback: str = ""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that failed and waits to be run again.

    Attributes:
        subject: name of the subject.
        event: what the rule was run on, a reaction's event included.
        rule: id of the rule; "" stands for the event as a whole.
        attempt: number of the attempt to come (2 is the first retry).
        due: not before this moment.
        in_order: later events of the subject wait for it.
        first_failed: when the first attempt failed.
        failure: the latest error.
        first_attempt: number of the attempt from which the rule's policy counts; a dead letter that is replayed has
            all its attempts again, but no number twice: the ids of what an attempt sends derive from it.
        parked: the attempts are used up, and the subject's later events wait until somebody resumes it; `due` is
            when it was parked.
        starts: how often its attempt was noted to begin (see `Store.starting`), a count.
    """

    subject: str
    event: Event
    rule: str
    attempt: int
    due: datetime
    in_order: bool
    first_failed: datetime
    failure: Failure
    first_attempt: int = 1
    parked: bool = False
    starts: int = 0

    @property
    def key(self) -> RetryKey:
        """The event, the rule and the attempt: so that a commit that runs one, and sets the next, is done only once."""
        return key_of(self.event, self.rule, self.attempt)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """An event that a rule could not handle, set aside to be replayed or discarded.

    Attributes:
        id: stable id; the same failure of the same rule on the same event has the same id.
        subject: name of the subject.
        event: what the rule was run on, a reaction's event included.
        rule: id of the rule, or "" when the event as a whole was refused.
        failure: the last error.
        attempts: how often it was tried, replays included.
        first_failed: when the first attempt failed.
        time: when it was set aside.
    """

    id: str
    subject: str
    event: Event
    rule: str
    failure: Failure
    attempts: int
    first_failed: datetime
    time: datetime
