"""Where the files of a measurement lie: on a real disk, in a directory of their own that is removed afterwards.

It must not know what is measured. A temporary directory of the system is no place for this: it may be in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.rounds import ROOT, BenchmarkError

__all__ = ["copied", "on_disk", "size"]

_SUFFIXES: Final = ("", "-wal", "-shm", "-lock")


@contextmanager
def on_disk(directory: Path | None) -> Iterator[Path]:
    """Make a directory for as long as the block lasts.

    Args:
        directory: where to make it, on the disk that is to be measured; by default `.bench` in this repository.

    Raises:
        BenchmarkError: there is no such directory.
    """
    if directory is None:
        directory = ROOT / ".bench"
        directory.mkdir(exist_ok=True)
        (directory / ".gitignore").write_text("*\n")
    if not directory.is_dir():
        raise BenchmarkError(f"{directory}: no such directory; make it, or name another with --directory")
    with tempfile.TemporaryDirectory(prefix="durable-", dir=directory) as made:
        yield Path(made)


@contextmanager
def copied(template: Path, name: str, log: int = 0) -> Iterator[Path]:
    """Copy a database, for as long as the block lasts, and make sure that no write of the copying is under way.

    Args:
        template: what is copied.
        name: name of the copy, in the same directory.
        log: bytes of zeros that its write-ahead log has. SQLite takes such a log for an empty one, and writes over it:
            as if it had been in use for a while.
    """
    path = template.with_name(name)
    shutil.copyfile(template, path)
    _sync(path)
    if log:
        Path(f"{path}-wal").write_bytes(bytes(log))
        _sync(Path(f"{path}-wal"))
    try:
        yield path
    finally:
        for suffix in _SUFFIXES:
            Path(f"{path}{suffix}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size(path: Path, suffix: str = "") -> int:
    """Return how long a file is, in bytes; one that is not there has none."""
    try:
        return Path(f"{path}{suffix}").stat().st_size
    except FileNotFoundError:
        return 0
