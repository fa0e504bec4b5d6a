"""Follow-ups in the order of the log, when a store's answers come late, out of order, or not at all."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import Context, Event, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.arrivals import Arrivals
from onwhen.engine.store import Commit, CommitResult
from onwhen.engine.work import Work
from onwhen.errors import StoreError
from tests.engine.buses import NOON, until, value
from tests.engine.stores import Flaky, Late, kill, process

pytestmark = pytest.mark.usefixtures("no_pauses")


def notes() -> RuleSet:
    """Rules that keep the order in which a subject's events were handled, and send on what they are told to."""
    rules = RuleSet("notes")

    @rules.on("noted")
    def note(ctx: Context) -> None:
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload])

    @rules.on("pass")
    async def pass_on(ctx: Context) -> None:
        for _ in range(ctx.payload.get("steps", 0)):
            await asyncio.sleep(0)
        for number in ctx.payload["numbers"]:
            ctx.emit("noted", number, "a")

    return rules


async def order(bus: EventBus, subject: str = "a") -> list[object]:
    found: list[object] = await value(bus, subject, "order")
    return found


async def settle() -> None:
    """Let everything that can happen by itself happen."""
    for _ in range(50):
        await asyncio.sleep(0)


# -- the order of calls


def works(*positions: int) -> list[Work]:
    from contextvars import copy_context

    return [Work(Event("e", "s"), copy_context(), position=position) for position in positions]


