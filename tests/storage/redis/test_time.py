"""The time in Redis is that of the server, whatever clocks its clients have."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import pytest

from onwhen import VirtualClock
from onwhen.engine.store import Timer
from onwhen.storage.redis import create_redis_storage
from onwhen.testing.servers import RedisServer
from onwhen.testing.store_contract._bench import letter
from tests.redis_keys import keys_of
from tests.storage.redis.stores import commit, event, opened

T = TypeVar("T")

SOON = timedelta(milliseconds=200)


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


def _now(server: RedisServer) -> datetime:
    seconds, micros = server.ask("TIME")
    return datetime.fromtimestamp(int(seconds), UTC) + timedelta(microseconds=int(micros))


async def _until(call: Callable[[], Awaitable[T]], is_it: Callable[[T], bool]) -> T:
    async with asyncio.timeout(20):
        while not is_it(answer := await call()):
            await asyncio.sleep(0.01)
    return answer


async def test_events_are_accepted_by_the_servers_clock(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """A client whose clock is wrong does not matter."""
    store = create_redis_storage(url, key_prefix, partitions=1)
    await store.open(VirtualClock(datetime(1999, 12, 31, tzinfo=UTC)))
    before = _now(redis_server)
    await store.append(0, [event("1")])
    (entry,) = await store.read(0, None, 9)
    assert before <= entry.accepted <= _now(redis_server)
    assert (await store.stats()).oldest == entry.accepted
    await store.close()


async def test_timers_are_due_by_the_servers_clock(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """Not early; then they are moved by whoever asks."""
    async with opened(url, key_prefix, partitions=1) as store:
        due = _now(redis_server) + SOON
        await commit(store, timers=[Timer(subject="a", key="t", due=due, event=event("1"))])
        fired = await _until(lambda: store.fire(0), lambda fired: fired.moved > 0)
        assert _now(redis_server) >= due
        assert fired.next_due is None
        (entry,) = await store.read(0, None, 9)
        assert entry.accepted >= due


async def test_leases_run_out_by_the_servers_clock(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """From when the server has seen the call."""
    async with opened(url, key_prefix, partitions=1) as store, opened(url, key_prefix) as other:
        before = _now(redis_server)
        await store.acquire(0, "t1", "w1", SOON.total_seconds())
        (state,) = await store.partition_states()
        assert (state.owner, 0 < state.expires <= SOON.total_seconds()) in (("w1", True), (None, False))
        acquired = await _until(lambda: other.acquire(0, "t2", "w2", 60.0), lambda acquired: acquired is not None)
        assert _now(redis_server) - before >= SOON
        assert acquired is not None
        assert not acquired.was_released


async def test_workers_are_dead_by_the_servers_clock(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """If they say nothing more."""
    async with opened(url, key_prefix, partitions=1) as store:
        before = _now(redis_server)
        await store.beat("w", "one", SOON.total_seconds())
        await _until(store.workers, lambda workers: not workers)
        assert _now(redis_server) - before >= SOON


async def test_a_server_whose_clock_is_behind_that_of_the_one_before_keeps_nobody_out(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """Who has died with that one does not own anything, or live, for as much longer."""
    async with opened(url, key_prefix, partitions=1) as store:
        assert await store.acquire(0, "t1", "w1", 60.0) is not None
        await store.beat("w1", "one  of\ntwo", 60.0)
        assert await store.acquire(0, "t2", "w2", 60.0) is None
        assert [worker.note for worker in await store.workers()] == ["one  of\ntwo"]
        meta, workers = f"{{{key_prefix}:p0}}:meta", f"{{{key_prefix}}}:workers"
        until = int(redis_server.ask("HGET", meta, "until"))
        redis_server.ask("HSET", meta, "until", until + 3_600_000_000)
        expires, rest = str(redis_server.ask("HGET", workers, "w1")).split(" ", 1)
        redis_server.ask("HSET", workers, "w1", f"{int(expires) + 3_600_000_000} {rest}")
        assert await store.beat("w2", "two", 60.0) == ["w2"]
        assert await store.acquire(0, "t2", "w2", 60.0) is not None


async def test_dead_letters_of_all_partitions_are_in_order(url: str, key_prefix: str) -> None:
    """Oldest first: the servers of a Cluster have clocks that differ little."""
    async with opened(url, key_prefix, partitions=3) as store:
        ids = [f"{number:02}" for number in range(20)]
        for id in ids:
            await commit(store, f"s{id}", dead=[letter(id)])
        assert [dead.id async for dead in store.dead_letters()] == ids


async def test_cells_are_over_by_the_servers_clock(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """Not early; and the server removes them by itself, though nobody asks again."""
    async with opened(url, key_prefix, partitions=1) as store:
        cell = await store.exchange("k", None, b"1", SOON.total_seconds())
        await store.exchange("k2", None, b"1", SOON.total_seconds())
        now = _now(redis_server)
        assert now - SOON <= cell.time <= now
        again = await _until(lambda: store.exchange("k", None, b"2", 0.01), lambda found: found.value == b"2")
        assert again.time - cell.time >= SOON

        async def left() -> list[str]:
            return keys_of(redis_server, f"{{{key_prefix}:cell:*")

        await _until(left, lambda keys: not keys)


async def test_a_cell_of_a_server_whose_clock_was_ahead_is_over(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """It does not stay for as much longer as that was ahead."""
    async with opened(url, key_prefix, partitions=1) as store:
        await store.exchange("k", None, b"1", 60.0)
        (key,) = keys_of(redis_server, f"{{{key_prefix}:cell:*")
        over, rest = str(redis_server.ask("GET", key)).split(" ", 1)
        redis_server.ask("SET", key, f"{int(over) + 30_000_000} {rest}", "KEEPTTL")
        assert (await store.exchange("k", b"", b"", 60.0)).value == b"1"
        redis_server.ask("SET", key, f"{int(over) + 3_600_000_000} {rest}", "KEEPTTL")
        assert (await store.exchange("k", None, b"2", 60.0)).value == b"2"
