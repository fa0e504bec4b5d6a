"""What is read without being changed: one subject, one dead letter, counts, and all of something, page by page.

Belongs here: queries. A listing asks for one page after the other, each from where the last one ended, so that no
read is open for long: that would keep the write-ahead log from being begun anew.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from onwhen.engine.store import Position
from onwhen.storage.sqlite._database import Database
from onwhen.storage.sqlite._log import bounds
from onwhen.storage.sqlite._rows import (
    DEAD_COLUMNS,
    EXPLANATION_COLUMNS,
    HISTORY_COLUMNS,
    LOG_COLUMNS,
    RETRY_COLUMNS,
    TIMER_COLUMNS,
)

__all__ = [
    "Row",
    "counts",
    "dead_letter",
    "dead_page",
    "discard",
    "explanations_page",
    "history_page",
    "load",
    "pending",
    "retries_page",
    "subjects_page",
    "timers_page",
]

Row: TypeAlias = Sequence[Any]

_PAGE: Final = 200  # rows, or subjects, that are read at once (a count)
_ROOM: Final = 32 * 1024 * 1024  # characters of events that are read at once; it may be one event more
_BEFORE_ALL: Final = -(1 << 63)
_AFTER_ALL: Final = (1 << 63) - 1

_PROPERTIES: Final = "s.name, s.version, s.schema, p.ext, p.name, CAST(p.value AS BLOB)"
_ONE: Final = f"SELECT {_PROPERTIES} FROM subjects AS s LEFT JOIN properties AS p ON p.subject = s.id WHERE s.name = ?"
_SOME: Final = (
    f"SELECT {_PROPERTIES} FROM subjects AS s LEFT JOIN properties AS p ON p.subject = s.id "
    f"WHERE s.name >= ? ORDER BY s.name"
)


def pending(database: Database, partition: int, after: Position | None, limit: int) -> list[Row]:
    """Return rows of pending events; see `Store.read`. There may be fewer than asked for, if they are large."""
    first, end = bounds(partition)
    return _taken(
        database.execute(
            f"SELECT {LOG_COLUMNS} FROM log WHERE position > ? AND position < ? ORDER BY position LIMIT ?",
            (first if after is None else max(first, after), end, limit),
        )
    )


def load(database: Database, subject: str) -> list[Row]:
    """Return rows of one subject; none if it is not stored."""
    return database.execute(_ONE, (subject,)).fetchall()


def subjects_page(database: Database, prefix: str, after: Row | None) -> list[Row]:
    """Return rows of the next subjects, each whole, in order of name; fewer if they are large, none after the last."""
    rows: list[Row] = []
    names, room = 0, _ROOM
    # No name lies between one and the same with a NUL after it.
    found = database.execute(_SOME, (prefix if after is None else f"{after[0]}\0",))
    for row in found:
        if not rows or row[0] != rows[-1][0]:
            if names == _PAGE or room <= 0 or not row[0].startswith(prefix):
                break
            names += 1
        rows.append(row)
        room -= len(row[0]) + len(row[5] or b"")
    found.close()
    return rows


def timers_page(database: Database, subject: str | None, after: Row | None) -> list[Row]:
    """Return the next timers, earliest due first."""
    last = (_BEFORE_ALL, 0) if after is None else (after[3], after[0])
    order = "(due, n) > (?, ?) ORDER BY due, n LIMIT ?"
    if subject is None:
        return _taken(database.execute(f"SELECT {TIMER_COLUMNS} FROM timers WHERE {order}", (*last, _PAGE)))
    return _taken(
        database.execute(f"SELECT {TIMER_COLUMNS} FROM timers WHERE subject = ? AND {order}", (subject, *last, _PAGE))
    )


def retries_page(database: Database, partition: int, after: Row | None) -> list[Row]:
    """Return the next retries of a partition, earliest due first."""
    last = (_BEFORE_ALL, 0) if after is None else (after[4], after[0])
    return _taken(
        database.execute(
            f"SELECT {RETRY_COLUMNS} FROM retries WHERE partition = ? AND (due, n) > (?, ?) ORDER BY due, n LIMIT ?",
            (partition, *last, _PAGE),
        )
    )


def dead_page(database: Database, after: Row | None) -> list[Row]:
    """Return the next dead letters, oldest first."""
    last = 0 if after is None else after[0]
    return _taken(
        database.execute(f"SELECT {DEAD_COLUMNS} FROM dead WHERE n > ? ORDER BY n LIMIT ?", (last, _PAGE)),
    )


def dead_letter(database: Database, id: str) -> Row | None:
    """Return one dead letter."""
    row: Row | None = database.execute(f"SELECT {DEAD_COLUMNS} FROM dead WHERE id = ?", (id,)).fetchone()
    return row


def discard(database: Database, id: str) -> bool:
    """Remove one dead letter."""
    return database.execute("DELETE FROM dead WHERE id = ?", (id,)).rowcount == 1


def history_page(database: Database, subject: str, after: Row | None) -> list[Row]:
    """Return the next entries of a subject's history, latest first."""
    last = _AFTER_ALL if after is None else after[0]
    return _taken(
        database.execute(
            f"SELECT {HISTORY_COLUMNS} FROM history WHERE subject = ? AND n < ? ORDER BY n DESC LIMIT ?",
            (subject, last, _PAGE),
        )
    )


def explanations_page(database: Database, correlation: str | None, subject: str | None, after: Row | None) -> list[Row]:
    """Return the next explanations, oldest first."""
    last = (_BEFORE_ALL, 0, 0) if after is None else (after[2], after[0], after[1])
    asked = {"correlation": correlation, "subject": subject}
    wanted = {name: value for name, value in asked.items() if value is not None}
    where = "".join(f"{name} = ? AND " for name in wanted)
    return _taken(
        database.execute(
            f"SELECT {EXPLANATION_COLUMNS} FROM explanations WHERE {where}(time, partition, n) > (?, ?, ?) "
            f"ORDER BY time, partition, n LIMIT ?",
            (*wanted.values(), *last, _PAGE),
        )
    )


def counts(database: Database) -> dict[str, int | None]:
    """Return the fields of `StoreStats`; the moment in microseconds since the epoch."""
    execute = database.execute
    found: dict[str, int | None] = {
        name: execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        for name, table in {"subjects": "subjects", "pending": "log", "timers": "timers", "dead": "dead"}.items()
    }
    found["retries"], found["parked"] = execute(
        "SELECT count(*) FILTER (WHERE NOT parked), count(*) FILTER (WHERE parked) FROM retries"
    ).fetchone()
    firsts = [
        execute("SELECT accepted FROM log WHERE position > ? AND position < ? ORDER BY position LIMIT 1", bounds(n))
        for n in range(database.partitions)
    ]
    found["oldest"] = min((row[0] for first in firsts for row in first), default=None)
    return found


def _taken(found: sqlite3.Cursor) -> list[Row]:
    """Return rows, each with its event, or nothing, at its end or before; not many if those are large."""
    rows: list[Row] = []
    room = _ROOM
    for row in found:
        rows.append(row)
        room -= sum(len(value) for value in row if isinstance(value, str | bytes))
        if room <= 0:
            break
    found.close()
    return rows
