"""A user of the server needs a few commands, on keys of the deployment; nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import onwhen.storage.redis
from onwhen import Event, SystemClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Outgoing
from onwhen.engine.store import Answer, Commit, DeadLetter, Failure, Retry, SubjectWrite, Timer
from onwhen.errors import StoreError
from onwhen.storage.redis import RedisStore, create_redis_storage
from onwhen.storage.redis._connection import Connection, Script
from onwhen.storage.redis._rights import ON_KEYS, rules
from onwhen.testing.servers import RedisCluster, RedisServer
from onwhen.testing.store_contract._bench import explained

HERE = Path(onwhen.storage.redis.__file__).parent
NOW = datetime.now(UTC)
FAILURE = Failure(type="LookupError", message="not there")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    users = [
        f"app on >secret {rules('desk')}",
        f"starred on >secret {rules('d*k')}",
        "nobody on >secret -@all +ping",
        "looker on >secret -@all +info ~*",
        f"reader on >secret {rules('desk')} -xadd -xtrim",
        f"other on >secret {rules('shop')}",
    ]
    with RedisServer(acl=users) as server:
        yield server


def event_of(type: str, subject: str) -> Event:
    return Event(id=f"{type} {subject}", source="test", type=type, subject=subject, time=NOW)


def _commands(pattern: str, *files: Path) -> set[str]:
    return {"|".join(filter(None, found)) for file in files for found in re.findall(pattern, file.read_text())}


def test_the_list_has_every_command_that_is_used_and_no_other() -> None:
    """What scripts call, and what is sent as it is."""
    in_lua = _commands(r"(?:call|in_chunks)\('([A-Z]+)'(?:, '(STREAM)')?", *(HERE / "lua").glob("*.lua"))
    sources = [file for file in HERE.glob("*.py") if file.name not in ("_checks.py", "_rights.py")]
    in_python = _commands(r"(?:\b(?:ask|block|pack)|[\[( *])\(\s*\"([A-Z]+)\",(?: \"(STREAM)\")?", *sources)
    used = in_lua | in_python
    assert {"XADD", "XINFO|STREAM", "XREAD", "EVALSHA", "TIME"} <= used  # the patterns do find something
    others = {"CLUSTER", "EVAL", "EVALSHA", "INFO", "SENTINEL", "LIMIT"}  # about no key, or no command
    assert used - others == set(ON_KEYS)


def test_the_docs_name_these_rights() -> None:
    """Word by word, for people to copy."""
    docs = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    words = " ".join(docs.replace("\\\n", " ").split())
    line = f"ACL SETUSER onwhen on >PASSWORD {rules('onwhen')}"
    assert f"{line} " in words, f"put this into docs/operating.md: {line}"
    assert "On a Cluster, add `+asking +cluster|slots`; for a database other than 0, `+select`." in words


async def _use_all_of_it(store: RedisStore) -> None:
    near = next(name for name in map(str, range(99)) if partition_of(name, store.partitions) == 0)
    far = next(name for name in map(str, range(99)) if partition_of(name, store.partitions) == 1)
    event, message = event_of("a", near), event_of("b", far)
    [accepted] = await store.append(0, [event], {"file": "1"})
    assert await store.bookmark(0, "file") == "1"
    assert accepted.position is not None
    assert len(await store.tail(0, None, 10, 1.0)) == 1
    acquired = await store.acquire(0, "token", "worker", 5.0)
    assert acquired is not None
    assert 0 in await store.renew({0: "token"}, 5.0)
    assert await store.beat("worker", "note", 5.0) == ["worker"]
    assert len(await store.workers()) == 1
    await store.starting(0, {accepted.position: 1})
    retry = Retry(
        subject=near, event=event, rule="r", attempt=2, due=NOW, in_order=True, first_failed=NOW, failure=FAILURE
    )
    letter = DeadLetter(
        id="x" * 32, subject=near, event=event, rule="r", failure=FAILURE, attempts=1, first_failed=NOW, time=NOW
    )
    commit = Commit(
        partition=0,
        subject=near,
        token="token",
        handled=accepted.position,
        write=SubjectWrite(set={"n": b"1"}),
        messages=[message, event_of("c", near)],
        timers=[
            Timer(subject=near, key="k", due=NOW - timedelta(1), event=message),
            Timer(subject=near, key="l", due=NOW - timedelta(1), event=event),
        ],
        retries=[retry],
        dead=[letter],
        explanation=explained("a", subject=near),
    )
    result = await store.commit(commit)
    assert result.answer is Answer.OK
    assert (await store.commit(commit)).answer is Answer.DONE
    assert (await store.fire(0)).elsewhere
    assert (await store.promote(0, None)).entries
    sent = await store.outgoing(0, None, 10)
    assert [type(each) for each in sent] == [Outgoing, Outgoing]
    assert (await store.deliver(0, 1, None, sent)).is_accepted
    assert await store.trim(0, "token", sent[-1].position)
    assert len(await store.read(1, None, 10)) >= 1
    assert len(await store.pending(0, [accepted.position])) == 0
    assert len(await store.waiting(0, [retry.key])) == 1
    assert [record.name async for record in store.subjects()] == [near]
    assert [each async for each in store.timers()] == []
    assert len([each async for each in store.retries(0)]) == 1
    assert len([each async for each in store.dead_letters()]) == 1
    assert [each async for each in store.history(near)]
    assert [each async for each in store.explanations(subject=near)]
    for expected, new in ((None, b"1"), (b"1", b"2"), (b"2", None)):
        assert (await store.exchange("k", expected, new, 5.0)).value == new
    assert await store.dead_letter("x" * 32) is not None
    assert (await store.stats()).subjects == 1
    assert len(await store.partition_states()) == 2
    assert (await store.load(near)).properties == {"n": b"1"}
    gone = Commit(partition=0, subject=near, version=result.version, write=SubjectWrite(remove=True), id="1")
    assert (await store.commit(gone)).answer is Answer.OK
    assert await store.discard("x" * 32)
    assert await store.release(0, "token")


@pytest.mark.parametrize(("user", "prefix"), [("app", "desk"), ("starred", "d*k")])
async def test_these_rights_are_enough(server: RedisServer, user: str, prefix: str) -> None:
    """For all that a store does. A prefix with characters that mean something in a pattern is taken as it is."""
    store = create_redis_storage(server.url_of(user, "secret"), prefix, partitions=2, history=10)
    await store.open(SystemClock())
    try:
        await _use_all_of_it(store)
    finally:
        await store.close()


async def test_on_a_cluster_too() -> None:
    """There a connection also asks which server has a key, and tells one that it was sent by another."""
    with RedisCluster(options={"user": f"app on >secret {rules('desk', is_cluster=True)}"}) as cluster:
        store = create_redis_storage(cluster.url.replace("://", "://app:secret@"), "desk", partitions=2, history=10)
        await store.open(SystemClock())
        try:
            await _use_all_of_it(store)
        finally:
            await store.close()


async def test_other_keys_are_out_of_reach(server: RedisServer) -> None:
    """Whoever has the user's password reads and writes what belongs to the deployment, nothing beside it."""
    connection = Connection(server.url_of("app", "secret"), "desk")
    await connection.open()
    write = Script("write", "#!lua\nreturn redis.call('HSET', KEYS[1], 'a', 'b')")
    assert await connection.run(write, ["{desk:p0}:mine"]) == 1
    for key in ("{shop:p0}:meta", "{shop}:meta", "desk", "{desk2}:meta", "xdesk"):
        with pytest.raises(StoreError, match=r"script write: NOPERM .*the user lacks a right"):
            await connection.run(write, [key])
        with pytest.raises(StoreError, match=r"HGET: NOPERM"):
            await connection.ask("HGET", key, "a")
    hidden = Script("hidden", "#!lua\nreturn redis.call('HSET', '{shop}:meta', 'a', 'b')")
    with pytest.raises(StoreError, match=r"script hidden: "):
        await connection.run(hidden, ["{desk:p0}:mine"])
    for command in (("KEYS", "*"), ("FLUSHALL", "ASYNC"), ("CONFIG", "GET", "*")):
        with pytest.raises(StoreError, match=rf"{command[0]}: NOPERM"):
            await connection.ask(*command)
    await connection.ask("DEL", "{desk:p0}:mine")
    await connection.close()


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "'info' command"),
        ("looker", r"refuses: .*'eval' command.*; ACL SETUSER looker resetchannels "),
        ("reader", r"does not allow user 'reader', on keys that start with {desk: XADD, XTRIM\. ACL SETUSER reader "),
        ("other", r"on keys that start with {desk: DEL, EXISTS, GET, HDEL, HEXISTS, \.\.\.\. ACL SETUSER other "),
    ],
)
async def test_what_is_missing_is_told_when_it_is_opened(server: RedisServer, user: str, message: str) -> None:
    """With the line that would mend it, before anything is accepted."""
    connection = Connection(server.url_of(user, "secret"), "desk")
    with pytest.raises(StoreError, match=message):
        await connection.open()


async def test_nothing_shows_the_password() -> None:
    """Neither the names of things nor errors, whatever is wrong."""
    with RedisServer(acl=["app on >hush-hush ~* &* +@all"]) as server:
        connection = Connection(server.url_of("app", "hush-hush"))
        await connection.open()
        assert "hush" not in f"{connection} {connection!r} {connection.address!r}"
        assert str(connection) == f"redis://127.0.0.1:{server.port}"
        await connection.close()
        wrong = Connection(server.url_of("app", "hush-wrong"))
        with pytest.raises(StoreError, match=r"WRONGPASS .*user or password is not right") as caught:
            await wrong.open()
        assert "hush" not in str(caught.value)
