"""Servers that the tests share, and the check that no test leaves keys on them without a cause.

A test that asks for `redis_server` or `redis_cluster` gets one that all tests of the run use; `key_prefix` is its
own. What is pending, stored or remembered when a test ends is no fault. A key that belongs to nothing is, and fails
the test, as it would stay there for ever. Whoever needs to stop, configure or fill a server starts one of his own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from uuid import uuid4

import pytest

from onwhen.testing.servers import RedisCluster, RedisServer
from tests.redis_keys import keys_of, strays


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server for tests that only use it."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """A Cluster of three masters for tests that only use it."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def key_prefix() -> str:
    """What all keys of a test start with."""
    return f"test-{uuid4().hex[:12]}"


def _used(request: pytest.FixtureRequest) -> Sequence[RedisServer]:
    used: list[RedisServer] = []
    if "redis_server" in request.fixturenames:
        used.append(request.getfixturevalue("redis_server"))
    if "redis_cluster" in request.fixturenames:
        used += request.getfixturevalue("redis_cluster").nodes
    return used


@pytest.fixture(autouse=True)
def _nothing_is_left_without_cause(request: pytest.FixtureRequest) -> Iterator[None]:
    # Set up first, so that it looks when all that the test has opened is closed.
    servers = _used(request)
    yield
    if not servers:
        return
    try:
        left = strays(*servers)
    finally:
        for server in servers:
            if keys_of(server):
                server.ask("FLUSHALL")
    if left:
        pytest.fail("keys are left without cause:\n  " + "\n  ".join(left[:20]), pytrace=False)
