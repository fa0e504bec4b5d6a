"""What the engine counts of what it does: each thing once, also where the store fails or answers are lost."""

import asyncio
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, EventBus, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.store import Answer
from onwhen.engine.tally import Tally
from tests.engine.buses import counter, new_bus
from tests.engine.fleets import LEASE, Fleet, Notes, name, names, until, virtual
from tests.engine.stores import Flaky


def counted(tally: Tally) -> dict[str, Any]:
    """What is not zero."""
    return {name: count for name, count in asdict(tally).items() if count}


def passing() -> RuleSet:
    """A rule that passes an event on to another subject, and sets a timer."""
    rules = RuleSet("passing")

    @rules.on("first")
    async def first(ctx: Context) -> None:
        await ctx.emit("second", None, "other")
        await ctx.emit("third", delay=timedelta(minutes=1), key="later")

    @rules.on("second")
    def second(ctx: Context) -> None:
        ctx.subject.set("n", 1)

    return rules


# -- in one process -------------------------------------------------------------------------------------------------


def test_it_begins_at_nothing() -> None:
    """Each bus has one of its own."""
    bus = new_bus()
    assert counted(bus.tally) == {}
    assert bus.tally is not bus.twin(store=create_memory_storage()).tally


@pytest.mark.parametrize("fails", [{}, {"append": ["before"]}, {"commit": ["before"]}, {"commit": ["after"]}])
async def test_a_cascade_is_counted_once_whatever_fails(fails: dict[str, list[str]]) -> None:
    """What is done again after an error, or was done though nobody heard of it, is no second time."""
    bus = EventBus(passing(), store=Flaky(create_memory_storage(), **fails), clock=VirtualClock())
    async with bus:
        await bus.emit("first", "one")
        await bus.advance(timedelta(minutes=2))
    assert counted(bus.tally) == {
        "accepted": 1,
        "committed": 3,
        "loads": 3 if "commit" in fails else 2,  # then the version is not known, and the subject is loaded anew
        "messages": 1,
        "timers_set": 1,
        "timers_fired": 1,
        **({"store_errors": 1} if fails else {}),
    }


async def test_an_append_whose_answer_was_lost_was_ours() -> None:
    """The store says that it has the event already, but it has it from this very call."""
    bus = EventBus(counter(), store=Flaky(create_memory_storage(), append=["after"]))
    async with bus:
        await bus.emit("counted", "one")
        await bus.emit("counted", "one", id="7")
        await bus.emit("counted", "one", id="7")
    assert (bus.tally.accepted, bus.tally.duplicates, bus.tally.committed) == (2, 1, 2)


async def test_a_turn_that_is_run_again_on_newer_state_is_a_conflict() -> None:
    """It is loaded again, and committed once."""
    rules, gate = RuleSet("slow"), asyncio.Event()

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await gate.wait()
        ctx.subject.set("n", ctx.subject.get("n", 0) + 1)

    bus = new_bus(rules)
    async with bus:
        await bus.append("go", "one")
        async with bus.subject("one") as one:
            one.set("n", 10, muted=True)
        gate.set()
        await bus.idle()
        assert (await bus.read("one")).get("n") == 11
    assert counted(bus.tally) == {"accepted": 1, "committed": 1, "conflicts": 1, "loads": 2}


async def test_what_is_about_to_be_accepted_is_pending_too() -> None:
    """From the call on, and until its turn is committed."""
    bus = EventBus(counter(), store=Flaky(create_memory_storage()))
    async with bus:
        emitting = [asyncio.ensure_future(bus.emit("counted", f"s{number}")) for number in range(3)]
        await asyncio.sleep(0)
        assert bus.pending == 3
        await asyncio.gather(*emitting)
        assert bus.pending == 0


# -- on workers -----------------------------------------------------------------------------------------------------


