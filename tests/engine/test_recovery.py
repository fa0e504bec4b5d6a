"""After a crash: what was accepted is handled, and what kills the process each time is found and set aside."""

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, Event, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.partitions import partition_of
from onwhen.engine.recovery import Held, may_have_run
from onwhen.engine.store import Commit, DeadLetter, Failure, LogEntry, Retry
from onwhen.errors import StoreError
from onwhen.storage.memory import MemoryStore
from tests.engine.buses import NOON
from tests.engine.stores import Flaky, kill, process

pytestmark = pytest.mark.usefixtures("no_pauses")


class World:
    """Processes, one after the other, on one durable store; some events kill the process that handles them.

    Args:
        deadly: payloads that kill.
        partitions: of the store (a count).
        options: of each process's bus.
    """

    def __init__(self, *deadly: Any, partitions: int = 1, **options: Any) -> None:
        self.deadly = set(deadly)
        self.memory = MemoryStore(partitions=partitions)
        self.options = options
        self.begun: list[list[Any]] = []
        self.at_once: list[int] = []
        self.letters: list[DeadLetter] = []
        self.deaths = 0

    def bus(self) -> EventBus:
        rules, now, begun = RuleSet("world"), set[str](), list[Any]()
        self.begun.append(begun)
        self.at_once.append(0)

        @rules.on("go")
        async def go(ctx: Context) -> None:
            now.add(ctx.subject.name)
            self.at_once[-1] = max(self.at_once[-1], len(now))
            begun.append(ctx.payload)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            if ctx.payload in self.deadly:
                await kill()
            ctx.subject.set("done", [*ctx.subject.get("done", []), ctx.payload])
            now.discard(ctx.subject.name)

        @rules.on("try", retry=RetryPolicy(attempts=9, delay=timedelta(0)))
        async def attempt(ctx: Context) -> None:
            begun.append((ctx.payload, ctx.attempt))
            if ctx.attempt == 1:
                raise LookupError
            if ctx.payload in self.deadly:
                await kill()
            ctx.subject.set("done", [*ctx.subject.get("done", []), ctx.payload])

        return EventBus(rules, store=Flaky(self.memory), **self.options)

    def run(self, emits: Sequence[tuple[str, str, Any]] = ()) -> bool:
        """Run a process that appends events, in this order, and then handles all that is there; tell if it died."""

        async def main() -> None:
            bus = self.bus()
            await bus.start()
            for type, subject, payload in emits:
                partition = partition_of(subject, self.memory.partitions)
                await self.memory.append(partition, [Event(type, subject, payload, id=f"{subject}/{payload}")])
            if emits:
                await kill()
            await bus.idle()
            self.letters = [letter async for letter in bus.dead_letters()]
            await bus.close()

        return process(main)

    def run_until_it_lives(self, emits: Sequence[tuple[str, str, Any]] = ()) -> None:
        """Append events, and start a process again and again until one of them lives."""
        if emits:
            self.run(emits)
        while self.run():
            self.deaths += 1
            assert self.deaths < 50

    def done(self, subject: str) -> list[Any]:
        async def read() -> list[Any]:
            done: list[Any] = (await EventBus(store=self.memory).read(subject)).get("done", [])
            return done

        return asyncio.run(read())


def test_what_kills_the_process_each_time_becomes_a_dead_letter() -> None:
    """After three starts that were noted; nothing of it is kept, and the subject goes on."""
    world = World("deadly")
    world.run_until_it_lives([("go", "a", 0), ("go", "a", "deadly"), ("go", "a", 1)])
    (letter,) = world.letters
    assert (letter.subject, letter.rule, letter.event.data, letter.attempts) == ("a", "", "deadly", 1)
    assert letter.failure.type == "onwhen.errors.PoisonEvent"
    assert "was to begin again 3 times" in letter.failure.message
    assert world.done("a") == [0, 1]
    assert sum(begun.count("deadly") for begun in world.begun) == 4  # the first one was not noted


