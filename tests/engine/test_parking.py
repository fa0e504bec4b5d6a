"""Parking: a subject waits where a rule has failed for good, until somebody resumes it or skips what failed."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from onwhen import (
    Context,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    Subject,
    VirtualClock,
    migrate,
)
from onwhen.engine.store import Store
from onwhen.errors import MigrationError, SubjectStateError
from tests.engine.buses import until, value
from tests.engine.desks import PARK, TWICE, Desk

pytestmark = pytest.mark.usefixtures("no_pauses")


async def test_a_rule_that_fails_for_good_parks_its_subject(store: Store) -> None:
    """Later events of the subject are accepted and wait; other subjects go on; nothing is a dead letter."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        receipt = await desk.bus.emit("go.one", "a")
        (run,) = receipt.runs
        assert (receipt.status, run.status, run.parked, run.retry_at) == ("handled", "failed", True, None)
        assert (await desk.bus.emit("noted", "a", 1)).status == "waiting"
        assert (await desk.bus.emit("noted", "b", 1)).status == "handled"
        (retry,) = await desk.parked()
        assert (retry.subject, retry.rule, retry.failure.message) == ("a", "desk.one", "one is broken")
        assert [letter async for letter in desk.bus.dead_letters()] == []
        stats = await store.stats()
        assert (stats.parked, stats.retries, stats.pending) == (1, 0, 1)


async def test_time_alone_does_not_resume(store: Store) -> None:
    """What is parked is not due, and the clock does not stop for it."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        assert desk.bus.next_due is None
        await desk.bus.advance(timedelta(days=1000))
        assert len(desk.runs) == 1


async def test_attempts_come_before_parking(store: Store) -> None:
    """The policy's retries are made first; the receipt of the first attempt says when, not that it is parked."""
    desk = Desk(store, TWICE)
    async with asyncio.timeout(5), desk.bus:
        (run,) = (await desk.bus.emit("go.one", "a")).runs
        assert (run.retry_at, run.parked) == (desk.bus.next_due, False)
        assert await desk.parked() == []
        await desk.bus.advance(timedelta(seconds=10))
        (retry,) = await desk.parked()
        assert (retry.attempt, retry.due) == (3, desk.bus.clock.now())
        assert (await desk.bus.emit("noted", "a", 1)).status == "waiting"


async def test_resuming_runs_what_failed_and_then_what_waits(store: Store) -> None:
    """The rule on its own event, and no other rule of it; later events follow in the order in which they came."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        waiting = [await desk.bus.emit("noted", "a", number) for number in range(3)]
        desk.broken.clear()
        (receipt,) = await desk.bus.resume("a")
        assert (receipt.status, receipt.fired, receipt.event.type) == ("handled", ("desk.one",), "go.one")
        await desk.bus.idle()
        assert await desk.order() == ["one", 0, 1, 2]
        assert {receipt.status for receipt in waiting} == {"handled"}
        assert await desk.parked() == []
        assert [attempt for _, _, attempt in desk.runs] == [1, 2]


async def test_nothing_to_resume_is_no_error(store: Store) -> None:
    """Nothing is run, and the subject is as it was."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("noted", "a", 1)
        assert await desk.bus.resume("a") == []
        assert await desk.bus.skip("a") == []
        assert (await desk.bus.emit("noted", "a", 2)).status == "handled"


async def test_a_resume_that_fails_parks_again(store: Store) -> None:
    """The subject goes on waiting, and the failure is the latest one; its attempts are counted on."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        first = (await desk.bus.emit("go.one", "a")).runs[0].error
        await desk.bus.emit("noted", "a", 1)
        for number in range(2):
            (receipt,) = await desk.bus.resume("a")
            assert receipt.runs[0].parked
            assert receipt.runs[0].error is not first
            (retry,) = await desk.parked()
            assert retry.attempt == 3 + number
            assert retry.first_failed == desk.bus.clock.now()
            await desk.bus.idle()
            assert await desk.order() is None
        desk.broken.clear()
        await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["one", 1]


async def test_resuming_gives_all_attempts_again(store: Store) -> None:
    """A rule that had two has two more, with the policy's wait between them; events wait all that time."""
    desk = Desk(store, TWICE)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        await desk.bus.advance(timedelta(seconds=10))
        (receipt,) = await desk.bus.resume("a")
        assert receipt.runs[0].retry_at == desk.bus.clock.now() + timedelta(seconds=10)
        assert (await desk.bus.emit("noted", "a", 1)).status == "waiting"
        desk.broken.clear()
        await desk.bus.advance(timedelta(seconds=10))
        assert await desk.order() == ["one", 1]
        assert [attempt for _, _, attempt in desk.runs] == [1, 2, 3, 4]