@virtual
async def test_messages_between_partitions_are_counted_by_who_brings_them() -> None:
    """Those to the own partition take no such way."""
    fleet, notes = Fleet(2), Notes()
    source = await fleet.member(notes.rules, own=[0]).start()
    target = await fleet.member(notes.rules, own=[1]).start()
    own, other = names(0, 2, 2)[1], name(1, 2)
    fleet.post("passed", name(0, 2), [(own, 1), (other, 1), (other, 2)])
    await fleet.rest()
    await until(lambda: target.bus.tally.committed == 2)
    assert (source.bus.tally.messages, source.bus.tally.relayed, source.bus.tally.committed) == (3, 2, 2)
    assert counted(target.bus.tally) == {"committed": 2, "loads": 1}


@virtual
async def test_timers_and_retries_are_counted_by_who_runs_them() -> None:
    """In the process of a worker, as in any other."""
    fleet, notes = Fleet(1), Notes()
    notes.unsteady, notes.broken = {"shaky"}, {"gone", "stuck"}
    member = await fleet.member(notes.rules).start()
    fleet.post("timed", "one", ["one", 30, "later"])
    fleet.post("retried", "shaky", "once more")
    fleet.post("retried.alone", "gone", "four times")
    fleet.post("fragile", "stuck", "parked")
    await asyncio.sleep(200)
    tally = counted(member.bus.tally)
    del tally["loads"]
    assert tally == {
        "committed": 9,
        "timers_set": 1,
        "timers_fired": 1,
        "retried": 4,
        "retries": {"notes.retried": 1, "notes.alone": 3},
        "dead": {"notes.alone": 1},
        "parked": {"notes.fragile": 1},
    }


@pytest.mark.parametrize("outcome", ["before", "after"])
@pytest.mark.parametrize("handled_before", [0, 1], ids=["loaded", "in memory"])
def test_a_commit_of_which_nobody_heard_counts_once(outcome: str, handled_before: int) -> None:
    """Whether it was stored or not, it is sent again with the same token, and then it is known."""

    @virtual
    async def check() -> None:
        fleet, notes = Fleet(1), Notes()
        member = await fleet.member(notes.rules).start()
        fleet.post("noted", "one", *range(handled_before))
        await fleet.rest()
        member.wire.fail("commit", outcome)
        fleet.post("noted", "one", 7)
        await until(lambda: member.bus.tally.committed > handled_before)
        await asyncio.sleep(60)
        assert fleet.value("one", "order") == [*range(handled_before), 7]
        assert (member.bus.tally.committed, member.bus.tally.store_errors) == (handled_before + 1, 1)

    check()


@pytest.mark.parametrize("call", ["load", "tail", "fire", "deliver", "beat", "renew"])
def test_each_call_that_fails_is_counted_once(call: str) -> None:
    """Whoever has asked: the turn, who reads the log or the timers, who delivers messages or keeps the partition."""

    @virtual
    async def check() -> None:
        fleet, notes = Fleet(2), Notes()
        member = await fleet.member(notes.rules).start()
        await asyncio.sleep(1)
        member.wire.fail(call, "before")
        fleet.post("passed", name(0, 2), [(name(1, 2), 1)])
        fleet.post("timed", name(0, 2), [name(0, 2), 5, "later"])
        await asyncio.sleep(60)
        assert fleet.value(name(1, 2), "order") == [1]
        assert member.bus.tally.store_errors == 1

    check()


@virtual
async def test_a_call_that_is_never_answered_has_failed() -> None:
    """Once nobody waits for its answer any more."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.fail("beat", "hung")
    await asyncio.sleep(60)
    assert member.bus.tally.store_errors == 1


@virtual
async def test_a_turn_in_memory_that_is_run_again_is_a_conflict() -> None:
    """Somebody else has written the subject since; it is loaded once more."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    fleet.post("noted", "one", 1)
    await fleet.rest()
    async with fleet.bus() as producer, producer.subject("one") as subject:
        subject.set("order", ["else"], muted=True)
    fleet.post("noted", "one", 2)
    await until(lambda: fleet.value("one", "order") == ["else", 2])
    await fleet.rest()
    assert counted(member.bus.tally) == {"committed": 2, "conflicts": 1, "loads": 2}