def test_one_crash_costs_nobody_anything() -> None:
    """An event that was at work then is handled as usual, side by side with others."""
    world = World()
    world.run([("go", f"s{number}", number) for number in range(9)])
    assert not world.run()
    assert world.at_once[-1] == 9
    assert world.letters == []


def test_suspects_run_alone_before_all_else() -> None:
    """After the second crash in a row what may have caused it is run one by one, what did not begin comes later."""
    world = World("deadly")
    world.run([("go", f"s{number}", number) for number in range(4)] + [("go", "a", "deadly")])
    assert world.run()
    world.run([("go", "new", "new")])  # before what is new has begun, this one is killed too
    assert world.begun[-1] == []
    assert world.run()
    assert world.at_once[-1] == 1
    assert world.begun[-1] == [0, 1, 2, 3, "deadly"]


def test_innocents_are_handled_and_never_set_aside() -> None:
    """Whoever stood beside the one that kills is handled, once, and no dead letter is left of it."""
    world = World("deadly")
    events: list[tuple[str, str, Any]] = [("go", f"s{number % 5}", number) for number in range(20)]
    world.run_until_it_lives([*events[:7], ("go", "a", "deadly"), *events[7:], ("go", "a", "after")])
    assert [letter.event.data for letter in world.letters] == ["deadly"]
    assert [world.done(f"s{n}") for n in range(5)] == [list(range(n, 20, 5)) for n in range(5)]
    assert world.done("a") == ["after"]


@pytest.mark.parametrize("limit", [1, 2, 1000])
@pytest.mark.parametrize("partitions", [1, 3])
def test_several_that_kill(limit: int, partitions: int) -> None:
    """Each is found, on one subject or on several, however many subjects are worked on at once."""
    world = World("x", "y", "z", partitions=partitions, limits=Limits(max_concurrent_turns=limit))
    events = [("go", "a", "x"), ("go", "b", 1), ("go", "a", "y"), ("go", "b", "z"), ("go", "a", 2), ("go", "c", 3)]

    world.run_until_it_lives(events)
    assert sorted(letter.event.data for letter in world.letters) == ["x", "y", "z"]
    done = [payload for name in "abc" for payload in world.done(name)]
    assert sorted(done) == [1, 2, 3]


def test_a_retry_that_kills_is_set_aside_with_its_rule() -> None:
    """It is the retry that is counted; the letter names the rule, and what waits for it goes on."""
    world = World("deadly")
    world.run_until_it_lives([("try", "a", "deadly"), ("go", "a", 1), ("try", "b", "fine")])
    (letter,) = world.letters
    assert (letter.rule, letter.event.data, letter.attempts) == ("world.attempt", "deadly", 2)
    assert letter.failure.type == "onwhen.errors.PoisonEvent"
    assert world.done("a") == [1]
    assert world.done("b") == ["fine"]


def test_a_middleware_that_kills_is_found_as_well() -> None:
    """It is around the event, and not run for the dead letter."""
    memory, begun = MemoryStore(), []

    async def around(ctx: Context, next: Any) -> None:
        begun.append(ctx.event.data)
        if ctx.event.data == "deadly":
            await kill()
        await next()

    async def main() -> None:
        bus = EventBus(RuleSet("rules"), store=Flaky(memory))
        bus.use(around, scope="event")
        await bus.append("go", "a", "deadly", id="1")
        await bus.append("go", "a", "fine", id="2")
        await bus.idle()
        await bus.close()

    while process(main):
        assert len(begun) < 20
    assert begun == ["deadly"] * 4 + ["fine"]  # the first one was not noted
    assert asyncio.run(memory.stats()).dead == 1


