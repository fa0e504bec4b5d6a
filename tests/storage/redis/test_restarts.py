"""A server that was started again, or another one in its place, may lack what was written last.

Whoever owns a partition has read ahead, and knows subjects: nothing of that goes with what such a server has. So all
calls that belong to the ownership fail, until the partition is acquired anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from onwhen.engine.store import Answer
from onwhen.errors import StoreError
from onwhen.testing.servers import RedisServer
from tests.storage.redis.stores import commit, event, opened, set_to

T = TypeVar("T")
_BROKEN = r"started again|another one has taken over|closed|reset|there"


async def _twice(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call once more if the connection that it took was to the server as it was before."""
    try:
        return await call()
    except StoreError:
        return await call()


async def _until(call: Callable[[], Awaitable[object]]) -> None:
    """Make a call again until it is answered with something."""
    async with asyncio.timeout(10):
        while await call() is None:
            await asyncio.sleep(0.01)


async def test_what_was_owned_before_is_acquired_anew() -> None:
    """Also if nobody has noticed that the server was away: it has the token still, and would take commits."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        async with opened(server.url, "shop", partitions=1) as store:
            await store.acquire(0, "t1", "w", 60.0)
            (accepted,) = await store.append(0, [event("1")])
            await commit(store, token="t1", write=set_to(b"1"))
            server.kill()
            server.start()
            for _ in range(2):
                for call in (
                    lambda: commit(store, version=None, token="t1", handled=accepted.position),
                    lambda: store.renew({0: "t1"}, 60.0),
                    lambda: store.trim(0, "t1", 1),
                    lambda: store.tail(0, None, 9, 0.05),
                    lambda: store.pending(0, [1]),
                    lambda: store.waiting(0, ["0" * 32]),
                ):
                    with pytest.raises(StoreError, match=_BROKEN):
                        await call()
            with pytest.raises(StoreError, match="acquire the partition anew"):
                await commit(store, version=None, token="t1", handled=accepted.position)
            assert await store.release(0, "t1")
            assert await store.acquire(0, "t2", "w", 60.0) is not None
            assert [entry.event.id for entry in await store.tail(0, None, 9, 1.0)] == ["1"]
            assert (await commit(store, token="t2", handled=accepted.position)).answer is Answer.OK


async def test_others_go_on() -> None:
    """Who owns nothing has nothing to lose: each call is tried once more at most, and done."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        async with opened(server.url, "shop", partitions=1) as store:
            await store.append(0, [event("1")])
            server.kill()
            server.start()
            (accepted,) = await _twice(lambda: store.append(0, [event("2")]))
            assert [entry.event.id for entry in await store.read(0, None, 9)] == ["1", "2"]
            assert (await commit(store, handled=accepted.position)).answer is Answer.OK


@pytest.mark.parametrize("learns", ["from a commit", "from a renewal", "from nobody"])
async def test_what_was_lost_before_is_read_like_anybody_elses(learns: str) -> None:
    """Somebody else owns it by now, and this process may look at it all the same."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        async with opened(server.url, "shop", partitions=1) as store, opened(server.url, "shop") as other:
            await store.acquire(0, "t1", "w", 0.001)
            await _until(lambda: other.acquire(0, "t2", "v", 60.0))
            if learns == "from a commit":
                assert (await commit(store, token="t1", write=set_to(b"1"))).answer is Answer.FENCED
            elif learns == "from a renewal":
                assert await store.renew({0: "t1"}, 60.0) == {}
            server.kill()
            if learns == "from nobody":
                with pytest.raises(StoreError):
                    await store.release(0, "t1")
            server.start()
            assert await _twice(lambda: store.pending(0, [1])) == []
            assert await store.waiting(0, ["0" * 32]) == []
            assert await store.tail(0, None, 9, 0.05) == []
            assert [letter async for letter in store.dead_letters()] == []


async def test_partitions_of_other_servers_are_not_concerned() -> None:
    """What is owned with one token is not known by another."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        async with opened(server.url, "shop", partitions=2) as store:
            await store.acquire(0, "t0", "w", 60.0)
            await store.acquire(1, "t1", "w", 60.0)
            server.kill()
            server.start()
            await _twice(lambda: store.release(0, "t0"))
            assert await store.acquire(0, "t2", "w", 60.0) is not None
            assert list(await store.renew({0: "t2"}, 60.0)) == [0]
            with pytest.raises(StoreError, match="acquire the partition anew"):
                await store.renew({1: "t1"}, 60.0)
