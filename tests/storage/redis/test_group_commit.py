"""Calls that change a partition: together where they come together, and never late."""

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from onwhen import SystemClock, VirtualClock, create_redis_storage
from onwhen.engine.store import Answer, SubjectWrite
from onwhen.errors import StoreError, StoreFormatError
from onwhen.storage.redis import RedisStore
from onwhen.testing.servers import RedisServer
from onwhen.testing.store_contract._bench import explained
from tests.storage.redis.clocks import TimedStore
from tests.storage.redis.stores import LosingConnection, commit, event, opened, set_to


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


def _losing(url: str, prefix: str, **options: Any) -> tuple[RedisStore, LosingConnection]:
    store = create_redis_storage(url, prefix, partitions=1, **options)
    connection = store._deployment.connection = LosingConnection(url)
    return store, connection


def _calls(server: RedisServer) -> int:
    return int(server.info("commandstats").get("cmdstat_evalsha", "calls=0").split("calls=")[1].split(",")[0])


# -- together


async def test_commits_that_come_together_are_stored_together(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """One call for many; each has its own answer."""
    async with opened(url, key_prefix, partitions=1) as store:
        await commit(store, write=set_to(b"0"))
        before = _calls(redis_server)
        commits = [commit(store, f"s{number}", version=None, write=set_to(b"1")) for number in range(200)]
        refused = [commit(store, version="moved", write=set_to(b"2")) for _ in range(100)]
        answers = Counter(result.answer for result in await asyncio.gather(*commits, *refused))
        assert answers == {Answer.OK: 200, Answer.CONFLICT: 100}
        assert _calls(redis_server) - before <= 4


async def test_large_commits_do_not_share_a_call(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """Others of the server would wait for them."""
    async with opened(url, key_prefix, partitions=1) as store:
        await commit(store, write=set_to(b"0"))
        before, large = _calls(redis_server), b'"' + b"x" * 600_000 + b'"'
        await asyncio.gather(*(commit(store, f"s{n}", version=None, write=set_to(large)) for n in range(8)))
        assert _calls(redis_server) - before >= 4
        assert (await store.load("s7")).properties == {"n": large}


async def test_commits_of_others_than_the_owner_do_not_share_its_fate(url: str, key_prefix: str) -> None:
    """Those that are fenced are alone in that."""
    async with opened(url, key_prefix, partitions=1) as store:
        await store.acquire(0, "t1", "w", 60.0)
        tokens = ["t1", None, "t0", None, "t1", "t0"]
        commits = [
            commit(store, f"s{n}", version=None, write=set_to(b"1"), token=token) for n, token in enumerate(tokens)
        ]
        expected = [Answer.FENCED if token == "t0" else Answer.OK for token in tokens]
        assert [result.answer for result in await asyncio.gather(*commits)] == expected


async def test_a_subject_of_ten_thousand_properties(url: str, key_prefix: str) -> None:
    """Set, changed, and taken away in one commit each."""
    values = {f"p{number}": b"%d" % number for number in range(10_000)}
    async with opened(url, key_prefix, partitions=1) as store:
        await commit(store, write=SubjectWrite(set=values, set_ext=values))
        record = await store.load("a")
        assert (record.properties, record.ext) == (values, values)
        await commit(store, write=SubjectWrite(delete=list(values), set={"left": b"1"}, delete_ext=list(values)))
        record = await store.load("a")
        assert (record.properties, record.ext) == ({"left": b"1"}, {})


async def test_twenty_thousand_events_are_accepted_at_once(url: str, key_prefix: str) -> None:
    """All of them, in order; a second time, none."""
    events = [event(str(number)) for number in range(20_000)]
    async with opened(url, key_prefix, partitions=1, dedup_window=20_000) as store:
        answers = await store.append(0, events)
        assert all(answer.is_new for answer in answers)
        read = await store.read(0, None, 30_000)
        assert [entry.position for entry in read] == [answer.position for answer in answers]
        assert [entry.event.id for entry in read] == [event.id for event in events]
        again = await store.append(0, events)
        assert [(one.position, one.is_new) for one in again] == [(answer.position, False) for answer in answers]


# -- scripts


async def test_scripts_are_sent_again_where_they_were_forgotten(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """After SCRIPT FLUSH all goes on, and nothing is done twice."""
    async with opened(url, key_prefix, partitions=1) as store:
        for number in range(5):
            redis_server.ask("SCRIPT", "FLUSH")
            (accepted,) = await store.append(0, [event(str(number))])
            redis_server.ask("SCRIPT", "FLUSH")
            result = await commit(store, handled=accepted.position, write=set_to(b"%d" % number), messages=[event("m")])
            assert result.answer is Answer.OK
        assert len(await store.read(0, None, 99)) == 5


@pytest.mark.parametrize(
    "name", ["log", "names", "due", "timers", "own", "waiting", "retries", "dead", "out", "seen", "explained"]
)
async def test_a_key_of_somebody_else_is_noticed_before_anything_is_written(
    url: str, key_prefix: str, redis_server: RedisServer, name: str
) -> None:
    """A script is not undone half-way; so the commit looks first."""
    everything = {"write": set_to(b"1"), "messages": [event("1")], "id": "x", "explanation": explained("1")}
    async with opened(url, key_prefix, partitions=1) as store:
        key = f"{{{key_prefix}:p0}}:{name}"
        redis_server.ask("SET", key, "not ours")
        with pytest.raises(StoreError, match=f"{name} in Redis holds something|WRONGTYPE"):
            await commit(store, version=None, **everything)
        assert (await store.load("a")).version is None
        redis_server.ask("DEL", key)
        assert await store.read(0, None, 9) == []
        assert (await commit(store, version=None, **everything)).answer is Answer.OK


async def test_a_key_of_somebody_else_is_a_matter_of_format(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """The message says what to do."""
    async with opened(url, key_prefix, partitions=1) as store:
        redis_server.ask("SET", f"{{{key_prefix}:p0}}:due", "not ours")
        with pytest.raises(StoreFormatError, match="give the store a key_prefix of its own"):
            await commit(store, version=None, messages=[event("1")])
        redis_server.ask("DEL", f"{{{key_prefix}:p0}}:due")


# -- never late


@pytest.mark.parametrize("token", [None, "t1"])
async def test_a_commit_that_was_given_up_does_not_come_after_a_later_one(
    url: str, key_prefix: str, token: str | None
) -> None:
    """It may lie in some buffer, and be executed when nobody counts on it; then it is too late."""
    store, connection = _losing(url, key_prefix)
    await store.open(SystemClock())
    await store.acquire(0, "t1", "w", 60.0)
    connection.loses = "commit"
    with pytest.raises(StoreError, match="the connection was lost"):
        await commit(store, version=None, messages=[event("lost")], token=token)
    assert (await commit(store, version=None, messages=[event("later")], token=token)).answer is Answer.OK
    assert await connection.send_late() == [b"STALE"]
    assert [entry.event.id for entry in await store.read(0, None, 9)] == ["later"]
    await store.close()


async def test_an_event_that_was_given_up_does_not_come_after_a_later_one(url: str, key_prefix: str) -> None:
    """Two events of one subject change places otherwise."""
    store, connection = _losing(url, key_prefix)
    await store.open(SystemClock())
    connection.loses = "append"
    with pytest.raises(StoreError):
        await store.append(0, [event("1")])
    await commit(store, write=set_to(b"1"))
    assert await connection.send_late() == [b"STALE"]
    await store.append(0, [event("1")])
    await store.append(0, [event("2")])
    assert [entry.event.id for entry in await store.read(0, None, 9)] == ["1", "2"]
    await store.close()


async def test_a_call_that_comes_before_any_later_one_is_done(url: str, key_prefix: str) -> None:
    """Nothing was missed, so it is as if its answer had been lost; sent again, it is done."""
    store, connection = _losing(url, key_prefix)
    await store.open(SystemClock())
    (accepted,) = await store.append(0, [event("1")])
    connection.loses = "commit"
    with pytest.raises(StoreError):
        await commit(store, version=None, handled=accepted.position)
    assert await connection.send_late() == [[0]]
    assert (await commit(store, version=None, handled=accepted.position)).answer is Answer.DONE
    await store.close()


async def test_others_are_not_fenced_by_it(url: str, key_prefix: str) -> None:
    """What one process has given up does not concern another."""
    store, connection = _losing(url, key_prefix)
    await store.open(SystemClock())
    async with opened(url, key_prefix) as other:
        await commit(other, "b", write=set_to(b"1"))
        for _ in range(3):
            connection.loses = "commit"
            with pytest.raises(StoreError):
                await commit(store, version=None)
            assert (await commit(store, version=None)).answer is Answer.OK
        assert (await commit(other, "b", write=set_to(b"2"))).answer is Answer.OK
    await store.close()


async def test_calls_behind_one_that_was_given_up_are_made(url: str, key_prefix: str) -> None:
    """Each is told what became of it, and of no other."""
    store, connection = _losing(url, key_prefix)
    await store.open(SystemClock())
    connection.loses = "append"
    calls = [store.append(0, [event("1")]), commit(store, "b", version=None), store.append(0, [event("2")])]
    lost, committed, appended = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(lost, StoreError)
    assert getattr(committed, "answer", None) is Answer.OK
    assert not isinstance(appended, BaseException)
    assert [entry.event.id for entry in await store.read(0, None, 9)] == ["2"]
    await store.close()


async def test_calls_that_are_under_way_end_before_the_store_is_closed(url: str, key_prefix: str) -> None:
    """They have their answers; what comes later is refused."""
    store = create_redis_storage(url, key_prefix, partitions=1)
    await store.open(SystemClock())
    calls = [asyncio.ensure_future(commit(store, f"s{n}", version=None, write=set_to(b"1"))) for n in range(300)]
    await asyncio.sleep(0)
    await store.close()
    assert {result.answer for result in await asyncio.gather(*calls)} == {Answer.OK}


# -- never again


async def test_a_server_that_has_lost_something_does_not_give_it_out_again(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """Positions and versions are others, though its clock and its counters stand where they stood."""
    store = TimedStore(url, key_prefix, partitions=1, dedup_window=0)
    await store.open(VirtualClock(datetime(2026, 11, 5, tzinfo=UTC)))
    await commit(store, write=set_to(b"0"))
    keys = [str(key) for key in redis_server.ask("KEYS", f"{{{key_prefix}:p0}}:*")]
    with redis_server.wire() as wire:
        for key in keys:
            wire.ask("COPY", key, f"{key}-kept", "REPLACE")
        seen: set[Any] = set()
        for _ in range(5):
            version = (await store.load("a")).version
            (accepted,) = await store.append(0, [event("1")])
            result = await commit(store, version=version, write=set_to(b"1"), messages=[event("2"), event("3")])
            found = {accepted.position, result.version, *result.appended}
            assert len(found) == 4
            assert not found & seen
            seen |= found
            wire.ask("DEL", *(str(key) for key in wire.ask("KEYS", f"{{{key_prefix}:p0}}:*") if "-kept" not in key))
            for key in keys:
                wire.ask("COPY", f"{key}-kept", key)
        for key in keys:
            wire.ask("DEL", f"{key}-kept")
    await store.close()
