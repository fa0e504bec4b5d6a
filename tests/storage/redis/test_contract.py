"""The store in Redis does what the storage contract says, and that of stores that several processes share.

On one server, with both versions of its protocol, and on a Cluster of three. Once the time is that of the server;
elsewhere its scripts are told the time, so that tests need not wait for it.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import VirtualClock
from onwhen.engine.store import Store
from onwhen.storage.redis import RedisStore
from onwhen.testing.servers import RedisCluster, RedisServer
from onwhen.testing.store_contract import SharedStoreContract, StoreContract
from tests.storage.redis.clocks import TimedStore


class _OnRedis(StoreContract, SharedStoreContract):
    kind: type[RedisStore]
    url: str
    prefix: str

    def make_store(self, *, partitions: int = 1, dedup_window: int = 100_000, history: int = 0) -> Store:
        self.options: dict[str, Any] = {"partitions": partitions, "dedup_window": dedup_window, "history": history}
        return self.kind(self.url, self.prefix, **self.options)

    def make_again(self, store: Store) -> Store:
        return self.kind(self.url, self.prefix, **self.options)


class _OnRedisTimed(_OnRedis):
    kind = TimedStore
    # While the time stands still nobody can tell in which of two partitions a letter was set aside first.
    test_dead_letters_are_listed_oldest_first = None  # type: ignore[assignment]


class TestRespTwo(_OnRedisTimed):
    """One server, with version 2 of its protocol."""

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer, key_prefix: str) -> None:
        self.url, self.prefix = f"{redis_server.url}?protocol=2", key_prefix


class TestRespThree(_OnRedis):
    """One server, with version 3, and its own time."""

    kind = RedisStore
    step = timedelta(milliseconds=300)

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer, key_prefix: str) -> None:
        self.url, self.prefix = f"{redis_server.url}?protocol=3", key_prefix

    def now(self, clock: VirtualClock) -> datetime:
        return datetime.now(UTC)

    async def pass_time(self, clock: VirtualClock, by: timedelta) -> None:
        await asyncio.sleep(by.total_seconds())


class TestCluster(_OnRedisTimed):
    """A Cluster of three servers."""

    @pytest.fixture(autouse=True)
    def _servers(self, redis_cluster: RedisCluster, key_prefix: str) -> None:
        self.url, self.prefix = redis_cluster.url, key_prefix
