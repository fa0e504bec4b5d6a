"""Answers that are lost, calls that are cancelled, and duplicates: what was appended is found, and handled once."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import pytest

from onwhen import Context, EventBus, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.store import Commit, CommitResult
from onwhen.errors import StoreError
from tests.engine.buses import NOON, until, value
from tests.engine.noting import gated, notes, order, settle
from tests.engine.stores import Flaky, Late, kill, process

pytestmark = pytest.mark.usefixtures("no_pauses")


# -- answers that are lost


async def test_a_promotion_whose_answer_is_lost_is_found_by_the_next() -> None:
    """Timers that were moved to the log are handled, once, in order."""
    store, rules = Flaky(create_memory_storage(partitions=2)), notes()

    @rules.on("set")
    def set_timers(ctx: Context) -> None:
        for number in range(4):
            ctx.emit("noted", number, f"s{number % 2}", delay=timedelta(minutes=1 + number // 2))

    async with asyncio.timeout(5), EventBus(rules, store=store, clock=VirtualClock(NOON)) as bus:
        await bus.emit("set", "b")
        store.fails["promote"] = ["after", "after", "", "after", "after"]
        await bus.advance(timedelta(minutes=5))
        assert [await order(bus, name) for name in ("s0", "s1")] == [[0, 2], [1, 3]]


async def test_an_append_of_which_nothing_is_known_is_looked_up_and_handled() -> None:
    """Its emitter has an error; once the store answers again, what it has accepted is handled in its place."""
    store = Flaky(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        store.fails["append"] = ["before", "after", "before", "before", "before"]
        store.fails["read"] = ["before"] * 7
        with pytest.raises(StoreError):
            await bus.emit("noted", "a", 1)
        await bus.idle()
        assert (await bus.emit("noted", "a", 2)).status == "handled"
        assert await order(bus) == [1, 2]


async def test_a_duplicate_of_which_nothing_is_known_is_not_handled_again() -> None:
    """What is found in the log is the event that was accepted before, and is under way."""
    store, gate, waiting = Flaky(create_memory_storage()), asyncio.Event(), list[str]()
    async with asyncio.timeout(5), EventBus(gated(gate, waiting), store=store) as bus:
        first = asyncio.create_task(bus.emit("gated", "b", id="1"))
        await until(lambda: bool(waiting))
        store.fails["append"] = ["after"] * 5
        with pytest.raises(StoreError):
            await bus.emit("gated", "b", id="1")
        await settle()
        gate.set()
        await first
        await bus.idle()
        assert waiting == ["b"]
        assert await order(bus) == ["b"]


async def test_what_comes_while_an_append_is_looked_up_is_refused() -> None:
    """Nobody waits for a store that does not answer; what was refused was not accepted, and never is."""
    store = Flaky(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        store.fails["append"] = ["after"] * 5
        store.fails["read"] = ["before"] * 10**6
        with pytest.raises(StoreError):
            await bus.emit("noted", "a", 1)
        for number in (2, 3):
            with pytest.raises(StoreError, match="was not accepted"):
                await bus.emit("noted", "a", number)
        store.fails.clear()
        await bus.idle()
        await bus.emit("noted", "a", 4)
        assert await order(bus) == [1, 4]


async def test_closing_does_not_wait_for_what_is_looked_up() -> None:
    """What was accepted after all is handled by the next bus."""
    memory = create_memory_storage()
    store = Flaky(memory, append=["after"] * 5, read=["", *["before"] * 10**6])
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        with pytest.raises(StoreError):
            await bus.emit("noted", "a", 1)
    async with asyncio.timeout(5), EventBus(notes(), store=Flaky(memory)) as bus:
        await bus.idle()
        assert await order(bus) == [1]


@pytest.mark.parametrize("fails", [["after"] * 5, ["before", "after", "before", "before", "before"], ["before"] * 5])
async def test_a_commit_from_outside_of_which_nothing_is_known(fails: Sequence[str]) -> None:
    """Its caller has an error; its events are handled if, and only if, it was stored."""
    store, rules = Flaky(create_memory_storage()), RuleSet("rules")

    @rules.on("subject-property-changed")
    def count(ctx: Context) -> None:
        ctx.subject.set("changes", lambda n: (n or 0) + 1, muted=True)

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        store.fails["commit"] = list(fails)
        with pytest.raises(StoreError):
            async with bus.subject("a") as subject:
                subject.set("n", 1)
        await bus.idle()
        is_stored = "after" in fails
        assert (await bus.read("a")).dict() == ({"n": 1, "changes": 1} if is_stored else {})
        assert (await store.stats()).pending == 0


async def test_a_replay_of_which_nothing_is_known_but_was_stored_is_run() -> None:
    """The operator has an error; there is no dead letter any more, and the rule has run."""
    store, rules, broken = Flaky(create_memory_storage()), RuleSet("rules"), [True]

    @rules.on("go")
    def go(ctx: Context) -> None:
        if broken:
            raise LookupError
        ctx.subject.set("n", lambda n: (n or 0) + 1)

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        (letter,) = (await bus.emit("go", "a")).dead
        broken.clear()
        store.fails["commit"] = ["after"] * 5
        with pytest.raises(StoreError):
            await bus.replay(letter.id)
        await bus.idle()
        assert await value(bus, "a", "n") == 1
        stats = await store.stats()
        assert (stats.dead, stats.retries) == (0, 0)


# -- commits that are cancelled


class Cancels(Flaky):
    """A store whose caller is cancelled while it waits for the answer to a commit of the event `pass`.

    Args:
        times: how often (a count).
        after: whether the commit takes effect all the same.
    """

    times = 0
    after = True

    async def commit(self, commit: Commit) -> CommitResult:
        if commit.handled is None or not self.times or not commit.messages:
            return await super().commit(commit)
        task = asyncio.current_task()
        assert task is not None
        result = await super().commit(commit) if self.after else None
        for _ in range(self.times):
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await self._call("nothing", asyncio.sleep(0))
        self.times = 0
        return result or await super().commit(commit)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_a_commit_that_is_under_way_is_not_cancelled(times: int, after: bool) -> None:
    """It counts once, and its messages are handled, whether it has taken effect already or not, and however often."""
    store, rules = Cancels(create_memory_storage()), notes()
    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        store.times, store.after = times, after
        receipt = await bus.emit("pass", "b", {"numbers": [1, 2]})
        assert receipt.status == "handled"
        await bus.idle()
        assert await order(bus) == [1, 2]
        await bus.emit("noted", "a", 3)
        assert await order(bus) == [1, 2, 3]
        assert (await store.stats()).pending == 0


def test_a_program_that_is_killed_in_the_middle_of_a_commit() -> None:
    """What was stored is stored, and its messages are there for the next start, ahead of what came later."""
    memory = create_memory_storage()

    async def first() -> None:
        store = Late(memory)
        bus = EventBus(notes(), store=store)
        store.hold("commit")
        tasks = [asyncio.create_task(bus.emit("pass", "b", {"numbers": [1]}))]
        await until(lambda: bool(store.held))
        tasks.append(asyncio.create_task(bus.emit("noted", "a", 2)))
        await settle()
        await kill()

    async def second() -> None:
        async with EventBus(notes(), store=Flaky(memory)) as bus:
            await bus.idle()
            assert await order(bus) == [1, 2]

    assert process(first)
    assert not process(second)


# -- a late answer to a duplicate


async def test_a_duplicate_whose_answer_is_late_counts_once() -> None:
    """By then the event is handled; its emitter is told that it was a duplicate, and nothing more is stored."""
    store, rules, runs = Late(create_memory_storage()), RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        runs.append(ctx.payload)
        ctx.subject.set("n", lambda n: (n or 0) + 1)
        await gate.wait()

    gate = asyncio.Event()
    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        first = asyncio.create_task(bus.emit("go", "a", 1, id="1"))
        await until(lambda: bool(runs))
        store.hold("append")
        second = asyncio.create_task(bus.emit("go", "a", 1, id="1"))
        await until(lambda: bool(store.held))
        gate.set()
        assert (await first).status == "handled"
        store.let_go()
        assert (await second).status == "duplicate"
        assert await value(bus, "a", "n") == 1


async def test_timers_that_become_due_while_others_are_moved() -> None:
    """An alarm that rings while the store is slow is not lost, and nothing is handled twice."""
    store, rules, runs = Late(create_memory_storage()), notes(), []

    @rules.on("set")
    def set_timers(ctx: Context) -> None:
        ctx.emit("noted", 1, "a", delay=timedelta(minutes=1))
        ctx.emit("noted", 2, "a", delay=timedelta(minutes=2))

    @rules.on("noted")
    def run(ctx: Context) -> None:
        runs.append(ctx.payload)

    clock = VirtualClock(NOON)
    async with asyncio.timeout(5), EventBus(rules, store=store, clock=clock) as bus:
        await bus.emit("set", "b")
        pipeline = bus._pipeline
        assert pipeline is not None
        store.hold("promote")
        clock.advance(timedelta(minutes=1))
        rings = [asyncio.create_task(pipeline.run_due())]
        await until(lambda: len(store.held) == 1)
        clock.advance(timedelta(minutes=1))
        pipeline._schedule.agenda.timer(NOON + timedelta(minutes=2))
        rings.append(asyncio.create_task(pipeline.run_due()))
        await settle()
        store.let_go()
        await asyncio.gather(*rings)
        await bus.idle()
        assert await order(bus) == runs == [1, 2]


async def test_a_timer_that_is_being_handled_is_not_handled_again() -> None:
    """The store lists what was moved and is not handled yet; the engine knows where it stands."""
    rules, gate, runs = notes(), asyncio.Event(), []

    @rules.on("set")
    def set_timers(ctx: Context) -> None:
        for minutes in (1, 2):
            ctx.emit("slow", minutes, f"slow{minutes}", delay=timedelta(minutes=minutes))

    @rules.on("slow")
    async def slow(ctx: Context) -> None:
        runs.append(ctx.payload)
        await gate.wait()

    clock = VirtualClock(NOON)
    async with asyncio.timeout(5), EventBus(rules, store=Flaky(create_memory_storage()), clock=clock) as bus:
        await bus.emit("set", "b")
        assert bus._pipeline is not None
        for minutes in (1, 2):
            clock.advance(timedelta(minutes=1))
            await bus._pipeline.run_due()
            await until(lambda: len(runs) == minutes)  # noqa: B023 (it is awaited here)
        gate.set()
        await bus.idle()
        assert runs == [1, 2]


def test_a_timer_that_was_moved_before_a_crash_is_handled_once() -> None:
    """It is among the pending events when the bus is opened, and in the answer to the first promotion."""
    memory, runs, clock = create_memory_storage(), list[str](), VirtualClock(NOON)

    async def start(process: str) -> None:
        rules = notes()

        @rules.on("set")
        def set_timer(ctx: Context) -> None:
            ctx.emit("slow", subject="a", delay=timedelta(minutes=1))

        @rules.on("slow")
        async def slow(ctx: Context) -> None:
            runs.append(process)
            if process == "first":
                await kill()
            await settle()

        async with EventBus(rules, store=Flaky(memory), clock=clock) as bus:
            if process == "first":
                await bus.emit("set", "b")
                await bus.advance(timedelta(minutes=1))
            await bus.idle()

    assert process(lambda: start("first"))
    assert not process(lambda: start("second"))
    assert runs == ["first", "second"]


async def test_retries_and_messages_of_one_commit_whose_answer_was_lost() -> None:
    """What is left for later and what is sent now are both found."""
    store, rules = Flaky(create_memory_storage()), notes()

    @rules.on("pass", retry=RetryPolicy(attempts=2, delay=timedelta(minutes=1)))
    def fails_once(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise LookupError
        ctx.emit("noted", "retried", "a")

    clock = VirtualClock(NOON)
    async with asyncio.timeout(5), EventBus(rules, store=store, clock=clock) as bus:
        store.fails["commit"] = ["after"]
        receipt = await bus.emit("pass", "b", {"numbers": [1]})
        assert [one.status for one in receipt.cascade] == ["handled"]
        store.fails["commit"] = ["after"]
        await bus.advance(timedelta(minutes=2))
        assert await order(bus) == [1, "retried"]
