"""Cells in Redis: where they lie, whose they are, and what becomes of a call that nobody has answered."""

import pytest
from redis.crc import key_slot

from onwhen import SystemClock
from onwhen.errors import StoreError
from onwhen.storage.redis import RedisStore, create_redis_storage
from onwhen.storage.redis._keys import DeploymentKeys
from onwhen.testing.servers import RedisServer
from tests.redis_keys import keys_of
from tests.storage.redis.stores import LosingConnection, opened


def test_they_are_spread_over_a_cluster() -> None:
    """Each has a slot of its own, whatever its key has in it."""
    keys = DeploymentKeys("desk")
    for tail in (b"", b"}", b"{a}", b"{}"):
        slots = {key_slot(keys.cell(b"circuit/%d%s" % (number, tail))) for number in range(300)}
        assert len(slots) > 250


def test_no_key_of_a_cell_is_one_of_something_else() -> None:
    """Whatever prefix a store has, and whatever the cell is called."""
    for cell in (b":meta", b"a}:s:b", b"", b"/", b"p0}:log"):
        key = DeploymentKeys("desk").cell(cell)
        tag, _, rest = key.partition(b"}")
        assert rest.startswith(b"/")
        assert tag + b"}:" not in key


async def test_people_can_read_whose_it_is(redis_server: RedisServer, key_prefix: str) -> None:
    """The key is part of the name; what is over, the server removes by itself."""
    async with opened(redis_server.url, key_prefix, partitions=1) as store:
        await store.exchange("circuit/tickets.take", None, b"open", 60.0)
        (key,) = keys_of(redis_server, f"{{{key_prefix}:cell:*")
        assert key.endswith("}/circuit/tickets.take")
        assert 59_000 < int(redis_server.ask("PTTL", key)) <= 60_001


async def test_stores_of_another_prefix_have_their_own(redis_server: RedisServer, key_prefix: str) -> None:
    """Also on the same server."""
    async with (
        opened(redis_server.url, key_prefix, partitions=1) as store,
        opened(redis_server.url, f"{key_prefix}:2", partitions=1) as other,
    ):
        assert (await store.exchange("k", None, b"1", 60.0)).value == b"1"
        assert (await other.exchange("k", None, b"2", 60.0)).value == b"2"
        assert (await store.exchange("k", b"1", None, 60.0)).value is None
        assert (await other.exchange("k", b"2", None, 60.0)).value is None
    for key in keys_of(redis_server, f"{{{key_prefix}:2*"):
        redis_server.ask("DEL", key)


async def test_processes_share_them(redis_server: RedisServer, key_prefix: str) -> None:
    """What one has put there another finds, and takes the place of."""
    async with (
        opened(redis_server.url, key_prefix, partitions=2) as store,
        opened(f"{redis_server.url}?protocol=2", key_prefix) as other,
    ):
        await store.exchange("k", None, b"1", 60.0)
        assert (await other.exchange("k", None, b"2", 60.0)).value == b"1"
        assert (await other.exchange("k", b"1", b"2", 60.0)).value == b"2"
        assert (await store.exchange("k", b"1", b"3", 60.0)).value == b"2"


async def test_a_call_that_was_given_up_may_come_late(redis_server: RedisServer, key_prefix: str) -> None:
    """It is compared when it comes: what others have put there meanwhile stays."""
    store = RedisStore(redis_server.url, key_prefix, partitions=1)
    store._deployment.connection = connection = LosingConnection(redis_server.url)
    await store.open(SystemClock())
    connection.loses = "exchange"
    with pytest.raises(StoreError, match="the connection was lost"):
        await store.exchange("k", None, b"mine", 60.0)
    assert (await store.exchange("k", None, b"theirs", 60.0)).value == b"theirs"
    assert (await connection.send_late())[0][0] == b"=theirs"
    assert (await store.exchange("k", None, b"mine", 60.0)).value == b"theirs"
    await store.close()


async def test_what_somebody_else_has_written_there_is_told(redis_server: RedisServer, key_prefix: str) -> None:
    """Be it of another type, or no value of ours."""
    async with opened(redis_server.url, key_prefix, partitions=1) as store:
        await store.exchange("k", None, b"1", 60.0)
        (key,) = keys_of(redis_server, f"{{{key_prefix}:cell:*")
        for command in (("SET", key, "hello"), ("SADD", key, "hello")):
            redis_server.ask("DEL", key)
            redis_server.ask(*command)
            with pytest.raises(StoreError, match="script exchange"):
                await store.exchange("k", None, b"2", 60.0)
        redis_server.ask("DEL", key)


async def test_it_has_to_be_open(redis_server: RedisServer, key_prefix: str) -> None:
    """As for all that a store does."""
    store = create_redis_storage(redis_server.url, key_prefix, partitions=1)
    with pytest.raises(StoreError, match="is not open"):
        await store.exchange("k", None, b"1", 60.0)