def test_a_dead_letter_of_one_that_killed_can_be_replayed() -> None:
    """Once its rules are mended; if they are not, it is found again."""
    world = World("deadly")
    world.run_until_it_lives([("go", "a", "deadly")])

    def replay() -> bool:
        async def main() -> None:
            async with world.bus() as bus:
                for letter in [letter async for letter in bus.dead_letters()]:  # none is under way when it is killed
                    await bus.replay(letter.id)

        return process(main)

    assert replay()
    deaths, world.deaths = world.deaths, 0
    world.run_until_it_lives()
    assert world.deaths == deaths
    assert len(world.letters) == 1
    world.deadly.clear()
    assert not replay()
    assert world.done("a") == ["deadly"]


def test_a_process_that_was_closed_leaves_no_suspects() -> None:
    """Whatever waits in its store, for a retry that is due meanwhile for example, is run as usual."""
    memory = create_memory_storage()
    rules, clock, attempts = RuleSet("rules"), VirtualClock(NOON), []

    @rules.on("go", retry=RetryPolicy(attempts=99, delay=timedelta(hours=1), factor=1))
    def go(ctx: Context) -> None:
        attempts.append(ctx.attempt)
        raise LookupError

    async def once() -> None:
        store = Flaky(memory)
        async with EventBus(rules, store=store, clock=clock) as bus:
            if not attempts:
                await bus.emit("go", "a")
            clock.advance(timedelta(hours=2))
        assert "starting" not in store.calls

    for _ in range(6):
        asyncio.run(once())
    assert attempts == [1, 2, 3, 4, 5, 6]


def test_loops_that_end_in_the_middle_are_no_crash_for_a_store_in_memory() -> None:
    """The process is alive, so none of its events can have killed it, however often its loops end."""
    store, rules, begun = create_memory_storage(), RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        begun.append(ctx.payload)
        if len(begun) < 8:
            await kill()
        ctx.subject.set("n", 1)

    bus = EventBus(rules, store=store)

    async def main() -> None:
        await bus.append("go", "a", 1) if not begun else await bus.start()
        await bus.idle()

    while process(main):
        assert len(begun) < 50
    assert len(begun) == 8
    assert asyncio.run(store.stats()).dead == 0


def test_a_failed_opening_is_no_crash() -> None:
    """A store that cannot be read for a while makes no suspects of what it holds."""
    world = World()
    world.run([("go", "a", 1), ("go", "b", 2)])

    async def main() -> None:
        bus = world.bus()
        assert isinstance(bus.store, Flaky)
        bus.store.fails["read"] = ["before"] * 10
        for _ in range(10):
            with pytest.raises(StoreError):
                await bus.start()
        async with bus:
            await bus.idle()
            assert [letter async for letter in bus.dead_letters()] == []

    assert not process(main)
    assert (world.done("a"), world.done("b")) == ([1], [2])


@pytest.mark.parametrize("outcome", ["before", "after"])
def test_a_note_that_is_lost_is_made_again(outcome: str) -> None:
    """While the store does not note that an event begins, it does not begin."""
    world = World("deadly")
    world.run([("go", "a", "deadly"), ("go", "a", 1)])
    assert world.run()

    def start(fails: list[str]) -> bool:
        async def main() -> None:
            bus = world.bus()
            assert isinstance(bus.store, Flaky)
            bus.store.fails["starting"] = fails
            await bus.start()
            await bus.idle()
            world.letters = [letter async for letter in bus.dead_letters()]
            await bus.close()

        return process(main)

    starts = 0
    while start([outcome] * 3):
        starts += 1
        assert starts < 20
        (entry,) = asyncio.run(world.memory.read(0, None, 1))
        assert entry.starts == starts + 1
    assert starts == 2
    assert len(world.letters) == 1


def test_an_opening_that_cannot_note_is_an_error() -> None:
    """Nothing has begun by then; the next opening does it all."""
    world = World()
    world.run([("go", "a", 1)])

    async def main() -> None:
        bus = world.bus()
        assert isinstance(bus.store, Flaky)
        bus.store.fails["starting"] = ["before"] * 5
        with pytest.raises(StoreError):
            await bus.start()
        assert world.begun[-1] == []
        async with bus:
            await bus.idle()

    assert not process(main)
    assert world.done("a") == [1]


