"""Dead letters: what is set aside, listed, replayed and discarded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from onwhen import (
    SUBJECT_PROPERTY_CHANGED,
    Context,
    Event,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    VirtualClock,
    changed,
    create_memory_storage,
)
from onwhen.engine.store import Commit, CommitResult, DeadLetter, Retry
from onwhen.errors import StoreError, SubjectStateError, UnknownDeadLetter
from tests.engine.stores import Flaky


class Desk:
    """A bus with one rule that fails while it is told to, and one that never does."""

    def __init__(self, **options: Any) -> None:
        self.fails = True
        self.rules = RuleSet("desk")
        self.bus = EventBus(self.rules, store=create_memory_storage(), clock=VirtualClock(), **options)

        @self.rules.on("go")
        def fails(ctx: Context) -> None:
            ctx.subject.set("tried", ctx.subject.get("tried", 0) + 1)
            if self.fails:
                raise LookupError("not there")
            ctx.emit("went", {"payload": ctx.payload})

        @self.rules.on("go")
        def counts(ctx: Context) -> None:
            ctx.subject.set("n", ctx.subject.get("n", 0) + 1)

    async def letters(self) -> list[DeadLetter]:
        return [letter async for letter in self.bus.dead_letters()]


async def test_a_rule_that_fails_for_good_leaves_a_dead_letter() -> None:
    """It names the rule, the error and the event; the other rules' work is kept."""
    desk = Desk()
    receipt = await desk.bus.emit("go", "a", {"by": "me"}, id="1")
    assert list(receipt.dead) == await desk.letters()
    (letter,) = receipt.dead
    assert (letter.subject, letter.rule, letter.attempts) == ("a", "desk.fails", 1)
    assert (letter.failure.type, letter.failure.message) == ("LookupError", "not there")
    assert "in fails" in letter.failure.traceback
    assert letter.event == receipt.event
    assert (await desk.bus.read("a")).dict() == {"n": 1}


async def test_they_are_listed_oldest_first() -> None:
    """Whatever their subjects are."""
    desk = Desk()
    for name in "cab":
        await desk.bus.emit("go", name)
    assert [letter.subject for letter in await desk.letters()] == ["c", "a", "b"]


async def test_replaying_runs_the_rule_that_failed_and_no_other() -> None:
    """On the same event, with what follows from it; then the letter is gone."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a", {"by": "me"})).dead
    desk.fails = False
    receipt = await desk.bus.replay(letter.id)
    assert receipt.fired == ("desk.fails",)
    assert receipt.event.id == letter.event.id
    assert [one.event.type for one in receipt.cascade] == ["went"]
    assert (await desk.bus.read("a")).dict() == {"n": 1, "tried": 1}
    assert await desk.letters() == []
    with pytest.raises(UnknownDeadLetter, match="replayed or discarded"):
        await desk.bus.replay(letter.id)


async def test_a_replay_that_fails_leaves_a_letter_again() -> None:
    """Of the same id, with the first failure's time."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead
    await desk.bus.advance(timedelta(hours=1))
    receipt = await desk.bus.replay(letter.id)
    assert not receipt.ok
    (again,) = await desk.letters()
    assert (again.id, again.first_failed) == (letter.id, letter.first_failed)
    assert again.time == letter.time + timedelta(hours=1)


async def test_a_reaction_is_replayed_on_its_property_event() -> None:
    """The rule sees the same property and values as it did in the turn in which it failed."""
    fails, seen, rules = [True], [], RuleSet("rules")

    @rules.on("set")
    def set_it(ctx: Context) -> None:
        ctx.subject.set("t", ctx.payload)

    @rules.on(changed("t"))
    def react(ctx: Context) -> None:
        seen.append((ctx.event_type, ctx.property_name, ctx.old_value, ctx.new_value))
        if fails:
            raise LookupError

    bus = EventBus(rules, store=create_memory_storage())
    await bus.emit("set", "a", 1)
    fails.clear()
    await bus.emit("set", "a", 2)
    (letter,) = [letter async for letter in bus.dead_letters()]
    (await bus.replay(letter.id)).raise_for_failure()
    assert seen[0] == seen[2] == (SUBJECT_PROPERTY_CHANGED, "t", None, 1)


