"""The commit of one turn: what it is made of, as rows, and how it is stored.

Belongs here: the checks, in the order of the contract, and everything that a commit changes. It must not know of
asyncio, nor how many commits share a transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from onwhen.engine.store import Answer, Commit, CommitResult, SubjectWrite
from onwhen.storage._encoding import micros, text_of, write_text
from onwhen.storage.sqlite._database import Database
from onwhen.storage.sqlite._log import is_pending, is_remembered, post, remember
from onwhen.storage.sqlite._rows import dead_row, explanation_row, retry_row
from onwhen.storage.sqlite._schema import PARTITION_BITS

__all__ = ["Prepared", "prepare", "store"]

_DONE: Final = CommitResult(Answer.DONE)
_CONFLICT: Final = CommitResult(Answer.CONFLICT)

_HANDLE: Final = "DELETE FROM log WHERE position = ?"
_SET: Final = "INSERT OR REPLACE INTO properties (subject, ext, name, value) VALUES (?, ?, ?, ?)"
_SET_SOME: Final = [_SET + ", (?, ?, ?, ?)" * more for more in range(16)]  # each call lets another thread have the GIL


class Prepared(msgspec.Struct, frozen=True):
    """A commit, and its records as rows.

    Attributes:
        commit: the commit.
        now: when it is made, in microseconds since the epoch.
        values: ext (0 or 1), name and value of each property that is set.
        gone: ext and name of each property that is deleted.
        messages: subject and JSON of each event.
        timers: key, when it is due, its event's subject and JSON.
        retries: see `retry_row`.
        dead: see `dead_row`.
        change: what is written, as JSON, if a history is kept.
        explanation: see `explanation_row`; None if there is none, or none is kept.
    """

    commit: Commit
    now: int
    values: Sequence[tuple[int, str, str]] = ()
    gone: Sequence[tuple[int, str]] = ()
    messages: Sequence[tuple[str, str]] = ()
    timers: Sequence[tuple[str, int, str, str]] = ()
    retries: Sequence[tuple[Any, ...]] = ()
    dead: Sequence[tuple[Any, ...]] = ()
    change: str | None = None
    explanation: tuple[Any, ...] | None = None


def prepare(commit: Commit, now: int, *, with_history: bool, with_explanation: bool) -> Prepared:
    """Turn the records of a commit into rows.

    Args:
        commit: what is to be stored.
        now: the moment, in microseconds since the epoch.
        with_history: a history is kept, so that what was written is needed as JSON as well.
        with_explanation: explanations are kept.
    """
    write = commit.write
    values: list[tuple[int, str, str]] = []
    gone: list[tuple[int, str]] = []
    if write is not None and not write.remove:
        values = [(0, name, value.decode()) for name, value in write.set.items()]
        if write.set_ext:
            values += [(1, name, value.decode()) for name, value in write.set_ext.items()]
        if write.delete or write.delete_ext:
            gone = [(0, name) for name in write.delete] + [(1, name) for name in write.delete_ext]
    messages = [(event.subject, text_of(event)) for event in commit.messages]
    change = write_text(write) if with_history and write is not None else None
    why = explanation_row(commit.explanation) if commit.explanation is not None and with_explanation else None
    if not commit.timers and not commit.retries and not commit.dead:  # almost always
        return Prepared(commit, now, values, gone, messages, change=change, explanation=why)
    timers = [(timer.key, micros(timer.due), timer.event.subject, text_of(timer.event)) for timer in commit.timers]
    retries, dead = [retry_row(retry) for retry in commit.retries], [dead_row(letter) for letter in commit.dead]
    return Prepared(commit, now, values, gone, messages, timers, retries, dead, change, why)


def store(database: Database, prepared: Prepared) -> CommitResult:
    """Store a commit, all or nothing; see `Store.commit`."""
    commit = prepared.commit
    if _is_done(database, commit):
        return _DONE
    stored = database.execute("SELECT id, version FROM subjects WHERE name = ?", (commit.subject,)).fetchone()
    id, version = (None, None) if stored is None else stored
    if version != commit.version:
        return _CONFLICT if commit.handled is None or is_pending(database, commit.handled) else _DONE
    about = _about(database, commit) if database.history else None
    # One statement that takes the entry away, if it is there, spares one that looks before.
    if commit.handled is not None and not database.execute(_HANDLE, (commit.handled,)).rowcount:
        return _DONE
    if about is not None:
        _keep(database, prepared, about)
    if commit.write is not None:
        version = _write(database, prepared, commit.write, id)
    _set_aside(database, prepared)
    if commit.cancel_all or commit.cancelled or commit.timers:
        _set_timers(database, prepared)
    if prepared.explanation is not None:
        _explain(database, commit.partition, prepared.explanation)
    if not commit.messages:
        return CommitResult(Answer.OK, version)
    appended = [post(database, subject, text, prepared.now) for subject, text in prepared.messages]
    return CommitResult(Answer.OK, version, appended)


def _is_done(database: Database, commit: Commit) -> bool:
    """Tell whether it was stored before, but for the log entry that it takes away."""
    execute = database.execute
    if commit.handled is not None and commit.handled >> PARTITION_BITS != commit.partition:
        return True
    if commit.retried is not None and (
        execute("SELECT 1 FROM retries WHERE partition = ? AND key = ?", (commit.partition, commit.retried)).fetchone()
        is None
    ):
        return True
    if any(execute("SELECT 1 FROM dead WHERE id = ?", (id,)).fetchone() is None for id in commit.revived):
        return True
    return commit.id is not None and is_remembered(database, commit.id, "")


def _write(database: Database, prepared: Prepared, write: SubjectWrite, id: int | None) -> int | None:
    if write.remove:
        if id is not None:
            database.execute("DELETE FROM properties WHERE subject = ?", (id,))
            database.execute("DELETE FROM subjects WHERE id = ?", (id,))
        return None
    version = database.number()
    if id is None:
        id = version
        database.execute(
            "INSERT INTO subjects (id, name, version, schema) VALUES (?, ?, ?, ?)",
            (id, prepared.commit.subject, version, write.schema),
        )
    else:
        database.execute("UPDATE subjects SET version = ?, schema = ? WHERE id = ?", (version, write.schema, id))
    if (values := prepared.values) and len(values) <= len(_SET_SOME):
        database.execute(_SET_SOME[len(values) - 1], [part for value in values for part in (id, *value)])
    elif values:
        database.executemany(_SET, [(id, *value) for value in values])
    database.wrote(sum(len(value) for _, _, value in values))
    if prepared.gone:
        database.executemany(
            "DELETE FROM properties WHERE subject = ? AND ext = ? AND name = ?", [(id, *name) for name in prepared.gone]
        )
    return version


def _set_aside(database: Database, prepared: Prepared) -> None:
    """Keep what is for later, and let go of what was kept until now."""
    commit = prepared.commit
    if commit.retried is not None:
        database.execute("DELETE FROM retries WHERE partition = ? AND key = ?", (commit.partition, commit.retried))
    for id in commit.revived:
        database.execute("DELETE FROM dead WHERE id = ?", (id,))
    if commit.id is not None:
        remember(database, commit.id, "", 0)
    for row in prepared.retries:
        database.execute(
            "INSERT OR REPLACE INTO retries (n, partition, key, subject, rule, attempt, due, in_order, first_failed, "
            "failure, first_attempt, parked, starts, event) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (database.number(), commit.partition, *row),
        )
    for row in prepared.dead:
        database.execute(
            "INSERT OR REPLACE INTO dead (n, id, subject, rule, attempts, first_failed, time, failure, event) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (database.number(), *row),
        )


def _set_timers(database: Database, prepared: Prepared) -> None:
    commit = prepared.commit
    if commit.cancel_all:
        database.execute("DELETE FROM timers WHERE subject = ?", (commit.subject,))
    for key in commit.cancelled:
        database.execute("DELETE FROM timers WHERE subject = ? AND key = ?", (commit.subject, key))
    for timer in prepared.timers:
        database.execute(
            "INSERT OR REPLACE INTO timers (n, partition, subject, key, due, target, event) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (database.number(), commit.partition, commit.subject, *timer),
        )


def _about(database: Database, commit: Commit) -> tuple[str, str | None]:
    """Return the rule and the event that a commit is about, before it takes them away."""
    found = None
    if commit.handled is not None:
        found = database.execute("SELECT '', event FROM log WHERE position = ?", (commit.handled,)).fetchone()
    elif commit.retried is not None:
        found = database.execute(
            "SELECT rule, event FROM retries WHERE partition = ? AND key = ?", (commit.partition, commit.retried)
        ).fetchone()
    return found or ("", None)


def _keep(database: Database, prepared: Prepared, about: tuple[str, str | None]) -> None:
    """Add to the history."""
    database.last_history += 1
    database.execute(
        "INSERT INTO history (n, time, subject, rule, event, write) VALUES (?, ?, ?, ?, ?, ?)",
        (database.last_history, prepared.now, prepared.commit.subject, *about, prepared.change),
    )
    if (last := database.last_history - database.history) > 0:
        database.execute("DELETE FROM history WHERE n <= ?", (last,))


def _explain(database: Database, partition: int, explanation: tuple[Any, ...]) -> None:
    """Keep an explanation, and let go of those of its partition that are too old."""
    last = database.last_explained.get(partition)
    if last is None:
        found = database.execute("SELECT coalesce(max(n), 0) FROM explanations WHERE partition = ?", (partition,))
        (last,) = found.fetchone()
    database.last_explained[partition] = last = last + 1
    database.execute(
        "INSERT INTO explanations (partition, n, time, subject, correlation, event, rule, failed, body) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (partition, last, *explanation),
    )
    database.wrote(len(explanation[-1]))
    if (old := last - database.explanations) > 0:
        database.execute("DELETE FROM explanations WHERE partition = ? AND n <= ?", (partition, old))
