"""Every error that onwhen raises, one root, leaves grouped by who can act on them.

The message says what was wrong, where, and what to do next; the facts in it are attributes as well. Nothing
in here knows of the engine: an error carries plain values only.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

__all__ = [
    "AppNotFound",
    "BulkheadFull",
    "BusClosed",
    "BusInUse",
    "CascadeLimit",
    "CircuitOpen",
    "ContainerError",
    "DuplicateRule",
    "EventError",
    "EventTooLarge",
    "InvalidEvent",
    "MiddlewareError",
    "MigrationError",
    "OnwhenError",
    "PoisonEvent",
    "Postponed",
    "PropertyError",
    "PropertyTypeError",
    "PropertyValueError",
    "RateLimited",
    "RuleDefinitionError",
    "RuleError",
    "RuleFailed",
    "RuleTimeout",
    "SettingError",
    "StoreBusy",
    "StoreConflict",
    "StoreCorrupt",
    "StoreError",
    "StoreFormatError",
    "StoreFull",
    "StoreInUse",
    "SubjectDefinitionError",
    "SubjectStateError",
    "UnknownDeadLetter",
    "UnknownProperty",
    "UnknownRule",
    "WorkerStalled",
]


class OnwhenError(Exception):
    """The root of all errors that onwhen raises itself."""


# -- for the author of rules and subjects ----------------------------------------------------------------------


class RuleError(OnwhenError):
    """A rule, a rule set or a middleware is not written as it must be."""


class RuleDefinitionError(RuleError, ValueError):
    """A rule was declared with something that cannot work; raised where it is declared or included."""


class DuplicateRule(RuleDefinitionError):
    """Two different functions claim one rule id."""

    def __init__(self, rule: str, first: str, second: str) -> None:
        super().__init__(
            f"rule id {rule!r} is taken by {first}; {second} needs another function name, or on(..., name=...)"
        )
        self.rule = rule
        self.first = first
        self.second = second


class MiddlewareError(RuleError):
    """A middleware broke its contract: `next` is awaited at most once, and only while the middleware runs."""


class CascadeLimit(RuleError):
    """A turn ran too many reactions, or a chain of messages grew too deep.

    Attributes:
        limit: the limit that was passed (a count).
        cycle: the way that repeats, as `rule -> trigger -> rule -> ...`.
    """

    def __init__(self, message: str, *, limit: int, cycle: str) -> None:
        super().__init__(message)
        self.limit = limit
        self.cycle = cycle


class UnknownRule(RuleError, LookupError):
    """A waiting retry, or a dead letter that is replayed, is for a rule that is not there any more."""


class PoisonEvent(RuleError):
    """The process has ended each time that an event was handled: killed by a signal, or out of memory."""


class RuleTimeout(RuleError, TimeoutError):
    """A rule, or a whole turn, ran longer than its time-out allows."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what} did not return within {seconds:g} s; raise its timeout, or make it give up sooner")
        self.what = what
        self.seconds = seconds


class Postponed(RuleError):
    """Not now: the rule that raises this, or that a middleware does not let run, is run again after `delay`.

    What it did until then is undone. That does not use up an attempt of its retry policy, however often it happens; by
    the policy's `in_order`, later events of the subject wait for it or go on.

    Attributes:
        delay: not before this has passed, plus the jitter of the rule's retry policy.
    """

    def __init__(self, message: str, *, delay: timedelta) -> None:
        if not isinstance(delay, timedelta) or delay < timedelta(0):
            raise RuleDefinitionError(f"{type(self).__name__}: delay={delay!r} must be a timedelta of at least 0")
        super().__init__(message)
        self.delay = delay


class CircuitOpen(Postponed):
    """A circuit breaker lets nothing through, because what it protects has failed too often."""


class RateLimited(Postponed):
    """A rate limit is used up for now."""


class BulkheadFull(Postponed):
    """As many runs as may be are under way already."""


class SubjectDefinitionError(OnwhenError, TypeError):
    """A typed subject class is not declared as it must be; raised by the class statement or at first use."""


class PropertyError(OnwhenError):
    """A property cannot be read or written as asked.

    Attributes:
        subject: name of the subject.
        property: name of the property.
    """

    def __init__(self, message: str, *, subject: str, property: str) -> None:
        super().__init__(message)
        self.subject = subject
        self.property = property


