"""The way to one server: what is sent once, what is sent again, and what is told when it cannot be done."""

from __future__ import annotations

import asyncio
import gc
import random
import time
import warnings
from collections.abc import Iterator

import psutil
import pytest

from onwhen.errors import StoreError
from onwhen.storage.redis._connection import Connection, Script
from onwhen.testing.servers import FaultProxy, RedisServer
from tests.storage.redis.connecting import COUNT, ECHO, KEY, connected, until


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _clean(server: RedisServer) -> Iterator[None]:
    yield
    server.ask("FLUSHALL")


def clients(server: RedisServer) -> int:
    """Return how many connections there are, without the one that asks."""
    listed = server.ask("CLIENT", "LIST", "TYPE", "normal")
    return str(listed).count("\n") - 1


@pytest.mark.parametrize("protocol", [2, 3])
async def test_scripts_and_commands_are_answered(server: RedisServer, protocol: int) -> None:
    """As the server sends it: bytes, numbers, nothing, and lists of these."""
    async with connected(server.url, protocol=protocol) as connection:
        assert await connection.run(ECHO, [KEY], [b"\xff\r\n", 2**53 + 1]) == [
            KEY.encode(),
            b"\xff\r\n",
            b"9007199254740993",
            7,
            None,
        ]
        await connection.ask("DEL", KEY)
        assert await connection.ask("RPUSH", KEY, "a", b"b", 3) == 3
        assert await connection.ask("LRANGE", KEY, 0, -1) == [b"a", b"b", b"3"]
        assert await connection.ask("DEL", KEY) == 1
        assert await connection.ask("XLEN", KEY) == 0


async def test_a_script_is_sent_in_full_once(server: RedisServer) -> None:
    """Then by its hash; again in full only when the server has forgotten it."""
    server.ask("SCRIPT", "FLUSH")
    async with connected(server.url) as connection:
        before = int(server.info("commandstats").get("cmdstat_eval", "calls=0").partition(",")[0].partition("=")[2])

        def sent_in_full() -> int:
            found = server.info("commandstats").get("cmdstat_eval", "calls=0")
            return int(found.partition(",")[0].partition("=")[2]) - before

        for _ in range(5):
            await connection.run(COUNT, [KEY])
        assert sent_in_full() == 1
        server.ask("SCRIPT", "FLUSH")
        assert await connection.run(COUNT, [KEY]) == 6
        assert sent_in_full() == 2
    server.ask("DEL", KEY)


async def test_many_commands_are_answered_in_order(server: RedisServer) -> None:
    """They go together; one that is refused makes the whole a failure."""
    async with connected(server.url) as connection:
        commands = [("HSET", KEY, f"f{i}", i) for i in range(1_500)] + [("HLEN", KEY)]
        assert await connection.ask_many(commands) == [1] * 1_500 + [1_500]
        with pytest.raises(StoreError, match=r"GET: WRONGTYPE"):
            await connection.ask_many([("HLEN", KEY), ("GET", KEY), ("HLEN", KEY)])
        assert await connection.ask_many([]) == []
        assert await connection.ask("DEL", KEY) == 1


async def test_a_refusal_says_what_was_asked_of_whom(server: RedisServer) -> None:
    """And not with which values, which may be private."""
    async with connected(server.url) as connection:
        with pytest.raises(StoreError, match=rf"Redis 127.0.0.1:{server.port}, HSET: wrong number of arguments") as at:
            await connection.ask("HSET", KEY, "secret-value")
        assert "secret-value" not in str(at.value)
        with pytest.raises(StoreError, match=r"script bad: .*Unknown .*command"):
            await connection.run(Script("bad", "#!lua\nreturn redis.call('NOPE')"), [KEY])


async def test_a_lost_reply_is_told_at_once_and_nothing_is_sent_again(server: RedisServer) -> None:
    """Whether it was executed is not known, and whoever asked must decide."""
    with FaultProxy(server.port) as proxy:
        async with connected(proxy.url) as connection:
            assert await connection.run(COUNT, [KEY]) == 1
            proxy.drop_replies()
            with pytest.raises(StoreError, match=r"script count: .*; whether it was executed is not known"):
                await connection.run(COUNT, [KEY])
            assert await connection.ask("GET", KEY) == b"2"
            proxy.cut_requests()
            with pytest.raises(StoreError, match=r"whether it was executed is not known"):
                await connection.ask("INCR", KEY)
            assert await connection.ask("GET", KEY) == b"2"
            proxy.drop_replies()
            with pytest.raises(StoreError, match=r"INCR: .*; whether it was executed is not known"):
                await connection.ask_many([("INCR", KEY)] * 3)
            assert await connection.ask("GET", KEY) == b"5"
    server.ask("DEL", KEY)