async def test_an_event_that_was_refused_as_a_whole_is_replayed_as_a_whole() -> None:
    """A cascade that did not end, for example, once the rules are better."""
    endless, rules = [True], RuleSet("rules")

    @rules.on("go", changed("n"))
    def go(ctx: Context) -> None:
        if endless or ctx.event_type == "go":
            ctx.subject.set("n", lambda n: (n or 0) + 1)

    bus = EventBus(rules, store=create_memory_storage(), limits=Limits(max_reactions=10))
    (letter,) = (await bus.emit("go", "a")).dead
    assert letter.rule == ""
    assert "rules.go -> n -> rules.go" in letter.failure.message
    endless.clear()
    (await bus.replay(letter.id)).raise_for_failure()
    assert (await bus.read("a")).get("n") == 1


async def test_a_replay_goes_through_a_subject_that_waits() -> None:
    """Later events that wait for a retry do not keep an operator waiting."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead

    @desk.rules.on("hold", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1)))
    def hold(ctx: Context) -> None:
        raise LookupError

    await desk.bus.emit("hold", "a")
    assert (await desk.bus.emit("go", "a")).status == "waiting"
    desk.fails = False
    assert (await desk.bus.replay(letter.id)).fired == ("desk.fails",)


async def test_discarding_removes_it_for_good() -> None:
    """And says so if there is none."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead
    await desk.bus.discard(letter.id)
    assert await desk.letters() == []
    with pytest.raises(UnknownDeadLetter):
        await desk.bus.discard(letter.id)


async def test_events_of_two_sources_with_one_id_leave_two_letters() -> None:
    """Only source and id together name an event."""
    desk = Desk()
    for source in ("/one", "/two"):
        await desk.bus.emit(Event("go", "a", id="1", source=source))
    assert [letter.event.source for letter in await desk.letters()] == ["/one", "/two"]


async def test_replaying_inside_a_turn_is_refused() -> None:
    """It would wait for the turn of a subject, perhaps its own."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead

    @desk.rules.on("replay")
    async def replay(ctx: Context) -> None:
        await desk.bus.replay(letter.id)

    receipt = await desk.bus.emit("replay", "b")
    assert isinstance(receipt.runs[0].error, SubjectStateError)
    assert len(await desk.letters()) == 2


class Three:
    """A bus with two rules that fail while they are told to, on two types of events, for two subjects."""

    def __init__(self) -> None:
        self.fails = True
        self.runs: list[tuple[str, str, str]] = []
        self.rules = RuleSet("three")
        self.bus = EventBus(self.rules, store=create_memory_storage(), clock=VirtualClock())
        for name in ("one", "two"):
            self.rules.on("go", "come", name=name)(self.rule(name))

    def rule(self, name: str) -> Any:
        def run(ctx: Context) -> None:
            self.runs.append((ctx.event_type, ctx.subject.name, name))
            if self.fails:
                raise LookupError

        return run

    async def fill(self) -> None:
        for subject in "ab":
            for type in ("go", "come"):
                await self.bus.emit(type, subject)
        self.runs.clear()


@pytest.mark.parametrize(
    ("only", "count"),
    [
        ({}, 8),
        ({"rule": "three.one"}, 4),
        ({"subject": "a"}, 4),
        ({"event_type": "come"}, 4),
        ({"rule": "three.two", "subject": "b"}, 2),
        ({"rule": "three.two", "subject": "b", "event_type": "go"}, 1),
        ({"rule": "three.three"}, 0),
        ({"rule": ""}, 0),
    ],
    ids=str,
)
async def test_they_are_listed_and_replayed_by_rule_subject_and_type(only: dict[str, str], count: int) -> None:
    """All that is named has to hold; the others stay."""
    three = Three()
    await three.fill()
    listed = [letter async for letter in three.bus.dead_letters(**only)]
    assert len(listed) == count
    three.fails = False
    receipts = await three.bus.replay_all(**only)
    assert [receipt.event for receipt in receipts] == [letter.event for letter in listed]
    assert three.runs == [(letter.event.type, letter.subject, letter.rule[6:]) for letter in listed]
    assert len([letter async for letter in three.bus.dead_letters()]) == 8 - count


async def test_what_fails_again_is_replayed_once() -> None:
    """Replaying all ends, and the letters are there again."""
    three = Three()
    await three.fill()
    receipts = await three.bus.replay_all()
    assert [receipt.ok for receipt in receipts] == [False] * 8
    assert len(three.runs) == 8
    assert {letter.attempts async for letter in three.bus.dead_letters()} == {2}


async def test_what_is_discarded_meanwhile_is_not_replayed() -> None:
    """A letter that is gone when its turn comes is left out."""
    three = Three()
    await three.fill()
    letters = [letter async for letter in three.bus.dead_letters()]
    three.fails = False

    def discard(outcome: Any) -> None:
        with suppress(StopIteration):
            three.bus.store.discard(letters[3].id).send(None)  # a store in memory answers at once

    three.bus.observe(discard)
    receipts = await three.bus.replay_all()
    assert len(receipts) == 7
    assert [letter async for letter in three.bus.dead_letters()] == []


async def test_a_replay_of_a_rule_that_parks_by_now() -> None:
    """It fails again, and its subject waits until somebody resumes it."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead
    rules = RuleSet("desk")
    parking = EventBus(rules, store=desk.bus.store, clock=desk.bus.clock)

    @rules.on("go", name="fails", retry=RetryPolicy(on_exhausted="park"))
    def fails(ctx: Context) -> None:
        raise LookupError

    receipt = await parking.replay(letter.id)
    assert receipt.runs[0].parked
    assert (await parking.emit("later", "a")).status == "waiting"
    assert await desk.letters() == []


