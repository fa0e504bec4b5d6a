"""The tables of a store in SQLite, and the steps that bring a file of an older version to this one.

Belongs here: what lies in the file, and nothing of who reads or writes it. Moments are integers, microseconds since
the Unix epoch. Events, and values of properties, are JSON text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Final, TypeAlias

__all__ = ["APPLICATION_ID", "PARTITION_BITS", "STEPS", "bring_up", "version_of"]

APPLICATION_ID: Final = 0x6F6E7768  # "onwh": how a file of ours is told from one of others
PARTITION_BITS: Final = 48  # a position is its partition, and in so many bits below a number that is never used again

_Step: TypeAlias = Callable[[sqlite3.Connection], None]

_FIRST: Final = """
CREATE TABLE meta (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    partitions INTEGER NOT NULL,
    dedup_window INTEGER NOT NULL,
    reserved INTEGER NOT NULL,  -- no position, version or number above this one was ever used
    is_open INTEGER NOT NULL    -- whoever had it open last has not closed it
) STRICT;

CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    accepted INTEGER NOT NULL,
    starts INTEGER NOT NULL DEFAULT 0,
    was_timer INTEGER NOT NULL DEFAULT 0,
    event TEXT NOT NULL
) STRICT;
CREATE INDEX log_timers ON log (position) WHERE was_timer = 1;

CREATE TABLE accepted (
    n INTEGER PRIMARY KEY,  -- without gaps: the window is a range of them
    id TEXT NOT NULL,
    source TEXT NOT NULL,   -- '' for the id of a commit
    position INTEGER NOT NULL,
    UNIQUE (id, source)     -- the id first: those made one after the other lie side by side
) STRICT;

CREATE TABLE bookmarks (
    partition INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (partition, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE subjects (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    version INTEGER NOT NULL,
    schema INTEGER NOT NULL
) STRICT;

CREATE TABLE properties (
    subject INTEGER NOT NULL,
    ext INTEGER NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (subject, ext, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE timers (
    n INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL,
    subject TEXT NOT NULL,
    key TEXT NOT NULL,
    due INTEGER NOT NULL,
    target TEXT NOT NULL,  -- subject of the event, which may be another one
    event TEXT NOT NULL,
    UNIQUE (subject, key)
) STRICT;
CREATE INDEX timers_of_partition ON timers (partition, due, n);
CREATE INDEX timers_due ON timers (due, n);

CREATE TABLE retries (
    n INTEGER PRIMARY KEY,
    partition INTEGER NOT NULL,
    key TEXT NOT NULL,
    subject TEXT NOT NULL,
    rule TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    due INTEGER NOT NULL,
    in_order INTEGER NOT NULL,
    first_failed INTEGER NOT NULL,
    failure TEXT NOT NULL,
    first_attempt INTEGER NOT NULL,
    parked INTEGER NOT NULL,
    starts INTEGER NOT NULL,
    event TEXT NOT NULL,
    UNIQUE (partition, key)
) STRICT;
CREATE INDEX retries_due ON retries (partition, due, n, parked);

CREATE TABLE dead (
    n INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    subject TEXT NOT NULL,
    rule TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    first_failed INTEGER NOT NULL,
    time INTEGER NOT NULL,
    failure TEXT NOT NULL,
    event TEXT NOT NULL
) STRICT;

CREATE TABLE history (
    n INTEGER PRIMARY KEY,  -- without gaps: what is too old is a range of them
    time INTEGER NOT NULL,
    subject TEXT NOT NULL,
    rule TEXT NOT NULL,
    event TEXT,
    write TEXT
) STRICT;
CREATE INDEX history_of_subject ON history (subject, n);
"""

_SECOND: Final = """
CREATE TABLE cells (
    key BLOB PRIMARY KEY,
    value BLOB NOT NULL,
    expires INTEGER NOT NULL  -- from then on it is as if it were not there
) STRICT;
CREATE INDEX cells_expired ON cells (expires);

CREATE TABLE explanations (
    partition INTEGER NOT NULL,
    n INTEGER NOT NULL,  -- without gaps: what is too old, of a partition, is a range of them
    time INTEGER NOT NULL,
    subject TEXT NOT NULL,
    correlation TEXT NOT NULL,
    event TEXT NOT NULL,
    rule TEXT NOT NULL,
    failed INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (partition, n)
) STRICT;
CREATE INDEX explanations_in_time ON explanations (time, partition, n);
CREATE INDEX explanations_of_correlation ON explanations (correlation, time, partition, n);
CREATE INDEX explanations_of_subject ON explanations (subject, time, partition, n);
"""


def _made_by(statements: str) -> _Step:
    def step(connection: sqlite3.Connection) -> None:
        for statement in statements.split(";\n"):
            if statement.strip():
                connection.execute(statement)

    return step


STEPS: list[_Step] = [_made_by(_FIRST), _made_by(_SECOND)]
"""What brings a file from each version to the next; one that is new has version 0. A step that was once released is
never changed."""


def version_of(connection: sqlite3.Connection) -> int:
    """Return how many of the steps a file has behind it."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def bring_up(connection: sqlite3.Connection) -> None:
    """Take the steps that a file does not have behind it; all of them are stored, or none."""
    version = version_of(connection)
    if version == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for step in STEPS[version:]:
            step(connection)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has ended it already, after some errors
            connection.execute("ROLLBACK")
        raise
