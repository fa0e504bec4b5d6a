"""Where subjects, accepted events, timers and dead letters are kept."""

from typing import TYPE_CHECKING, Any

from onwhen.storage._urls import create_storage
from onwhen.storage.memory import MemoryStore, create_memory_storage

if TYPE_CHECKING:
    from onwhen.storage.sqlite import SqliteStore, create_sqlite_storage

__all__ = ["MemoryStore", "SqliteStore", "create_memory_storage", "create_sqlite_storage", "create_storage"]


def __getattr__(name: str) -> Any:
    if name not in ("SqliteStore", "create_sqlite_storage"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from onwhen.storage import sqlite  # and with it sqlite3, which only those load who use it

    return getattr(sqlite, name)
