"""Answers that a server gives before it has done anything: they are waited out, for as long as patience lasts."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from onwhen.errors import StoreError, StoreFull
from onwhen.storage.redis._connection import Script
from onwhen.testing.servers import RedisServer
from tests.storage.redis.connecting import COUNT, DRAIN, KEY, connected, until


async def test_a_replica_is_waited_out_and_counts_as_another_server() -> None:
    """It was not executed there; when the server is master again, it may be so with another history."""
    with RedisServer() as server:
        async with connected(server.url) as connection:
            mark = await connection.mark(KEY)
            server.ask("REPLICAOF", "127.0.0.1", "1")
            task = asyncio.ensure_future(connection.run(COUNT, [KEY]))
            await asyncio.sleep(0.1)
            assert not task.done()
            server.ask("REPLICAOF", "NO", "ONE")
            assert await task == 1
            assert await connection.mark(KEY) != mark
        async with connected(server.url, patience=0.2) as connection:
            server.ask("REPLICAOF", "127.0.0.1", "1")
            with pytest.raises(StoreError, match=r"READONLY .*; this server is a replica"):
                await connection.run(COUNT, [KEY])


async def test_a_full_server_takes_what_drains_it_and_refuses_the_rest() -> None:
    """After a moment of patience; what was refused was not executed, and goes on when there is room."""
    with RedisServer() as server:
        async with connected(server.url) as connection:
            server.ask("CONFIG", "SET", "maxmemory", "1")
            with pytest.raises(StoreFull, match=r"script count: OOM .*raise it, or let workers drain the backlog"):
                await connection.run(COUNT, [KEY])
            assert await connection.run(DRAIN, [KEY]) == 1
            task = asyncio.ensure_future(connection.run(COUNT, [KEY]))
            await asyncio.sleep(0.05)
            server.ask("CONFIG", "SET", "maxmemory", "0")
            assert await task == 2


async def test_a_server_that_runs_somebody_elses_long_script_is_waited_for() -> None:
    """Until it has ended, or patience has."""
    forever = Script("forever", "#!lua\nwhile true do end")
    with RedisServer(options={"busy-reply-threshold": "10"}) as server:
        async with (
            connected(server.url, patience=0.1) as hasty,
            connected(server.url) as connection,
            connected(server.url) as other,
        ):
            busy = asyncio.ensure_future(other.run(forever, [KEY]))
            await asyncio.sleep(0.05)
            with pytest.raises(StoreError, match=r"BUSY .*end it with SCRIPT KILL"):
                await hasty.run(COUNT, [KEY])
            task = asyncio.ensure_future(connection.run(COUNT, [KEY]))
            await asyncio.sleep(0.02)
            server.ask("SCRIPT", "KILL")
            assert await task == 1
            with pytest.raises(StoreError, match=r"script forever: "):
                await busy


async def test_a_server_without_its_replicas_is_waited_for() -> None:
    """As long as it refuses to write; nothing was executed."""
    with RedisServer() as server:
        async with connected(server.url, patience=0.1) as hasty, connected(server.url) as connection:
            server.ask("CONFIG", "SET", "min-replicas-to-write", "1")
            with pytest.raises(StoreError, match=r"NOREPLICAS .*min-replicas-to-write demands"):
                await hasty.run(COUNT, [KEY])
            task = asyncio.ensure_future(connection.run(COUNT, [KEY]))
            await asyncio.sleep(0.05)
            server.ask("CONFIG", "SET", "min-replicas-to-write", "0")
            assert await task == 1


async def test_a_server_that_cannot_write_its_snapshots_is_waited_for(tmp_path: Path) -> None:
    """It refuses every change, before it is made."""
    folder = tmp_path / "gone"
    folder.mkdir()
    options = {"dir": str(folder), "save": "3600 1"}
    with RedisServer(options=options) as server:
        async with connected(server.url, patience=0.1) as hasty, connected(server.url) as connection:
            shutil.rmtree(folder)
            server.ask("BGSAVE")
            await until(lambda: server.info("persistence")["rdb_last_bgsave_status"] == "err")
            with pytest.raises(StoreError, match=r"MISCONF .*see its log"):
                await hasty.run(COUNT, [KEY])
            task = asyncio.ensure_future(connection.run(COUNT, [KEY]))
            await asyncio.sleep(0.05)
            server.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
            assert await task == 1
            server.ask("CONFIG", "SET", "save", "")


async def test_a_server_that_reads_its_data_is_waited_for() -> None:
    """It says so, and closes nothing; after patience has ended so does the call."""
    options = {"key-load-delay": "2000", "loading-process-events-interval-bytes": "1024"}
    with RedisServer(appendonly=True, options=options) as server:
        wire = server.wire()
        for number in range(500):
            wire.ask("SET", f"{{onwhen:p0}}:{number}", "x" * 100)
        wire.close()
        server.ask("BGREWRITEAOF")
        await until(lambda: server.info("persistence")["aof_rewrite_in_progress"] == "0")
        async with connected(server.url) as patient, connected(server.url, patience=0.1) as hasty:
            await asyncio.to_thread(server.kill)
            starting = asyncio.ensure_future(asyncio.to_thread(server.start))
            refused: set[str] = set()
            while not starting.done() and "LOADING" not in refused:
                try:
                    await hasty.run(COUNT, [KEY])
                except StoreError as error:
                    refused |= {word for word in ("LOADING", "Connect call failed") if word in str(error)}
                await asyncio.sleep(0.01)
            assert "LOADING" in refused
            assert await patient.run(COUNT, [KEY]) == 1
            await starting
