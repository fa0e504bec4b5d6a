"""Records as rows of the tables, and back.

Belongs here: how each value is written. It must not know when, nor in which order. What is made here of records is
made on the event loop's thread, so that a value that cannot be stored fails before it meets others. Text that was
damaged is a ValueError, most often.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.store import (
    DeadLetter,
    Failure,
    HistoryEntry,
    LogEntry,
    Retry,
    StoreStats,
    SubjectRecord,
    SubjectWrite,
    Timer,
)

__all__ = [
    "DEAD_COLUMNS",
    "HISTORY_COLUMNS",
    "LOG_COLUMNS",
    "RETRY_COLUMNS",
    "TIMER_COLUMNS",
    "dead_letter_of",
    "dead_row",
    "entry_of",
    "history_of",
    "micros",
    "moment",
    "records_of",
    "retry_of",
    "retry_row",
    "stats_of",
    "text_of",
    "timer_of",
    "write_text",
]

LOG_COLUMNS: Final = "position, accepted, starts, event"
TIMER_COLUMNS: Final = "n, subject, key, due, event"
RETRY_COLUMNS: Final = (
    "n, subject, rule, attempt, due, in_order, first_failed, failure, first_attempt, parked, starts, event"
)
DEAD_COLUMNS: Final = "n, id, subject, rule, attempts, first_failed, time, failure, event"
HISTORY_COLUMNS: Final = "n, time, subject, rule, event, write"

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(when: datetime) -> int:
    """Return a moment as microseconds since the epoch."""
    return (when - _EPOCH) // _MICROSECOND


def moment(when: int) -> datetime:
    """Return microseconds since the epoch as a moment, aware, in UTC; one that UTC does not have is the nearest."""
    try:
        return _EPOCH + timedelta(microseconds=when)
    except OverflowError:
        return _LAST if when > 0 else _FIRST


def text_of(event: Event) -> str:
    """Return an event as JSON; it has an id from now on."""
    event.detach()
    return event.to_json().decode()


_event: Final = Event.from_json
_NOTHING: Final = SubjectWrite()


def _failure_text(failure: Failure) -> str:
    # All in ASCII: messages of errors may hold what UTF-8 does not have, lone surrogates.
    return json.dumps([failure.type, failure.message, failure.traceback])


def _failure(text: str) -> Failure:
    type, message, traceback = json.loads(text)
    return Failure(type=type, message=message, traceback=traceback)


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
        _failure_text(retry.failure),
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
        _failure_text(letter.failure),
        text_of(letter.event),
    )


def write_text(write: SubjectWrite) -> str:
    """Return what a commit writes as JSON; each value is a string that holds JSON, so that it is kept to the byte."""
    # Without what is as in `_NOTHING`, so that it is the same when it is read: an empty list is no empty tuple.
    texts = {name: value for name, value in msgspec.structs.asdict(write).items() if value != getattr(_NOTHING, name)}
    for name in ("set", "set_ext"):
        if name in texts:
            texts[name] = {key: value.decode() for key, value in texts[name].items()}
    return msgspec.json.encode(texts).decode()


def _write(text: str) -> SubjectWrite:
    texts = json.loads(text)
    for name in ("set", "set_ext"):
        if name in texts:
            texts[name] = {key: value.encode() for key, value in texts[name].items()}
    return SubjectWrite(**texts)


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
        failure=_failure(failure),
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
        failure=_failure(failure),
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
        write=None if write is None else _write(write),
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
