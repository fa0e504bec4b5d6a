"""A circuit that workers share: one probe among all of them, what they tell each other, and what that costs."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen.engine.store import Cell
from onwhen.middleware._circuit import State, Terms, admit, closed, settle
from onwhen.middleware._circuits import Together
from onwhen.middleware._shared import Shared
from tests.middleware.cells import Far, World

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
S = 1_000_000  # microseconds
TERMS = Terms(failures=3, rate=None, window=60 * S, minimum=1, open_for=30 * S)
BY_RATE = Terms(failures=None, rate=0.5, window=60 * S, minimum=10, open_for=30 * S)
LONG = 300 * S
HOUR_LONG = 3600 * S


def circuit_of(store: Far, terms: Terms = TERMS, look: int = 0) -> Together:
    return Together(terms, Shared(store, store.clock, "circuit", State), look)


@pytest.fixture
async def world() -> World:
    world = World(0, START)
    await world.open()
    return world


async def run(circuit: Together, result: Literal["ok", "failed", "neither"]) -> str:
    """Make a call, if the circuit lets it through; return the verdict."""
    if circuit.is_closed():
        if result != "ok" or not circuit.succeed():
            await circuit.leave("", result)
        return "go"
    entry = await circuit.enter(LONG)
    if entry.verdict == "probe" or (entry.verdict == "go" and (result != "ok" or not circuit.succeed())):
        await circuit.leave(entry.probe, result)
    return entry.verdict


# -- together ----------------------------------------------------------------------------------------------------


async def test_failures_of_all_workers_count_together(world: World) -> None:
    """Three workers, one failure each; their clocks differ by hours, and the store's counts."""
    circuits = [circuit_of(world.worker(ahead=n * HOUR)) for n in range(3)]
    assert [await run(circuit, "failed") for circuit in circuits] == ["go"] * 3
    for circuit in circuits:
        entry = await circuit.enter(LONG)
        assert (entry.verdict, entry.wait) == ("no", 30 * S)


async def test_a_success_of_one_ends_the_row_of_all(world: World) -> None:
    """As soon as it knows that there are failures to make up for."""
    one, other = circuit_of(world.worker()), circuit_of(world.worker())
    await run(one, "failed")
    await run(one, "failed")
    await run(other, "ok")
    assert await run(one, "failed") == "go"
    assert await run(one, "failed") == "go"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["", "l", "x", "lx"]))
def test_there_is_never_more_than_one_probe(seed: int, faults: str) -> None:
    """Whatever overtakes what, and whatever answer is lost; and the circuit is closed again in the end."""

    async def main() -> None:
        world = World(seed, START)
        await world.open()
        circuits = [circuit_of(world.worker(ahead=n * HOUR, faults=faults)) for n in range(4)]
        works, probes, changes = False, 0, Counter[str]()

        async def worker(circuit: Together) -> None:
            nonlocal probes
            for _ in range(25):
                entry = await circuit.enter(LONG)
                note(entry.before, entry.after)
                if entry.verdict == "no":
                    await pause()
                    continue
                if entry.verdict == "probe":
                    probes += 1
                    assert probes == 1
                await pause()
                result = "ok" if works else "failed"
                # From the moment on that it asks the store to close the circuit, others may be let through.
                probes -= entry.verdict == "probe"
                note(*await circuit.leave(entry.probe, result))

        def note(before: State, after: State) -> None:
            changes[after.status] += before.status != after.status

        async def pause() -> None:
            for _ in range(world.chance.randrange(6)):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(worker(circuit)) for circuit in circuits]
        async with asyncio.timeout(20):
            while not all(task.done() for task in tasks):
                world.advance(world.chance.choice([0, 0, 0.5, 2]) * SECOND)
                works = world.chance.random() < 0.3
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            world.advance(400 * SECOND)
            for circuit in circuits:
                entry = await circuit.enter(LONG)
                note(entry.before, entry.after)
                note(*await circuit.leave(entry.probe, "ok"))
        assert {(await circuit.enter(LONG)).verdict for circuit in circuits} == {"go"}
        assert changes["open"] == changes["half_open"] >= changes["closed"]

    asyncio.run(main())