async def test_a_reply_that_does_not_come_is_waited_for_no_longer_than_the_time_out(server: RedisServer) -> None:
    """And one that comes later is not taken for that of another call."""
    with FaultProxy(server.port) as proxy:
        async with connected(proxy.url, timeout=1) as connection:
            await connection.ask("SET", KEY, "a")
            proxy.swallow_replies()
            started = time.monotonic()
            with pytest.raises(StoreError, match=r"GET: no answer in time; whether it was executed is not known"):
                await connection.ask("GET", KEY)
            assert 0.9 < time.monotonic() - started < 4
            assert await connection.ask("STRLEN", KEY) == 1
    server.ask("DEL", KEY)


async def test_a_server_that_does_not_answer_holds_nobody_up_for_ever(server: RedisServer) -> None:
    """Neither those that have a connection, nor those that wait for one, nor those that open one."""
    async with connected(server.url, timeout=1, connect_timeout=1, max_connections=2) as connection:
        server.pause()
        try:
            await until(lambda: psutil.Process(server.pid).status() == psutil.STATUS_STOPPED)
            started = time.monotonic()
            found = await asyncio.gather(*(connection.ask("GET", KEY) for _ in range(6)), return_exceptions=True)
            assert time.monotonic() - started < 10
        finally:
            server.resume()
        assert all(isinstance(error, StoreError) for error in found)
        assert any("all 2 connections were in use for 1 s" in str(error) for error in found)
        assert await connection.ask("GET", KEY) is None


async def test_a_cancelled_call_leaves_no_connection_with_an_answer_to_come(server: RedisServer) -> None:
    """The next caller gets its own answer, and no connection is lost to the rest."""
    async with connected(server.url, max_connections=3) as connection:
        await connection.ask("RPUSH", KEY, "a")
        for pause in [0, 0, 0.0001, 0.0005] * 25:
            tasks = [asyncio.ensure_future(connection.ask("LRANGE", KEY, 0, 0)) for _ in range(3)]
            await asyncio.sleep(pause)
            tasks[0].cancel()
            tasks[2].cancel()
            assert await connection.ask("STRLEN", "{onwhen:p0}:other") == 0
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await tasks[1] == [b"a"]
        await until(lambda: clients(server) <= 3)
        assert await asyncio.gather(*(connection.ask("LLEN", KEY) for _ in range(50))) == [1] * 50
        await connection.ask("DEL", KEY)


@pytest.mark.parametrize("seed", range(3))
async def test_answers_are_never_mixed_up(server: RedisServer, seed: int) -> None:
    """Whatever is lost, cut, late or cancelled: each call gets its own answer, or an error."""
    chance = random.Random(seed)
    with FaultProxy(server.port, seed=seed) as proxy:
        async with connected(proxy.url, timeout=0.5, connect_timeout=0.5, max_connections=4) as connection:
            proxy.set_rates(drop=0.02, swallow=0.005, cut=0.02, delay=0.0005)
            answered, lost = 0, 0

            async def call() -> None:
                nonlocal answered, lost
                for _ in range(25):
                    word = str(chance.random()) * chance.choice([1, 1, 1_000])
                    both = [("ECHO", word), ("ECHO", word[1:])]
                    task = asyncio.ensure_future(chance.choice([ask, run, many])(word, both))
                    if chance.random() < 0.2:
                        await asyncio.sleep(chance.random() * 0.002)
                        task.cancel()
                    try:
                        assert await task
                        answered += 1
                    except (StoreError, asyncio.CancelledError):
                        lost += 1

            async def ask(word: str, both: list[tuple[str, str]]) -> bool:
                return bool(await connection.ask("ECHO", word) == word.encode())

            async def run(word: str, both: list[tuple[str, str]]) -> bool:
                return bool((await connection.run(ECHO, [KEY], [word, 1]))[1] == word.encode())

            async def many(word: str, both: list[tuple[str, str]]) -> bool:
                return await connection.ask_many(both) == [word.encode(), word[1:].encode()]

            await asyncio.gather(*(call() for _ in range(8)))
            assert answered > 0
            assert lost > 0
            proxy.set_rates()
            assert await connection.ask("ECHO", "over") == b"over"


