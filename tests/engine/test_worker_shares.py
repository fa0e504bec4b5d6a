"""Workers divide the partitions among themselves: they come, go, stop and die, and each event is handled once."""

import asyncio

import pytest

from onwhen import create_memory_storage
from onwhen.engine.worker import Worker
from onwhen.errors import SettingError
from tests.engine.buses import new_bus
from tests.engine.fleets import LEASE, Fleet, Notes, name, names, until, virtual


@virtual
async def test_one_worker_owns_everything_and_handles_what_is_emitted() -> None:
    """A single worker takes all partitions, and a producer's events are handled by it."""
    fleet, notes = Fleet(), Notes()
    member = await fleet.member(notes.rules).start()
    assert member.owned == frozenset(range(4))
    async with fleet.bus() as producer:
        receipts = [await producer.emit("noted", subject, number) for number, subject in enumerate("abcdef")]
        assert {receipt.status for receipt in receipts} == {"accepted"}
        for receipt in receipts:
            await receipt.handled(timeout=5)
    assert [fleet.value(subject, "order") for subject in "abcdef"] == [[number] for number in range(6)]
    await member.stop()
    assert fleet.owners() == {None: 4}


@virtual
async def test_three_workers_share_fairly_as_they_come() -> None:
    """Within two cycles of a newcomer each owns its share, and all is owned."""
    fleet, notes = Fleet(8), Notes()
    for count, shares in ((1, [8]), (2, [4, 4]), (3, [3, 3, 2])):
        await fleet.member(notes.rules).start()
        await until(lambda shares=shares: [len(one.owned) for one in fleet.members] == shares, 5)
        assert sorted(fleet.owners().values(), reverse=True) == shares, count
        await until(lambda: all(one.worker.status().is_ready for one in fleet.members), 5)


@virtual
async def test_only_partitions_that_move_pause_when_a_worker_joins() -> None:
    """What the first worker keeps goes on without a gap: its owner's token stays, and so do its turns under way."""
    fleet, notes = Fleet(), Notes()
    first = await fleet.member(notes.rules).start()
    tokens = [part.state.token for part in fleet.server.partitions]
    notes.gates = {"s": asyncio.Event()}
    second = await fleet.member(notes.rules).start()
    await until(lambda: len(second.owned) == 2, 5)
    kept = [number for number, part in enumerate(fleet.server.partitions) if part.state.token == tokens[number]]
    assert kept == sorted(first.owned)
    assert len(kept) == 2


@virtual
async def test_a_worker_that_stops_hands_over_at_once() -> None:
    """Nobody waits for the lease to run out: the others own everything within their next cycle."""
    fleet, notes = Fleet(), Notes()
    first = await fleet.member(notes.rules).start()
    second = await fleet.member(notes.rules).start()
    await until(lambda: len(second.owned) == 2, 5)
    began = fleet.loop.time()
    await first.stop()
    assert fleet.loop.time() - began < 0.1
    await until(lambda: len(second.owned) == 4, 2.5)


@virtual
async def test_a_worker_that_stops_waits_for_its_turns() -> None:
    """A turn that is under way is committed before its partition is handed over; the others are handed over before."""
    fleet, notes = Fleet(), Notes()
    slow = name(1, 4)
    notes.seconds[slow] = 20.0
    first = await fleet.member(notes.rules).start()
    async with fleet.bus() as producer:
        await producer.emit("noted", slow, 1)
        await producer.emit("noted", slow, 2)
        await until(lambda: notes.runs)
        first.worker.stop()
        await until(lambda: fleet.owners() == {"w1": 1, None: 3}, 1)
        assert fleet.owner(1) == "w1"
        await first.ended()
        assert fleet.value(slow, "order") == [1]
        assert fleet.loop.time() < 21
        assert fleet.owners() == {None: 4}
        assert fleet.server.partitions[1].acquire("t", "x", 1).was_released  # type: ignore[union-attr]


