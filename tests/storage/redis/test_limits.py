"""Back-pressure: who sends more than is handled is told so, and whoever handles it goes on."""

import pytest

from onwhen.engine.shared import Outgoing
from onwhen.engine.store import Answer, Timer
from onwhen.errors import StoreBusy, StoreFull
from onwhen.testing.servers import RedisServer
from tests.storage.redis.stores import commit, event, opened, set_to


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


async def test_above_the_limit_nothing_is_accepted(url: str, key_prefix: str) -> None:
    """The error says how much is pending; bookmarks do not move; once some are handled, it goes on."""
    async with opened(url, key_prefix, partitions=1, max_backlog=3) as store:
        accepted = await store.append(0, [event("1"), event("2")])
        await store.append(0, [event("3")], {"file": "3"})
        with pytest.raises(StoreBusy, match="partition 0 has 3 pending events, and takes no more above 3") as caught:
            await store.append(0, [event("4")], {"file": "4"})
        assert (caught.value.partition, caught.value.backlog, caught.value.limit) == (0, 3, 3)
        assert len(await store.read(0, None, 9)) == 3
        assert await store.bookmark(0, "file") == "3"
        await commit(store, handled=accepted[0].position)
        await store.append(0, [event("4")], {"file": "4"})
        assert [entry.event.id for entry in await store.read(0, None, 9)] == ["2", "3", "4"]


async def test_what_was_accepted_before_is_no_more(url: str, key_prefix: str) -> None:
    """Who asks again after a lost reply is told where it stands, however long the log is."""
    async with opened(url, key_prefix, partitions=1, max_backlog=2) as store:
        accepted = await store.append(0, [event("1"), event("2")])
        again = await store.append(0, [event("1"), event("2")], {"file": "2"})
        assert [(one.position, one.is_new) for one in again] == [(one.position, False) for one in accepted]
        assert await store.bookmark(0, "file") == "2"
        with pytest.raises(StoreBusy):
            await store.append(0, [event("2"), event("3")])


async def test_more_at_once_than_the_limit_is_taken_by_an_empty_log(url: str, key_prefix: str) -> None:
    """Else it never would be."""
    async with opened(url, key_prefix, partitions=1, max_backlog=2) as store:
        await store.append(0, [event(id) for id in "12345"])
        with pytest.raises(StoreBusy):
            await store.append(0, [event("6")])


async def test_what_was_accepted_once_is_never_refused(url: str, key_prefix: str) -> None:
    """Messages of turns, timers, and what other partitions send."""
    async with opened(url, key_prefix, partitions=1, max_backlog=1) as store:
        await store.append(0, [event("1")])
        due = (await store.read(0, None, 1))[0].accepted
        timer = Timer(subject="a", key="t", due=due, event=event("timer"))
        assert (await commit(store, messages=[event("message")], timers=[timer])).answer is Answer.OK
        assert (await store.fire(0)).moved == 1
        assert (await store.deliver(0, 0, None, [Outgoing(5, 0, event("delivered"))])).is_accepted
        found = [entry.event.id for entry in await store.read(0, None, 9)]
        assert found == ["1", "message", "timer", "delivered"]


async def test_each_partition_has_its_limit(url: str, key_prefix: str) -> None:
    """One that is behind does not keep others from being sent something."""
    async with opened(url, key_prefix, partitions=2, max_backlog=1) as store:
        await store.append(0, [event("1")])
        await store.append(1, [event("2")])
        for partition in range(2):
            with pytest.raises(StoreBusy) as caught:
                await store.append(partition, [event("3")])
            assert caught.value.partition == partition


async def test_of_very_many_timers_some_are_told_at_a_time(url: str, key_prefix: str) -> None:
    """Those that moved before too: as long as the next one is due already, there are more."""
    async with opened(url, key_prefix, partitions=1) as store:
        await store.append(0, [event("0")])
        due = (await store.read(0, None, 1))[0].accepted
        keys = [f"{number:04}" for number in range(1500)]
        await commit(store, timers=[Timer(subject="a", key=key, due=due, event=event(key)) for key in keys])
        while (await store.fire(0)).next_due is not None:
            pass
        first = await store.promote(0, None)
        assert first.next_due is not None
        rest = await store.promote(0, first.entries[-1].position)
        assert rest.next_due is None
        assert [entry.event.id for entry in (*first.entries, *rest.entries)] == keys


async def test_a_full_server_is_drained() -> None:
    """It takes no events, but all that workers do to what it has: so it becomes less full."""
    with RedisServer() as server:
        async with opened(f"{server.url}?patience=0.2", "full", partitions=1) as store:
            await store.append(0, [event("1"), event("2")])
            await store.acquire(0, "t", "w", 60.0)
            server.ask("CONFIG", "SET", "maxmemory", "1mb")
            with pytest.raises(StoreFull, match="maxmemory"):
                await store.append(0, [event("3")])
            one, two = await store.read(0, None, 9)
            await store.starting(0, {one.position: 1})
            result = await commit(store, handled=one.position, token="t", write=set_to(b"1"), messages=[event("sent")])
            assert result.answer is Answer.OK
            assert list(await store.renew({0: "t"}, 60.0)) == [0]
            assert (await store.fire(0)).moved == 0
            assert list(await store.beat("w", "", 9.0)) == ["w"]
            assert (await store.exchange("circuit", None, b"open", 9.0)).value == b"open"
            assert (await commit(store, handled=two.position, token="t")).answer is Answer.OK
            assert await store.release(0, "t")
            server.ask("CONFIG", "SET", "maxmemory", "0")
            await store.append(0, [event("3")])
            assert [entry.event.id for entry in await store.read(0, None, 9)] == ["sent", "3"]