@pytest.mark.usefixtures("no_pauses")
@pytest.mark.parametrize(
    ("fails", "is_run"), [(["before"] * 3, False), (["after", "before"], True)], ids=["not stored", "stored"]
)
async def test_a_letter_that_is_discarded_while_its_replay_has_no_answer(fails: list[str], is_run: bool) -> None:
    """Either it is replayed or it is discarded, and never both: whoever comes second hears that there is none."""

    class Unlucky(Flaky):
        async def commit(self, commit: Commit) -> CommitResult:
            try:
                return await super().commit(commit)
            except StoreError:
                if commit.revived and not discarded:
                    discarded.append(await self.store.discard(commit.revived[0]))
                raise

    discarded: list[bool] = []
    store = Unlucky(create_memory_storage())
    rules, runs = RuleSet("rules"), [0]

    @rules.on("go")
    def go(ctx: Context) -> None:
        runs[0] += 1
        raise LookupError

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        (letter,) = (await bus.emit("go", "a")).dead
        store.fails["commit"] = fails
        if is_run:
            assert not (await bus.replay(letter.id)).ok
        else:
            with pytest.raises(UnknownDeadLetter, match="discarded meanwhile"):
                await bus.replay(letter.id)
        assert discarded == [not is_run]
        assert runs == [2 if is_run else 1]
        assert len([letter async for letter in bus.dead_letters()]) == is_run


async def test_all_are_replayed_by_two_at_once() -> None:
    """Each run is another attempt, and no attempt is made twice."""
    rules, attempts = RuleSet("rules"), list[int]()

    @rules.on("go")
    async def go(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        await asyncio.sleep(0)
        raise LookupError

    async with asyncio.timeout(5), EventBus(rules, store=Flaky(create_memory_storage())) as bus:
        await bus.emit("go", "a")
        await asyncio.gather(bus.replay_all(), bus.replay_all())
        assert attempts == [1, 2, 3]
        assert [letter.attempts async for letter in bus.dead_letters()] == [3]


async def test_all_are_replayed_by_two_at_once_and_succeed() -> None:
    """A letter that the other one has replayed is left out."""
    three = Three()
    await three.fill()
    three.fails = False
    first, second = await asyncio.gather(three.bus.replay_all(), three.bus.replay_all())
    assert len(first) + len(second) == len(three.runs) == 8


async def test_a_replay_does_not_look_at_retries() -> None:
    """A store may hold very many, and they have nothing to do with it."""

    class Counting(Flaky):
        lists = 0

        def retries(self, partition: int) -> AsyncIterator[Retry]:
            self.lists += 1
            return super().retries(partition)

    rules, store = RuleSet("rules"), Counting(create_memory_storage())

    @rules.on("go")
    def go(ctx: Context) -> None:
        raise LookupError

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        (letter,) = (await bus.emit("go", "a")).dead
        lists = store.lists
        await bus.replay(letter.id)
        await bus.replay_all()
        await bus.idle()
        assert store.lists == lists