@virtual
async def test_a_turn_that_outlasts_the_grace_is_given_up_and_its_partition_handed_over() -> None:
    """The turn is cancelled and not committed, the partition is free at once, and nothing of the worker is left."""
    fleet, notes = Fleet(), Notes()
    slow = name(1, 4)
    notes.gates[slow] = asyncio.Event()
    first = await fleet.member(notes.rules, grace=5.0).start()
    async with fleet.bus() as producer:
        await producer.emit("noted", slow, 1)
        await until(lambda: notes.runs)
        began = fleet.loop.time()
        await first.stop()
        assert 5 <= fleet.loop.time() - began < 7
        assert fleet.owners() == {None: 4}
        commits = first.wire.counts["commit"]
        notes.gates[slow].set()
        second = await fleet.member(notes.rules).start()
        await until(lambda: fleet.value(slow, "order") == [1])
        assert first.wire.counts["commit"] == commits
        await second.stop()


@virtual
async def test_what_a_dead_worker_owned_is_taken_over_once_its_lease_has_run_out() -> None:
    """Not before, and not much later; pending events are handled by the new owner."""
    fleet, notes = Fleet(), Notes()
    first = await fleet.member(notes.rules).start()
    second = await fleet.member(notes.rules).start()
    await until(lambda: len(second.owned) == 2, 5)
    lost = sorted(first.owned)
    await asyncio.sleep(30)
    first.kill()
    died = fleet.loop.time()
    async with fleet.bus() as producer:
        receipt = await producer.emit("noted", name(lost[0], 4), 1)
        await receipt.handled(timeout=LEASE + 3)
    assert fleet.loop.time() - died > LEASE - 2.5
    assert second.owned == frozenset(range(4))


@virtual
async def test_a_static_assignment_is_taken_and_no_more() -> None:
    """With `own`, a worker takes these partitions, waits for those that others have, and leaves the rest alone."""
    fleet, notes = Fleet(8), Notes()
    first = await fleet.member(notes.rules, own=[0, 1, 2]).start()
    second = await fleet.member(notes.rules, own=range(2, 8)).start()
    await asyncio.sleep(10)
    assert first.owned == {0, 1, 2}
    assert second.owned == {3, 4, 5, 6, 7}
    status = second.worker.status()
    assert (status.share, status.is_ready) == (6, False)
    assert "5 of its share of 6" in status.reason
    await first.stop()
    await until(lambda: second.worker.status().is_ready, 5)
    assert second.owned == {2, 3, 4, 5, 6, 7}
    assert fleet.owners() == {"w2": 6, None: 2}


@virtual
async def test_an_assignment_of_partitions_that_do_not_exist_is_refused() -> None:
    """The message says which partitions there are."""
    member = Fleet().member(own=[3, 4])
    member.begin()
    with pytest.raises(SettingError, match="partitions 0 to 3"):
        await member.ended()


@pytest.mark.parametrize(
    "wrong",
    [{"lease": 0}, {"lease": float("nan")}, {"grace": -1}, {"max_age": "1"}, {"stall": float("inf")}, {"prefetch": 0}],
    ids=str,
)
def test_values_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    """Each names the argument at fault."""

    @virtual
    async def check() -> None:
        with pytest.raises(SettingError, match=next(iter(wrong))):
            Fleet().member(**wrong)

    check()


def test_a_store_of_one_process_has_no_workers() -> None:
    """Over memory or SQLite the bus runs the turns itself, and the error says so."""
    with pytest.raises(SettingError, match="MemoryStore belongs to one process"):
        Worker(new_bus(store=create_memory_storage()))


@virtual
async def test_order_per_subject_holds_while_workers_come_stop_and_die() -> None:
    """Each event is applied once and in the order of acceptance, whoever runs its turn."""
    fleet, notes = Fleet(8), Notes()
    subjects = [subject for number in range(8) for subject in names(number, 8, 3)]
    notes.seconds = dict.fromkeys(subjects, 0.05)
    for _ in range(3):
        await fleet.member(notes.rules).start()

    async def emit() -> None:
        async with fleet.bus() as producer:
            for number in range(60):
                await asyncio.gather(*(producer.emit("noted", subject, number) for subject in subjects))
                await asyncio.sleep(0.5)

    emitting = asyncio.create_task(emit())
    await asyncio.sleep(5)
    fleet.members[0].kill()
    await asyncio.sleep(5)
    await fleet.member(notes.rules).start()
    await fleet.members[1].stop()
    fleet.members[2].stand_still()
    await asyncio.sleep(15)
    fleet.members[2].go_on()
    await emitting
    await fleet.rest()
    for subject in subjects:
        assert fleet.value(subject, "order") == list(range(60)), subject
    for member in fleet.members[2:]:
        await member.stop()
