"""The way to a Cluster: each key's server is found, and found again when slots move or a server falls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import pytest

from onwhen.errors import StoreError
from onwhen.storage.redis._connection import Connection, Script
from onwhen.testing.servers import RedisCluster

COUNT = Script("count", "#!lua\nreturn redis.call('INCR', KEYS[1])")
BOTH = Script("both", "#!lua\nreturn {redis.call('INCR', KEYS[1]), redis.call('INCR', KEYS[2])}")
KEYS = [f"{{onwhen:p{number}}}:n" for number in range(16)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(replicas=1) as cluster:
        yield cluster


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = Connection(url)
    await connection.open()
    try:
        await connection.ask_many([("DEL", key) for key in KEYS])
        yield connection
        await connection.ask_many([("DEL", key) for key in KEYS])
    finally:
        await connection.close()


async def counting(connection: Connection, keys: Sequence[str], stop: asyncio.Event) -> tuple[list[str], list[str]]:
    """Count on all keys until told to stop; returns on which, and the errors."""
    counted: list[str] = []
    errors: list[str] = []
    while not stop.is_set():
        for key in keys:
            try:
                await connection.run(COUNT, [key])
                counted.append(key)
            except StoreError as error:
                errors.append(str(error))
                await asyncio.sleep(0.01)
    return counted, errors


async def counts(connection: Connection) -> dict[str, int]:
    found = await connection.ask_many([("GET", key) for key in KEYS])
    return {key: int(value or 0) for key, value in zip(KEYS, found, strict=True)}


async def test_each_key_is_asked_of_its_server(cluster: RedisCluster) -> None:
    """Scripts are loaded where they are needed, and again where they were forgotten."""
    assert len({cluster.owner(cluster.slot_of(key)).port for key in KEYS}) == 3
    async with connected(cluster.url) as connection:
        assert connection.is_cluster
        assert await asyncio.gather(*(connection.run(COUNT, [key]) for key in KEYS)) == [1] * 16
        for node in cluster.masters():
            node.ask("SCRIPT", "FLUSH")
        assert await asyncio.gather(*(connection.run(COUNT, [key]) for key in KEYS)) == [2] * 16
        assert await counts(connection) == dict.fromkeys(KEYS, 2)
        with pytest.raises(StoreError, match=r"CROSSSLOT .*a fault of onwhen"):
            await connection.run(BOTH, KEYS[:2])


async def test_one_server_is_enough_to_find_the_others(cluster: RedisCluster) -> None:
    """It need not have the key, nor be a master."""
    host, _, _ = cluster.url.partition(",")
    async with connected(host) as connection:
        assert await asyncio.gather(*(connection.run(COUNT, [key]) for key in KEYS)) == [1] * 16


async def test_slots_move_under_calls_and_nobody_notices(cluster: RedisCluster) -> None:
    """Keys that have gone ahead are asked of where they went; scripts with keys on both sides wait."""
    async with connected(cluster.url) as connection:
        marks = [await connection.mark(key) for key in KEYS]
        other = "{onwhen:p0}:other"
        stop = asyncio.Event()
        task = asyncio.ensure_future(counting(connection, KEYS[:3], stop))

        async def both() -> int:
            times = 0
            while not stop.is_set():
                await connection.run(BOTH, [KEYS[0], other])
                times += 1
            return times

        pairs = asyncio.ensure_future(both())
        slot = cluster.slot_of(KEYS[0])
        before = cluster.owner(slot)
        for _ in range(3):
            await asyncio.to_thread(cluster.migrate_slot, slot, pause=0.05)
        await asyncio.to_thread(cluster.migrate_slot, slot, before)
        stop.set()
        counted, errors = await task
        times = await pairs
        assert errors == []
        assert {key for key, mark in zip(KEYS, marks, strict=True) if await connection.mark(key) != mark} == set()
        assert (await counts(connection))[KEYS[0]] == counted.count(KEYS[0]) + times
        assert await connection.ask("GET", other) == str(times).encode()
        assert times > 3
        await connection.ask("DEL", other)


async def test_a_slot_that_has_moved_has_another_server(cluster: RedisCluster) -> None:
    """Calls that rely on the one before are refused until they ask anew; other slots do not care."""
    async with connected(cluster.url) as connection:
        slot = cluster.slot_of(KEYS[0])
        mark, rest = await connection.mark(KEYS[0]), {key: await connection.mark(key) for key in KEYS[1:]}
        await connection.run(COUNT, [KEYS[0]], since=mark)
        before = cluster.owner(slot)
        await asyncio.to_thread(cluster.migrate_slot, slot)
        with pytest.raises(StoreError, match=r"not sent, for the server was started again, or another one"):
            await connection.run(COUNT, [KEYS[0]], since=mark)
        after = await connection.mark(KEYS[0])
        assert after != mark
        assert await connection.run(COUNT, [KEYS[0]], since=after) == 2
        for key, same in rest.items():
            assert await connection.run(COUNT, [key], since=same) == 1
        await asyncio.to_thread(cluster.migrate_slot, slot, before)


@pytest.mark.parametrize("how", ["ask", "kill"])
async def test_a_replica_takes_over(cluster: RedisCluster, how: str) -> None:
    """Its slots go on there; those of other servers are not held up, and nothing is executed twice."""
    async with connected(cluster.url) as connection:
        lost = cluster.owner(cluster.slot_of(KEYS[0]))
        shard = next(number for number, shard in enumerate(cluster.shards()) if lost in shard)
        mark = await connection.mark(KEYS[0])
        here = [key for key in KEYS if cluster.owner(cluster.slot_of(key)) is lost]
        there = [key for key in KEYS if key not in here]
        stop = asyncio.Event()
        affected = asyncio.ensure_future(counting(connection, here, stop))
        others = asyncio.ensure_future(counting(connection, there, stop))
        await asyncio.to_thread(cluster.fail_over, shard, how)
        stop.set()
        (counted, errors), (elsewhere, unaffected) = await affected, await others
        assert await connection.mark(KEYS[0]) != mark
        assert unaffected == []
        found = await counts(connection)
        assert {key: found[key] for key in there} == {key: elsewhere.count(key) for key in there}
        if how == "ask":  # the servers wait for each other, so that nothing is lost
            assert errors == []
            assert {key: found[key] for key in here} == {key: counted.count(key) for key in here}
        else:
            unknown = sum("whether it was executed is not known" in error for error in errors)
            assert sum(found[key] for key in here) <= len(counted) + unknown


async def test_slots_without_a_server_are_waited_for(cluster: RedisCluster) -> None:
    """For a while; then it is said which one has none."""
    async with connected(cluster.url) as connection:
        slot = cluster.slot_of(KEYS[0])
        owner = cluster.owner(slot)
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "yes")
        for node in cluster.masters():
            node.ask("CLUSTER", "DELSLOTS", slot)
        started = time.monotonic()
        tasks = [asyncio.ensure_future(connection.run(COUNT, [key])) for key in KEYS]
        await asyncio.sleep(0.2)
        owner.ask("CLUSTER", "ADDSLOTS", slot)
        await asyncio.to_thread(cluster.until_ok)
        assert await asyncio.gather(*tasks) == [1] * 16
        assert time.monotonic() - started < 10