@given(data=st.data(), sizes=st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_whatever_order_answers_come_in_works_are_let_in_in_the_order_of_the_log(
    data: st.DataObject, sizes: list[int]
) -> None:
    """Nothing is let in before what an earlier call has appended, and all of it once that is known."""
    let_in: list[int] = []
    arrivals = Arrivals(lambda found: let_in.extend(work.position or 0 for work in found))
    calls, position = [], 0
    for size in sizes:
        calls.append((arrivals.calling(), works(*range(position + 1, position + size + 1))))
        position += size
    for call, found in data.draw(st.permutations(calls)):
        arrivals.arrived(call, found)
        assert let_in == list(range(1, len(let_in) + 1))
    assert let_in == list(range(1, position + 1))


def test_what_came_in_together_is_sorted() -> None:
    """A call that was made again may have appended behind what a later one did."""
    let_in: list[int] = []
    arrivals = Arrivals(lambda found: let_in.extend(work.position or 0 for work in found))
    first, second = arrivals.calling(), arrivals.calling()
    arrivals.arrived(second, works(5, 7))
    arrivals.arrived(first, works(6, 8))
    assert let_in == [5, 6, 7, 8]


def test_a_call_that_has_failed_holds_nothing_up() -> None:
    """It has appended nothing."""
    let_in: list[int] = []
    arrivals = Arrivals(lambda found: let_in.extend(work.position or 0 for work in found))
    first, second, third = (arrivals.calling() for _ in range(3))
    arrivals.arrived(second, works(1))
    arrivals.arrived(third, works(2))
    assert let_in == []
    arrivals.arrived(first, ())
    assert let_in == [1, 2]


# -- answers that overtake each other


async def test_a_message_does_not_overtake_an_event_that_was_accepted_before() -> None:
    """The answer to the append is late, the one to the commit behind it is not."""
    store = Late(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        passing = asyncio.create_task(bus.emit("pass", "b", {"numbers": [2], "steps": 5}))
        await until(lambda: store.calls.count("load") == 1)
        store.hold("append")
        emitting = asyncio.create_task(bus.emit("noted", "a", 1))
        await until(lambda: bool(store.held))
        await settle()
        assert "commit" in store.calls
        assert not passing.done()
        store.let_go()
        await asyncio.gather(passing, emitting)
        assert await order(bus) == [1, 2]


async def test_messages_of_two_turns_keep_the_order_of_their_commits() -> None:
    """The first answer arrives last."""
    store = Late(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        store.hold("commit")
        first = asyncio.create_task(bus.emit("pass", "b", {"numbers": [1, 2]}))
        await until(lambda: bool(store.held))
        second = asyncio.create_task(bus.emit("pass", "c", {"numbers": [3]}))
        await settle()
        assert not second.done()
        store.let_go()
        await asyncio.gather(first, second)
        assert await order(bus) == [1, 2, 3]


async def test_a_commit_that_is_sent_again_comes_behind_a_later_one() -> None:
    """The first commit is made after the second, so its message stands behind the second's in the log."""
    store = Late(create_memory_storage())
    async with asyncio.timeout(5), EventBus(notes(), store=store) as bus:
        for name in "bc":
            await bus.emit("pass", name, {"numbers": []})
        store.fails["commit"] = ["", "before"]  # the others are accepted together while "first" is
        names = ("first", "b", "c")
        receipts = await asyncio.gather(*(bus.emit("pass", name, {"numbers": [name]}) for name in names))
        assert all(receipt.cascade[0].status == "handled" for receipt in receipts)
        assert await order(bus) == ["first", "c", "b"]


def gated(gate: asyncio.Event, waiting: list[str]) -> RuleSet:
    """Rules as `notes`, and one that waits at a gate before it sends its subject's name."""
    rules = notes()

    @rules.on("gated")
    async def wait(ctx: Context) -> None:
        waiting.append(ctx.subject.name)
        await gate.wait()
        ctx.emit("noted", ctx.subject.name, "a")

    return rules


async def test_what_is_sent_again_waits_for_what_took_effect_meanwhile() -> None:
    """The commit of "b" is made again behind that of "c"; though its answer is here first, "c" stands first."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    async with asyncio.timeout(5), EventBus(gated(gate, waiting), store=store) as bus:
        emitting = [asyncio.create_task(bus.emit("gated", name)) for name in "bc"]
        await until(lambda: waiting == ["b", "c"])
        store.fails["commit"] = ["before"]
        store.hold("commit")
        gate.set()
        await until(lambda: bool(store.held))
        await settle()
        assert store.calls.count("commit") == 3
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(*emitting)
        assert await order(bus) == ["c", "b"]


async def test_an_append_that_is_made_again_waits_for_what_took_effect_meanwhile() -> None:
    """The message of "c" stands ahead of the event; the answer to its commit is late."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    async with asyncio.timeout(5), EventBus(gated(gate, waiting), store=store) as bus:
        emitting = [asyncio.create_task(bus.emit("gated", "c"))]
        await until(lambda: waiting == ["c"])
        store.fails["append"] = ["before"]
        store.hold("commit")
        emitting.append(asyncio.create_task(bus.emit("noted", "a", "event")))
        gate.set()
        await until(lambda: bool(store.held))
        await settle()
        assert store.calls.count("append") == 3
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(*emitting)
        assert await order(bus) == ["c", "event"]


async def test_a_promotion_that_is_made_again_waits_for_what_took_effect_meanwhile() -> None:
    """The message of "c" stands ahead of the timer; the answer to its commit is late."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    rules, clock = gated(gate, waiting), VirtualClock(NOON)

    @rules.on("set")
    def set_timer(ctx: Context) -> None:
        ctx.emit("noted", "timer", "a", delay=timedelta(hours=1))

    async with asyncio.timeout(5), EventBus(rules, store=store, clock=clock) as bus:
        await bus.emit("set", "b")
        emitting = asyncio.create_task(bus.emit("gated", "c"))
        await until(lambda: waiting == ["c"])
        clock.advance(timedelta(hours=1))
        store.fails["promote"] = ["before"]
        store.hold("commit")
        assert bus._pipeline is not None
        ringing = asyncio.create_task(bus._pipeline.run_due())
        gate.set()
        await until(lambda: bool(store.held))
        await settle()
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(emitting, ringing)
        await bus.idle()
        assert await order(bus) == ["c", "timer"]


@pytest.mark.parametrize("fails", [["before"], ["before"] * 4 + ["after"]])
async def test_a_commit_from_outside_that_is_made_again_waits_as_well(fails: list[str]) -> None:
    """What it sends stands behind a message whose commit's answer is late; also if its caller has an error."""
    store, gate, waiting = Late(create_memory_storage()), asyncio.Event(), list[str]()
    rules = gated(gate, waiting)

    @rules.on("subject-property-changed")
    def note_change(ctx: Context) -> None:
        if ctx.property_name == "n":
            ctx.subject.set("order", [*ctx.subject.get("order", []), "outside"], muted=True)

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        emitting = asyncio.create_task(bus.emit("gated", "c"))
        await until(lambda: waiting == ["c"])
        await bus.emit("nothing", "a")

        async def write() -> None:
            with suppress(StoreError):
                async with bus.subject("a") as subject:
                    await asyncio.sleep(0)
                    store.fails["commit"] = [fails[0], "", *fails[1:]]
                    store.hold("commit")
                    subject.set("n", 1)
                    asyncio.get_running_loop().call_soon(gate.set)

        writing = asyncio.create_task(write())
        await until(lambda: bool(store.held))
        await settle()
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(emitting, writing)
        await bus.idle()
        assert await order(bus) == ["c", "outside"]


async def test_a_timer_does_not_overtake_what_was_accepted_before_it() -> None:
    """Nor does an event that was accepted after it overtake the timer, whichever answer comes first."""
    store, rules = Late(create_memory_storage()), notes()

    @rules.on("set")
    def set_timer(ctx: Context) -> None:
        ctx.emit("noted", "timer", "a", delay=timedelta(hours=1))

    clock = VirtualClock(NOON)
    async with asyncio.timeout(5), EventBus(rules, store=store, clock=clock) as bus:
        await bus.emit("set", "b")
        store.hold("append", "promote")
        emitting = [asyncio.create_task(bus.emit("noted", "a", "first"))]
        await until(lambda: len(store.held) == 1)
        clock.advance(timedelta(hours=1))
        assert bus._pipeline is not None
        ringing = asyncio.create_task(bus._pipeline.run_due())
        await until(lambda: len(store.held) == 2)
        emitting.append(asyncio.create_task(bus.emit("pass", "c", {"numbers": ["last"]})))
        await settle()
        store.let_go(1)
        await settle()
        assert await order(bus) is None
        store.let_go()
        await asyncio.gather(*emitting, ringing)
        await bus.idle()
        assert await order(bus) == ["first", "timer", "last"]


async def test_an_event_from_outside_a_turn_keeps_its_place() -> None:
    """What `async with bus.subject()` sends stands in the log like any other event."""
    store, rules = Late(create_memory_storage()), RuleSet("rules")

    @rules.on("subject-property-changed", "noted")
    def note(ctx: Context) -> None:
        number = ctx.payload if ctx.event_type == "noted" else ctx.new_value
        ctx.subject.set("order", [*ctx.subject.get("order", []), number], muted=True)

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        store.hold("commit")

        async def write() -> None:
            async with bus.subject("a") as subject:
                subject.set("n", 1)

        writing = asyncio.create_task(write())
        await until(lambda: bool(store.held))
        emitting = asyncio.create_task(bus.emit("noted", "a", 2))
        await settle()
        assert not emitting.done()
        store.let_go()
        await asyncio.gather(writing, emitting)
        assert await order(bus) == [1, 2]


outcomes = st.lists(st.sampled_from(["", "", "", "before", "after"]), max_size=16)


@given(
    seed=st.integers(0, 1000),
    append=st.lists(st.sampled_from(["", "before", "after"]), max_size=4),  # one more, and the emitter has an error
    commit=outcomes,
    promote=outcomes,
    partitions=st.sampled_from([1, 3]),
    limit=st.sampled_from([1, 2, 1000]),
)
def test_whatever_comes_late_or_is_lost_all_is_handled_in_the_order_of_the_log(
    seed: int, append: list[str], commit: list[str], promote: list[str], partitions: int, limit: int
) -> None:
    """Each subject handles its events once, and by their position, however answers travel."""
    chance = random.Random(seed)
    memory = create_memory_storage(partitions=partitions)
    store = Late(memory, chance, append=append, commit=commit, promote=promote)
    rules, accepted = RuleSet("rules"), list[tuple[int, str, object]]()

    @rules.on("go")
    async def go(ctx: Context) -> None:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.event.id])
        for number in range(ctx.payload["depth"]):
            target = f"s{(ctx.payload['n'] + number) % 3}"
            data = {"depth": ctx.payload["depth"] - 1, "n": ctx.payload["n"] + number + 1}
            if not number % 2:
                ctx.emit("go", data, target)
            else:  # across partitions timers are found one round later, perhaps behind what was sent meanwhile
                ctx.emit("go", data, target, delay=timedelta(0))

    posted = memory._post

    def post(event: Event, now: object) -> object:
        entry = posted(event, now)  # type: ignore[arg-type]
        accepted.append((entry.position, event.subject, event.id))
        return entry

    memory._post = post  # type: ignore[assignment,method-assign]

    async def main() -> None:
        async with asyncio.timeout(20):
            async with EventBus(rules, store=store, limits=Limits(max_concurrent_turns=limit)) as bus:
                tasks = []
                for number in range(6):
                    tasks.append(asyncio.create_task(bus.emit("go", f"s{number % 3}", {"depth": 2, "n": number})))
                    await asyncio.sleep(0)
                await asyncio.gather(*tasks)
                stats = await memory.stats()
                while stats.timers or stats.pending:
                    await bus.idle()
                    await asyncio.sleep(0)
                    stats = await memory.stats()
                for receipt in (task.result() for task in tasks):
                    position = next(number for number, event in first.items() if event == receipt.event.id)
                    accepted.append((position, receipt.event.subject, receipt.event.id))
                for name in ("s0", "s1", "s2"):
                    wanted = [id for _, subject, id in sorted(accepted) if subject == name]
                    assert await order(bus, name) == wanted
                assert len(accepted) == 6 * 5

    first: dict[int, str] = {}
    accept = memory._accept

    def note(partition: int, event: Event, now: object) -> object:
        found = accept(partition, event, now)  # type: ignore[arg-type]
        if found.is_new and found.position is not None:
            first[found.position] = event.id
        return found

    memory._accept = note  # type: ignore[assignment,method-assign]
    asyncio.run(main())


# -- one at a time


async def test_with_one_turn_at_a_time_events_are_handled_in_the_order_of_the_log(store: Flaky) -> None:
    """Whatever their subjects are: messages come behind all events that were accepted before them."""
    rules, seen = RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        seen.append(ctx.payload)
        if ctx.payload < 10:
            ctx.emit("go", ctx.payload + 10, "x" if ctx.payload % 2 else "s1")

    async with asyncio.timeout(5), EventBus(rules, store=store, limits=Limits(max_concurrent_turns=1)) as bus:
        await bus.emit("go", "s0", 100)
        seen.clear()
        await asyncio.gather(*(bus.append("go", f"s{number % 3}", number) for number in range(9)))
        await bus.idle()
        assert seen[: len(seen) // 2] == sorted(seen)[: len(seen) // 2]
        assert seen == list(range(9)) + list(range(10, 19))


def test_one_at_a_time_goes_on_in_the_order_of_the_log_after_a_crash() -> None:
    """What is pending is handled by its position, not subject by subject."""
    memory, rules, seen = create_memory_storage(), RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        seen.append(ctx.payload)

    async def first() -> None:
        await memory.append(0, [Event("go", f"s{number % 3}", number) for number in (0, 1, 3, 4, 2, 5)])
        await kill()

    async def second() -> None:
        async with EventBus(rules, store=Flaky(memory), limits=Limits(max_concurrent_turns=1)) as bus:
            await bus.idle()

    assert process(first)
    assert not process(second)
    assert seen == [0, 1, 3, 4, 2, 5]


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