async def test_each_change_is_known_to_one_worker_only(world: World) -> None:
    """So that it is said once: the one whose call it was."""
    circuits = [circuit_of(world.worker()) for _ in range(5)]
    changes = list[tuple[str, str]]()

    async def call(circuit: Together) -> None:
        entry = await circuit.enter(LONG)
        changes.append((entry.before.status, entry.after.status))
        if entry.verdict != "no":
            changes.append(tuple(state.status for state in await circuit.leave(entry.probe, "failed")))  # type: ignore[arg-type]

    await asyncio.gather(*(call(circuit) for circuit in circuits))
    assert changes.count(("closed", "open")) == 1
    world.advance(30 * SECOND)
    changes.clear()
    await asyncio.gather(*(call(circuit) for circuit in circuits))
    assert changes.count(("open", "half_open")) == 1
    assert changes.count(("half_open", "open")) == 1


async def test_a_probe_whose_worker_died_is_replaced(world: World) -> None:
    """When it has taken longer than a run may; what it would have said comes too late then."""
    dead, other = circuit_of(world.worker()), circuit_of(world.worker())
    for _ in range(3):
        await run(dead, "failed")
    world.advance(30 * SECOND)
    entry = await dead.enter(60 * S)
    assert entry.verdict == "probe"
    assert (await other.enter(60 * S)).verdict == "no"
    world.advance(59 * SECOND)
    assert (await other.enter(60 * S)).wait == 1 * S
    world.advance(1 * SECOND)
    replaced = await other.enter(60 * S)
    assert replaced.verdict == "probe"
    assert await dead.leave(entry.probe, "ok") == (other.state, other.state)
    await other.leave(replaced.probe, "ok")
    assert await run(dead, "ok") == "go"


async def test_by_rate_all_calls_of_all_workers_count(world: World) -> None:
    """Successes are told when somebody else has failed: so nine failures among thirty calls do not open it."""
    one, other = (circuit_of(world.worker(), BY_RATE) for _ in range(2))
    for _ in range(20):
        await run(one, "ok")
    for _ in range(5):
        await run(other, "failed")
    assert calls_of(other) == (5, 5)
    await run(one, "ok")
    for _ in range(5):
        assert await run(other, "failed") == "go"
    assert calls_of(other) == (31, 10)
    for _ in range(11):
        assert await run(other, "failed") == "go"
    assert (await one.enter(LONG)).verdict == "no"


async def test_successes_are_told_when_they_matter(world: World) -> None:
    """With the next look after somebody has failed, or with one's own next failure."""
    one, other = circuit_of(world.worker(), BY_RATE), circuit_of(world.worker(), BY_RATE, look=HOUR_LONG)
    for circuit in (one, other):
        for _ in range(20):
            await run(circuit, "ok")
    await run(other, "failed")
    assert calls_of(other) == (21, 1)
    await one.enter(LONG)
    await run(other, "failed")
    assert calls_of(other) == (42, 2)


async def test_a_circuit_that_stays_open_for_very_long(world: World) -> None:
    """A store keeps nothing for more than a hundred years, and need not."""
    years = msgspec.structs.replace(TERMS, open_for=20 * 365 * 24 * HOUR_LONG)
    circuit = circuit_of(world.worker(), years)
    assert [await run(circuit, "failed") for _ in range(4)] == ["go"] * 3 + ["no"]


async def test_successes_are_told_once(world: World) -> None:
    """Also where two failures of one worker tell of them at the same moment."""
    circuit = circuit_of(world.worker(), BY_RATE, look=HOUR_LONG)
    for _ in range(20):
        await run(circuit, "ok")
    await asyncio.gather(run(circuit, "failed"), run(circuit, "failed"))
    assert calls_of(circuit) == (22, 2)


def calls_of(circuit: Together) -> tuple[int, int]:
    """Return how many calls are known of in the window, and how many of them failed."""
    return sum(part[1] for part in circuit.state.calls), sum(part[2] for part in circuit.state.calls)


