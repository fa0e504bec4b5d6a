"""A store that fails: nothing that was accepted is lost, nothing is applied twice, whichever answer is lost."""

import asyncio
import random
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import Context, Event, EventBus, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine import resend
from onwhen.engine.store import Commit, CommitResult, SubjectRecord
from onwhen.errors import StoreError
from tests.engine.stores import Flaky

pytestmark = pytest.mark.usefixtures("no_pauses")


def tree() -> RuleSet:
    """Rules whose cascade counts: 1 event makes 2 messages, each of them 2 more, and so on."""
    rules = RuleSet("tree")

    @rules.on("grow")
    async def grow(ctx: Context) -> None:
        ctx.subject.set("n", lambda n: (n or 0) + 1)
        depth = ctx.payload["depth"]
        for side in range(2 if depth else 0):
            await ctx.emit("grow", {"depth": depth - 1}, f"s{(depth * 2 + side) % 5}")

    return rules


async def total(bus: EventBus) -> int:
    return sum([(await bus.read(record.name)).get("n", 0) async for record in bus.store.subjects()])


outcomes = st.lists(st.sampled_from(["", "", "before", "after"]), max_size=12)


@given(
    append=st.lists(st.sampled_from(["", "before", "after"]), max_size=4),
    load=outcomes,
    commit=outcomes,
    read=st.lists(st.sampled_from(["", "before"]), max_size=3),
    partitions=st.integers(1, 3),
)
def test_whatever_fails_everything_is_applied_once(
    append: list[str], load: list[str], commit: list[str], read: list[str], partitions: int
) -> None:
    """Each event and each message of a cascade counts once, and each receipt arrives, whichever calls fail."""
    store = Flaky(create_memory_storage(partitions=partitions), append=append, load=load, commit=commit)

    async def main() -> None:
        async with asyncio.timeout(10), EventBus(tree(), store=store) as bus:
            store.fails["read"] = list(read)
            receipts = await asyncio.gather(*(bus.emit("grow", f"s{n}", {"depth": 2}) for n in range(4)))
            for receipt in receipts:
                assert {one.status for one in receipt.walk()} == {"handled"}
                assert len(list(receipt.walk())) == 7
            store.fails.clear()
            assert await total(bus) == 28
            stats = await store.stats()
            assert (stats.pending, stats.dead) == (0, 0)

    asyncio.run(main())


@pytest.mark.parametrize("call", ["append", "load", "commit"])
@pytest.mark.parametrize("outcome", ["before", "after"])
@pytest.mark.parametrize("times", [1, 4])
async def test_one_event(call: str, outcome: str, times: int) -> None:
    """The emitter of one event does not notice: its receipt says what the rule did."""
    store = Flaky(create_memory_storage(), **{call: [outcome] * times})
    async with asyncio.timeout(5), EventBus(tree(), store=store) as bus:
        receipt = await bus.emit("grow", "a", {"depth": 0})
        assert (receipt.status, receipt.fired) == ("handled", ("tree.grow",))
        assert await total(bus) == 1


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_a_lost_answer_costs_no_second_run(outcome: str) -> None:
    """A commit is sent again as it is: neither its own rules nor those of the next event run twice."""
    rules, runs = RuleSet("rules"), []

    @rules.on("go")
    def go(ctx: Context) -> None:
        ctx.subject.set("n", ctx.payload)
        runs.append(ctx.payload)

    store = Flaky(create_memory_storage(), commit=[outcome])
    async with EventBus(rules, store=store) as bus:
        for number in (1, 2):
            await bus.emit("go", "a", number)
    assert runs == [1, 2]


