"""What is done to the log of accepted events, and to the timers that go there.

Belongs here: operations, each called within a transaction on the thread of the database. It must not know of
asyncio, nor of records: rows go in and come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Accepted, Position, RetryKey
from onwhen.storage.sqlite._database import Database
from onwhen.storage.sqlite._rows import LOG_COLUMNS
from onwhen.storage.sqlite._schema import PARTITION_BITS

__all__ = [
    "Due",
    "NewEvent",
    "append",
    "bookmark",
    "bounds",
    "is_pending",
    "is_remembered",
    "post",
    "promote",
    "remember",
    "starting",
]

NewEvent: TypeAlias = tuple[str, str, str]  # id, source, and all of it as JSON
Due: TypeAlias = tuple[Sequence[Any], int | None, bool]  # rows of log entries; next due; moved elsewhere too

_AT_ONCE: Final = 1000  # timers that are moved in one transaction (a count); others wait for no more than that
_ACCEPT: Final = "INSERT INTO accepted (n, id, source, position) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
_LOG: Final = "INSERT INTO log (position, accepted, event) VALUES (?, ?, ?)"


def append(
    database: Database, partition: int, events: Sequence[NewEvent], now: int, bookmarks: Mapping[str, str]
) -> list[Accepted]:
    """Accept events; see `Store.append`.

    Args:
        database: where to.
        partition: whose log they go to.
        events: what is to be accepted.
        now: the moment, in microseconds since the epoch.
        bookmarks: stored with them.
    """
    if bookmarks:
        database.executemany(
            "INSERT OR REPLACE INTO bookmarks (partition, name, value) VALUES (?, ?, ?)",
            [(partition, name, value) for name, value in bookmarks.items()],
        )
    base, first = partition << PARTITION_BITS, database.last_accepted + 1
    positions = [base | database.number() for _ in events]
    rows = [(first + n, id, source, positions[n]) for n, (id, source, _) in enumerate(events)]
    if database.window < len(rows) or database.executemany(_ACCEPT, rows).rowcount < len(rows):
        database.execute("DELETE FROM accepted WHERE n >= ?", (first,))  # the numbers have to be without gaps
        return [_accept(database, event, position, now) for event, position in zip(events, positions, strict=True)]
    database.last_accepted += len(rows)
    database.executemany(_LOG, [(position, now, event[2]) for position, event in zip(positions, events, strict=True)])
    database.wrote(sum(len(text) for _, _, text in events))
    return [Accepted(position) for position in positions]


def _accept(database: Database, event: NewEvent, position: Position, now: int) -> Accepted:
    id, source, text = event
    known = _remembered(database, id, source)
    if known is not None:
        is_here = known >> PARTITION_BITS == position >> PARTITION_BITS and is_pending(database, known)
        return Accepted(known if is_here else None, is_new=False)
    remember(database, id, source, position)
    database.execute(_LOG, (position, now, text))
    database.wrote(len(text))
    return Accepted(position)


def is_remembered(database: Database, id: str, source: str) -> bool:
    """Tell whether an id is one of the window."""
    return _remembered(database, id, source) is not None


def _remembered(database: Database, id: str, source: str) -> Position | None:
    found = database.execute("SELECT n, position FROM accepted WHERE id = ? AND source = ?", (id, source)).fetchone()
    if found is None or found[0] <= database.last_accepted - database.window:
        return None
    return int(found[1])


def remember(database: Database, id: str, source: str, position: Position) -> None:
    """Put an id into the window; the transaction's end lets go of those that are not in it any more."""
    database.last_accepted += 1
    if database.window:
        database.execute(
            "INSERT OR REPLACE INTO accepted (n, id, source, position) VALUES (?, ?, ?, ?)",
            (database.last_accepted, id, source, position),
        )


def is_pending(database: Database, position: Position) -> bool:
    """Tell whether an event is in the log."""
    return database.execute("SELECT 1 FROM log WHERE position = ?", (position,)).fetchone() is not None


def bookmark(database: Database, partition: int, name: str) -> str | None:
    """Return how far a source was read; see `Store.bookmark`."""
    found = database.execute(
        "SELECT value FROM bookmarks WHERE partition = ? AND name = ?", (partition, name)
    ).fetchone()
    return None if found is None else str(found[0])


def starting(database: Database, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
    """Note how often handling has begun; see `Store.starting`."""
    first, end = bounds(partition)
    events = [(n, which) for which, n in starts.items() if isinstance(which, int) and first < which < end]
    retries = [(n, partition, which) for which, n in starts.items() if isinstance(which, str)]
    database.executemany("UPDATE log SET starts = ? WHERE position = ?", events)
    database.executemany("UPDATE retries SET starts = ? WHERE partition = ? AND key = ?", retries)


def post(database: Database, subject: str, text: str, now: int, *, was_timer: bool = False) -> Position:
    """Put a message, or a timer that is due, into the log of its subject's partition."""
    position = partition_of(subject, database.partitions) << PARTITION_BITS | database.number()
    database.execute(
        "INSERT INTO log (position, accepted, was_timer, event) VALUES (?, ?, ?, ?)", (position, now, was_timer, text)
    )
    database.wrote(len(text))
    return position


def promote(database: Database, partition: int, after: Position | None, now: int) -> Due:
    """Move timers that are due; see `Store.promote`."""
    due = database.execute(
        "SELECT n, target, event FROM timers WHERE partition = ? AND due <= ? ORDER BY due, n LIMIT ?",
        (partition, now, _AT_ONCE),
    ).fetchall()
    first, end = bounds(partition)
    elsewhere = False
    for n, target, text in due:
        elsewhere |= not first < post(database, target, text, now, was_timer=True) < end
        database.execute("DELETE FROM timers WHERE n = ?", (n,))
    entries = database.execute(
        f"SELECT {LOG_COLUMNS} FROM log WHERE was_timer = 1 AND position > ? AND position < ? ORDER BY position",
        (first if after is None else max(first, after), end),
    ).fetchall()
    (next_due,) = database.execute("SELECT min(due) FROM timers WHERE partition = ?", (partition,)).fetchone()
    return entries, next_due, elsewhere


def bounds(partition: int) -> tuple[int, int]:
    """Return the positions between which those of a partition lie."""
    return partition << PARTITION_BITS, (partition + 1) << PARTITION_BITS
