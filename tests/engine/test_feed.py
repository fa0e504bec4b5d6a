"""A partition's log is read ahead of the lanes: in order, bounded in memory, and past whoever cannot go on."""

import asyncio

from onwhen import Limits
from tests.engine.fleets import Fleet, Member, Notes, until, virtual

PREFETCH = 80


def in_memory(member: Member) -> int:
    """Return how many events a worker has in its lanes (a count)."""
    tenures = member.worker._tenures.values()
    return sum(1 for tenure in tenures for _ in tenure._dispatcher.all_work())


@virtual
async def test_a_backlog_is_handled_in_order_with_no_more_than_the_prefetch_in_memory() -> None:
    """However long the log is, only so many of its events are held by the worker."""
    fleet, notes = Fleet(1), Notes()
    subjects = [f"s{number}" for number in range(20)]
    for number in range(50):
        for subject in subjects:
            fleet.post("noted", subject, number)
    member = await fleet.member(notes.rules, prefetch=PREFETCH, limits=Limits(max_concurrent_turns=10)).start()
    most = 0

    def is_done() -> bool:
        nonlocal most
        most = max(most, in_memory(member))
        return not fleet.pending()

    notes.seconds = dict.fromkeys(subjects, 0.02)
    await until(is_done)
    assert PREFETCH // 2 < most <= PREFETCH
    assert member.wire.most_read <= PREFETCH
    for subject in subjects:
        assert fleet.value(subject, "order") == list(range(50))


@virtual
async def test_a_parked_subject_with_ten_thousand_events_holds_up_nobody() -> None:
    """Its events stay in the log, hardly one in memory; once it is resumed they are handled in order."""
    fleet, notes = Fleet(1), Notes()
    notes.broken = {"parked"}
    fleet.post("fragile", "parked", "first")
    fleet.post("noted", "parked", *range(10_000))
    fleet.post("noted", "other", *range(200))
    member = await fleet.member(notes.rules, prefetch=PREFETCH).start()
    await until(lambda: fleet.value("other", "order") == list(range(200)), 5)
    await asyncio.sleep(1)
    assert in_memory(member) == 0
    fleet.post("noted", "later", 1)
    await until(lambda: fleet.value("later", "order") == [1], 1)
    notes.broken.clear()
    notes.runs.clear()
    most = 0

    def is_going_on() -> bool:
        nonlocal most
        most = max(most, in_memory(member))
        return len(notes.runs) >= 501

    async with fleet.bus() as producer:
        await producer.resume("parked")
        await until(is_going_on)
    assert most <= PREFETCH
    assert [payload for _, payload in notes.runs[:501]] == ["first", *range(500)]


@virtual
async def test_many_parked_subjects_with_lines_that_were_read_ahead_hold_up_nobody() -> None:
    """What waits behind a subject that cannot go on gives its room to others, though it was in memory already."""
    fleet, notes = Fleet(1), Notes()
    parked = [f"p{number}" for number in range(30)]
    notes.broken, notes.seconds = set(parked), dict.fromkeys(parked, 0.5)
    for subject in parked:
        fleet.post("fragile", subject, "first")
    for subject in parked:
        fleet.post("noted", subject, *range(20))
    fleet.post("noted", "other", *range(100))
    member = await fleet.member(notes.rules, prefetch=PREFETCH).start()
    await until(lambda: fleet.value("other", "order") == list(range(100)), 10)
    assert in_memory(member) == 0
    notes.broken.clear()
    most = 0

    def is_done() -> bool:
        nonlocal most
        most = max(most, in_memory(member))
        return not fleet.pending()

    async with fleet.bus() as producer:
        for subject in parked:
            await producer.resume(subject)
    await until(is_done)
    assert most <= PREFETCH + len(parked)  # and their retries
    for subject in parked:
        assert fleet.value(subject, "order") == ["first", *range(20)]


@virtual
async def test_subjects_that_wait_for_a_retry_give_their_room_to_others() -> None:
    """A retry in twenty seconds keeps the subject's later events in the log, and they follow in order."""
    fleet, notes = Fleet(1), Notes()
    failing = [f"f{number}" for number in range(30)]
    notes.broken, notes.seconds = set(failing), dict.fromkeys(failing, 0.5)
    for subject in failing:
        fleet.post("retried", subject, "first")
    for subject in failing:
        fleet.post("noted", subject, *range(20))
    fleet.post("noted", "other", *range(50))
    await fleet.member(notes.rules, prefetch=PREFETCH).start()
    await until(lambda: fleet.value("other", "order") == list(range(50)), 10)
    notes.broken.clear()
    await fleet.rest()
    for subject in failing:
        assert fleet.value(subject, "order") == ["first", *range(20)]


