"""Records as rows of the tables, and back.

Belongs here: how each value is written. It must not know when, nor in which order. What is made here of records is
made on the event loop's thread, so that a value that cannot be stored fails before it meets others. Text that was
damaged is a ValueError, most often.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from onwhen.engine.events import Event
from onwhen.engine.store import (
    DeadLetter,
    Explanation,
    HistoryEntry,
    LogEntry,
    Retry,
    StoreStats,
    SubjectRecord,
    Timer,
)
from onwhen.storage._encoding import failure_of, failure_text, micros, moment, text_of, write_of

__all__ = [
    "DEAD_COLUMNS",
    "EXPLANATION_COLUMNS",
    "HISTORY_COLUMNS",
    "LOG_COLUMNS",
    "RETRY_COLUMNS",
    "TIMER_COLUMNS",
    "dead_letter_of",
    "dead_row",
    "entry_of",
    "explanation_of",
    "explanation_row",
    "history_of",
    "records_of",
    "retry_of",
    "retry_row",
    "stats_of",
    "timer_of",
]

LOG_COLUMNS: Final = "position, accepted, starts, event"
TIMER_COLUMNS: Final = "n, subject, key, due, event"
RETRY_COLUMNS: Final = (
    "n, subject, rule, attempt, due, in_order, first_failed, failure, first_attempt, parked, starts, event"
)
DEAD_COLUMNS: Final = "n, id, subject, rule, attempts, first_failed, time, failure, event"
HISTORY_COLUMNS: Final = "n, time, subject, rule, event, write"
EXPLANATION_COLUMNS: Final = "partition, n, time, subject, correlation, event, rule, failed, body"

_event: Final = Event.restored


# -- records to rows


def retry_row(retry: Retry) -> tuple[Any, ...]:
    """Return what follows the number and the partition in the row of a retry."""
    return (
        retry.key,
        retry.subject,
        retry.rule,
        retry.attempt,
        micros(retry.due),
        retry.in_order,
        micros(retry.first_failed),
        failure_text(retry.failure),
        retry.first_attempt,
        retry.parked,
        retry.starts,
        text_of(retry.event),
    )


def dead_row(letter: DeadLetter) -> tuple[Any, ...]:
    """Return what follows the number in the row of a dead letter."""
    return (
        letter.id,
        letter.subject,
        letter.rule,
        letter.attempts,
        micros(letter.first_failed),
        micros(letter.time),
        failure_text(letter.failure),
        text_of(letter.event),
    )


def explanation_row(explanation: Explanation) -> tuple[Any, ...]:
    """Return what follows the partition and the number in the row of an explanation."""
    return (
        micros(explanation.time),
        explanation.subject,
        explanation.correlation,
        explanation.event,
        explanation.rule,
        explanation.failed,
        explanation.body,
    )


# -- rows to records


def entry_of(row: Sequence[Any]) -> LogEntry:
    """Return the log entry of a row of `LOG_COLUMNS`."""
    position, accepted, starts, event = row
    return LogEntry(position, _event(event), moment(accepted), starts)


def timer_of(row: Sequence[Any]) -> Timer:
    """Return the timer of a row of `TIMER_COLUMNS`."""
    _, subject, key, due, event = row
    return Timer(subject=subject, key=key, due=moment(due), event=_event(event))


def retry_of(row: Sequence[Any]) -> Retry:
    """Return the retry of a row of `RETRY_COLUMNS`."""
    _, subject, rule, attempt, due, in_order, first_failed, failure, first_attempt, parked, starts, event = row
    return Retry(
        subject=subject,
        event=_event(event),
        rule=rule,
        attempt=attempt,
        due=moment(due),
        in_order=bool(in_order),
        first_failed=moment(first_failed),
        failure=failure_of(failure),
        first_attempt=first_attempt,
        parked=bool(parked),
        starts=starts,
    )


def dead_letter_of(row: Sequence[Any]) -> DeadLetter:
    """Return the dead letter of a row of `DEAD_COLUMNS`."""
    _, id, subject, rule, attempts, first_failed, time, failure, event = row
    return DeadLetter(
        id=id,
        subject=subject,
        event=_event(event),
        rule=rule,
        failure=failure_of(failure),
        attempts=attempts,
        first_failed=moment(first_failed),
        time=moment(time),
    )


def history_of(row: Sequence[Any]) -> HistoryEntry:
    """Return the entry of a row of `HISTORY_COLUMNS`."""
    _, time, subject, rule, event, write = row
    return HistoryEntry(
        time=moment(time),
        subject=subject,
        event=None if event is None else _event(event),
        rule=rule,
        write=None if write is None else write_of(write),
    )


def explanation_of(row: Sequence[Any]) -> Explanation:
    """Return the explanation of a row of `EXPLANATION_COLUMNS`."""
    _, _, time, subject, correlation, event, rule, failed, body = row
    return Explanation(
        time=moment(time),
        subject=subject,
        correlation=correlation,
        event=event,
        rule=rule,
        failed=bool(failed),
        body=body,
    )


def records_of(rows: Iterable[Sequence[Any]]) -> list[SubjectRecord]:
    """Return the subjects of rows of name, version, schema, and one property each: ext, name, value (or nulls)."""
    records: list[SubjectRecord] = []
    properties: dict[str, bytes] = {}
    extended: dict[str, bytes] = {}
    for name, version, schema, ext, property, value in rows:
        if not records or records[-1].name != name:
            properties, extended = {}, {}
            records.append(
                SubjectRecord(name=name, properties=properties, ext=extended, version=version, schema=schema)
            )
        if property is not None:
            (extended if ext else properties)[property] = value
    return records


def stats_of(counts: Mapping[str, int | None]) -> StoreStats:
    """Return counts, and the moment among them, as a record."""
    found: dict[str, Any] = dict(counts)
    if found["oldest"] is not None:
        found["oldest"] = moment(found["oldest"])
    return StoreStats(**found)