@virtual
async def test_a_turn_of_a_partition_that_is_somebody_elses_is_fenced() -> None:
    """A worker that stood still learns of it from the answer to its commit."""
    fleet, notes = Fleet(1), Notes()
    gate = notes.gates["one"] = asyncio.Event()
    first = await fleet.member(notes.rules).start()
    fleet.post("noted", "one", 1)
    await until(lambda: notes.of("one"))
    second = await fleet.member(notes.rules).start()
    first.stand_still()
    await until(lambda: len(notes.of("one")) == 2, 3 * LEASE)
    gate.set()
    await fleet.rest()
    first.go_on()
    await until(lambda: first.bus.tally.fenced)
    assert (first.bus.tally.committed, second.bus.tally.committed) == (0, 1)


def test_what_is_refused_is_counted_by_the_answer() -> None:
    """An event that was handled before is not the same as a partition that was lost."""
    tally = Tally()
    for answer in (Answer.DONE, Answer.DONE, Answer.FENCED):
        tally.refused(answer)
    assert counted(tally) == {"done": 2, "fenced": 1}


def test_one_is_added_to_another() -> None:
    """Each of its counts, those by rule included; the other one stays as it is."""
    tally, other = Tally(done=1, dead={"a": 1}), Tally(done=2, loads=1, dead={"a": 2, "b": 3}, retries={"": 1})
    tally.add(other)
    assert counted(tally) == {"done": 3, "loads": 1, "dead": {"a": 3, "b": 3}, "retries": {"": 1}}
    assert counted(other) == {"done": 2, "loads": 1, "dead": {"a": 2, "b": 3}, "retries": {"": 1}}


@virtual
async def test_who_emits_counts_what_is_accepted() -> None:
    """Until then it is pending there, also before the store is open; after that it is the workers'."""
    fleet = Fleet(2)
    producer = fleet.bus()
    emitting = [asyncio.ensure_future(producer.emit("noted", f"s{number}", number)) for number in range(3)]
    await asyncio.sleep(0)
    assert producer.pending == 3
    await asyncio.gather(*emitting)
    emitting = [asyncio.ensure_future(producer.emit("noted", "s", number)) for number in range(2)]
    await asyncio.sleep(0)
    assert producer.pending == 2
    await asyncio.gather(*emitting)
    assert producer.pending == 0
    await producer.close()
    assert counted(producer.tally) == {"accepted": 5}


# -- how partitions fare --------------------------------------------------------------------------------------------


@virtual
async def test_a_worker_tells_of_each_partition() -> None:
    """Of its own ones, and of those that nobody owns: somebody has to tell of them."""
    fleet, notes = Fleet(3), Notes()
    mine, own, orphan = name(0, 3), name(1, 3), name(2, 3)
    notes.gates[mine] = notes.gates[own] = asyncio.Event()
    first = await fleet.member(notes.rules, own=[0]).start()
    await fleet.member(notes.rules, own=[1]).start()
    fleet.post("noted", mine, 1, 2)
    fleet.post("noted", own, 1)
    fleet.post("noted", orphan, 1, 2, 3)
    await asyncio.sleep(20)
    status = first.worker.status()
    assert (status.owned, status.unowned) == ({0}, {2})
    assert status.backlogs == {0: 2, 2: 3}
    assert {number: round(age, -1) for number, age in status.oldest_ages.items()} == {0: 20, 2: 20}
    assert (status.backlog, status.oldest_age) == (2, status.oldest_ages[0])


@virtual
async def test_a_worker_that_has_ended_tells_of_none() -> None:
    """What it saw last says nothing of what is."""
    fleet, notes = Fleet(2), Notes()
    member = await fleet.member(notes.rules, own=[0]).start()
    await asyncio.sleep(20)
    assert member.worker.status().unowned == {1}
    await member.stop()
    status = member.worker.status()
    assert (status.owned, status.unowned, status.backlogs, status.oldest_ages) == (frozenset(), frozenset(), {}, {})
