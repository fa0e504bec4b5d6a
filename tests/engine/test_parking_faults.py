"""Parking while a store loses answers, processes end, and turns park meanwhile: no hold outlives its record."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from onwhen import (
    Context,
    EventBus,
    create_memory_storage,
)
from onwhen.engine.store import Answer, Commit, CommitResult, Retry, Store
from onwhen.errors import StoreConflict, StoreError
from tests.engine.buses import until, value
from tests.engine.desks import PARK, TWICE, Desk
from tests.engine.stores import Flaky, Late, kill, process

pytestmark = pytest.mark.usefixtures("no_pauses")


# -- stores that lose answers, and processes that end


@pytest.mark.parametrize("outcome", ["before", "after"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_resume_whose_answer_is_lost_runs_once(outcome: str, times: int) -> None:
    """Each rule has one more attempt, and later events come after both."""
    desk = Desk(Flaky(create_memory_storage()))
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.clear()
        assert isinstance(desk.bus.store, Flaky)
        desk.bus.store.fails["commit"] = [outcome] * times + [""] + [outcome] * times
        assert len(await desk.bus.resume("a")) == 2
        await desk.bus.idle()
        assert await desk.order() == ["one", "two", 1]
        assert [attempt for _, _, attempt in desk.runs] == [1, 1, 2, 2]


async def test_a_resume_of_which_nothing_is_known_but_was_stored_is_done() -> None:
    """The operator has an error; what was stored is looked up, and run."""
    desk = Desk(Flaky(create_memory_storage()))
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.clear()
        assert isinstance(desk.bus.store, Flaky)
        desk.bus.store.fails["commit"] = ["before", "before", "after", "before", "before"]
        with pytest.raises(StoreError):
            await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["one", 1]
        assert await desk.parked() == []


async def test_a_resume_that_was_not_stored_leaves_all_parked() -> None:
    """The operator has an error, and nothing is run behind his back; trying again works."""
    desk = Desk(Flaky(create_memory_storage()))
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.clear()
        assert isinstance(desk.bus.store, Flaky)
        desk.bus.store.fails["commit"] = ["before"] * 5
        with pytest.raises(StoreError):
            await desk.bus.resume("a")
        await desk.bus.idle()
        assert len(desk.runs) == 1
        assert len(await desk.parked()) == 1
        await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["one", 1]


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_a_skip_whose_answer_is_lost(outcome: str) -> None:
    """It is one dead letter per rule, and the subject goes on."""
    desk = Desk(Flaky(create_memory_storage()))
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        assert isinstance(desk.bus.store, Flaky)
        desk.bus.store.fails["commit"] = [outcome, "", outcome]
        assert len(await desk.bus.skip("a")) == 2
        await desk.bus.idle()
        assert await desk.order() == [1]


@pytest.mark.parametrize("fails", [["after"] * 5, ["", *["after"] * 5], ["before", "after", *["before"] * 3]])
async def test_a_skip_of_which_nothing_is_known_can_be_asked_for_again(fails: list[str]) -> None:
    """The operator has an error; once he has skipped what is left, the subject goes on."""
    desk = Desk(Flaky(create_memory_storage()))
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        assert isinstance(desk.bus.store, Flaky)
        desk.bus.store.fails["commit"] = fails
        with pytest.raises(StoreError):
            await desk.bus.skip("a")
        await desk.bus.skip("a")
        await desk.bus.idle()
        assert await desk.order() == [1]
        assert len([letter async for letter in desk.bus.dead_letters()]) == 2


async def test_a_skip_that_was_not_stored_leaves_all_parked() -> None:
    """The operator has an error, and the subject goes on waiting."""
    desk = Desk(Flaky(create_memory_storage()))
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        assert isinstance(desk.bus.store, Flaky)
        desk.bus.store.fails["commit"] = ["before"] * 5
        with pytest.raises(StoreError):
            await desk.bus.skip("a")
        await desk.bus.idle()
        assert len(await desk.parked()) == 2
        assert await desk.order() is None


async def test_somebody_who_writes_meanwhile_does_not_get_in_the_way(store: Store) -> None:
    """A subject that waits may be written from outside; resuming and skipping take that as it is."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        desk.broken.discard("one")

        async def write() -> None:
            for number in range(20):
                async with desk.bus.subject("a") as subject:
                    subject.set("written", number, muted=True)

        await asyncio.gather(desk.bus.resume("a"), write())
        await asyncio.gather(desk.bus.skip("a"), write())
        assert await desk.order() == ["one"]
        assert await value(desk.bus, "a", "written") == 19
        assert await desk.parked() == []


