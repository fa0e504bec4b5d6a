"""A deployment is moved to another number of partitions: all of it, or nothing, whenever that is cut short."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from onwhen import Context, EventBus, RuleSet, Worker
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Outgoing
from onwhen.errors import StoreCorrupt, StoreError, StoreFormatError, StoreFull, StoreInUse
from onwhen.storage.redis import RedisStore, create_redis_storage
from onwhen.storage.redis._connection import Connection
from onwhen.storage.redis._encoding import accepted_key
from onwhen.storage.redis._keys import FIXED, DeploymentKeys
from onwhen.storage.redis._repartition import Repartition
from onwhen.storage.redis._rights import rules
from onwhen.testing.servers import RedisCluster, RedisServer
from tests.redis_keys import keys_of
from tests.storage.redis.deployments import NAMES, contents, event, fill, opened


@asynccontextmanager
async def mover(
    url: str, prefix: str, connect: Callable[[str, str], Connection] = Connection, **options: bool
) -> AsyncIterator[Repartition]:
    connection = connect(url, prefix)
    await connection.open()
    try:
        yield Repartition(connection, DeploymentKeys(prefix), **options)
    finally:
        await connection.close()


@pytest.mark.parametrize(("before", "after"), [(4, 8), (8, 4), (3, 5), (5, 1), (1, 3)])
@pytest.mark.parametrize("protocol", [2, 3])
async def test_all_of_it_is_there_afterwards(
    redis_server: RedisServer, key_prefix: str, before: int, after: int, protocol: int
) -> None:
    """Each subject with its version, what it waits for in its order, and what is set aside."""
    url = f"{redis_server.url}?protocol={protocol}"
    async with opened(url, key_prefix, before) as store:
        await fill(store)
        held = await contents(store)
    async with mover(url, key_prefix) as moving:
        moved = await moving.run(after)
    assert (moved.before, moved.after) == (before, after)
    assert moved.counts["subjects"] == len(NAMES)
    async with opened(url, key_prefix) as store:
        assert store.partitions == after
        assert await contents(store) == held


async def test_it_is_the_same_on_a_cluster(redis_cluster: RedisCluster, key_prefix: str) -> None:
    """Where partitions lie on several servers."""
    async with opened(redis_cluster.url, key_prefix, 4) as store:
        await fill(store)
        held = await contents(store)
    async with mover(redis_cluster.url, key_prefix) as moving:
        await moving.run(6)
    async with opened(redis_cluster.url, key_prefix) as store:
        assert await contents(store) == held


@pytest.mark.parametrize("ending", [":1", ":1:2", ".1", ":2"])
async def test_those_of_like_names_are_left_alone(redis_server: RedisServer, key_prefix: str, ending: str) -> None:
    """A layout has no key of a deployment that is named after it, however often there was a move."""
    async with opened(redis_server.url, f"{key_prefix}{ending}", 4) as other:
        await fill(other)
        held = await contents(other)
        async with opened(redis_server.url, key_prefix, 2):
            pass
        async with mover(redis_server.url, key_prefix) as moving:
            await moving.run(4)
            await moving.run(2)
        assert await contents(other) == held


async def test_workers_go_on_where_they_were(redis_server: RedisServer, key_prefix: str) -> None:
    """Stopped in the middle, with events pending and messages on their way: all is handled once, and in order."""
    rules = RuleSet("rules")

    @rules.on("counted")
    async def count(ctx: Context) -> None:
        ctx.subject.set("seen", [*ctx.subject.get("seen", []), ctx.payload])
        await ctx.emit("told", ctx.payload, f"hub:{ctx.payload % 7}")

    @rules.on("told")
    def tell(ctx: Context) -> None:
        ctx.subject.set("told", [*ctx.subject.get("told", []), (ctx.event.id, ctx.payload)])

    def bus() -> EventBus:
        return EventBus(rules, store=create_redis_storage(redis_server.url, key_prefix, partitions=None))

    names = [f"counter:{n}" for n in range(20)]
    async with opened(redis_server.url, key_prefix, 4):
        pass
    async with bus() as sender:
        for n in range(20):
            await asyncio.gather(*(sender.emit("counted", name, n) for name in names))
    for partitions in (6, 3, 8):
        async with Worker(bus(), lease=5.0, prefetch=10) as worker:
            async with asyncio.timeout(30):
                while worker.status().turns < 100:
                    await asyncio.sleep(0.001)
        async with mover(redis_server.url, key_prefix) as moving:
            await moving.run(partitions)
    async with bus() as reader, Worker(bus(), lease=5.0):
        async with asyncio.timeout(30):
            while sum([len((await reader.read(f"hub:{n}")).get("told", [])) for n in range(7)]) < 400:
                await asyncio.sleep(0.02)
        for name in names:
            assert (await reader.read(name)).get("seen") == list(range(20))
        told = [pair for n in range(7) for pair in (await reader.read(f"hub:{n}")).get("told")]
        assert len({id for id, _ in told}) == len(told) == 400


def test_every_key_of_a_partition_is_thought_of() -> None:
    """Whoever adds one has to say here what becomes of it."""
    copied = {"log", "starts", "fired", "seen", "window", "bookmarks", "names", "due", "timers", "own", "waiting"}
    copied |= {"retries", "aside", "dead", "history", "delivered", "explained"}
    made_anew = {"meta", "out"}  # what is in the outbox comes into the logs
    assert copied | made_anew == set(FIXED)


# -- what was accepted before is not accepted again


@pytest.mark.parametrize("after", [2, 5, 8])
async def test_what_was_accepted_before_is_known(redis_server: RedisServer, key_prefix: str, after: int) -> None:
    """Handled or pending: an event that is sent again after the move is a duplicate, at its place if it has one."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
    async with mover(redis_server.url, key_prefix) as moving:
        await moving.run(after)
    async with opened(redis_server.url, key_prefix) as store:
        for number, name in enumerate(NAMES):
            partition = partition_of(name, after)
            (done,) = await store.append(partition, [event(f"done-{number}", name)])
            assert (done.is_new, done.position) == (False, None)
            (pending,) = await store.append(partition, [event(f"{number}-1", name)])
            assert not pending.is_new
            assert pending.position is not None
            assert await store.pending(partition, [pending.position])


