"""Who may write: a lock on a file of its own beside the store, which ends with the process, however that ends.

It must not know of SQLite. The lock is not on the store's own file: closing any descriptor of that would let go of
the locks that SQLite holds on it (POSIX `fcntl`).
"""

from __future__ import annotations

import os
import sys
import weakref
from contextlib import suppress

from onwhen.errors import StoreInUse

__all__ = ["OwnerLock"]

_WIDTH = 20

if sys.platform == "win32":
    import msvcrt

    _BEYOND = 1 << 30  # what is locked cannot be read by others, so it is not where the number of the process is

    def _lock(file: int) -> None:
        os.lseek(file, _BEYOND, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(file: int) -> None:
        # Of `flock`, not `fcntl`: it holds against another store of this process as well.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


class OwnerLock:
    """Held from when it is made until `release`.

    Args:
        path: file of the store.

    Raises:
        StoreInUse: somebody else holds it.
        OSError: the lock's own file cannot be made.
    """

    def __init__(self, path: str) -> None:
        self._file: int | None = os.open(f"{path}-lock", os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
        try:
            try:
                _lock(self._file)
            except (BlockingIOError, PermissionError) as exc:
                owner = os.read(self._file, _WIDTH).decode("ascii", "replace").strip() or "unknown"
                whose = "this process" if owner == str(os.getpid()) else f"process {owner}"
                raise StoreInUse(
                    f"{path}: {whose} has it open for writing; close it there, or open it with read_only=True"
                ) from exc
            with suppress(OSError):  # a full disk; only the message to others is poorer for it
                os.write(self._file, f"{os.getpid():<{_WIDTH}}\n".encode())  # as long as what was there before
        except BaseException:
            self.release()
            raise
        _HELD.add(self)

    def release(self) -> None:
        """Let others have it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)


_HELD: weakref.WeakSet[OwnerLock] = weakref.WeakSet()


def _release_in_child() -> None:
    """Leave the lock to the parent: a child that is forked would hold it for as long as it lives."""
    for lock in tuple(_HELD):
        lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_release_in_child)
