"""Messages between partitions: each arrives once and in order, whoever fails, and is kept until that is sure."""

import asyncio
from typing import Any

import pytest

from tests.engine.fleets import Fleet, Member, Notes, name, names, until, virtual

MINUTE = 60.0


async def two(partitions: int = 2, ahead: float = 0.0) -> tuple[Fleet, Notes, Member, Member]:
    """Return a fleet in which the first worker owns partition 0, which sends, and the second one all others."""
    fleet, notes = Fleet(partitions, ahead=ahead, keep=5000), Notes()
    source = await fleet.member(notes.rules, own=[0]).start()
    others = await fleet.member(notes.rules, own=range(1, partitions)).start()
    return fleet, notes, source, others


def send(fleet: Fleet, *pairs: tuple[str, Any]) -> None:
    """Have a subject of partition 0 send messages in one turn."""
    fleet.post("passed", name(0, fleet.partitions), [list(pair) for pair in pairs])


def outbox(fleet: Fleet, partition: int = 0) -> int:
    """Return how many messages are kept (a count)."""
    return len(fleet.server.partitions[partition].state.outbox)


@virtual
async def test_messages_to_other_partitions_come_once_and_in_order() -> None:
    """Each partition sends to each other one, in many turns; all of one sender's arrive in the order sent."""
    fleet, notes = Fleet(4), Notes()
    for _ in range(2):
        await fleet.member(notes.rules).start()
    for number in range(25):
        for source in range(4):
            fleet.post("passed", name(source, 4), [[name(to, 4), [source, number]] for to in range(4)])
    await fleet.rest()
    for to in range(4):
        order = fleet.value(name(to, 4), "order")
        assert len(order) == 100
        for source in range(4):
            assert [number for one, number in order if one == source] == list(range(25))


@virtual
async def test_a_message_is_under_way_for_a_moment_only() -> None:
    """The commit that sends it wakes the relay; nobody waits for a round of anything."""
    fleet, _, _, _ = await two()
    await asyncio.sleep(10.5)
    to = name(1, 2)
    send(fleet, (to, 1))
    await until(lambda: fleet.value(to, "order") == [1], 0.1)


@pytest.mark.parametrize("outcome", ["before", "after"])
def test_a_delivery_that_fails_is_repeated_from_where_the_target_has_it(outcome: str) -> None:
    """Also if only its answer was lost: then the watermark is not the expected one, and says how to go on."""

    @virtual
    async def check() -> None:
        fleet, _, source, _ = await two()
        to = name(1, 2)
        for number in range(40):
            if number % 3 == 0:
                source.wire.fail("deliver", outcome)
            send(fleet, (to, 2 * number), (to, 2 * number + 1))
            await asyncio.sleep(0.3)
        await fleet.rest()
        assert fleet.value(to, "order") == list(range(80))

    check()


@virtual
async def test_more_messages_than_are_read_at_once() -> None:
    """A long outbox is delivered in pieces, and nothing between them is lost or comes twice."""
    fleet, notes, source, _ = await two(3)
    source.wire.fail_always("deliver")
    for number in range(600):
        send(fleet, (name(1 + number % 2, 3), number))
    await until(lambda: outbox(fleet) == 600)
    source.wire.heal()
    await fleet.rest()
    assert notes.of(name(1, 3)) == list(range(0, 600, 2))
    assert notes.of(name(2, 3)) == list(range(1, 600, 2))


@pytest.mark.parametrize("outcome", ["before", "hung"])
def test_a_target_that_does_not_answer_holds_up_no_other(outcome: str) -> None:
    """Whether its server refuses or is silent, the others have their messages at once, the first and all later ones."""

    @virtual
    async def check() -> None:
        fleet, _, source, _ = await two(3)
        away, there = name(1, 3), name(2, 3)
        source.wire.fail_always("deliver", outcome, when=lambda _, target, *__: target == 1)
        for number in range(60):
            send(fleet, (away, number), (there, number))
            await until(lambda number=number: fleet.value(there, "order") == list(range(number + 1)), 0.5)
            await asyncio.sleep(0.05)
        assert fleet.value(away, "order") is None
        source.wire.heal()
        await until(lambda: fleet.value(away, "order") == list(range(60)), 10)
        assert fleet.value(there, "order") == list(range(60))

    check()


