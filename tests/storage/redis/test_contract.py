"""The store in Redis does what the storage contract says, and that of stores that several processes share.

On one server, with both versions of its protocol, and on a Cluster of three.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import VirtualClock
from onwhen.engine.store import Store
from onwhen.storage.redis import create_redis_storage
from onwhen.testing.servers import RedisCluster, RedisServer
from onwhen.testing.store_contract import SharedStoreContract, StoreContract


class _OnRedis(StoreContract, SharedStoreContract):
    """The time is that of the server."""

    step = timedelta(milliseconds=300)

    def make_store(self, *, partitions: int = 1, dedup_window: int = 100_000, history: int = 0) -> Store:
        self.options: dict[str, Any] = {"partitions": partitions, "dedup_window": dedup_window, "history": history}
        return create_redis_storage(self.url, self.prefix, **self.options)

    def make_again(self, store: Store) -> Store:
        return create_redis_storage(self.url, self.prefix, **self.options)

    def now(self, clock: VirtualClock) -> datetime:
        return datetime.now(UTC)

    async def pass_time(self, clock: VirtualClock, by: timedelta) -> None:
        await asyncio.sleep(by.total_seconds())

    url: str
    prefix: str


class TestRespTwo(_OnRedis):
    """One server, with version 2 of its protocol."""

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer, key_prefix: str) -> None:
        self.url, self.prefix = f"{redis_server.url}?protocol=2", key_prefix


class TestRespThree(_OnRedis):
    """One server, with version 3."""

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer, key_prefix: str) -> None:
        self.url, self.prefix = f"{redis_server.url}?protocol=3", key_prefix


class TestCluster(_OnRedis):
    """A Cluster of three servers."""

    @pytest.fixture(autouse=True)
    def _servers(self, redis_cluster: RedisCluster, key_prefix: str) -> None:
        self.url, self.prefix = redis_cluster.url, key_prefix