async def test_order_is_kept_while_the_store_fails() -> None:
    """Events of a subject are handled in the order of the calls, though answers are late or lost."""
    rules = RuleSet("rules")

    @rules.on("noted")
    def note(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload])

    chance = random.Random(7)
    fails = {name: chance.choices(["", "before", "after"], k=60) for name in ("load", "commit")}
    store = Flaky(create_memory_storage(), append=["", "after", "", "before"], **fails)
    async with asyncio.timeout(10), EventBus(rules, store=store) as bus, asyncio.TaskGroup() as group:
        for number in range(60):
            group.create_task(bus.emit("noted", f"s{number % 3}", number))
            await asyncio.sleep(0)
    store.fails.clear()
    assert [(await bus.read(f"s{n}")).get("order") for n in range(3)] == [list(range(n, 60, 3)) for n in range(3)]


async def test_events_that_come_while_one_is_accepted_are_accepted_together() -> None:
    """A thousand concurrent emits cost a few calls, not a thousand."""
    store = Flaky(create_memory_storage())
    async with EventBus(tree(), store=store) as bus:
        await asyncio.gather(*(bus.emit("grow", f"s{n}", {"depth": 0}) for n in range(1000)))
        assert store.calls.count("append") <= 4
        assert await total(bus) == 1000


async def test_a_store_that_never_answers_is_the_emitters_error() -> None:
    """After some tries `emit` raises; emitting the same event again makes sure, whatever became of the first."""
    store = Flaky(create_memory_storage(), append=["before"] * 4 + ["after"])
    async with asyncio.timeout(5), EventBus(tree(), store=store) as bus:
        event = Event("grow", "a", {"depth": 1})
        with pytest.raises(StoreError, match="nobody has heard"):
            await bus.emit(event)
        assert (await bus.emit(event)).status == "duplicate"
        await bus.idle()
        assert await total(bus) == 3


async def test_closing_does_not_wait_for_a_store_that_is_gone() -> None:
    """`close` gives up after some tries; what was not handled is in the log, and its emitter knows no outcome."""
    memory = create_memory_storage()
    store = Flaky(memory, commit=["before"] * 10**6)
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: None)
    bus = EventBus(tree(), store=store)
    async with asyncio.timeout(5), bus:
        emitting = asyncio.create_task(bus.emit("grow", "a", {"depth": 1}))
        while "commit" not in store.calls:
            await asyncio.sleep(0)
    assert (await emitting).status == "accepted"
    assert (await memory.stats()).pending == 1
    async with EventBus(tree(), store=memory) as bus:
        await bus.idle()
        assert await total(bus) == 3


@pytest.mark.parametrize("call", ["open", "read"])
async def test_a_store_that_cannot_be_opened(call: str) -> None:
    """`start` raises, and so does an `emit` that would open it; trying again takes up what is there, once."""
    memory = create_memory_storage()
    await memory.append(0, [Event("grow", "a", {"depth": 0})])
    store = Flaky(memory, **{call: ["before", "before"]})
    bus = EventBus(tree(), store=store)
    with pytest.raises(StoreError):
        await bus.start()
    with pytest.raises(StoreError):
        await bus.emit("grow", "a", {"depth": 0})
    async with bus:
        await bus.emit("grow", "a", {"depth": 0})
    assert await total(bus) == 2