class UnknownProperty(PropertyError, AttributeError, KeyError):
    """The subject has no such property."""

    def __str__(self) -> str:  # KeyError would show the message as a repr
        return str(self.args[0])


class PropertyTypeError(PropertyError, TypeError):
    """A dynamic property was given something that is not a JSON value."""


class PropertyValueError(PropertyError, ValueError):
    """A property was given a value that its declaration refuses."""


class SubjectStateError(OnwhenError, RuntimeError):
    """A subject was used at a moment at which it cannot be: not loaded yet, or after its turn has ended."""


class MigrationError(OnwhenError):
    """Stored state has a schema version that the subject's class cannot bring to its own.

    Attributes:
        subject: name of the subject.
        stored: schema version of the stored state.
        declared: schema version that the class declares.
    """

    def __init__(self, message: str, *, subject: str, stored: int, declared: int) -> None:
        super().__init__(message)
        self.subject = subject
        self.stored = stored
        self.declared = declared


# -- for the caller: who emits events and reads receipts -------------------------------------------------------


class EventError(OnwhenError):
    """An event was refused; nothing of it was accepted."""


class InvalidEvent(EventError, ValueError):
    """An event breaks CloudEvents 1.0 or JSON.

    Attributes:
        attribute: the attribute at fault, or None when the event as a whole is.
    """

    def __init__(self, message: str, *, attribute: str | None = None) -> None:
        super().__init__(message)
        self.attribute = attribute


class EventTooLarge(InvalidEvent):
    """An event is larger than the limit allows.

    Attributes:
        size: what was found, in bytes.
        limit: what is allowed, in bytes.
    """

    def __init__(self, *, size: int, limit: int) -> None:
        super().__init__(
            f"data: {size:,} bytes are more than the limit of {limit:,}; store it elsewhere and send its address, "
            f"or raise max_event_bytes (ONWHEN_MAX_EVENT_BYTES)",
            attribute="data",
        )
        self.size = size
        self.limit = limit


class RuleFailed(OnwhenError):
    """Raised by `Receipt.raise_for_failure`: at least one rule failed; `failures` names each with its error."""

    def __init__(self, message: str, failures: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.failures = failures


class BusClosed(OnwhenError, RuntimeError):
    """The bus takes no more events: it was closed."""


class BusInUse(OnwhenError, RuntimeError):
    """The bus is open on the event loop of another thread, and is used from there only."""


class UnknownDeadLetter(OnwhenError, LookupError):
    """No dead letter has this id: it was replayed or discarded, or never was."""


# -- for the operator ------------------------------------------------------------------------------------------


class StoreError(OnwhenError):
    """The store could not do what the engine asked."""


class StoreInUse(StoreError):
    """Another process, or another store in this one, has the same data open for writing."""


class StoreFull(StoreError):
    """There is no room left; nothing of what was asked is stored. Make room, and it goes on."""


class StoreBusy(StoreFull):
    """Too many events are pending already; nothing of what was asked is stored. Wait, and send it again.

    Attributes:
        partition: the partition whose log is that long.
        backlog: events that are pending there (a count).
        limit: how many may be (a count).
    """

    def __init__(self, message: str, *, partition: int, backlog: int, limit: int) -> None:
        super().__init__(message)
        self.partition = partition
        self.backlog = backlog
        self.limit = limit


class StoreCorrupt(StoreError):
    """What is stored is damaged, or cut short. It is left as it is; restore it from a copy."""


class StoreFormatError(StoreError):
    """What is stored was not written by onwhen, or by a newer version of it, or for another number of partitions."""


class StoreConflict(StoreError):
    """State moved on between load and commit, and what was asked cannot be applied to the newer state."""


class WorkerStalled(OnwhenError, RuntimeError):
    """A worker makes no progress; the message says what it waits for. Start it again."""


class SettingError(OnwhenError, ValueError):
    """Settings have values that they cannot have.

    Attributes:
        settings: what is at fault, each as it was given: `ONWHEN_...` for an environment variable, else the field.
    """

    def __init__(self, message: str, *, settings: tuple[str, ...]) -> None:
        super().__init__(message)
        self.settings = settings


class AppNotFound(OnwhenError, LookupError):
    """The APP argument of a command names nothing that holds rules."""


class ContainerError(OnwhenError, RuntimeError):
    """A container was put together in a way that cannot work."""
