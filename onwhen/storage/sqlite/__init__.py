"""A store in one SQLite file: durable on one machine, with no server."""

import os

from onwhen.storage.sqlite._files import Synchronous
from onwhen.storage.sqlite._store import SqliteStore

__all__ = ["SqliteStore", "create_sqlite_storage"]


def create_sqlite_storage(
    path: str | os.PathLike[str],
    *,
    partitions: int = 1,
    dedup_window: int | None = None,
    history: int = 0,
    explanations: int = 1_000,
    synchronous: Synchronous = "FULL",
    read_only: bool = False,
) -> SqliteStore:
    """Return a store in one SQLite file; nothing is opened or made before a bus opens it.

    Args:
        path: name of the file; one that is not there is made, in a directory that is. Beside it lie `-lock`, and
            `-wal` and `-shm` while it is open: they belong to it. It has to be on a disk of this machine.
        partitions: how many partitions there are (a count); fixed when the file is made.
        dedup_window: how many of the latest accepted events are remembered, so that a second one of the same source
            and id is not accepted again (a count). None: as many as whoever wrote the file before said; 100,000 for
            a new one.
        history: how many commits are kept to be looked at, of all subjects together (a count). With 0 none is added,
            and what is there stays.
        explanations: how many explanations each partition keeps of what turns did (a count). With 0 none is added, and
            what is there stays.
        synchronous: "FULL": what is answered outlives a loss of power. "NORMAL": it outlives the process, but a loss
            of power may take the last moments.
        read_only: look at a file that another process may be writing to; whatever writes raises `StoreError`. Then
            `partitions` is that of the file, as soon as it is open.

    Raises:
        SettingError: an argument is out of range.
    """
    return SqliteStore(
        path,
        partitions=partitions,
        dedup_window=dedup_window,
        history=history,
        explanations=explanations,
        synchronous=synchronous,
        read_only=read_only,
    )