@virtual
async def test_what_is_put_aside_while_the_log_is_read_for_the_subject_is_not_lost() -> None:
    """The answer tells of later events only; those that were taken out of memory meanwhile stand before them."""
    fleet, notes = Fleet(1), Notes()
    notes.unsteady, notes.broken, notes.seconds = {"s"}, {"parked"}, {"s": 1.0}
    fleet.post("fragile", "parked", "first")
    fleet.post("noted", "s", 0, 1)
    fleet.post("retried", "s", 2)
    fleet.post("noted", "s", *range(3, 9))
    member = fleet.member(notes.rules, prefetch=32)
    member.wire.fail("read", "held")
    await member.start()
    await until(lambda: member.wire.held("read"))
    for waiting in (2, 1):  # it waits for its retry, and has had it
        await until(lambda waiting=waiting: len(fleet.server.partitions[0].retries()) == waiting)
    member.wire.heal()
    await until(lambda: fleet.value("s", "order") == list(range(9)), 40)


@virtual
async def test_a_hot_slow_subject_does_not_starve_the_others() -> None:
    """Thousands of events of a subject whose turns take a second stand ahead of one of another subject."""
    fleet, notes = Fleet(1), Notes()
    notes.seconds["hot"] = 1.0
    fleet.post("noted", "hot", *range(3000))
    fleet.post("noted", "other", "x")
    member = await fleet.member(notes.rules, prefetch=PREFETCH).start()
    await until(lambda: fleet.value("other", "order") == ["x"], 1)
    for number in range(20):
        fleet.post("noted", "other", number)
        await until(lambda number=number: notes.runs[-1:] == [("other", number)] or ("other", number) in notes.runs, 1)
    assert in_memory(member) <= PREFETCH // 4


@virtual
async def test_the_line_of_a_hot_subject_is_read_in_large_pieces() -> None:
    """It is not read anew for each event that was handled: the log is read a few times for each hundred events."""
    fleet, notes = Fleet(1), Notes()
    fleet.post("noted", "hot", *range(600))
    member = await fleet.member(notes.rules, prefetch=160).start()
    await fleet.rest()
    assert notes.of("hot") == list(range(600))
    counts = member.wire.counts
    assert counts["read"] + counts["tail"] < 100


@virtual
async def test_many_subjects_that_go_on_at_once_are_read_together() -> None:
    """What stands in the log behind all that waited for a retry is read about once, not anew for each subject."""
    fleet, notes = Fleet(1), Notes()
    subjects = [f"s{number}" for number in range(100)]
    notes.unsteady = set(subjects)
    member = await fleet.member(notes.rules, prefetch=200).start()
    for subject in subjects:
        fleet.post("retried", subject, "first")
    await asyncio.sleep(1)
    for number in range(40):
        for subject in subjects:
            fleet.post("noted", subject, number)
    await fleet.rest()
    for subject in subjects:
        assert fleet.value(subject, "order") == ["first", *range(40)]
    assert member.wire.counts["read"] < 100


@virtual
async def test_events_that_come_while_what_was_put_aside_is_read_again_keep_their_order() -> None:
    """New events arrive all the time, the line is put aside again and again, and nothing overtakes."""
    fleet, notes = Fleet(1), Notes()
    notes.seconds = {"hot": 0.01}
    member = await fleet.member(notes.rules, prefetch=16).start()
    for number in range(600):
        fleet.post("noted", "hot", number)
        fleet.post("noted", f"s{number % 7}", number)
        await asyncio.sleep(0.004)
    await fleet.rest()
    assert notes.of("hot") == list(range(600))
    for one in range(7):
        assert notes.of(f"s{one}") == list(range(one, 600, 7))
    await member.stop()


@virtual
async def test_a_subject_that_is_parked_resumed_and_parked_again_keeps_its_order() -> None:
    """Each of its events fails at first; between them others come, and what was put aside is read again each time."""
    fleet, notes = Fleet(1), Notes()
    notes.unsteady = {"p"}
    await fleet.member(notes.rules, prefetch=16).start()
    parts = fleet.server.partitions
    async with fleet.bus() as producer:
        for number in range(20):
            await producer.emit("fragile", "p", number)
            for other in range(3):
                await producer.emit("noted", "p", f"{number}, {other}")
            await producer.emit("noted", "other", number)
        for number in range(20):
            await until(lambda number=number: [r.event.data for r in parts[0].retries() if r.parked] == [number])
            await producer.resume("p")
    await fleet.rest()
    stored = [[number, *(f"{number}, {other}" for other in range(3))] for number in range(20)]
    assert fleet.value("p", "order") == [one for group in stored for one in group]


@virtual
async def test_many_hot_slow_subjects_do_not_starve_the_others() -> None:
    """Though their lines would fill all the room there is, an event of another subject is soon begun, each time."""
    fleet, notes = Fleet(1), Notes()
    slow = [f"slow{number}" for number in range(16)]
    notes.seconds = dict.fromkeys(slow, 5.0)
    for subject in slow:
        fleet.post("noted", subject, *range(30))
    member = await fleet.member(notes.rules, prefetch=PREFETCH).start()
    for number in range(20):
        fleet.post("noted", "other", number)
        await until(lambda number=number: ("other", number) in notes.runs, 3)
        assert in_memory(member) <= PREFETCH
    notes.seconds.clear()
    await fleet.rest()
    for subject in slow:
        assert notes.of(subject) == list(range(30))