# -- what it costs -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [TERMS, BY_RATE], ids=["in a row", "by rate"])
async def test_a_healthy_circuit_costs_one_call_per_look(world: World, terms: Terms) -> None:
    """However many runs there are."""
    store = world.worker()
    circuit = circuit_of(store, terms, look=S // 2)
    for _ in range(10):
        for _ in range(100):
            await run(circuit, "ok")
        world.advance(SECOND)
    assert store.calls == 10


async def test_what_others_have_found_out_is_known_within_a_look(world: World) -> None:
    """Not at once: for half a second here, calls still go through."""
    one, other = circuit_of(world.worker(), look=S // 2), circuit_of(world.worker(), look=S // 2)
    await run(other, "ok")
    for _ in range(3):
        await run(one, "failed")
    assert await run(other, "ok") == "go"
    world.advance(SECOND / 2)
    assert await run(other, "ok") == "no"


async def test_who_has_just_started_looks_first(world: World) -> None:
    """However many runs it begins at once: none of them goes through a circuit that is open."""
    one, new = circuit_of(world.worker()), circuit_of(world.worker(), look=S)
    for _ in range(3):
        await run(one, "failed")
    assert set(await asyncio.gather(*(run(new, "failed") for _ in range(20)))) == {"no"}


async def test_an_open_circuit_costs_no_call_per_run_either(world: World) -> None:
    """When it may be tried is known."""
    store = world.worker()
    circuit = circuit_of(store, look=S)
    for _ in range(3):
        await run(circuit, "failed")
    calls = store.calls
    for _ in range(100):
        assert await run(circuit, "ok") == "no"
    assert store.calls == calls


async def test_while_the_store_does_not_answer_each_goes_by_what_it_knows(world: World) -> None:
    """Failures count for the one that has them, who also has a probe of his own; later they are one again."""
    stores = [world.worker(), world.worker()]
    one, other = (circuit_of(store) for store in stores)
    await run(one, "failed")
    for store in stores:
        store.is_down = True
    assert [await run(one, "failed") for _ in range(3)] == ["go", "go", "no"]
    assert await run(other, "failed") == "go"
    world.advance(30 * SECOND)
    assert await run(one, "failed") == "probe"
    for store in stores:
        store.is_down = False
    assert await run(one, "failed") == "no"
    assert await run(other, "ok") == "go"  # and that is news for all
    assert [await run(one, "ok"), await run(other, "ok")] == ["go", "go"]


async def test_an_answer_that_was_long_on_its_way_is_no_news(world: World) -> None:
    """What was seen later counts."""
    store, gate = world.worker(), asyncio.Event()

    class Slow(Far):
        async def exchange(self, *args: Any) -> Cell:
            cell = await super().exchange(*args)
            if self.calls == 1:
                await gate.wait()
            return cell

    slow = Slow(world, store.clock)
    shared = Shared(slow, slow.clock, "circuit", State)
    first = asyncio.create_task(shared.look())
    for _ in range(20):
        await asyncio.sleep(0)
    world.advance(SECOND)
    await run(circuit_of(world.worker()), "failed")
    await shared.look()
    gate.set()
    await first
    assert shared.known is not None
    assert shared.known.failures == 1


async def test_a_cell_that_another_version_has_written_is_replaced(world: World) -> None:
    """It counts as none; it does no harm."""
    await world.store.exchange("circuit", None, b'["x",{"status":"molten"}]', 3600)
    circuit = circuit_of(world.worker())
    assert [await run(circuit, "failed") for _ in range(4)] == ["go"] * 3 + ["no"]


# -- the state machine, against one that is as simple as can be ----------------------------------------------------


@dataclass
class Plain:
    """A circuit that keeps all that ever happened, and counts it anew each time."""

    terms: Terms
    status: str = "closed"
    opened: int = 0
    probe: int | None = None
    begun: dict[int, int] = field(default_factory=dict)  # call -> when, of probes
    calls: list[tuple[int, bool]] = field(default_factory=list)  # when, and whether it failed

    def enter(self, call: int, now: int, probe_for: int) -> str:
        if self.status == "closed":
            return "go"
        if self.status == "open":
            if now < self.opened + self.terms.open_for:
                return "no"
            self.status = "half_open"
        if self.probe is not None and now < self.begun[self.probe] + probe_for:
            return "no"
        self.probe, self.begun[call] = call, now
        return "probe"

    def leave(self, call: int, now: int, verdict: str, result: str) -> None:
        if verdict == "probe":
            if self.probe == call:
                self.probe = None
                if result == "ok":
                    self.status, self.calls = "closed", []
                if result == "failed":
                    self.status, self.opened = "open", now
        elif self.status == "closed" and result != "neither":
            self.calls.append((now, result == "failed"))
            if result == "failed" and self.is_too_much(now):
                self.status, self.opened = "open", now

    def is_too_much(self, now: int) -> bool:
        row, last = 0, now
        for when, failed in reversed(self.calls):
            if not failed or last - when > self.terms.window:
                break
            row, last = row + 1, when
        if self.terms.failures is not None and row >= self.terms.failures:
            return True
        part = self.terms.window // 10
        seen = [failed for when, failed in self.calls if when // part > now // part - 10]
        return (
            self.terms.rate is not None and len(seen) >= self.terms.minimum and sum(seen) >= self.terms.rate * len(seen)
        )


terms = st.builds(
    Terms,
    failures=st.none() | st.integers(1, 4),
    rate=st.none() | st.sampled_from([0.1, 0.5, 0.75, 1.0]),
    window=st.sampled_from([10, 20, 50]),
    minimum=st.integers(1, 5),
    open_for=st.integers(1, 40),
)


@pytest.mark.parametrize("lost", [False, True], ids=["open", "its probe lost"])
def test_a_clock_that_was_set_back_keeps_no_circuit_open(lost: bool) -> None:
    """It is tried at once, rather than when the clock is there again."""
    state, now = settle(closed, TERMS, HOUR_LONG, "", "failed"), HOUR_LONG
    for _ in range(2):
        state = settle(state, TERMS, now, "", "failed")
    if lost:
        now += 30 * S
        state = admit(state, TERMS, now, "lost", LONG).state
    assert admit(state, TERMS, now - S, "mine", LONG).verdict == "no", "clocks of workers differ a little"
    tried = admit(state, TERMS, now - 3000 * S, "mine", LONG)
    assert (tried.verdict, tried.state.since) == ("probe", now - 3000 * S)
    assert admit(tried.state, TERMS, now - 2999 * S, "other", LONG).verdict == "no"


results = st.sampled_from(["ok", "failed", "failed", "failed", "neither"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.just(-1), results),
        st.tuples(st.just("enter"), st.just(0), st.just("")),
        st.tuples(st.just("leave"), st.integers(0, 3), results),
        st.tuples(st.just("wait"), st.integers(1, 30), st.just("")),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=300, deadline=None)
@given(terms, st.integers(1, 60), steps)
def test_a_circuit_does_what_the_plainest_one_does(terms: Terms, probe_for: int, steps: Any) -> None:
    """Calls that overlap, succeed, fail, or find out nothing, in any order."""
    state, plain, now = closed, Plain(terms), 1_000
    under_way = list[tuple[int, str]]()
    for number, (step, value, result) in enumerate(steps):
        if step == "wait":
            now += value
        if step in ("enter", "call"):
            admission = admit(state, terms, now, str(number), probe_for)
            assert admission.verdict == plain.enter(number, now, probe_for)
            assert (admission.wait > 0) == (admission.verdict == "no")
            state = admission.state
            if admission.verdict != "no":
                under_way.append((number, admission.verdict))
            elif step == "call":
                continue
        if step in ("leave", "call") and under_way:
            call, verdict = under_way.pop(value % len(under_way))
            plain.leave(call, now, verdict, result)
            state = settle(state, terms, now, str(call) if verdict == "probe" else "", result)
        assert state.status == plain.status