async def test_a_conflict_with_a_skip_is_tried_again() -> None:
    """The subject was written between the skip's load and its commit."""

    class Busy(Flaky):
        writes = 0

        async def commit(self, commit: Commit) -> CommitResult:
            if commit.dead and self.writes < 3:
                self.writes += 1
                await other.opened()
                async with other.subject("a") as subject:
                    subject.set("n", self.writes)
            return await super().commit(commit)

    memory = create_memory_storage()
    desk, other = Desk(Busy(memory)), EventBus(store=memory)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        assert len(await desk.bus.skip("a")) == 1
        assert await value(desk.bus, "a", "n") == 3


def test_what_is_parked_stays_so_over_a_crash() -> None:
    """The next process knows what is parked, lets later events wait, and can resume it."""
    memory = create_memory_storage()

    async def first() -> None:
        desk = Desk(Flaky(memory))
        await desk.bus.emit("go.both", "a")
        assert (await desk.bus.emit("noted", "a", 1)).status == "waiting"
        await kill()

    async def second() -> None:
        desk = Desk(Flaky(memory))
        async with desk.bus:
            assert (await desk.bus.emit("noted", "a", 2)).status == "waiting"
            assert [retry.rule for retry in await desk.parked()] == ["desk.one", "desk.two"]
            assert desk.runs == []
            desk.broken.clear()
            await desk.bus.resume("a")
            await desk.bus.idle()
            assert await desk.order() == ["one", "two", 1, 2]

    assert process(first)
    assert not process(second)