@virtual
async def test_a_target_that_is_away_does_not_have_the_outbox_read_again_and_again() -> None:
    """It is asked each second; what it lacks is read once it has answered, however much there is of others."""
    fleet, _, source, _ = await two(3)
    away, there = name(1, 3), names(2, 3, 100)
    source.wire.fail_always("deliver", when=lambda _, target, *__: target == 1)
    send(fleet, (away, 0))
    for number in range(50):
        send(fleet, *((one, number) for one in there))
    await until(lambda: all(fleet.value(one, "order") == list(range(50)) for one in there))
    before = source.wire.counts["outgoing"]
    await asyncio.sleep(20)
    assert source.wire.counts["outgoing"] - before < 60
    assert not fleet.value(away, "order")
    source.wire.heal()
    await until(lambda: fleet.value(away, "order") == [0], 3)


@virtual
async def test_a_target_that_has_lost_its_latest_changes_is_sent_them_again() -> None:
    """With the next message it says what it lacks, and what it has lost comes before that."""
    fleet, _, _, target = await two()
    to, part = name(1, 2), fleet.server.partitions[1]
    send(fleet, (to, 1))
    await until(lambda: fleet.value(to, "order") == [1])
    changes = part.state.changes
    for number in (2, 3):
        send(fleet, (to, number))
    await until(lambda: fleet.value(to, "order") == [1, 2, 3])
    part.set_back(part.state.changes - changes)
    assert fleet.value(to, "order") == [1]
    target.wire.fail("tail", "before")
    send(fleet, (to, 4))
    await until(lambda: fleet.value(to, "order") == [1, 2, 3, 4], 10)


@virtual
async def test_a_target_that_has_lost_its_latest_changes_is_found_without_a_new_message() -> None:
    """It is asked now and then what it has."""
    fleet, _, _, target = await two()
    to, part = name(1, 2), fleet.server.partitions[1]
    send(fleet, (to, 1))
    await until(lambda: fleet.value(to, "order") == [1])
    changes = part.state.changes
    send(fleet, (to, 2))
    await until(lambda: fleet.value(to, "order") == [1, 2])
    part.set_back(part.state.changes - changes)
    target.wire.fail("tail", "before")
    await until(lambda: fleet.value(to, "order") == [1, 2], 70)


@virtual
async def test_a_source_that_has_lost_its_latest_changes_sends_nothing_twice() -> None:
    """Its turn is run again and sends the same ids: the target knows them, and takes what is new."""
    fleet, notes, source, _ = await two()
    to, part = name(1, 2), fleet.server.partitions[0]
    send(fleet, (to, 1))
    await until(lambda: fleet.value(to, "order") == [1])
    send(fleet, (to, 2))
    changes = part.state.changes
    await until(lambda: fleet.value(to, "order") == [1, 2])
    part.set_back(part.state.changes - changes)
    assert len(part.state.log) == 1
    source.wire.fail("tail", "before")
    send(fleet, (to, 3))
    await until(lambda: fleet.value(to, "order") == [1, 2, 3], 70)
    await asyncio.sleep(100)
    assert fleet.value(to, "order") == [1, 2, 3]
    assert notes.of(to) == [1, 2, 3]


@virtual
async def test_a_source_whose_outbox_goes_on_before_what_the_target_has_loses_nothing() -> None:
    """After a fail-over to a server whose clock is behind, new messages may stand before those that were lost."""
    fleet, _, source, _ = await two(ahead=100.0)
    to, part = name(1, 2), fleet.server.partitions[0]
    send(fleet, (to, 1))
    await until(lambda: fleet.value(to, "order") == [1])
    changes = part.state.changes
    send(fleet, (to, "lost"))
    await until(lambda: fleet.value(to, "order") == [1, "lost"])
    part.set_back(part.state.changes - changes)
    fleet.clocks[0]._ahead = 0.0
    source.wire.fail("tail", "before")
    await asyncio.sleep(1)
    for number in (2, 3):
        send(fleet, (to, number))
    await until(lambda: fleet.value(to, "order") == [1, "lost", 2, 3], 20)


