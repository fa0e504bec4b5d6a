"""The way to a server that Sentinels watch: whoever they call the master is asked."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator

import pytest

from onwhen.errors import StoreError
from onwhen.storage.redis._connection import Connection, Script
from onwhen.testing.servers import RedisServer, Sentinels

COUNT = Script("count", "#!lua\nreturn redis.call('INCR', KEYS[1])")
KEY = "{onwhen:p0}:n"


@pytest.fixture(scope="module")
def sentinels() -> Iterator[Sentinels]:
    with Sentinels() as sentinels:
        yield sentinels


async def test_the_master_is_asked(sentinels: Sentinels) -> None:
    """Also when the first Sentinel that is named is not there."""
    first = sentinels.url.replace("://", "://127.0.0.1:1,", 1)
    for url in (sentinels.url, first):
        connection = Connection(url)
        await connection.open()
        await connection.run(COUNT, [KEY])
        await connection.close()
    assert sentinels.master().ask("GET", KEY) in ("2", b"2")
    sentinels.master().ask("DEL", KEY)


async def test_a_master_that_nobody_knows_is_told(sentinels: Sentinels) -> None:
    """With what each Sentinel says."""
    connection = Connection(sentinels.url.rpartition("/")[0] + "/nobody")
    with pytest.raises(StoreError, match=r"no Sentinel names a master of .*; .* knows no master 'nobody'"):
        await connection.open()
    with RedisServer() as server, pytest.raises(StoreError, match=r"no Sentinel names a master .*unknown command"):
        await Connection(f"redis+sentinel://127.0.0.1:{server.port}/mymaster").open()
    with pytest.raises(StoreError, match=r"is a Sentinel: the address must be redis.sentinel://"):
        await Connection(sentinels.url.split(",")[0].replace("redis+sentinel", "redis")).open()


async def test_calls_go_on_at_the_new_master(sentinels: Sentinels) -> None:
    """What was in flight is told; later calls are refused at once, or wait, until there is a new master."""
    connection = Connection(sentinels.url)
    await connection.open()
    mark = await connection.mark(KEY)
    counted, unknown, refused = 0, 0, 0
    stop = asyncio.Event()

    async def count() -> None:
        nonlocal counted, unknown, refused
        while not stop.is_set():
            try:
                await connection.run(COUNT, [KEY])
                counted += 1
            except StoreError as error:
                unknown += "whether it was executed is not known" in str(error)
                refused += "not sent" in str(error)
                await asyncio.sleep(0.02)

    tasks = [asyncio.ensure_future(count()) for _ in range(4)]
    await asyncio.to_thread(sentinels.fail_over, "kill")
    before = counted
    while counted == before:
        await asyncio.sleep(0.01)
    stop.set()
    await asyncio.gather(*tasks)
    assert refused > 0
    assert int(await connection.ask("GET", KEY)) <= counted + unknown
    with pytest.raises(StoreError, match=r"not sent, for the server was started again, or another one"):
        await connection.run(COUNT, [KEY], since=mark)
    assert await connection.mark(KEY) != mark
    await connection.ask("DEL", KEY)
    await connection.close()


def test_it_is_opened_anew_on_another_event_loop(sentinels: Sentinels) -> None:
    """What was open to Sentinels and servers is let go of without a sound."""
    connection = Connection(sentinels.url)

    async def count() -> int:
        await connection.open()
        return int(await connection.run(COUNT, [KEY]))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = asyncio.run(count())
        assert asyncio.run(count()) == first + 1
        asyncio.run(connection.close())
        gc.collect()


async def test_a_master_that_says_that_it_is_none_is_not_believed(sentinels: Sentinels) -> None:
    """The Sentinels may not have noticed yet. It is asked again, for a while; nothing is sent to it."""
    master = sentinels.master()
    connection = Connection(f"{sentinels.url}?patience=0.2")
    await connection.open()
    replica = next(server for server in sentinels.servers if server is not master)
    master.ask("REPLICAOF", "127.0.0.1", replica.port)
    try:
        with pytest.raises(StoreError, match=r"but it is a replica; wait for the fail-over|READONLY"):
            await connection.run(COUNT, [KEY])
    finally:
        master.ask("REPLICAOF", "NO", "ONE")
        await connection.close()
