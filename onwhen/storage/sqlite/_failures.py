"""What SQLite and the file system report, as the errors of onwhen.

Belongs here: which error means what, and what to do about it. It must not know what was being done.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import sqlite3
from types import ModuleType
from typing import Final

from onwhen.errors import StoreCorrupt, StoreError, StoreFull, StoreInUse

resource: ModuleType | None
try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None

__all__ = ["translated"]

_PRIMARY: Final = 0xFF  # the other bits of a code say more closely what it was
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_LOCKED: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_SPACE: Final = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})
_NO_ROOM: Final = 1 << 16  # bytes that are free; with fewer, a write that fails does so for want of room


def translated(error: Exception, path: str, *, is_unsure: bool = False) -> StoreError:
    """Return the error of onwhen that an error means; to be raised from it.

    Args:
        error: what was raised.
        path: the file that it was about.
        is_unsure: a commit has failed that may be stored all the same, so that nothing can be said to be not.
    """
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error):
        code = _code(error)
        if code in _CORRUPT:
            return StoreCorrupt(f"{path}: damaged ({error}). It is left as it is; restore it from a copy")
        if is_unsure:
            return StoreError(
                f"{path}: {error}; it is not known whether this is stored. See that the disk works and has room, and "
                f"ask again with the same id"
            )
        if code == sqlite3.SQLITE_FULL or (_is_of_writing(error) and _is_full(path)):
            return StoreFull(f"{path}: there is no room left ({error}); nothing of this was stored. Make room")
        if code in _LOCKED:
            return StoreInUse(f"{path}: another process has locked it ({error}); end what it does there")
        return StoreError(f"{path}: {error}; see that the file and its directory can be read and written")
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        return StoreFull(f"{path}: {error.strerror}; nothing of this was stored. Make room")
    if isinstance(error, OSError):
        return StoreError(f"{path}: {error.strerror or error}; see that its directory can be read and written")
    return StoreError(f"{path}: this cannot be stored: {type(error).__name__}: {error}")


def _code(error: Exception) -> int | None:
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else int(code) & _PRIMARY


def _is_of_writing(error: Exception) -> bool:
    """Tell whether something was not written; after other errors it may have been, and be found by the next one."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_IOERR_WRITE


def _is_full(path: str) -> bool:
    """Tell whether the disk is full, or a file as long as those of this process may be."""
    try:
        free = shutil.disk_usage(os.path.dirname(path)).free
        longest = max((os.path.getsize(name) for name in (path, f"{path}-wal") if os.path.exists(name)), default=0)
    except OSError:
        return False
    return min(free, _most_bytes() - longest) < _NO_ROOM


def _most_bytes() -> float:
    if resource is None:
        return math.inf
    (limit, _) = resource.getrlimit(resource.RLIMIT_FSIZE)
    return math.inf if limit == resource.RLIM_INFINITY else limit
