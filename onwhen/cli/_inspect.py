"""Looking into a store: subjects and their history, timers, retries, the log.

Belongs here: what is shown of each, to people and to scripts. Nothing in here writes; what was set aside is shown
by `onwhen.cli._letters`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from onwhen.cli._forms import ago, error_text, json_line, json_of, rfc3339, seconds_text, shortly
from onwhen.cli._listing import Column, Output, show_facts, show_json, show_rows
from onwhen.cli._opening import reading
from onwhen.cli._options import UsageError
from onwhen.cli._streams import merged
from onwhen.engine.clock import SystemClock
from onwhen.engine.store import HistoryEntry, LogEntry, Retry, Store, SubjectRecord, SubjectWrite, Timer

__all__ = ["get_subject", "list_log", "list_retries", "list_subjects", "list_timers", "show_history"]

_STATE: Final = 100  # characters of a subject's state that a list shows (a count)
_MOMENT: Final = 20  # characters of a moment, to the second
_BATCH: Final = 500  # log entries that are read at once (a count)


# -- subjects


async def list_subjects(url: str | None, prefix: str, output: Output) -> None:
    """Show subjects in order of name."""
    columns = (
        Column[SubjectRecord]("subject", lambda record: record.name),
        Column[SubjectRecord]("schema", lambda record: str(record.schema), number=True),
        Column[SubjectRecord]("properties", lambda record: json_line(json_of(record.properties)), most=_STATE),
    )
    async with reading(url) as store:
        none = f"No subject has a name that begins with {prefix}" if prefix else "There is no subject."
        await show_rows(store.subjects(prefix), columns, _subject_facts, output, none)


async def get_subject(url: str | None, name: str, output: Output) -> None:
    """Show one subject, whole.

    Raises:
        UsageError: there is none of this name.
    """
    async with reading(url) as store:
        record = await store.load(name)
        if record.version is None:
            raise UsageError(f"there is no subject {name!r}; 'onwhen subjects list' shows those that are stored")
    if output.as_json:
        show_json(_subject_facts(record))
        return
    facts = [("subject", record.name), ("schema", str(record.schema)), ("version", str(record.version))]
    facts += [(f"property {name}", value.decode()) for name, value in record.properties.items()]
    facts += [(f"ext {name}", value.decode()) for name, value in record.ext.items()]
    show_facts(facts)


def _subject_facts(record: SubjectRecord) -> dict[str, Any]:
    return {
        "subject": record.name,
        "properties": json_of(record.properties),
        "ext": json_of(record.ext),
        "schema": record.schema,
        "version": record.version,
    }


# -- what was done to a subject


async def show_history(url: str | None, name: str, output: Output) -> None:
    """Show what was done to a subject, latest first.

    Raises:
        UsageError: there is no subject of this name, and nothing is known of one.
    """
    columns = (
        Column[HistoryEntry]("time", lambda entry: shortly(entry.time), short=_MOMENT),
        Column[HistoryEntry]("event", lambda entry: entry.event.type if entry.event is not None else "-"),
        Column[HistoryEntry]("retried rule", lambda entry: entry.rule or "-"),
        Column[HistoryEntry]("changes", lambda entry: _changes(entry.write), most=_STATE),
    )
    none = f"Nothing is known of what was done to {name}: a store keeps history if it was opened with ?history=N."
    async with reading(url) as store:
        entries = aiter(store.history(name))
        first = await anext(entries, None)
        if first is None and (await store.load(name)).version is None:
            raise UsageError(f"there is no subject {name!r}, nor any history of one")
        await show_rows(_with(first, entries), columns, _history_facts, output, none)


async def _with(first: HistoryEntry | None, rest: AsyncIterator[HistoryEntry]) -> AsyncGenerator[HistoryEntry, None]:
    if first is not None:
        yield first
    async for entry in rest:
        yield entry


def _changes(write: SubjectWrite | None) -> str:
    if write is None:
        return "-"
    if write.remove:
        return "removed"
    parts = [f"{name}={value.decode()}" for name, value in write.set.items()]
    parts += [f"-{name}" for name in write.delete]
    parts += [f"ext {name}={value.decode()}" for name, value in write.set_ext.items()]
    parts += [f"-ext {name}" for name in write.delete_ext]
    return ", ".join(parts) or "-"


def _history_facts(entry: HistoryEntry) -> dict[str, Any]:
    write = entry.write
    return {
        "time": rfc3339(entry.time),
        "subject": entry.subject,
        "event": None if entry.event is None else entry.event.to_dict(),
        "rule": entry.rule,
        "write": None
        if write is None
        else {
            "set": json_of(write.set),
            "delete": list(write.delete),
            "set_ext": json_of(write.set_ext),
            "delete_ext": list(write.delete_ext),
            "schema": write.schema,
            "remove": write.remove,
        },
    }


# -- timers


async def list_timers(url: str | None, subject: str | None, output: Output) -> None:
    """Show timers, those that are due first at the top."""
    now = SystemClock().now()
    columns = (
        Column[Timer]("due", lambda timer: shortly(timer.due), short=_MOMENT),
        Column[Timer]("in", lambda timer: seconds_text(-ago(timer.due, now)), number=True),
        Column[Timer]("subject", lambda timer: timer.subject),
        Column[Timer]("key", lambda timer: timer.key),
        Column[Timer]("event", lambda timer: timer.event.type),
    )

    def facts(timer: Timer) -> dict[str, Any]:
        return {
            "due": rfc3339(timer.due),
            "due_in_seconds": -ago(timer.due, now),
            "subject": timer.subject,
            "key": timer.key,
            "event": timer.event.to_dict(),
        }

    async with reading(url) as store:
        none = "No timer is set." if subject is None else f"{subject} has set no timer."
        await show_rows(store.timers(subject), columns, facts, output, none)


# -- retries


async def list_retries(url: str | None, subject: str | None, output: Output) -> None:
    """Show the rules that failed and wait to be run again, those that are due first at the top."""
    now = SystemClock().now()
    columns = (
        Column[Retry]("due", lambda retry: shortly(retry.due), short=_MOMENT),
        Column[Retry]("in", lambda retry: seconds_text(-ago(retry.due, now)), number=True),
        Column[Retry]("subject", lambda retry: retry.subject),
        Column[Retry]("rule", lambda retry: retry.rule or "(whole event)"),
        Column[Retry]("event", lambda retry: retry.event.type),
        Column[Retry]("attempt", lambda retry: str(retry.attempt), number=True),
        Column[Retry]("error", lambda retry: error_text(retry.failure)),
    )

    def facts(retry: Retry) -> dict[str, Any]:
        failure = retry.failure
        return {
            "due": rfc3339(retry.due),
            "due_in_seconds": -ago(retry.due, now),
            "subject": retry.subject,
            "rule": retry.rule,
            "event": retry.event.to_dict(),
            "error": {"type": failure.type, "message": failure.message, "traceback": failure.traceback},
            "attempt": retry.attempt,
            "first_failed": rfc3339(retry.first_failed),
            "in_order": retry.in_order,
        }

    async with reading(url) as store:
        found = merged([_waiting(store, number, subject) for number in range(store.partitions)], lambda one: one.due)
        none = "No retry waits." if subject is None else f"No retry of {subject} waits."
        await show_rows(found, columns, facts, output, none)


async def _waiting(store: Store, partition: int, subject: str | None) -> AsyncGenerator[Retry, None]:
    async for retry in store.retries(partition):
        if not retry.parked and subject in (None, retry.subject):
            yield retry


# -- the log


async def list_log(url: str | None, output: Output) -> None:
    """Show the events that are accepted and not handled yet, oldest first."""
    now = SystemClock().now()
    columns = (
        Column[LogEntry]("age", lambda entry: seconds_text(ago(entry.accepted, now)), number=True),
        Column[LogEntry]("starts", lambda entry: str(entry.starts), number=True),
        Column[LogEntry]("subject", lambda entry: entry.event.subject),
        Column[LogEntry]("event", lambda entry: entry.event.type),
        Column[LogEntry]("id", lambda entry: entry.event.id),
    )

    def facts(entry: LogEntry) -> dict[str, Any]:
        return {
            "position": entry.position,
            "accepted": rfc3339(entry.accepted),
            "age_seconds": ago(entry.accepted, now),
            "starts": entry.starts,
            "event": entry.event.to_dict(),
        }

    async with reading(url) as store:
        stats = await store.stats()
        if stats.oldest is not None and not output.as_json:
            events = "1 event is" if stats.pending == 1 else f"{stats.pending:,} events are"
            print(f"{events} pending, the oldest for {seconds_text(ago(stats.oldest, now))}.")
        await show_rows(_pending(store), columns, facts, output, "No event is pending.")


def _pending(store: Store) -> AsyncGenerator[LogEntry, None]:
    """Go through the logs of all partitions as if they were one, by when an event was accepted."""
    logs = [_log_of(store, partition) for partition in range(store.partitions)]
    return merged(logs, lambda entry: entry.accepted)


async def _log_of(store: Store, partition: int) -> AsyncGenerator[LogEntry, None]:
    after = None
    while entries := await store.read(partition, after, _BATCH):
        for entry in entries:
            yield entry
        after = entries[-1].position