async def test_a_message_that_was_delivered_is_not_delivered_again(redis_server: RedisServer, key_prefix: str) -> None:
    """A turn that its partition had lost may be run again after the move, and sends the same messages again."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        sent = [m for m in await store.outgoing(0, None, 1000) if m.event.id.startswith("sent-")]
        again = sent[0].event
    async with mover(redis_server.url, key_prefix) as moving:
        await moving.run(8)
    async with opened(redis_server.url, key_prefix) as store:
        target = partition_of(again.subject, 8)
        before = (await store.partition_states())[target].backlog
        source = (target + 1) % 8
        answer = await store.deliver(source, target, None, [Outgoing(1 << 40, target, again)])
        assert answer.is_accepted
        assert (await store.partition_states())[target].backlog == before


# -- who is refused


async def test_it_is_refused_while_workers_live(redis_server: RedisServer, key_prefix: str) -> None:
    """They are named, and nothing is changed."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        await store.beat("worker-7", "", 60.0)
        async with mover(redis_server.url, key_prefix) as moving:
            with pytest.raises(StoreInUse, match="worker-7"):
                await moving.run(8)
        await store.beat("worker-7", "", 0)
        assert (await store.append(0, [event("late", NAMES[0])]))[0].position is not None


async def test_it_is_refused_while_a_lease_runs(redis_server: RedisServer, key_prefix: str) -> None:
    """Its owner is named, with the partition; also one that has not said that it lives."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await store.acquire(2, "token", "worker-7", 60.0)
        async with mover(redis_server.url, key_prefix) as moving:
            with pytest.raises(StoreInUse, match=r"worker-7, who own partitions 2"):
                await moving.run(8)
        assert await store.release(2, "token")


async def test_whoever_comes_while_it_closes_is_found(redis_server: RedisServer, key_prefix: str) -> None:
    """A worker that takes a partition after it was asked who owns any: those that are closed are opened again."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        held = await contents(store)

        class Late(Connection):
            async def run(self, script: Any, keys: Any, args: Any = (), **more: Any) -> Any:
                if script.name == "close":
                    await store.acquire(3, "token", "worker-7", 60.0)
                return await super().run(script, keys, args, **more)

        async with mover(redis_server.url, key_prefix, Late) as moving:
            with pytest.raises(StoreInUse, match="worker-7"):
                await moving.run(8)
        assert await store.release(3, "token")
        assert await contents(store) == held


