"""What the machine can do by itself: data made sure of on the disk, and rows committed by SQLite.

Belongs here: the two floors under every durable store, each as one step that can be timed or counted. It must not know
of onwhen.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

__all__ = ["commit_steps", "sync_steps", "timed", "while_it_lasts"]

_BLOCK: Final = bytes(4096)
_PAGES: Final = 1_000  # of the write-ahead log, after which SQLite copies it; its own default

_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


@contextmanager
def sync_steps(path: Path) -> Iterator[Callable[[], None]]:
    """Yield a step that appends 4 KiB to a file and returns when they are on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)

    def step() -> None:
        os.write(descriptor, _BLOCK)
        _sync(descriptor)

    try:
        yield step
    finally:
        os.close(descriptor)
        path.unlink()


@contextmanager
def commit_steps(path: Path) -> Iterator[Callable[[], None]]:
    """Yield a step that commits one small row to a new database (WAL, synchronous=FULL).

    Its write-ahead log has been through a checkpoint, and is written over: a file that grows is slower to make sure of.
    """
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_PAGES}")
        connection.execute("CREATE TABLE facts (n INTEGER PRIMARY KEY, text TEXT NOT NULL) STRICT")
        execute = connection.execute
        execute("INSERT INTO facts (text) VALUES (hex(zeroblob(2048 * ?)))", (_PAGES,))  # makes a checkpoint due

        def step() -> None:
            execute("INSERT INTO facts (text) VALUES ('a small row')")

        yield step
    path.unlink()


def timed(step: Callable[[], None]) -> float:
    """Return how long a step takes, in seconds."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def while_it_lasts(step: Callable[[], None], seconds: float) -> float:
    """Repeat a step, at least once, for about `seconds`; return how often it was done per second."""
    done, start = 0, time.perf_counter()
    while True:
        step()
        done += 1
        elapsed = time.perf_counter() - start
        if elapsed >= seconds:
            return done / elapsed