def test_events_that_come_while_suspects_run_wait_for_them() -> None:
    """Those of other subjects too: what runs alone runs alone. Then as many run at once as ever."""
    world = World("deadly")
    world.run([("go", "a", "deadly")])
    assert world.run()
    world.deadly.clear()

    async def main() -> None:
        bus = world.bus()
        await bus.start()
        async with asyncio.TaskGroup() as group:
            for number in range(5):
                group.create_task(bus.emit("go", f"s{number}", number))
        assert world.begun[-1][0] == "deadly"
        assert world.at_once[-1] == 5
        await bus.close()

    assert not process(main)


async def test_a_suspect_that_comes_to_wait_does_not_keep_all_others_alone() -> None:
    """A replayed rule fails ahead of it, and holds its subject: other subjects are worked on side by side."""
    memory, clock, rules = MemoryStore(), VirtualClock(NOON), RuleSet("rules")
    now, most, gone = set[str](), [0], []

    @rules.on("fail", retry=RetryPolicy(attempts=9, delay=timedelta(hours=1), jitter=0))
    def fail(ctx: Context) -> None:
        if not gone:
            raise LookupError

    @rules.on("go")
    async def go(ctx: Context) -> None:
        now.add(ctx.subject.name)
        most[0] = max(most[0], len(now))
        await asyncio.sleep(0)
        now.discard(ctx.subject.name)

    replayed = Retry(
        subject="a",
        event=Event("fail", "a", id="1", source="/old"),
        rule="rules.fail",
        attempt=2,
        due=NOON,
        in_order=False,
        first_failed=NOON,
        failure=Failure(type="LookupError", message=""),
    )
    await memory.open(clock)
    await memory.append(0, [Event("go", "a", id="2")])
    await memory.commit(Commit(partition=0, subject="a", retries=[replayed], id="3"))
    (entry,) = await memory.read(0, None, 1)
    await memory.starting(0, {entry.position: 1, replayed.key: 1})
    async with asyncio.timeout(5), EventBus(rules, store=Flaky(memory), clock=clock) as bus:
        await bus.idle()
        assert (await memory.stats()).pending == 1
        await asyncio.gather(*(bus.emit("go", f"s{number}") for number in range(5)))
        assert most[0] > 1
        gone.append(True)
        await bus.advance(timedelta(hours=1))
        assert (await memory.stats()).pending == 0


def test_a_virtual_clock_goes_on_from_where_the_store_is() -> None:
    """A process that starts on an earlier moment is moved on to when the latest pending event was accepted."""
    memory = MemoryStore()

    async def first() -> None:
        bus = EventBus(RuleSet("rules"), store=Flaky(memory), clock=VirtualClock(NOON))
        await bus.start()
        await memory.append(0, [Event("go", "a")])
        bus.clock.move_to(NOON + timedelta(hours=1))  # type: ignore[attr-defined]
        await memory.append(0, [Event("go", "b")])
        await kill()

    async def second() -> None:
        clock = VirtualClock()
        async with EventBus(RuleSet("rules"), store=Flaky(memory), clock=clock):
            assert clock.now() == NOON + timedelta(hours=1)

    assert process(first)
    assert not process(second)


def test_only_what_can_have_been_at_work_is_suspected() -> None:
    """Retries that are due, and the first event of each subject; not what is parked, or waits for a retry."""

    def retry(subject: str, **facts: Any) -> Retry:
        known: dict[str, Any] = {"due": NOON, "in_order": True, "starts": 2, **facts}
        failure = Failure(type="LookupError", message="")
        event = Event("go", subject, id=subject, source="/x")
        return Retry(subject=subject, event=event, rule="r", attempt=2, first_failed=NOON, failure=failure, **known)

    due, later, parked, passed = (
        retry("due"),
        retry("later", due=NOON + timedelta(seconds=1)),
        retry("parked", parked=True),
        retry("passed", in_order=False, starts=0),
    )
    subjects = ["due", "later", "parked", "passed", "other", "other", "passed"]
    pending = [LogEntry(n, Event("go", name), NOON, starts=n) for n, name in enumerate(subjects, 1)]
    held = Held(partition=0, retries=[due, later, parked, passed], pending=pending)
    assert may_have_run(held, NOON) == {due.key: 2, passed.key: 0, 4: 4, 5: 5}


