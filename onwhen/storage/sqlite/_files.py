"""The file of a store: made whole or not at all, looked over before it is used, and opened.

Belongs here: everything about the file as a file, and the settings of a connection to it. It must not know what the
tables hold.
"""

from __future__ import annotations

import os
import sqlite3
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias

from onwhen.errors import StoreCorrupt, StoreError, StoreFormatError
from onwhen.storage.sqlite._schema import APPLICATION_ID, STEPS, bring_up, version_of

__all__ = [
    "KEPT_WAL",
    "Synchronous",
    "check",
    "check_directory",
    "check_writable",
    "connect",
    "make",
    "set_up",
    "verify",
]

Synchronous: TypeAlias = Literal["FULL", "NORMAL"]

_WINDOW: Final = 100_000  # accepted events that a new file remembers, unless it is told otherwise (a count)
_SMALLEST: Final = 512  # bytes of the smallest page that there is
_STATEMENTS: Final = 256  # that stay compiled; more than there are
_LOCK_WAIT: Final = 5.0  # seconds; only somebody who writes to the file by other means makes us wait
_CACHE: Final = 32 * 1024  # KiB of pages in memory
KEPT_WAL: Final = 32 * 1024 * 1024  # bytes of the write-ahead log that are kept to be written over


def make(path: str, partitions: int) -> None:
    """Make a new store's file under another name, and give it its own when all of it is on the disk.

    So a file of this name is whole, or not there, whenever the process ends. Called by who holds the lock.

    Raises:
        StoreCorrupt: something is left of another file of this name.
    """
    if any(os.path.exists(path + suffix) and os.path.getsize(path + suffix) for suffix in ("-wal", "-journal")):
        raise StoreCorrupt(
            f"{path}: the file is missing, but {path}-wal is there and belongs to it. Put the file back, or restore "
            f"both from a copy"
        )
    new = f"{path}-new"
    _remove(new)  # left by a process that was killed at this
    try:
        with closing(_connection(new, "rwc")) as connection:
            _use_wal(connection, path)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            bring_up(connection)
            connection.execute(
                "INSERT INTO meta (one, partitions, dedup_window, reserved, is_open) VALUES (1, ?, ?, 0, 0)",
                (partitions, _WINDOW),
            )
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        _sync(new, os.O_RDWR)
    except Exception:
        _remove(new)
        raise
    os.replace(new, path)
    if sys.platform != "win32":
        _sync(os.path.dirname(path), os.O_RDONLY)


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a file that is there; nothing in it is read or changed yet."""
    try:
        return _connection(path, "ro" if read_only else "rw")
    except sqlite3.OperationalError:
        _explain(path)
        raise


def _connection(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{Path(path).as_uri()}?mode={mode}",
        uri=True,
        timeout=_LOCK_WAIT,
        isolation_level=None,
        cached_statements=_STATEMENTS,
    )


def check_directory(path: str) -> None:
    """Refuse a file that cannot be made, because of where it is to be.

    Raises:
        StoreError: there is no such directory.
    """
    if not os.path.isdir(directory := os.path.dirname(path)):
        raise StoreError(f"{path}: there is no directory {directory}; make it first")


def check(path: str) -> None:
    """Refuse what is not a file, or too short to be one of SQLite, without opening it.

    Raises:
        StoreError: it is not there, or something else than a file.
        StoreCorrupt: it is too short. SQLite would take an empty one to be new.
    """
    if not os.path.exists(path):
        raise StoreError(f"{path}: there is no such file; a store that is opened for writing makes one")
    if not os.path.isfile(path):
        raise StoreError(f"{path}: not a file; give the name of a file in a directory that exists")
    size = os.path.getsize(path)
    if size < _SMALLEST:
        raise StoreCorrupt(
            f"{path}: {size} bytes are no store: it was cut short, or was never one. Restore it from a copy, or "
            f"remove it to begin a new one"
        )


def check_writable(path: str) -> None:
    """Refuse a file that cannot be written, or what lies beside it; SQLite does not say which one it was.

    Raises:
        StoreError: there is one that this process may not write.
    """
    for name in (path, f"{path}-lock", f"{path}-wal", f"{path}-shm"):
        if os.path.exists(name) and not _may(name, os.R_OK | os.W_OK):
            raise StoreError(
                f"{name}: it belongs to {_owner_of(name)}, and this process may not write it. When nobody has the "
                f"store open, give it to the user that runs the program (chown); do not remove it"
            )


def _explain(path: str) -> None:
    """Say why SQLite could not open a file, if that is for what this process may not do there."""
    for name in (path, f"{path}-wal", f"{path}-shm"):
        if os.path.exists(name) and not _may(name, os.R_OK):
            raise StoreError(f"{name}: it belongs to {_owner_of(name)}, and this process may not read it")
    if not _may(directory := os.path.dirname(path), os.W_OK | os.X_OK) and not os.path.exists(f"{path}-shm"):
        raise StoreError(
            f"{path}: nobody has it open, and this process may not write to {directory}. Even to read it, SQLite has "
            f"to make -wal and -shm beside it: open it as a user who may write there, while the program runs, or a copy"
        )


def _may(name: str, access: int) -> bool:
    return os.access(name, access, effective_ids=os.access in os.supports_effective_ids)


def _owner_of(name: str) -> str:
    try:
        return f"user {Path(name).owner()}"
    except (KeyError, NotImplementedError, OSError):  # one without a name, or no users at all
        return f"user {os.stat(name).st_uid}"


def verify(connection: sqlite3.Connection, path: str, *, read_only: bool = False) -> None:
    """Make sure that a file is ours, of a version that is known, and not cut short; nothing of it is changed.

    Raises:
        StoreFormatError: it is not ours, of a newer version, or of an older one and `read_only`.
        StoreCorrupt: a part of it is missing.
    """
    try:
        (application,) = connection.execute("PRAGMA application_id").fetchone()  # the first thing that is read of it
    except sqlite3.OperationalError:
        _explain(path)
        raise
    if application != APPLICATION_ID:
        raise StoreFormatError(f"{path}: a SQLite file, but no store of onwhen; give another name")
    version = version_of(connection)
    if version > len(STEPS):
        raise StoreFormatError(
            f"{path}: written by a newer onwhen (format {version}, this one knows up to {len(STEPS)}); upgrade"
        )
    if read_only and version < len(STEPS):
        raise StoreFormatError(f"{path}: of an older format, {version}; open it for writing once to bring it up")
    # Somebody may be writing to it, so that parts of it are, or a moment ago were, in the write-ahead log.
    is_whole = not _has_wal(path)
    (page,), (pages,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "page_count"))
    if is_whole and (size := os.path.getsize(path)) < page * pages and not _has_wal(path):
        raise StoreCorrupt(f"{path}: cut short to {size:,} of {page * pages:,} bytes. Restore it from a copy")


def set_up(connection: sqlite3.Connection, path: str, synchronous: Synchronous) -> None:
    """Set what is not stored in the file: how surely it is written, and that checkpoints are ours to make."""
    _use_wal(connection, path)
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute(f"PRAGMA journal_size_limit = {KEPT_WAL}")
    connection.execute(f"PRAGMA cache_size = -{_CACHE}")
    connection.execute("PRAGMA fullfsync = ON")  # macOS would leave it to the drive when to write
    connection.execute("PRAGMA checkpoint_fullfsync = ON")


def _use_wal(connection: sqlite3.Connection, path: str) -> None:
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"{path}: no write-ahead log can be kept there; use a disk of this machine")


def _has_wal(path: str) -> bool:
    return os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal") > 0


def _remove(path: str) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        with suppress(FileNotFoundError):
            os.remove(path + suffix)


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
