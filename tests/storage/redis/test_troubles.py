"""What goes wrong is a `StoreError` that says what, for whom it concerns, and for nobody else."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from onwhen import SystemClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Outgoing
from onwhen.engine.store import Answer, Position
from onwhen.errors import StoreCorrupt, StoreError
from onwhen.storage.redis import _deployment, create_redis_storage
from onwhen.testing.servers import RedisCluster, RedisServer
from onwhen.testing.store_contract._bench import letter, retry
from tests.storage.redis.stores import commit, event, opened, set_to


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


async def _listed(iterator: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in iterator]


async def test_a_read_sees_what_was_appended_before(url: str, key_prefix: str) -> None:
    """Also what is under way still; so do a tail and a bookmark."""
    async with opened(url, key_prefix, partitions=1) as store:
        *_, read, tailed, mark = await asyncio.gather(
            store.append(0, [event("1")], {"file": "1"}),
            commit(store, version=None, messages=[event("2")]),
            store.read(0, None, 9),
            store.tail(0, None, 9, 1.0),
            store.bookmark(0, "file"),
        )
        assert [entry.event.id for entry in read] == [entry.event.id for entry in tailed] == ["1", "2"]
        assert mark == "1"


async def test_large_events_are_read_some_at_a_time(url: str, key_prefix: str) -> None:
    """So that a few thousand of them do not fill the memory; in the end all of them are read."""
    async with opened(url, key_prefix, partitions=1) as store:
        for number in range(30):
            await store.append(0, [event(str(number), data="x" * 1_000_000)])
        found: list[str] = []
        last: Position | None = None
        limit = 5
        while entries := await store.read(0, last, limit):
            assert len(entries) < 15
            found += [entry.event.id for entry in entries]
            last, limit = entries[-1].position, 1000
        assert found == [str(number) for number in range(30)]


async def test_what_is_damaged_is_left_as_it_is(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """Whoever reads it is told; others go on."""
    tag = f"{{{key_prefix}:p0}}"
    async with opened(url, key_prefix, partitions=1) as store:
        await store.append(0, [event("1")])
        await commit(store, write=set_to(b"1"), retries=[retry(event("1"))], dead=[letter("d")])
        redis_server.ask("XADD", f"{tag}:log", "99999999999999999-0", "a", "1", "e", "{")
        redis_server.ask("XADD", f"{tag}:out", "99999999999999999-0", "t", "0", "e", "{")
        for key in ("retries", "dead"):
            field = redis_server.ask("HKEYS", f"{tag}:{key}")[0]
            redis_server.ask("HSET", f"{tag}:{key}", field, str(redis_server.ask("HGET", f"{tag}:{key}", field))[:60])
        redis_server.ask("HSET", f"{tag}:s:a", "_v", "no version")
        for call in (
            lambda: store.read(0, None, 9),
            lambda: store.tail(0, None, 9, 1.0),
            lambda: store.outgoing(0, None, 9),
            lambda: store.load("a"),
            lambda: store.dead_letter("d"),
            lambda: _listed(store.retries(0)),
            lambda: _listed(store.dead_letters()),
            lambda: _listed(store.subjects()),
        ):
            with pytest.raises(StoreCorrupt, match="is damaged, and left as it is"):
                await call()
        assert (await store.load("b")).version is None
        assert len(await store.read(0, None, 1)) == 1
        redis_server.ask("FLUSHALL")


async def test_what_cannot_be_sent_fails_alone(url: str, key_prefix: str) -> None:
    """Commits that come together with it, of another token, are stored."""
    async with opened(url, key_prefix, partitions=1) as store:
        bad, good = await asyncio.gather(
            commit(store, version=None, token="\ud800"), commit(store, "b", version=None), return_exceptions=True
        )
        assert isinstance(bad, StoreError)
        assert "was not sent" in str(bad)
        assert getattr(good, "answer", None) is Answer.OK


async def test_a_store_is_closed_though_the_server_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits is told that nobody knows."""
    monkeypatch.setattr(_deployment, "_CLOSE_PATIENCE", 0.1)
    with RedisServer() as server:
        store = create_redis_storage(server.url, partitions=1)
        await store.open(SystemClock())
        await commit(store, write=set_to(b"1"))
        server.pause()
        calls = [
            asyncio.ensure_future(commit(store, "b", version=None)),
            asyncio.ensure_future(store.append(0, [event("1")])),
            asyncio.ensure_future(store.load("a")),
        ]
        await asyncio.wait(calls, timeout=0.05)
        await store.close()
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(answer, StoreError)
            assert "was closed" in str(answer)
        server.resume()


async def test_a_load_that_fails_is_told_to_all_who_wait(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """Each has an error of its own."""
    async with opened(url, key_prefix, partitions=1) as store:
        redis_server.ask("SET", f"{{{key_prefix}:p0}}:s:bad", "1")
        answers = await asyncio.gather(*(store.load("bad") for _ in range(3)), return_exceptions=True)
        assert all(isinstance(answer, StoreError) for answer in answers)
        assert len({id(answer) for answer in answers}) == 3
        redis_server.ask("DEL", f"{{{key_prefix}:p0}}:s:bad")
        assert (await store.load("bad")).version is None


async def test_a_server_that_does_not_answer_concerns_nobody_who_asks_another() -> None:
    """Of a Cluster, subjects on the others are loaded meanwhile."""
    with RedisCluster(options={"cluster-require-full-coverage": "no"}) as cluster:
        async with opened(f"{cluster.url}?timeout=20", "shop", partitions=12) as store:
            silent = cluster.owner(cluster.slot_of("{shop:p0}:meta"))
            owners = [cluster.owner(cluster.slot_of(f"{{shop:p{number}}}:meta")) for number in range(12)]
            names = [f"s{number}" for number in range(100)]
            others = [name for name in names if owners[partition_of(name, 12)] is not silent]
            silent.pause()
            try:
                loads = {name: asyncio.ensure_future(store.load(name)) for name in names}
                async with asyncio.timeout(10):
                    await asyncio.gather(*(loads[name] for name in others))
                assert not any(load.done() for name, load in loads.items() if name not in others)
            finally:
                silent.resume()
            await asyncio.gather(*loads.values())


async def test_a_message_is_delivered_where_it_is_addressed_to(url: str, key_prefix: str) -> None:
    """A relay that has mixed them up is told so."""
    async with opened(url, key_prefix, partitions=3) as store:
        with pytest.raises(StoreError, match="to partition 1 was to be delivered to partition 2"):
            await store.deliver(0, 2, None, [Outgoing(7, 1, event("1"))])
