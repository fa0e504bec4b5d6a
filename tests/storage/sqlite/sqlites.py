"""SQLite stores for tests: opened and closed around a block, used by other processes, and looked into."""

import ctypes
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import onwhen
from onwhen import Event, VirtualClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Commit, CommitResult, SubjectWrite
from onwhen.storage import SqliteStore, create_sqlite_storage
from onwhen.storage.sqlite._database import Database

T = TypeVar("T")

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)


@asynccontextmanager
async def opened(path: Path, **options: Any) -> AsyncIterator[SqliteStore]:
    store = create_sqlite_storage(path, **options)
    await store.open(VirtualClock(NOON))
    try:
        yield store
    finally:
        await store.close()


def event(id: str, subject: str = "a", data: Any = None) -> Event:
    return Event("opened", subject, data, id=id, source="/desk")


async def commit(store: SqliteStore, subject: str = "a", **fields: Any) -> CommitResult:
    """Commit on what is stored now, unless told otherwise."""
    if "version" not in fields:
        fields["version"] = (await store.load(subject)).version
    return await store.commit(Commit(partition=partition_of(subject, store.partitions), subject=subject, **fields))


async def write(store: SqliteStore, subject: str = "a", **properties: bytes) -> CommitResult:
    return await commit(store, subject, write=SubjectWrite(set=properties))


async def pending(store: SqliteStore, partition: int = 0) -> list[str]:
    return [entry.event.id for entry in await store.read(partition, None, 10_000)]


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


async def inside(store: SqliteStore, look: Callable[[Database], T]) -> T:
    """Do something with the database of an open store, on its thread and between transactions."""
    return await store._ask(look)


def pragma(name: str) -> Callable[[Database], Any]:
    return lambda database: database.execute(f"PRAGMA {name}").fetchone()[0]


PRELUDE = """
import asyncio, os, signal, sys
from pathlib import Path
from onwhen import Event, SystemClock, create_sqlite_storage
from tests.storage.sqlite.sqlites import *
path = Path(sys.argv[1])
"""


def give_up_privileges() -> None:
    """Have the permissions of files hold for this thread and those that it starts, also if it is root's (Linux)."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # capabilities(7), version 3
        assert libc.capset(header, nothing) == 0, os.strerror(ctypes.get_errno())


def run_apart(code: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with what this module has, and `path`."""
    return subprocess.run(
        [sys.executable, *options, "-c", PRELUDE + code, str(path)],
        cwd=Path(onwhen.__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=60,
    )