async def test_who_has_it_open_is_told_to_start_again(redis_server: RedisServer, key_prefix: str) -> None:
    """A producer that is still connected: nothing that it sends is taken and lost."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        async with mover(redis_server.url, key_prefix) as moving:
            await moving.run(8)
        for partition in range(4):
            with pytest.raises(StoreFormatError, match="repartitioned"):
                await store.append(partition, [event("late", NAMES[0])])
            with pytest.raises(StoreFormatError, match="repartitioned"):
                await store.acquire(partition, "token", "worker", 10.0)


async def test_an_owner_that_was_killed_is_remembered(redis_server: RedisServer, key_prefix: str) -> None:
    """Something that it did may have killed it, so whoever is next has to be as careful as without the move."""
    async with opened(redis_server.url, key_prefix, 2) as store:
        await store.acquire(1, "token", "worker", 0.001)
        async with mover(redis_server.url, key_prefix) as moving:
            await until_free(store)
            await moving.run(4)
    async with opened(redis_server.url, key_prefix) as store:
        for partition, was_released in enumerate([True, False, True, False]):
            acquired = await store.acquire(partition, f"token-{partition}", "worker", 10.0)
            assert acquired is not None
            assert acquired.was_released is was_released


async def until_free(store: RedisStore) -> None:
    async with asyncio.timeout(5):
        while any(state.owner is not None for state in await store.partition_states()):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("partitions", [0, -1, 16_385])
async def test_a_number_that_cannot_be_is_refused(redis_server: RedisServer, key_prefix: str, partitions: int) -> None:
    """There is at least one partition, and there are no more than a server can look at."""
    async with opened(redis_server.url, key_prefix, 2):
        pass
    async with mover(redis_server.url, key_prefix) as moving:
        with pytest.raises(ValueError, match="must be from 1"):
            await moving.run(partitions)
        with pytest.raises(ValueError, match="2 partitions already"):
            await moving.run(2)


async def test_there_has_to_be_something_to_move(redis_server: RedisServer, key_prefix: str) -> None:
    """A mistyped prefix does not make a new deployment."""
    async with mover(redis_server.url, key_prefix) as moving:
        with pytest.raises(StoreFormatError, match="there is no store under"):
            await moving.run(2)
    assert keys_of(redis_server, f"{{{key_prefix}*") == []


# -- it is cut short


class Cut(Connection):
    """A way to Redis that ends after so many calls, as if the process were killed."""

    left = 0

    def _count(self) -> None:
        if self.left == 0:
            raise Killed
        self.left -= 1

    async def run(self, script: Any, keys: Any, args: Any = (), **more: Any) -> Any:
        self._count()
        return await super().run(script, keys, args, **more)

    async def ask(self, *command: Any, **more: Any) -> Any:
        self._count()
        return await super().ask(*command, **more)

    async def ask_many(self, commands: Any) -> Any:
        self._count()
        return await super().ask_many(commands)


class Killed(BaseException):
    """Nothing is done after it."""


async def cut_short(url: str, prefix: str, after_calls: int, partitions: int) -> bool:
    """Begin a move, and end in the middle of it; False if it came to its end before."""

    def connect(url: str, prefix: str) -> Connection:
        connection = Cut(url, prefix)
        connection.left = after_calls
        return connection

    async with mover(url, prefix, connect) as moving:
        try:
            await moving.run(partitions)
        except Killed:
            return True
        return False


async def test_cut_short_anywhere_it_is_moved_by_another_try(redis_server: RedisServer, key_prefix: str) -> None:
    """Each time from what was there before, and nothing is left of the first try."""
    calls, was_cut = 0, True
    while was_cut:
        prefix = f"{key_prefix}-{calls}"
        async with opened(redis_server.url, prefix, 2) as store:
            await fill(store)
            held = await contents(store)
        was_cut = await cut_short(redis_server.url, prefix, calls, 3)
        async with mover(redis_server.url, prefix) as moving:
            if was_cut and not await is_moved(moving):
                await moving.run(3)
            else:
                await moving.undo()  # only removes what is left
        await see_that_it_is_all(redis_server, prefix, 3, held)
        calls += STEP
    assert calls > 20 * STEP


async def test_cut_short_anywhere_before_it_counts_it_is_undone(redis_server: RedisServer, key_prefix: str) -> None:
    """Then all is as it was; afterwards there is nothing to undo."""
    calls, was_cut = 0, True
    while was_cut:
        prefix = f"{key_prefix}-{calls}"
        async with opened(redis_server.url, prefix, 2) as store:
            await fill(store)
            held = await contents(store)
        was_cut = await cut_short(redis_server.url, prefix, calls, 3)
        async with mover(redis_server.url, prefix) as moving:
            await moving.undo()
            assert not await moving.undo()
            partitions = (await moving.survey(4)).before
        await see_that_it_is_all(redis_server, prefix, partitions, held)
        calls += STEP
    assert partitions == 3


STEP = 7  # calls from one cut to the next: with the numbers of both tests together, all kinds of them are met


async def is_moved(moving: Repartition) -> bool:
    return (await moving.survey(3)).before == 3


async def see_that_it_is_all(server: RedisServer, prefix: str, partitions: int, held: Any) -> None:
    async with opened(server.url, prefix) as store:
        assert store.partitions == partitions
        assert await contents(store) == held
    layouts = {key[: key.index("}")].rpartition(":")[2].partition(".")[2] for key in keys_of(server, f"{{{prefix}:p*")}
    assert len(layouts) == 1, "what was left of another layout is removed"
    server.ask("FLUSHALL")


@pytest.mark.parametrize("calls", [12, 40, 80, 100, 120])
async def test_the_server_is_killed_in_the_middle(key_prefix: str, calls: int) -> None:
    """Started again on what it has kept, it has all of it; and the move is made by another try."""
    with RedisServer(appendonly=True, appendfsync="always") as server:
        async with opened(server.url, key_prefix, 2) as store:
            await fill(store)
            held = await contents(store)

        class Fatal(Cut):
            def _count(self) -> None:
                self.left -= 1
                if self.left == 0:
                    server.kill()

        def connect(url: str, prefix: str) -> Connection:
            connection = Fatal(f"{url}?patience=0.1", prefix)
            connection.left = calls
            return connection

        async with mover(server.url, key_prefix, connect) as moving:
            with pytest.raises(StoreError):
                await moving.run(3)
        server.start()
        async with mover(server.url, key_prefix) as moving:
            if not await is_moved(moving):
                await moving.run(3)
            else:
                await moving.undo()
        await see_that_it_is_all(server, key_prefix, 3, held)


async def test_without_room_for_both_it_can_be_undone(key_prefix: str) -> None:
    """The server refuses the copy; what was there is as it was, and goes on as far as a full server lets it."""
    with RedisServer() as server:
        async with opened(server.url, key_prefix, 2) as store:
            await fill(store)
            held = await contents(store)
        server.ask("CONFIG", "SET", "maxmemory", int(server.info("memory")["used_memory"]) + 20_000)
        async with mover(f"{server.url}?patience=0.1", key_prefix) as moving:
            with pytest.raises(StoreFull):
                await moving.run(3)
            assert await moving.undo()
        async with opened(server.url, key_prefix) as store:
            assert await contents(store) == held


async def test_nobody_opens_what_is_on_its_way(redis_server: RedisServer, key_prefix: str) -> None:
    """The message says what to do about it."""
    async with opened(redis_server.url, key_prefix, 2) as store:
        await fill(store)
    assert await cut_short(redis_server.url, key_prefix, 60, 3)
    with pytest.raises(StoreFormatError, match="run onwhen repartition again, or give it up"):
        async with opened(redis_server.url, key_prefix):
            pass


@pytest.mark.parametrize("step", ["begin", "switch"])
async def test_of_two_at_a_time_one_counts(redis_server: RedisServer, key_prefix: str, step: str) -> None:
    """The one that is done; the other is told, wherever it is, and leaves nothing behind of what it has copied."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        held = await contents(store)

    class Slow(Connection):
        async def run(self, script: Any, keys: Any, args: Any = (), **more: Any) -> Any:
            if script.name == "move" and args[1] == step:
                async with mover(redis_server.url, key_prefix) as other:
                    await other.run(6)
            return await super().run(script, keys, args, **more)

    async with mover(redis_server.url, key_prefix, Slow) as moving:
        with pytest.raises(StoreError, match="somebody else"):
            await moving.run(8)
    await see_that_it_is_all(redis_server, key_prefix, 6, held)


