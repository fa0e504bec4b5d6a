"""What is left when all is done: what has to be remembered, and nothing that grows."""

from __future__ import annotations

from onwhen.engine.store import Answer, SubjectWrite, Timer
from onwhen.testing.servers import RedisServer
from onwhen.testing.store_contract._bench import letter, retry
from tests.redis_keys import keys_of
from tests.storage.redis.stores import commit, event, opened, set_to


def _left(server: RedisServer, prefix: str) -> set[str]:
    return {key.rpartition(":")[2] for key in keys_of(server, f"{{{prefix}:p0}}:*")}


async def test_what_is_done_leaves_no_keys(redis_server: RedisServer, key_prefix: str) -> None:
    """Events, timers, retries, dead letters and subjects that were there, and what was noted of them, are gone."""
    async with opened(redis_server.url, key_prefix, partitions=1, dedup_window=0) as store:
        await store.acquire(0, "t", "w", 60.0)
        (accepted,) = await store.append(0, [event("1")])
        due = (await store.read(0, None, 1))[0].accepted
        failed, parked = retry(event("2")), retry(event("3"), parked=True)
        await commit(
            store,
            write=set_to(b"1"),
            timers=[Timer(subject="a", key=key, due=due, event=event(key)) for key in "xy"],
            retries=[failed, parked],
            dead=[letter("d"), letter("e")],
        )
        assert (await store.fire(0)).moved == 2
        await commit(store, timers=[Timer(subject="a", key="z", due=due, event=event("z"))])
        pending = await store.read(0, None, 9)
        await store.starting(0, {entry.position: 1 for entry in pending} | {failed.key: 1, parked.key: 2})
        for entry in pending:
            await commit(store, handled=entry.position)
        for key in (failed.key, parked.key):
            assert (await commit(store, retried=key)).answer is Answer.OK
        await commit(store, revived=["d"], cancel_all=True)
        await store.discard("e")
        await commit(store, write=SubjectWrite(remove=True))
        await store.exchange("cell", None, b"1", 60.0)
        await store.exchange("cell", b"1", None, 60.0)
        await store.release(0, "t")
        assert keys_of(redis_server, f"{{{key_prefix}:cell:*") == []
        assert accepted.position is not None
        assert _left(redis_server, key_prefix) == {"meta", "log"}
        meta = redis_server.ask("HGETALL", f"{{{key_prefix}:p0}}:meta")
        assert {*meta[::2]} == {"format", "n", "parked", "touched"}


async def test_what_was_delivered_is_not_remembered_for_ever(redis_server: RedisServer, key_prefix: str) -> None:
    """The owner lets go of it some time later, also where nothing more is delivered."""
    async with opened(redis_server.url, key_prefix, partitions=1) as store:
        key = f"{{{key_prefix}:p0}}:delivered"
        with redis_server.wire() as wire:
            for number in range(1500):
                wire.ask("ZADD", key, number, f"long ago {number}")
        await store.acquire(0, "t", "w", 60.0)
        await store.renew({0: "t"}, 60.0)
        assert redis_server.ask("ZCARD", key) == 500
        await store.renew({0: "t"}, 60.0)
        assert _left(redis_server, key_prefix) == {"meta"}


async def test_clients_that_gave_up_long_ago_are_forgotten(redis_server: RedisServer, key_prefix: str) -> None:
    """Each leaves a note of how far its calls have come; when another one does, old notes go."""
    async with opened(redis_server.url, key_prefix, partitions=1) as store:
        meta = f"{{{key_prefix}:p0}}:meta"
        redis_server.ask("HSET", meta, "fence:long gone", "3 1000", "fence:just now", f"2 {2**52}")
        store._deployment.lane(0).epoch = 1
        await commit(store, write=set_to(b"1"))
        fences = {field for field in redis_server.ask("HKEYS", meta) if field.startswith("fence:")}
        assert len(fences) == 2
        assert "fence:just now" in fences