async def test_two_rules_parked_on_one_event(store: Store) -> None:
    """The subject goes on when both have succeeded, whichever does first."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        assert [retry.rule for retry in await desk.parked("a")] == ["desk.one", "desk.two"]
        desk.broken.discard("two")
        receipts = await desk.bus.resume("a")
        assert [receipt.ok for receipt in receipts] == [False, True]
        await desk.bus.idle()
        assert await desk.order() == ["two"]
        desk.broken.clear()
        await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["two", "one", 1]


async def test_resuming_one_subject_leaves_others_parked(store: Store) -> None:
    """Each is named by itself."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        for name in "ab":
            await desk.bus.emit("go.one", name)
        desk.broken.clear()
        await desk.bus.resume("a")
        assert [retry.subject for retry in await desk.parked()] == ["b"]
        assert await desk.parked("a") == []


async def test_skipping_leaves_dead_letters_and_goes_on(store: Store) -> None:
    """What is given up can be replayed later; what waited is handled now."""
    desk = Desk(store, TWICE)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.advance(timedelta(seconds=10))
        waiting = await desk.bus.emit("noted", "a", 1)
        letters = await desk.bus.skip("a")
        assert [(letter.rule, letter.attempts) for letter in letters] == [("desk.one", 2), ("desk.two", 2)]
        assert letters == [letter async for letter in desk.bus.dead_letters()]
        await until(lambda: waiting.status == "handled")
        assert await desk.parked() == []
        desk.broken.clear()
        assert (await desk.bus.replay(letters[0].id)).fired == ("desk.one",)
        assert await desk.order() == [1, "one"]


async def test_skipping_what_is_left_after_a_resume(store: Store) -> None:
    """One rule succeeds when it is resumed, the other is given up: then the subject goes on, and not before."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.discard("one")
        await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["one"]
        assert [letter.rule for letter in await desk.bus.skip("a")] == ["desk.two"]
        await desk.bus.idle()
        assert await desk.order() == ["one", 1]


async def test_events_that_come_during_a_resume_wait_for_it(store: Store) -> None:
    """However the rule and the emits interleave, what was parked comes first and the rest in order."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 0)
        desk.broken.clear()
        async with asyncio.TaskGroup() as group:
            group.create_task(desk.bus.resume("a"))
            for number in range(1, 12):
                group.create_task(desk.bus.emit("noted", "a", number))
                await asyncio.sleep(0)
        await desk.bus.idle()
        assert await desk.order() == ["one", "two", *range(12)]


async def test_resuming_twice_at_once_runs_each_rule_once(store: Store) -> None:
    """Two operators press the button: one has the receipts, the other finds nothing parked any more."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.clear()
        found = await asyncio.gather(*(desk.bus.resume("a") for _ in range(3)))
        await desk.bus.idle()
        assert sorted(map(len, found)) == [0, 0, 2]
        assert [name for name, _, attempt in desk.runs if attempt == 2] == ["one", "two"]
        assert await desk.order() == ["one", "two", 1]


async def test_two_resumes_at_once_do_not_let_later_events_pass(store: Store) -> None:
    """One rule succeeds, one stays parked: the subject waits, however often it was resumed at once."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.discard("one")
        await asyncio.gather(*(desk.bus.resume("a") for _ in range(3)))
        await desk.bus.idle()
        assert await desk.order() == ["one"]
        desk.broken.clear()
        await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["one", "two", 1]


async def test_a_skip_during_a_resume_leaves_alone_what_is_run(store: Store) -> None:
    """What is being resumed is not given up as well: each rule ends one way, and the subject goes on after both."""
    desk = Desk(store)
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.discard("one")
        resumed, letters = await asyncio.gather(desk.bus.resume("a"), desk.bus.skip("a"))
        await desk.bus.idle()
        assert [receipt.ok for receipt in resumed] == [True, False]
        assert [letter.rule for letter in letters] == ["desk.two"]
        assert await desk.order() == ["one", 1]


async def test_resuming_inside_a_turn_is_refused(store: Store) -> None:
    """It would wait for a turn, perhaps its own; so would skipping."""
    desk = Desk(store)

    @desk.rules.on("call")
    async def call(ctx: Context) -> None:
        await getattr(desk.bus, ctx.payload["verb"])(ctx.payload["subject"])

    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.one", "a")
        for verb in ("resume", "skip"):
            for subject in ("a", "nothing is parked here"):
                receipt = await desk.bus.emit("call", "b", {"verb": verb, "subject": subject})
                assert isinstance(receipt.runs[0].error, SubjectStateError)
        assert len(await desk.parked()) == 1


async def test_a_message_of_a_resumed_rule_to_its_own_subject_comes_last(store: Store) -> None:
    """It was sent after what waits; and the resume does not wait for it while another rule is parked."""
    desk = Desk(store)

    @desk.rules.on("go.both", name="sender", retry=PARK)
    def send(ctx: Context) -> None:
        if "one" in desk.broken:
            raise LookupError
        ctx.emit("noted", "sent")

    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.discard("one")
        receipts = await desk.bus.resume("a")
        assert [receipt.ok for receipt in receipts] == [True, False, True]
        desk.broken.clear()
        await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["one", "two", 1, "sent"]


