"""What is asked of a server before it is trusted with anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping

import pytest

from onwhen.errors import StoreError
from onwhen.storage.redis._address import Address
from onwhen.storage.redis._checks import check_server
from onwhen.storage.redis._connection import Connection, Script
from onwhen.testing.servers import RedisCluster, RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


async def opened(url: str) -> Connection:
    connection = Connection(url)
    try:
        await connection.open()
    finally:
        await connection.close()
    return connection


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_may_forget_keys_is_refused(server: RedisServer, policy: str) -> None:
    """Accepted events are keys; the message says what to set."""
    server.ask("CONFIG", "SET", "maxmemory-policy", policy)
    try:
        with pytest.raises(StoreError, match=rf"has maxmemory-policy {policy}: .*Set maxmemory-policy noeviction"):
            await opened(server.url)
    finally:
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
    await opened(server.url)


async def test_a_replica_is_refused(server: RedisServer) -> None:
    """And the master is named."""
    with RedisServer().follow(server.port) as replica:
        with pytest.raises(StoreError, match=rf"is a replica of 127.0.0.1:{server.port}: the address must lead to"):
            await opened(replica.url)
        assert int(server.info("replication")["connected_slaves"]) == 1


async def test_that_nothing_is_kept_on_disk_is_a_warning(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    """Once for each connection that is opened, however often; it says what may be lost."""
    with caplog.at_level(logging.WARNING, "onwhen.storage.redis"):
        connection = await opened(server.url)
        await connection.open()
        await connection.close()
    (record,) = caplog.records
    assert record.name == "onwhen.storage.redis"
    assert "keeps no append-only file" in record.getMessage()
    assert "Set appendonly yes" in record.getMessage()
    caplog.clear()
    server.ask("CONFIG", "SET", "appendonly", "yes")
    await opened(server.url)
    server.ask("CONFIG", "SET", "appendonly", "no")
    assert caplog.records == []


async def test_an_address_of_another_kind_is_refused(server: RedisServer, redis_cluster: RedisCluster) -> None:
    """With the address that would do."""
    node = redis_cluster.nodes[0]
    with pytest.raises(StoreError, match=r"is a node of a Cluster: the address must start with redis\+cluster://"):
        await opened(node.url)
    with pytest.raises(StoreError, match=r"tells which are its nodes: .*cluster support disabled"):
        await opened(f"redis+cluster://127.0.0.1:{server.port}")
    with pytest.raises(StoreError, match=r"no Sentinel names a master"):
        await opened(f"redis+sentinel://127.0.0.1:{server.port}/main")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"redis_version": "6.2.14"}, "has version 6.2.14: Redis 7.0 or later is needed, or Valkey 7.2 or later"),
        ({"redis_version": "7.2.4", "valkey_version": "7.0.1"}, "has version 7.0.1: Redis 7.0 or later is needed"),
        ({}, "has version unknown"),
        ({"redis_version": "8.0.1", "redis_mode": "sentinel"}, "is a Sentinel: the address must be"),
        ({"redis_version": "8.0.1", "server_mode": "cluster"}, "is a node of a Cluster"),
        ({"redis_version": "8.0.1", "role": "slave", "master_host": "a"}, r"is a replica of a:\?"),
    ],
)
def test_what_a_server_says_of_itself_is_looked_at(facts: Mapping[str, str], message: str) -> None:
    """Its version, its mode and its role."""
    with pytest.raises(StoreError, match=f"Redis here {message}"):
        check_server(Address.parse("redis://here"), "here", facts)


@pytest.mark.parametrize(
    "facts",
    [
        {"redis_version": "7.0.15", "redis_mode": "standalone", "role": "master"},
        {"redis_version": "10.0.0", "redis_mode": "standalone", "role": "master"},
        {"redis_version": "7.2.4", "valkey_version": "9.1.2", "server_mode": "standalone", "role": "master"},
    ],
)
def test_what_will_do_is_taken(facts: Mapping[str, str]) -> None:
    """Newer versions too."""
    check_server(Address.parse("redis://here"), "here", facts)


async def test_all_servers_of_a_cluster_are_looked_at(redis_cluster: RedisCluster) -> None:
    """One that does not fit is enough."""
    await opened(redis_cluster.url)
    redis_cluster.nodes[2].ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
    try:
        with pytest.raises(StoreError, match=rf":{redis_cluster.nodes[2].port} has maxmemory-policy allkeys-random"):
            await opened(redis_cluster.url)
    finally:
        redis_cluster.nodes[2].ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


async def test_a_server_that_is_not_there_is_told() -> None:
    """With its address, and what to look at."""
    with RedisServer() as server:
        url = server.url
    with pytest.raises(StoreError, match=r"connecting: not sent: .*Connect call failed.*is the address right\?"):
        await opened(url)
    with pytest.raises(StoreError, match=r"Redis no-such-host.invalid:6379, connecting: not sent"):
        await opened("redis://no-such-host.invalid")


async def test_a_server_that_is_busy_is_waited_for() -> None:
    """As by every call; then it is looked at."""
    with RedisServer(options={"busy-reply-threshold": "10"}) as server:
        other = Connection(server.url)
        await other.open()
        busy = asyncio.ensure_future(other.run(Script("forever", "#!lua\nwhile true do end"), ["{onwhen:p0}:n"]))
        await asyncio.sleep(0.1)
        with pytest.raises(StoreError, match=r"connecting: BUSY"):
            await opened(f"{server.url}?patience=0.1")
        opening = asyncio.ensure_future(opened(server.url))
        await asyncio.sleep(0.1)
        assert not opening.done()
        server.ask("SCRIPT", "KILL")
        await opening
        with pytest.raises(StoreError):
            await busy
        await other.close()
