"""What the tests of connections share: short scripts, a connection that is open, and waiting for something."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from onwhen.errors import StoreError
from onwhen.storage.redis._connection import Connection, Script

COUNT = Script("count", "#!lua\nreturn redis.call('INCR', KEYS[1])")
ECHO = Script("echo", "#!lua flags=no-writes\nreturn {KEYS[1], ARGV[1], ARGV[2], 7, false}")
DRAIN = Script("drain", "#!lua flags=allow-oom\nreturn redis.call('INCR', KEYS[1])")
KEY = "{onwhen:p0}:n"


@asynccontextmanager
async def connected(url: str, **options: object) -> AsyncIterator[Connection]:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    connection = Connection(f"{url}?{query}")
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()
    with pytest.raises(StoreError, match=r"is not open"):
        await connection.ask("GET", KEY)


async def until(what: object, *, within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not what():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