async def test_a_retry_that_waits_and_a_rule_that_is_parked(store: Store) -> None:
    """Two policies on one subject: both have to be through before later events are handled."""
    desk = Desk(store)
    desk.rules.on("go.both", name="third", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1), jitter=0))(
        desk.rule("third")
    )
    desk.broken = {"one", "third"}
    async with asyncio.timeout(5), desk.bus:
        await desk.bus.emit("go.both", "a")
        await desk.bus.emit("noted", "a", 1)
        desk.broken.clear()
        await desk.bus.resume("a")
        await desk.bus.idle()
        assert await desk.order() == ["two", "one"]
        await desk.bus.advance(timedelta(hours=1))
        assert await desk.order() == ["two", "one", "third", 1]


async def test_an_event_that_fails_as_a_whole_can_be_parked(store: Store) -> None:
    """By the policy of the engine's limits; resumed, all of its rules are run."""
    rules, broken = RuleSet("rules"), [True]

    async def around(ctx: Context, next: Any) -> None:
        if broken:
            raise LookupError
        await next()

    @rules.on("go")
    def go(ctx: Context) -> None:
        ctx.subject.set("n", 1)

    bus = EventBus(rules, store=store, limits=Limits(retry=PARK))
    bus.use(around, scope="event")
    async with asyncio.timeout(5), bus:
        receipt = await bus.emit("go", "a")
        assert receipt._outcome is not None
        assert (receipt._outcome.parked, receipt.dead) == (True, ())
        (retry,) = [retry async for retry in bus.parked()]
        assert retry.rule == ""
        broken.clear()
        (receipt,) = await bus.resume("a")
        assert receipt.fired == ("rules.go",)
        assert await value(bus, "a", "n") == 1


# -- state that cannot be migrated


class Old(Subject, prefix="thing:"):
    n: int = 0


class New(Subject, prefix="thing:", version=2):
    n: int = 0


class Better(Subject, prefix="thing:", version=2):
    n: int = 0

    @migrate(1)
    def _step(properties: dict[str, Any]) -> None:  # type: ignore[misc]
        properties["n"] *= 10


def adder(cls: type[Subject]) -> RuleSet:
    rules = RuleSet("adder", subject=cls)

    @rules.on("add")
    def add(ctx: Context[Any]) -> None:
        ctx.subject.n += ctx.payload

    return rules


async def test_state_that_cannot_be_migrated_parks_the_subject(store: Store) -> None:
    """Nothing is wrong with its events: they wait for the code that can, and none is lost."""
    async with EventBus(adder(Old), store=store) as bus:
        await bus.emit("add", "thing:1", 1)
    async with asyncio.timeout(5), EventBus(adder(New), store=store) as bus:
        receipt = await bus.emit("add", "thing:1", 2)
        assert isinstance(receipt.error, MigrationError)
        assert receipt.dead == ()
        assert (await bus.emit("add", "thing:1", 3)).status == "waiting"
        (again,) = await bus.resume("thing:1")
        assert isinstance(again.error, MigrationError)
    async with asyncio.timeout(5), EventBus(adder(Better), store=store) as bus:
        (receipt,) = await bus.resume("thing:1")
        assert receipt.fired == ("adder.add",)
        await bus.idle()
        assert (await bus.read("thing:1")).dict() == {"n": 15}
    assert (await store.stats()).dead == 0


async def test_a_retry_that_finds_state_which_cannot_be_migrated_parks(store: Store) -> None:
    """Also one whose policy lets later events pass, and has attempts left: another one would end the same way."""
    clock, fails = VirtualClock(), [True]

    def rules(cls: type[Subject]) -> RuleSet:
        rules = adder(cls)

        @rules.on("try", retry=RetryPolicy(attempts=9, delay=timedelta(seconds=1), jitter=0, in_order=False))
        def attempt(ctx: Context[Any]) -> None:
            if fails:
                raise LookupError
            ctx.subject.n += ctx.payload

        return rules

    async with EventBus(rules(Old), store=store, clock=clock) as bus:
        await bus.emit("add", "thing:1", 1)
        await bus.emit("try", "thing:1", 2)
    fails.clear()
    async with asyncio.timeout(5), EventBus(rules(New), store=store, clock=clock) as bus:
        await bus.advance(timedelta(hours=1))
        assert [retry.rule async for retry in bus.parked()] == ["adder.attempt"]
        assert (await bus.emit("add", "thing:1", 3)).status == "waiting"
    async with asyncio.timeout(5), EventBus(rules(Better), store=store, clock=clock) as bus:
        await bus.resume("thing:1")
        await bus.idle()
        assert (await bus.read("thing:1")).dict() == {"n": 15}