async def test_what_is_undone_meanwhile_is_open(redis_server: RedisServer, key_prefix: str) -> None:
    """Also the partitions that were closed after somebody else had opened them."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        held = await contents(store)

    class Paused(Connection):
        closed = 0

        async def run(self, script: Any, keys: Any, args: Any = (), **more: Any) -> Any:
            self.closed += script.name == "close"
            if self.closed == 3:
                async with mover(redis_server.url, key_prefix) as other:
                    self.closed += 1
                    assert await other.undo()
            return await super().run(script, keys, args, **more)

    async with mover(redis_server.url, key_prefix, Paused) as moving:
        with pytest.raises(StoreError, match="somebody else"):
            await moving.run(8)
    await see_that_it_is_all(redis_server, key_prefix, 4, held)


async def test_a_partition_that_is_lost_is_noticed(redis_server: RedisServer, key_prefix: str) -> None:
    """Before anything is changed: what is left may be of use to whoever restores it."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
    redis_server.ask("DEL", f"{{{key_prefix}:p2}}:meta")
    before = keys_of(redis_server)
    async with mover(redis_server.url, key_prefix) as moving:
        with pytest.raises(StoreCorrupt, match=r"partition 2 of .* is not there any more"):
            await moving.run(8)
    assert keys_of(redis_server) == before
    redis_server.ask("FLUSHALL")


