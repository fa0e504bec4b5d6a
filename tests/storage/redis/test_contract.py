"""The store in Redis does what the storage contract says, and that of stores that several processes share.

On one server, with both versions of its protocol, and on a Cluster of three. Its scripts are told the time, so that
no test waits for it, or is late; `test_time` has the server's own.
"""

from typing import Any

import pytest

from onwhen.engine.store import Store
from onwhen.testing.servers import RedisCluster, RedisServer
from onwhen.testing.store_contract import SharedStoreContract, StoreContract
from tests.storage.redis.clocks import TimedStore


class _OnRedis(StoreContract, SharedStoreContract):
    url: str
    prefix: str

    # While the time stands still nobody can tell in which of two partitions a letter was set aside first.
    test_dead_letters_are_listed_oldest_first = None  # type: ignore[assignment]

    def make_store(self, **options: int) -> Store:
        self.options: dict[str, Any] = {"partitions": 1, "dedup_window": 100_000} | options
        return TimedStore(self.url, self.prefix, **self.options)

    def make_again(self, store: Store) -> Store:
        return TimedStore(self.url, self.prefix, **self.options)


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