@virtual
async def test_messages_are_kept_for_ten_minutes_after_they_were_delivered_and_then_let_go_of() -> None:
    """So long a target can lose what it had; longer, the outbox would only grow."""
    fleet, _, _, _ = await two()
    to = name(1, 2)
    await asyncio.sleep(7)
    for number in range(10):
        send(fleet, (to, number))
    await fleet.rest()
    await asyncio.sleep(9.9 * MINUTE)
    assert outbox(fleet) == 10
    await asyncio.sleep(1.7 * MINUTE)
    assert outbox(fleet) == 0


@virtual
async def test_what_was_not_delivered_is_never_let_go_of() -> None:
    """A target is away for longer than that while others go on; it has everything afterwards, in order."""
    fleet, _, source, _ = await two(3)
    away, there = name(1, 3), name(2, 3)
    send(fleet, (away, 0), (there, 0))
    await fleet.rest()
    source.wire.fail_always("deliver", when=lambda _, target, *__: target == 1)
    for number in range(1, 15):
        send(fleet, (away, number), (there, number))
        await asyncio.sleep(MINUTE)
    assert fleet.value(there, "order") == list(range(15))
    source.wire.heal()
    await until(lambda: fleet.value(away, "order") == list(range(15)), 10)
    await asyncio.sleep(13 * MINUTE)
    assert outbox(fleet) == 0


@virtual
async def test_an_owner_that_comes_later_delivers_what_is_left_and_lets_go_of_what_is_old() -> None:
    """It knows nothing of what the one before has delivered; the targets do."""
    fleet, notes, source, _ = await two()
    to = name(1, 2)
    send(fleet, (to, 1), (to, 2))
    await fleet.rest()
    source.wire.fail_always("deliver")
    send(fleet, (to, 3), (to, 4))
    await until(lambda: outbox(fleet) == 4)
    await source.stop()
    await fleet.member(notes.rules, own=[0]).start()
    await fleet.rest()
    assert fleet.value(to, "order") == [1, 2, 3, 4]
    await asyncio.sleep(12 * MINUTE)
    assert outbox(fleet) == 0


@virtual
async def test_two_that_deliver_for_one_partition_harm_nothing() -> None:
    """An owner that stood still does not know at once that it is none any more."""
    fleet, notes, source, _ = await two()
    to = name(1, 2)
    source.wire.fail_always("deliver", "hung")
    for number in range(5):
        send(fleet, (to, number))
    await until(lambda: outbox(fleet) == 5)
    source.stand_still()
    await fleet.member(notes.rules, own=[0]).start()
    await until(lambda: fleet.value(to, "order") == list(range(5)), 20)
    source.wire.heal()
    for number in range(5, 50):
        send(fleet, (to, number))
        if number == 20:
            source.go_on()
        await asyncio.sleep(0.01)
    await fleet.rest()
    assert fleet.value(to, "order") == list(range(50))


@virtual
async def test_timers_for_subjects_of_other_partitions_are_delivered_as_messages_are() -> None:
    """They become due by the clock of the subject that set them, not early, once each, and in order."""
    fleet, _, source, _ = await two()
    to = name(1, 2)
    subjects = names(0, 2, 20)
    source.wire.fail("fire", "after", "before")
    began = fleet.loop.time()
    for number, subject in enumerate(subjects):
        fleet.post("timed", subject, [to, 30 + number, number])
    await asyncio.sleep(29.9)
    assert fleet.value(to, "order") is None
    await until(lambda: fleet.value(to, "order") == list(range(20)), 25)
    assert fleet.loop.time() - began < 51