# -- what several partitions had alike


async def test_two_events_of_one_position_stay_two(redis_server: RedisServer, key_prefix: str) -> None:
    """Positions are of a partition; whoever sends one of them again is told the right one all the same."""
    names = [next(name for name in NAMES if partition_of(name, 4) == partition) for partition in (0, 2)]
    id = "1790000000000000-3"  # odd: it was a timer
    async with opened(redis_server.url, key_prefix, 4):
        pass
    for name, partition in zip(names, (0, 2), strict=True):
        tag, sent = f"{{{key_prefix}:p{partition}}}", event(f"of {name}", name)
        redis_server.ask("XADD", f"{tag}:log", id, "a", 1_790_000_000_000_000, "e", sent.to_json())
        redis_server.ask("ZADD", f"{tag}:fired", 0, id)
        redis_server.ask("HSET", f"{tag}:starts", id, 2)
        redis_server.ask("HSET", f"{tag}:seen", accepted_key(sent), id)
        redis_server.ask("RPUSH", f"{tag}:window", accepted_key(sent))
    async with mover(redis_server.url, key_prefix) as moving:
        assert (await moving.run(2)).counts["events"] == 2
    async with opened(redis_server.url, key_prefix) as store:
        entries = await store.read(0, None, 10)
        assert [(entry.event.subject, entry.starts) for entry in entries] == [(name, 2) for name in names]
        assert [entry.position for entry in (await store.promote(0, None)).entries] == [e.position for e in entries]
        for entry in entries:
            (again,) = await store.append(0, [entry.event])
            assert (again.is_new, again.position) == (False, entry.position)


