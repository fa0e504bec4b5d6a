"""Opening a store in Redis: made once, found by the next, and refused where it is not what was asked for."""

import asyncio
from datetime import timedelta

import pytest

from onwhen import SystemClock, create_redis_storage
from onwhen.engine.store import Answer, Commit, SubjectWrite
from onwhen.errors import SettingError, StoreCorrupt, StoreError, StoreFormatError
from onwhen.testing.servers import RedisServer
from onwhen.testing.store_contract._bench import NOON, explained
from tests.storage.redis.stores import commit, event, opened, set_to


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return redis_server.url


# -- made and found


async def test_a_new_one_has_sixteen_partitions_unless_somebody_says(url: str, key_prefix: str) -> None:
    """Who comes later is told how many there are."""
    store = create_redis_storage(url, key_prefix)
    with pytest.raises(StoreError, match="known when it is open"):
        _ = store.partitions
    await store.open(SystemClock())
    assert store.partitions == 16
    await store.close()
    async with opened(url, f"{key_prefix}-3", partitions=3), opened(url, f"{key_prefix}-3") as other:
        assert other.partitions == 3


async def test_many_may_make_it_at_once(url: str, key_prefix: str) -> None:
    """One of them does, and the others find it."""
    stores = [create_redis_storage(url, key_prefix) for _ in range(20)]
    await asyncio.gather(*(store.open(SystemClock()) for store in stores))
    answers = [await commit(store, f"s{number}", write=set_to(b"1")) for number, store in enumerate(stores)]
    assert {answer.answer for answer in answers} == {Answer.OK}
    assert len([record async for record in stores[0].subjects()]) == 20
    for store in stores:
        await store.close()


async def test_it_is_not_opened_with_another_number_of_partitions(url: str, key_prefix: str) -> None:
    """Subjects would be looked for where they are not; the message says what to do."""
    async with opened(url, key_prefix, partitions=2):
        with pytest.raises(StoreFormatError, match=r"has 2 partitions, not 3; leave out partitions, or .* repartition"):
            await create_redis_storage(url, key_prefix, partitions=3).open(SystemClock())


async def test_the_window_stays_as_somebody_has_said(url: str, key_prefix: str) -> None:
    """Who says nothing goes by it."""
    async with opened(url, key_prefix, partitions=1, dedup_window=2):
        pass
    async with opened(url, key_prefix) as store:
        for ids, new in (("123", [True] * 3), ("1", [True]), ("3", [False])):
            assert [one.is_new for one in await store.append(0, [event(id) for id in ids])] == new


async def test_stores_of_other_prefixes_are_apart(url: str, key_prefix: str) -> None:
    """They share the server, and nothing else."""
    async with opened(url, key_prefix) as one, opened(url, f"{key_prefix}-other") as other:
        await commit(one, write=set_to(b"1"))
        assert (await other.load("a")).version is None
        assert (await one.load("a")).properties == {"n": b"1"}


# -- refused


