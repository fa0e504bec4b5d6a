"""The server that all contenders of a measurement share.

It must not know what is measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from benchmarks.rounds import BenchmarkError
from onwhen.testing.servers import RedisServer, ServerFailed, ServerNotFound

__all__ = ["Fsync", "described", "started", "used_memory"]

Fsync: TypeAlias = Literal["always", "everysec", "no"]
"""When the server brings its file to the disk."""


@contextmanager
def started(program: Path | None, fsync: Fsync) -> Iterator[RedisServer]:
    """Run a server that keeps what is written in a file, for as long as the block lasts.

    Args:
        program: what to start; None for what the tests use.
        fsync: when its file is brought to the disk.

    Raises:
        BenchmarkError: it does not start.
    """
    try:
        with RedisServer(appendonly=True, appendfsync=fsync, program=program) as server:
            yield server
    except (ServerFailed, ServerNotFound) as exc:
        raise BenchmarkError(str(exc)) from exc


def described(server: RedisServer, fsync: Fsync) -> str:
    """Return name, version and persistence, as they are said beside figures."""
    info = server.info("server")
    name = f"Valkey {info['valkey_version']}" if "valkey_version" in info else f"Redis {info['redis_version']}"
    return f"{name} with appendfsync {fsync}"


def used_memory(server: RedisServer) -> int:
    """Return how much its data take (bytes)."""
    return int(server.info("memory")["used_memory"])