async def test_what_came_before_its_watermark_was_lost_is_not_sent_again(
    redis_server: RedisServer, key_prefix: str
) -> None:
    """The target has seen it, whatever it says of the outbox."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        held = await contents(store)
    for partition in range(4):
        redis_server.ask("HDEL", f"{{{key_prefix}:p{partition}}}:meta", "from:0")
    async with mover(redis_server.url, key_prefix) as moving:
        await moving.run(3)
    async with opened(redis_server.url, key_prefix) as store:
        assert await contents(store) == held


class Forgetful(Connection):
    """A way to Redis on which one of many commands is lost."""

    def __init__(self, url: str, prefix: str, loses: Callable[[Any], bool]) -> None:
        super().__init__(url, prefix)
        self._loses = loses

    async def ask_many(self, commands: Any) -> Any:
        lost = [n for n, command in enumerate(commands) if self._loses(command)]
        answers = await super().ask_many([c for n, c in enumerate(commands) if n not in lost])
        for number in lost:
            answers.insert(number, None)
        return answers


@pytest.mark.parametrize(
    ("command", "key", "kind"),
    [
        ("HSET", ":s:ticket", "subjects"),
        ("XADD", ":log", "events"),
        ("ZADD", ":due", "timers"),
        ("HSET", ":retries", "retries"),
        ("ZADD", ":aside", "dead letters"),
        ("XADD", ":history", "history"),
        ("XADD", ":explained", "explanations"),
        ("HSET", ":bookmarks", "bookmarks"),
    ],
)
async def test_what_was_copied_is_compared(
    redis_server: RedisServer, key_prefix: str, command: str, key: str, kind: str
) -> None:
    """If anything is missing, it is as if nothing had been tried."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        held = await contents(store)

    def is_lost(words: Any) -> bool:
        return bool(words[0] == command and f":p2.1}}{key}" in str(words[1]))

    async with mover(redis_server.url, key_prefix, lambda *where: Forgetful(*where, is_lost)) as moving:
        with pytest.raises(StoreCorrupt, match=kind):
            await moving.run(8)
    await see_that_it_is_all(redis_server, key_prefix, 4, held)