async def test_what_another_version_has_written_is_not_touched(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """The message names its format."""
    redis_server.ask("HSET", f"{{{key_prefix}}}:meta", "format", "99")
    with pytest.raises(StoreFormatError, match="has format '99', and this version of onwhen knows '1' only"):
        await create_redis_storage(url, key_prefix).open(SystemClock())


async def test_a_partition_that_was_repartitioned_refuses_everything(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """Whoever still has the deployment open is told to start again; nothing is written, nothing looks empty."""
    async with opened(url, key_prefix, partitions=1) as store:
        await commit(store, write=set_to(b"1"))
        await store.append(0, [event("1")])
        redis_server.ask("HSET", f"{{{key_prefix}:p0}}:meta", "format", "1 0 2")
        for call in (
            lambda: store.append(0, [event("2")]),
            lambda: commit(store, version=None, write=set_to(b"2")),
            lambda: store.promote(0, None),
            lambda: store.fire(0),
            lambda: store.acquire(0, "t", "w", 9.0),
            lambda: store.renew({0: "t"}, 9.0),
            lambda: store.release(0, "t"),
            lambda: store.deliver(0, 0, None, []),
            lambda: store.trim(0, "t", 1),
            lambda: store.starting(0, {1: 1}),
            lambda: store.read(0, None, 9),
            lambda: store.tail(0, None, 9, 0.01),
            lambda: store.load("a"),
            lambda: store.pending(0, [1]),
            lambda: store.waiting(0, ["0" * 32]),
            lambda: store.outgoing(0, None, 9),
            lambda: store.bookmark(0, "file"),
            lambda: store.dead_letter("d"),
            store.stats,
            store.partition_states,
        ):
            with pytest.raises(StoreFormatError, match=r"it was repartitioned, .*; start this process again"):
                await call()
        for listing in (store.subjects(), store.timers(), store.timers("a"), store.retries(0), store.dead_letters()):
            with pytest.raises(StoreFormatError, match="it was repartitioned"):
                _ = [item async for item in listing]
        redis_server.ask("HSET", f"{{{key_prefix}:p0}}:meta", "format", "1 0 1")
        assert (await store.load("a")).properties == {"n": b"1"}
        assert [entry.event.id for entry in await store.read(0, None, 9)] == ["1"]


async def test_a_partition_that_was_lost_is_noticed(url: str, key_prefix: str, redis_server: RedisServer) -> None:
    """A server that has come back empty does not look like a new partition."""
    async with opened(url, key_prefix, partitions=2):
        pass
    redis_server.ask("DEL", f"{{{key_prefix}:p1}}:meta")
    with pytest.raises(StoreCorrupt, match=r"partition 1 .* is not there any more"):
        await create_redis_storage(url, key_prefix).open(SystemClock())


async def test_a_store_whose_making_was_cut_short_is_made_to_its_end(
    url: str, key_prefix: str, redis_server: RedisServer
) -> None:
    """By whoever opens it next."""
    async with opened(url, key_prefix, partitions=2):
        pass
    redis_server.ask("DEL", f"{{{key_prefix}:p1}}:meta")
    redis_server.ask("HDEL", f"{{{key_prefix}}}:meta", "made")
    async with opened(url, key_prefix) as store:
        assert len(await store.partition_states()) == 2


async def test_what_is_not_open_says_so(url: str, key_prefix: str) -> None:
    """Before it was opened, and after it was closed."""
    store = create_redis_storage(url, key_prefix, partitions=1)
    for _ in range(2):
        for call in (lambda: store.load("a"), lambda: store.append(0, []), lambda: commit(store, version=None)):
            with pytest.raises(StoreError, match="is not open"):
                await call()
        await store.open(SystemClock())
        await store.close()


async def test_there_are_no_other_partitions(url: str, key_prefix: str) -> None:
    """Neither below 0 nor above the last."""
    async with opened(url, key_prefix, partitions=2) as store:
        for number in (-1, 2):
            with pytest.raises(StoreError, match=f"there is no partition {number}, only 0 to 1"):
                await store.read(number, None, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"partitions": 0},
        {"partitions": 20_000},
        {"dedup_window": -1},
        {"history": -1},
        {"explanations": -1},
        {"max_backlog": 0},
        {"key_prefix": ""},
        {"key_prefix": "a{b}"},
        {"key_prefix": "a\n"},
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, int]) -> None:
    """Where the store is made, before anything is connected."""
    with pytest.raises(SettingError, match=next(iter(options))):
        create_redis_storage("redis://127.0.0.1:1", **options)  # type: ignore[arg-type]


async def test_text_that_utf_8_does_not_have_is_refused(url: str, key_prefix: str) -> None:
    """By the call that has it; others go on."""
    async with opened(url, key_prefix, partitions=1) as store:
        for call in (
            lambda: store.load("\ud800"),
            lambda: store.append(0, [], {"\ud800": "1"}),
            lambda: commit(store, version=None, cancelled=["\ud800"]),
            lambda: commit(store, version=None, write=SubjectWrite(set={"\ud800": b"1"})),
            lambda: commit(store, version=None, write=SubjectWrite(set_ext={"\ud800": b"1"})),
            lambda: commit(store, version=None, write=SubjectWrite(delete=["\ud800"])),
            lambda: commit(store, version=None, revived=["\ud800"]),
            lambda: store.commit(Commit(partition=0, subject="\ud800")),
            lambda: commit(store, version=None, explanation=explained("1", "\ud800")),
            lambda: anext(store.explanations(correlation="\ud800")),
            lambda: anext(store.explanations(subject="\ud800")),
        ):
            with pytest.raises(StoreError, match="cannot be stored"):
                await call()
        assert (await commit(store, write=set_to(b"1"))).answer is Answer.OK


async def test_explanations_stay_when_no_more_are_kept(url: str, key_prefix: str) -> None:
    """Those of whoever has kept some; with fewer from now on, the latest ones are left when the next one comes."""

    async def explain(number: int) -> None:
        explanation = explained(f"{number}", time=NOON + timedelta(seconds=number))
        await commit(store, version=None, id=f"{number}", explanation=explanation)

    async def kept() -> list[str]:
        return [found.event async for found in store.explanations()]

    async with opened(url, key_prefix, partitions=1, explanations=3) as store:
        for number in range(5):
            await explain(number)
    async with opened(url, key_prefix, explanations=0) as store:
        await explain(5)
        assert await kept() == ["2", "3", "4"]
    async with opened(url, key_prefix, explanations=2) as store:
        assert await kept() == ["2", "3", "4"]
        await explain(6)
        assert await kept() == ["4", "6"]


async def test_what_explains_nothing_is_not_sent(redis_server: RedisServer, key_prefix: str) -> None:
    """A store that keeps no explanations, and a commit that has none, leave no key."""
    for explanations in (0, 10):
        async with opened(redis_server.url, key_prefix, partitions=1, explanations=explanations) as store:
            why = None if explanations else explained("1")
            assert (await commit(store, id=f"{explanations}", explanation=why)).answer is Answer.OK
    assert redis_server.ask("EXISTS", f"{{{key_prefix}:p0}}:explained") == 0