def test_what_is_parked_or_not_due_is_not_run_after_crashes() -> None:
    """However many there are in a row."""
    memory, runs, clock = MemoryStore(), [], VirtualClock(NOON)
    rules = RuleSet("rules")

    @rules.on("park", retry=RetryPolicy(on_exhausted="park"))
    def fail(ctx: Context) -> None:
        runs.append(ctx.event_type)
        raise LookupError

    @rules.on("later", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1)))
    def fail_again(ctx: Context) -> None:
        runs.append(ctx.event_type)
        raise LookupError

    async def main() -> None:
        bus = EventBus(rules, store=Flaky(memory), clock=clock)
        await bus.emit("park", "a", id="1")
        await bus.emit("later", "b", id="2")
        for name in "ab":
            await bus.append("noted", name, id=f"3{name}")
        await bus.idle()
        await kill()

    for _ in range(7):
        assert process(main)
    assert runs == ["park", "later"]
    stats = asyncio.run(memory.stats())
    assert (stats.parked, stats.retries, stats.pending, stats.dead) == (1, 1, 2, 0)


# -- killed anywhere


def busy(deadly: Callable[[Event], bool]) -> RuleSet:
    """Rules with everything in them: messages, timers, retries, reactions; `deadly` says when to kill."""
    rules = RuleSet("busy")

    @rules.on("go", retry=RetryPolicy(attempts=3, delay=timedelta(0)))
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        if deadly(ctx.event):
            await kill()
        if ctx.attempt < 2 and ctx.payload["depth"] == 1:
            raise LookupError
        ctx.subject.set("n", lambda n: (n or 0) + 1)
        if ctx.payload["depth"]:
            ctx.emit("go", {"depth": ctx.payload["depth"] - 1}, f"{ctx.subject.name}+")
            ctx.emit("rung", delay=timedelta(0), subject="bell")

    @rules.on("rung")
    async def rung(ctx: Context) -> None:
        await asyncio.sleep(0)
        if deadly(ctx.event):
            await kill()
        ctx.subject.set("n", lambda n: (n or 0) + 1)

    return rules


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("limit", [1, 1000])
def test_killed_again_and_again_everything_is_applied_once(seed: int, partitions: int, limit: int) -> None:
    """The process is killed in any turn, by no event more than once: nothing is lost, doubled or set aside."""
    memory, chance, killers = MemoryStore(partitions=partitions), random.Random(seed), set[str]()

    def deadly(event: Event) -> bool:
        if event.id in killers or chance.random() < 0.5:
            return False
        killers.add(event.id)
        return True

    limits = Limits(max_concurrent_turns=limit)

    async def main() -> None:
        async with EventBus(busy(deadly), store=Flaky(memory), limits=limits) as bus:
            for number in range(6):
                await bus.append("go", f"s{number}", {"depth": 2}, id=str(number))
            for _ in range(3):
                await bus.idle()
                await asyncio.sleep(0.001)
            stats = await memory.stats()
            while stats.timers or stats.retries or stats.pending:
                await asyncio.sleep(0.001)
                stats = await memory.stats()

    deaths = 0
    while process(main):
        deaths += 1
        assert deaths < 100
    assert deaths > 3

    async def check() -> None:
        bus = EventBus(store=memory)
        found = {record.name: (await bus.read(record.name)).get("n") async for record in memory.subjects()}
        assert found == {f"s{n}{plus}": 1 for n in range(6) for plus in ("", "+", "++")} | {"bell": 12}
        stats = await memory.stats()
        assert (stats.pending, stats.timers, stats.retries, stats.dead) == (0, 0, 0, 0)

    asyncio.run(check())
