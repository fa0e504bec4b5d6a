"""Cells: small values that are compared and set, beside all subjects.

Belongs here: operations, each called within a transaction on the thread of the database. It must not know of asyncio,
nor what may be a key or a value.
"""

from __future__ import annotations

from typing import Final

from onwhen.storage.sqlite._database import Database

__all__ = ["exchange"]

_AT_ONCE: Final = 100  # cells that are over and removed by one that is set (a count); others wait for no more than that


def exchange(
    database: Database, key: bytes, expected: bytes | None, new: bytes | None, now: int, ttl: int
) -> bytes | None:
    """Return what is there afterwards; see `Store.exchange`.

    Args:
        database: where.
        key: which cell.
        expected: what has to be there.
        new: what is there then.
        now: the moment, in microseconds since the epoch.
        ttl: for how long, in microseconds.
    """
    found = database.execute("SELECT value FROM cells WHERE key = ? AND expires > ?", (key, now)).fetchone()
    value: bytes | None = None if found is None else found[0]
    if value != expected:
        return value
    if new is None:
        database.execute("DELETE FROM cells WHERE key = ?", (key,))
        return None
    database.execute(
        "DELETE FROM cells WHERE rowid IN (SELECT rowid FROM cells WHERE expires <= ? LIMIT ?)", (now, _AT_ONCE)
    )
    database.execute("INSERT OR REPLACE INTO cells (key, value, expires) VALUES (?, ?, ?)", (key, new, now + ttl))
    database.wrote(len(new))
    return new