async def test_cancelling_the_first_emit_does_not_stop_the_opening() -> None:
    """Whoever opens the bus may be cancelled; those that wait for it as well are not."""
    bus = EventBus(tree(), store=Flaky(create_memory_storage()))
    first = asyncio.create_task(bus.emit("grow", "a", {"depth": 0}))
    await asyncio.sleep(0)
    second = asyncio.create_task(bus.emit("grow", "a", {"depth": 0}))
    starting = asyncio.create_task(bus.start())
    await asyncio.sleep(0)
    first.cancel()
    starting.cancel()
    assert (await second).status == "handled"
    await asyncio.wait([first, starting])
    await bus.close()
    assert await total(bus) == 2


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_retries_and_timers_survive_a_lost_commit(outcome: str) -> None:
    """What a turn leaves for later is done when it is due, also if the answer to its commit was lost."""
    rules, attempts = RuleSet("rules"), []

    @rules.on("go", retry=RetryPolicy(attempts=3, jitter=0))
    def fails_once(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise LookupError

    @rules.on("go")
    def sets_timer(ctx: Context) -> None:
        ctx.emit("rung", delay=timedelta(0), subject="now")
        ctx.emit("rung", at=ctx.now.replace(hour=1), subject="later")

    @rules.on("rung")
    def rung(ctx: Context) -> None:
        ctx.subject.set("n", lambda n: (n or 0) + 1)

    clock = VirtualClock()
    store = Flaky(create_memory_storage(), commit=[outcome], promote=["", "before"])
    async with asyncio.timeout(5), EventBus(rules, store=store, clock=clock) as bus:
        await bus.emit("go", "a")
        waiting = await bus.emit("go", "a")
        assert waiting.status == "waiting"
        store.fails["promote"] = ["before"]
        store.fails["commit"] = [outcome, outcome]
        await bus.advance(clock.now().replace(hour=2))
        assert waiting.status == "handled"
        store.fails.clear()
        assert (await bus.read("now")).get("n") == 2
        assert (await bus.read("later")).get("n") == 2
    assert set(attempts) == {1, 2}
    stats = await store.stats()
    assert (stats.pending, stats.timers, stats.retries, stats.dead) == (0, 0, 0, 0)


@pytest.mark.parametrize("outcome", ["before", "after"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_subject_outside_a_turn_is_stored_once(outcome: str, times: int) -> None:
    """A lost answer to the commit of `async with bus.subject()` does not apply functions twice, nor lose events."""
    rules = RuleSet("rules")

    @rules.on("subject-property-changed")
    def count(ctx: Context) -> None:
        if ctx.property_name == "n":
            ctx.subject.set("changes", lambda n: (n or 0) + 1)

    store = Flaky(create_memory_storage(), commit=[outcome] * times)
    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        async with bus.subject("a") as subject:
            subject.set("n", lambda n: (n or 0) + 1)
        store.fails["commit"] = [outcome] * times
        async with bus.subject("a") as subject:
            subject.set("n", lambda n: (n or 0) + 1)
            await subject.store()
            commits = store.calls.count("commit")
            subject.set("n", lambda n: n + 1)
            await subject.store()
            assert store.calls.count("commit") == commits + 2  # this one, and the turn of its event
        snapshot = await bus.read("a")
        assert (snapshot.get("n"), snapshot.get("changes")) == (3, 3)


async def test_a_subject_that_cannot_be_stored_is_an_error() -> None:
    """After some tries the store's error is raised; whether it took effect is not known."""
    store = Flaky(create_memory_storage(), commit=["before"] * 5)
    async with asyncio.timeout(5), EventBus(store=store) as bus:
        with pytest.raises(StoreError, match="not done"):
            async with bus.subject("a") as subject:
                subject.set("n", 1)
        assert "n" not in await bus.read("a")


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_a_replay_whose_answer_is_lost_runs_once(outcome: str) -> None:
    """The dead letter is replayed, and the replay says what came of it."""
    rules, fails = RuleSet("rules"), [True]

    @rules.on("go")
    def go(ctx: Context) -> None:
        ctx.subject.set("n", lambda n: (n or 0) + 1)
        if fails:
            raise LookupError

    store = Flaky(create_memory_storage())
    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        letter = (await bus.emit("go", "a")).dead[0]
        fails.clear()
        store.fails["commit"] = [outcome, outcome]
        assert (await bus.replay(letter.id)).fired == ("rules.go",)
        assert (await bus.read("a")).get("n") == 1
    assert (await store.stats()).dead == 0


async def test_an_error_of_the_store_that_is_none_of_its_own_is_not_for_ever() -> None:
    """A bug in a store, raised on the way to a turn, is a dead letter, and the subject goes on."""
    memory = create_memory_storage()

    class Broken(Flaky):
        async def load(self, subject: str) -> SubjectRecord:
            if not self.calls.count("load"):
                self.calls.append("load")
                raise ZeroDivisionError("a bug")
            return await super().load(subject)

    async with asyncio.timeout(5), EventBus(tree(), store=Broken(memory)) as bus:
        receipt = await bus.emit("grow", "a", {"depth": 0})
        assert isinstance(receipt.error, ZeroDivisionError)
        assert len(receipt.dead) == 1
        assert (await bus.emit("grow", "a", {"depth": 0})).ok


async def test_an_error_that_stays_reaches_the_emitter() -> None:
    """If not even a dead letter can be left, `emit` raises, and the event stays in the log for a better day."""
    memory, told = create_memory_storage(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: told.append(details["exception"]))

    class Broken(Flaky):
        async def commit(self, commit: Commit) -> CommitResult:
            raise ZeroDivisionError("a bug")

    bus = EventBus(tree(), store=Broken(memory))
    async with asyncio.timeout(5):
        with pytest.raises(ZeroDivisionError):
            await bus.emit("grow", "a", {"depth": 0})
        await bus.close()
    assert len(told) == 1
    async with EventBus(tree(), store=memory) as bus:
        await bus.idle()
        assert await total(bus) == 1


async def test_messages_that_are_under_way_elsewhere_are_not_handled_here() -> None:
    """A store may keep the target's partition apart; the message has no position yet, and nobody waits for it."""

    class Apart(Flaky):
        async def commit(self, commit: Commit) -> CommitResult:
            result = await super().commit(commit)
            return CommitResult(result.answer, result.version, [None] * len(result.appended))

    store = Apart(create_memory_storage())
    async with asyncio.timeout(5), EventBus(tree(), store=store) as bus:
        receipt = await bus.emit("grow", "a", {"depth": 1})
        assert [one.status for one in receipt.cascade] == ["accepted"] * 2
        assert await total(bus) == 1
    assert (await store.stats()).pending == 2


async def test_a_store_that_is_down_is_told_of_once() -> None:
    """Also when nobody emits: the event loop's exception handler hears of it after some tries, and not again."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, details: told.append(details))
    store = Flaky(create_memory_storage(), commit=["before"] * 12)
    async with asyncio.timeout(5), EventBus(tree(), store=store) as bus:
        assert (await bus.emit("grow", "a", {"depth": 0})).status == "handled"
        assert [str(one["exception"]) for one in told] == ["commit was not done"]
        store.fails["commit"] = ["before"] * 12
        await bus.emit("grow", "a", {"depth": 0})
        assert len(told) == 2


# -- calls that are under way, and whoever waits for them is cancelled


class Silent(Flaky):
    """A store that does not answer to an append."""

    async def append(self, *arguments: Any) -> Any:
        await asyncio.get_running_loop().create_future()


def test_a_program_ends_though_a_store_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is under way is not cancelled, but not waited for without end either."""
    monkeypatch.setattr(resend, "_PATIENCE", 0.05)

    async def main() -> None:
        bus = EventBus(tree(), store=Silent(create_memory_storage()))
        emitting = asyncio.create_task(bus.emit("grow", "a", {"depth": 0}))
        await asyncio.wait([emitting], timeout=0.01)
        assert not emitting.done()

    asyncio.run(asyncio.wait_for(main(), 5))


async def test_whatever_a_call_waits_for_it_is_awaited_to_its_end() -> None:
    """Futures, tasks, time, or nothing; with what they return and raise, and as often as it is cancelled."""
    done: list[str] = []

    async def call() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        assert await asyncio.create_task(asyncio.sleep(0, "task")) == "task"
        assert await asyncio.gather(asyncio.sleep(0.01, 1), asyncio.sleep(0, 2)) == [1, 2]
        with pytest.raises(LookupError):
            await asyncio.create_task(fail())
        done.append("done")
        return "answer"

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError

    async def ask() -> tuple[str, int]:
        asked = resend.Undisturbed(call())
        return await asked, asked.cancels

    for cancels in (0, 1, 5):
        task = asyncio.create_task(ask())
        for _ in range(cancels):
            await asyncio.sleep(0)
            task.cancel()
        assert await task == ("answer", cancels)
    assert done == ["done"] * 3
