"""Where subjects, accepted events, timers and dead letters are kept."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from onwhen.storage._urls import create_storage
from onwhen.storage.memory import MemoryStore, create_memory_storage

if TYPE_CHECKING:
    from onwhen.storage.redis import RedisStore, create_redis_storage
    from onwhen.storage.sqlite import SqliteStore, create_sqlite_storage

__all__ = [
    "MemoryStore",
    "RedisStore",
    "SqliteStore",
    "create_memory_storage",
    "create_redis_storage",
    "create_sqlite_storage",
    "create_storage",
]

_HOME: Final = {  # only those who use them load sqlite3, or the driver of Redis
    "RedisStore": "onwhen.storage.redis",
    "SqliteStore": "onwhen.storage.sqlite",
    "create_redis_storage": "onwhen.storage.redis",
    "create_sqlite_storage": "onwhen.storage.sqlite",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