async def test_many_callers_share_a_bounded_number_of_connections(server: RedisServer) -> None:
    """They wait for their turn; connections are opened as they are needed."""
    before = clients(server)
    async with connected(server.url, max_connections=4) as connection:
        assert clients(server) == before + 1
        found = await asyncio.gather(*(connection.run(COUNT, [KEY]) for _ in range(200)))
        assert sorted(found) == list(range(1, 201))
        assert clients(server) == before + 4
        await connection.ask("DEL", KEY)
    await until(lambda: clients(server) == before)


async def test_a_connection_that_the_server_closed_at_rest_is_replaced(server: RedisServer) -> None:
    """Nobody notices, for nothing was asked on it; and it is the same run of the server still."""
    async with connected(server.url) as connection:
        mark = await connection.mark(KEY)
        await connection.run(COUNT, [KEY], since=mark)
        server.ask("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await until(lambda: clients(server) == 0)
        await asyncio.sleep(0.05)  # for the loop to hear of it; what was sent before that would be in doubt
        assert await connection.run(COUNT, [KEY], since=mark) == 2
        assert await connection.ask("DEL", KEY) == 1


async def test_a_server_that_was_started_again_is_another_one() -> None:
    """It may have lost what was written last: calls that rely on that are refused until they ask anew."""
    with RedisServer() as server:
        async with connected(server.url) as connection:
            mark = await connection.mark(KEY)
            assert await connection.mark(KEY) == mark
            assert await connection.run(COUNT, [KEY], since=mark) == 1
            await asyncio.to_thread(server.kill)
            with pytest.raises(StoreError):
                await connection.run(COUNT, [KEY], since=mark)
            with pytest.raises(StoreError, match=r"not sent: .*Connect call failed.*is the server there"):
                await connection.mark(KEY)
            await asyncio.to_thread(server.start)
            for _ in range(3):
                with pytest.raises(StoreError, match=r"script count: not sent, for the server was started again"):
                    await connection.run(COUNT, [KEY], since=mark)
            assert await connection.run(COUNT, [KEY]) == 1
            after = await connection.mark(KEY)
            assert after != mark
            assert await connection.ask("INCR", KEY, since=after) == 2


async def test_blocking_reads_have_connections_of_their_own(server: RedisServer) -> None:
    """They hold up nobody, may last longer than other calls, and end at once when they are cancelled."""
    read = ("XREAD", "BLOCK", 2000, "STREAMS", KEY, "$")
    async with connected(server.url, timeout=1, max_connections=1) as connection:
        started = time.monotonic()
        reading = asyncio.ensure_future(connection.block(*read, key=KEY, timeout=2))
        assert await connection.ask("GET", "{onwhen:p0}:other") is None
        assert await reading is None
        assert time.monotonic() - started > 1.9
        reading = asyncio.ensure_future(connection.block(*read, key=KEY, timeout=2))
        await until(lambda: server.info("clients")["blocked_clients"] == "1")
        await connection.ask("XADD", KEY, "*", "a", "b")
        assert KEY.encode() in (answer := await reading) or answer[0][0] == KEY.encode()
        reading = asyncio.ensure_future(connection.block(*read, key=KEY, timeout=2))
        await until(lambda: server.info("clients")["blocked_clients"] == "1")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await until(lambda: server.info("clients")["blocked_clients"] == "0", within=1)
        await connection.ask("DEL", KEY)


def test_it_is_opened_anew_on_another_event_loop(server: RedisServer) -> None:
    """What was open on a loop that has ended is let go of without a sound."""
    before = clients(server)
    connection = Connection(server.url)

    async def count() -> int:
        await connection.open()
        await connection.open()
        await asyncio.gather(*(connection.ask("PING", key="") for _ in range(5)))
        return int(await connection.run(COUNT, [KEY]))

    async def leave() -> None:
        await connection.open()
        await connection.ask("DEL", KEY)
        await connection.close()
        await connection.close()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asyncio.run(count()) == 1
        assert asyncio.run(count()) == 2
        assert asyncio.run(count()) == 3
        asyncio.run(connection.close())
        asyncio.run(leave())
        gc.collect()
    assert clients(server) == before


async def test_calls_under_way_end_when_it_is_closed(server: RedisServer) -> None:
    """With an error, for what they asked may have been done."""
    connection = Connection(server.url)
    await connection.open()
    reading = asyncio.ensure_future(connection.block("BLPOP", KEY, 5, key=KEY, timeout=5))
    await until(lambda: server.info("clients")["blocked_clients"] == "1")
    await connection.close()
    with pytest.raises(StoreError):
        await reading