async def test_it_does_not_wait_for_ever(key_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that hangs is for the operator; until then all is as it was, but closed."""
    monkeypatch.setattr("onwhen.storage.redis._repartition._CATCH_UP", 0.3)
    with RedisServer() as server, RedisServer().follow(server.port) as replica:
        async with opened(server.url, key_prefix, 2) as store:
            await fill(store)
            held = await contents(store)
        await until_replicated(server)
        replica.pause()
        async with mover(server.url, key_prefix) as moving:
            with pytest.raises(StoreError, match=r"a replica of .* does not catch up within"):
                await moving.run(4)
            replica.resume()
            assert await moving.undo()
        async with opened(server.url, key_prefix) as store:
            assert await contents(store) == held


async def until_replicated(server: RedisServer) -> None:
    async with asyncio.timeout(20):
        while "state=online" not in server.info("replication").get("slave0", ""):
            await asyncio.sleep(0.01)


async def test_it_waits_for_replicas(key_prefix: str) -> None:
    """One of them may have to take over, and would have nothing, or both layouts half."""
    with RedisServer() as server, RedisServer().follow(server.port) as replica:
        async with opened(server.url, key_prefix, 2) as store:
            await fill(store)
        async with mover(server.url, key_prefix) as moving:
            await until_replicated(server)
            replica.pause()
            running = asyncio.ensure_future(moving.run(4))
            done, _ = await asyncio.wait([running], timeout=0.5)
            assert not done
            replica.resume()
            async with asyncio.timeout(20):
                assert (await running).after == 4


# -- bookmarks


async def read_to(store: RedisStore, *places: str) -> None:
    for partition, place in enumerate(places):
        await store.append(partition, [], {"inbox": place})


async def test_a_multiple_keeps_each_bookmark(redis_server: RedisServer, key_prefix: str) -> None:
    """The subjects of a new partition were all in one of the old ones."""
    async with opened(redis_server.url, key_prefix, 2) as store:
        await read_to(store, "line 3", "line 9")
    async with mover(redis_server.url, key_prefix) as moving:
        await moving.run(6)
    async with opened(redis_server.url, key_prefix) as store:
        found = [await store.bookmark(partition, "inbox") for partition in range(6)]
    assert found == ["line 3", "line 9"] * 3


async def test_bookmarks_that_differ_are_not_guessed(redis_server: RedisServer, key_prefix: str) -> None:
    """Where they would come together, nothing is moved, unless they may be forgotten."""
    async with opened(redis_server.url, key_prefix, 2) as store:
        await read_to(store, "line 3", "line 9")
        await store.append(1, [], {"other": "line 1"})
    async with mover(redis_server.url, key_prefix) as moving:
        assert (await moving.survey(3)).bookmarks == ("inbox",)
        with pytest.raises(StoreError, match="'inbox' was read to different places"):
            await moving.run(3)
    async with mover(redis_server.url, key_prefix, forget_bookmarks=True) as moving:
        await moving.run(3)
    async with opened(redis_server.url, key_prefix) as store:
        assert [await store.bookmark(partition, "inbox") for partition in range(3)] == [None] * 3
        assert [await store.bookmark(partition, "other") for partition in range(3)] == ["line 1"] * 3


async def test_looking_changes_nothing(redis_server: RedisServer, key_prefix: str) -> None:
    """What would be moved is counted; workers may go on meanwhile."""
    async with opened(redis_server.url, key_prefix, 4) as store:
        await fill(store)
        await store.acquire(1, "token", "worker-7", 60.0)
        await store.beat("worker-8", "", 60.0)
        before = keys_of(redis_server)
        async with mover(redis_server.url, key_prefix) as moving:
            survey = await moving.survey(8)
        assert keys_of(redis_server) == before
        assert (survey.before, survey.workers, survey.owners) == (4, ("worker-8",), {1: "worker-7"})
        assert survey.counts["subjects"] == len(NAMES)
        assert survey.counts["dead letters"] == len(NAMES)
        assert 0 < survey.undelivered < 2 * len(NAMES)
        assert (survey.is_moving, survey.is_left) == (False, False)
        await store.release(1, "token")


async def test_it_needs_no_more_than_a_worker_is_allowed(key_prefix: str) -> None:
    """The same commands, on the same keys."""
    with RedisServer(acl=[f"app on >secret {rules(key_prefix)}"]) as server:
        url = server.url_of("app", "secret")
        async with opened(url, key_prefix, 4) as store:
            await fill(store)
            held = await contents(store)
        async with mover(url, key_prefix) as moving:
            await moving.survey(6)
            await moving.run(6)
        async with opened(url, key_prefix) as store:
            assert await contents(store) == held