def test_a_process_that_is_killed_while_it_resumes() -> None:
    """The next one runs what was resumed, once, before all that waits."""
    memory = create_memory_storage()

    async def first() -> None:
        desk = Desk(Flaky(memory))

        @desk.rules.on("go.one", name="killer", retry=PARK)
        async def kills(ctx: Context) -> None:
            if ctx.attempt > 1:
                await kill()
            raise LookupError

        await desk.bus.emit("go.one", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.clear()
        await desk.bus.resume("a")

    async def second() -> None:
        desk = Desk(Flaky(memory))
        desk.broken.clear()
        desk.rules.on("go.one", name="killer", retry=PARK)(desk.rule("killer"))
        async with desk.bus:
            await desk.bus.idle()
            assert await desk.order() == ["one", "killer", 1]
            assert await desk.parked() == []

    assert process(first)
    assert not process(second)


async def test_a_resume_whose_answers_are_late_keeps_the_order() -> None:
    """Events that are accepted meanwhile, and messages of others, wait for what is resumed."""
    store = Late(create_memory_storage())
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        desk.broken.clear()
        store.hold("commit")
        resuming = asyncio.create_task(desk.bus.resume("a"))
        await until(lambda: bool(store.held))
        emitting = asyncio.create_task(desk.bus.emit("noted", "a", 1))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not emitting.done()
        store.let_go()
        await asyncio.gather(resuming, emitting)
        await desk.bus.idle()
        assert await desk.order() == ["one", 1]


# -- turns that park while somebody looks after what is parked


class Slow(Flaky):
    """A store that can be stopped while it lists retries: it has looked, and has not told yet."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.lists = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def retries(self, partition: int) -> AsyncIterator[Retry]:
        found = [retry async for retry in self.store.retries(partition)]
        self.lists += 1
        await self.go_on.wait()
        for retry in found:
            yield retry


async def test_what_is_parked_during_a_skip_is_not_skipped() -> None:
    """Only what was parked when the skip began is given up; the rest holds the subject until the next skip."""
    store = Slow(create_memory_storage())
    desk = Desk(store)
    desk.rules.on("go.both", name="third", retry=TWICE)(desk.rule("third"))
    desk.broken = {"one", "third"}
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        store.go_on.clear()
        lists = store.lists
        skipping = asyncio.create_task(desk.bus.skip("a"))
        await until(lambda: store.lists > lists)
        advancing = asyncio.create_task(desk.bus.advance(timedelta(seconds=10)))
        await until(lambda: len(desk.runs) == 4)
        while (await store.stats()).parked < 2:
            await asyncio.sleep(0)
        store.go_on.set()
        assert [letter.rule for letter in await skipping] == ["desk.one"]
        await advancing
        assert [retry.rule for retry in await desk.parked()] == ["desk.third"]
        assert (await desk.bus.emit("noted", "a", 1)).status == "waiting"
        assert [letter.rule for letter in await desk.bus.skip("a")] == ["desk.third"]
        await desk.bus.idle()
        assert await desk.order() == ["two", 1]


@pytest.mark.parametrize("fails", [[], ["after", "before", "before"]], ids=["late", "lost"])
async def test_a_skip_before_the_turn_that_parks_has_its_answer(fails: list[str]) -> None:
    """It is parked in the store, and the turn does not know yet: the subject goes on when both are done."""
    store = Late(create_memory_storage(), commit=fails)
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        if not fails:
            store.hold("commit")
        emitting = asyncio.create_task(desk.bus.emit("go.one", "a"))
        while not (await store.stats()).parked:
            await asyncio.sleep(0)
        assert [letter.rule for letter in await desk.bus.skip("a")] == ["desk.one"]
        while store.held:
            store.let_go()
        assert (await emitting).runs[0].parked
        await desk.bus.emit("noted", "a", 1)
        await desk.bus.idle()
        assert await desk.order() == [1]
        assert (await desk.bus.emit("noted", "a", 2)).status == "handled"


async def test_a_resume_before_the_turn_that_parks_has_its_answer() -> None:
    """The rule is run once that turn is over, and then what waits."""
    store = Late(create_memory_storage())
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        store.hold("commit")
        emitting = asyncio.create_task(desk.bus.emit("go.one", "a"))
        while not (await store.stats()).parked:
            await asyncio.sleep(0)
        desk.broken.clear()
        resuming = asyncio.create_task(desk.bus.resume("a"))
        while (await store.stats()).parked:
            await asyncio.sleep(0)
        store.let_go()
        await emitting
        assert [receipt.fired for receipt in await resuming] == [("desk.one",)]
        await desk.bus.emit("noted", "a", 1)
        await desk.bus.idle()
        assert await desk.order() == ["one", 1]


async def test_a_skip_while_the_bus_opens_leaves_no_hold() -> None:
    """What is held is read first, and only then may it be given up."""
    store = Slow(create_memory_storage())
    desk = Desk(store)
    async with desk.bus:
        await desk.bus.emit("go.one", "a")
    async with asyncio.timeout(5):
        lists = store.lists
        store.go_on.clear()
        starting = asyncio.create_task(desk.bus.start())
        await until(lambda: store.lists > lists)
        read, store.go_on = store.go_on, asyncio.Event()
        store.go_on.set()
        skipping = asyncio.create_task(desk.bus.skip("a"))
        for _ in range(20):
            await asyncio.sleep(0)
        read.set()
        await asyncio.gather(starting, skipping)
        assert (await desk.bus.emit("noted", "a", 1)).status == "handled"
        await desk.bus.close()


async def test_nothing_parked_is_looked_for_once() -> None:
    """A store may hold very many retries; none of them is gone."""
    store = Slow(create_memory_storage())
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        lists = store.lists
        await desk.bus.resume("a")
        await desk.bus.skip("a")
        await desk.bus.idle()
        assert store.lists == lists + 2


class Answering(Flaky):
    """A store that gives one answer to all commits, as long as one is set, and is not asked without end."""

    def __init__(self, store: Store, *, most: int) -> None:
        super().__init__(store)
        self.answer: Answer | None = None
        self.asked = 0
        self._most = most

    async def commit(self, commit: Commit) -> CommitResult:
        if self.answer is not None:
            self.asked += 1
            assert self.asked < self._most
            return CommitResult(self.answer)
        return await super().commit(commit)


@pytest.mark.parametrize("verb", ["resume", "skip"])
async def test_a_subject_that_others_write_all_the_time(verb: str) -> None:
    """Whoever asks for it has an error in the end, and all is left parked."""
    store = Answering(create_memory_storage(), most=1000)
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        store.answer = Answer.CONFLICT
        with pytest.raises(StoreConflict, match="try again later"):
            await getattr(desk.bus, verb)("a")
        store.answer = None
        assert len(await desk.parked()) == 1
        desk.broken.clear()
        await desk.bus.resume("a")
        assert await desk.order() == ["one"]


@pytest.mark.parametrize("verb", ["resume", "skip"])
async def test_a_subject_of_another_process(verb: str) -> None:
    """The error says so at once."""
    store = Answering(create_memory_storage(), most=10)
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        store.answer = Answer.FENCED
        with pytest.raises(StoreConflict, match="another process"):
            await getattr(desk.bus, verb)("a")
        assert store.asked == 1
        store.answer = None
        assert len(await desk.parked()) == 1
