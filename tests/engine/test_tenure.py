"""What one owner of a partition takes up from the one before: retries, parked subjects, what may have killed it."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, RuleSet
from onwhen.engine.store import DeadLetter, Retry
from tests.engine.fleets import LEASE, RETRY, Fleet, Member, Notes, name, names, until, virtual


def retries(fleet: Fleet) -> list[Retry]:
    """Return what waits in the only partition, parked or not."""
    return fleet.server.partitions[0].retries()


def letters(fleet: Fleet) -> list[DeadLetter]:
    """Return the dead letters of the only partition."""
    return [letter for _, letter in fleet.server.partitions[0].state.dead.values()]


async def hand_over(fleet: Fleet, member: Member, notes: Notes, how: str, **options: Any) -> Member:
    """Let another worker take the partition over, and return it once it has."""
    following = fleet.member(notes.rules, **options)
    if how == "stop":
        await member.stop()
    else:
        member.kill()
    await following.start()
    await until(lambda: following.owned, LEASE + 3)
    return following


HOW = pytest.mark.parametrize("how", ["stop", "kill"])


# -- retries


@HOW
def test_a_retry_waits_across_owners_and_later_events_of_its_subject_behind_it(how: str) -> None:
    """It is run when it is due, as the attempt that it is, and not by both."""

    @virtual
    async def check() -> None:
        fleet, notes = Fleet(1), Notes()
        notes.broken = {"s"}
        first = await fleet.member(notes.rules).start()
        fleet.post("retried", "s", "first")
        fleet.post("noted", "s", *range(5))
        fleet.post("noted", "other", 1)
        await until(lambda: retries(fleet) and fleet.value("other", "order"))
        due = retries(fleet)[0].due
        notes.broken.clear()
        await hand_over(fleet, first, notes, how)
        assert fleet.value("s", "order") is None
        await until(lambda: fleet.value("s", "order"), 30)
        assert fleet.clock.now() - due < timedelta(seconds=1)
        await fleet.rest()
        assert fleet.value("s", "order") == ["first", *range(5)]
        assert notes.of("s") == ["first", "first", *range(5)]

    check()


@HOW
def test_a_retry_that_keeps_nobody_waiting_does_not_after_a_hand_over_either(how: str) -> None:
    """With `in_order=False` later events overtake it."""

    @virtual
    async def check() -> None:
        fleet, notes = Fleet(1), Notes()
        notes.unsteady = {"s"}
        first = await fleet.member(notes.rules).start()
        fleet.post("retried.alone", "s", "first")
        await until(lambda: retries(fleet))
        await hand_over(fleet, first, notes, how)
        fleet.post("noted", "s", 1)
        await until(lambda: fleet.value("s", "order") == [1], 1)
        await until(lambda: fleet.value("s", "order") == [1, "first"], 25)

    check()


@HOW
def test_a_parked_subject_stays_parked_across_owners(how: str) -> None:
    """Its events wait for somebody to resume it, whoever owns the partition then."""

    @virtual
    async def check() -> None:
        fleet, notes = Fleet(1), Notes()
        notes.unsteady = {"s"}
        first = await fleet.member(notes.rules).start()
        fleet.post("fragile", "s", "first")
        fleet.post("noted", "s", 1, 2)
        await until(retries_are(fleet, 1))
        await hand_over(fleet, first, notes, how)
        await asyncio.sleep(100)
        assert fleet.value("s", "order") is None
        async with fleet.bus() as producer:
            (receipt,) = await producer.resume("s")
            await receipt.handled(timeout=3)
        await fleet.rest()
        assert fleet.value("s", "order") == ["first", 1, 2]

    check()


def retries_are(fleet: Fleet, count: int) -> Any:
    return lambda: len(retries(fleet)) == count


@virtual
async def test_a_retry_whose_commit_was_not_answered_is_run_once() -> None:
    """The commit that ran it, and the one that set it, may each lose its answer."""
    fleet, notes = Fleet(1), Notes()
    notes.unsteady = {"s"}
    member = await fleet.member(notes.rules).start()
    member.wire.fail("commit", "after", "", "after")
    fleet.post("retried", "s", "first")
    fleet.post("noted", "s", 1)
    await fleet.rest()
    assert fleet.value("s", "order") == ["first", 1]
    assert notes.of("s") == ["first", "first", 1]
    assert not retries(fleet)


# -- what somebody else does to them


@virtual
async def test_what_another_process_resumes_skips_and_replays_is_noticed_with_the_next_renewal() -> None:
    """No owner is told; it looks again when it hears that its partition was touched."""
    fleet, notes = Fleet(1), Notes()
    notes.broken = {"a", "b", "c"}
    await fleet.member(notes.rules).start()
    for subject in "ab":
        fleet.post("fragile", subject, "first")
        fleet.post("noted", subject, 1)
    await until(retries_are(fleet, 2))
    async with fleet.bus() as producer:
        await producer.skip("a")
        await until(lambda: fleet.value("a", "order") == [1], 1.5)
        assert fleet.value("b", "order") is None
        notes.broken.clear()
        await producer.resume("b")
        await until(lambda: fleet.value("b", "order") == ["first", 1], 1.5)
        (letter,) = letters(fleet)
        receipt = await producer.replay(letter.id)
        assert receipt.status == "accepted"
        await receipt.handled(timeout=1.5)
        assert fleet.value("a", "order") == [1, "first"]
    assert not letters(fleet)
    assert not retries(fleet)


@virtual
async def test_what_is_skipped_while_an_owner_takes_up_holds_nobody() -> None:
    """The owner has read that the subject is parked, and not yet that it was touched since."""
    fleet, notes = Fleet(1), Notes()
    notes.broken = {"s"}
    first = await fleet.member(notes.rules).start()
    fleet.post("fragile", "s", "first")
    fleet.post("noted", "s", 1)
    await until(retries_are(fleet, 1))
    await first.stop()
    second = fleet.member(notes.rules)
    second.wire.fail("fire", "held")
    second.wire.fail("tail", "held")
    await second.start()
    await until(lambda: second.wire.held("fire"))
    async with fleet.bus() as producer:
        await producer.skip("s")
        await asyncio.sleep(3)
        second.wire.heal()
        await until(lambda: fleet.value("s", "order") == [1], 3)


@virtual
async def test_looks_at_what_others_did_that_overlap_do_not_bring_back_what_is_gone() -> None:
    """A look takes long, and meanwhile the partition is touched again."""
    fleet, notes = Fleet(1), Notes()
    notes.unsteady = {"s"}
    member = await fleet.member(notes.rules).start()
    async with fleet.bus() as producer:
        for number in range(10):
            await producer.emit("fragile", "s", number)
            await producer.emit("noted", "s", f"after {number}")
        for number in range(10):
            await until(lambda number=number: [one.event.data for one in retries(fleet) if one.parked] == [number])
            member.wire.fail("retries", *(["held"] if number % 2 else []))
            await producer.resume("s")
            await asyncio.sleep(2.5)
            if number % 2:
                letter_like = await producer.resume("s")
                assert letter_like == []
            member.wire.heal()
    await fleet.rest()
    assert fleet.value("s", "order") == [one for number in range(10) for one in (number, f"after {number}")]


@virtual
async def test_a_retry_that_is_run_while_its_owner_looks_at_what_others_did_is_run_once() -> None:
    """It was still there when the store was asked, and is done when the answer comes."""
    fleet, notes = Fleet(1), Notes()
    notes.unsteady, notes.broken = {"s"}, {"parked"}
    member = await fleet.member(notes.rules).start()
    fleet.post("fragile", "parked", "first")
    fleet.post("retried", "s", "first")
    fleet.post("noted", "s", 1)
    await until(retries_are(fleet, 2))
    due = next(retry.due for retry in retries(fleet) if not retry.parked)
    await asyncio.sleep((due - fleet.clock.now()).total_seconds() - 1.5)
    member.wire.fail("retries", "held")
    async with fleet.bus() as producer:
        await producer.skip("parked")
        await until(lambda: member.wire.held("retries"), 1.5)
        await until(lambda: fleet.value("s", "order") == ["first", 1], 3)
        member.wire.heal()
    fleet.post("noted", "s", 2)
    await fleet.rest()
    await asyncio.sleep(30)
    assert notes.of("s") == ["first", "first", 1, 2]


@virtual
async def test_what_others_do_is_noticed_though_a_renewal_came_between_a_timer_and_its_answer() -> None:
    """The owner counts what its own timers put into the outbox once, or it would miss the next time it was others."""
    fleet, notes = Fleet(2), Notes()
    subject, sender = names(0, 2, 2)
    notes.broken = {subject}
    member = await fleet.member(notes.rules).start()
    fleet.post("fragile", subject, "first")
    fleet.post("noted", subject, 1)
    await until(lambda: fleet.server.partitions[0].retries())
    await asyncio.sleep(3)
    member.wire.fail("fire", "held", when=lambda partition: partition == 0)
    fleet.post("timed", sender, [name(1, 2), 0.5, "later"])
    await until(lambda: member.wire.held("fire"))
    renewed = member.wire.counts["renew"]
    await until(lambda: member.wire.counts["renew"] >= renewed + 4)
    member.wire.heal()
    await asyncio.sleep(0.02)
    async with fleet.bus() as producer:
        await producer.skip(subject)
    await until(lambda: fleet.value(subject, "order") == [1], 5)


# -- suspects


class Deadly:
    """Rules of which one kills its process, each time that it handles a poisonous event.

    Args:
        notes: the other rules.
    """

    def __init__(self, notes: Notes) -> None:
        self.notes = notes
        self.rules = RuleSet("deadly")
        self.members: dict[str, Member] = {}
        self.starts: list[str] = []

        @self.rules.on("poison")
        async def die(ctx: Context) -> None:
            self.starts.append(ctx.event.subject)
            owner = next(one for one in self.members.values() if one.owned and one._is_alive)
            owner.kill()
            await asyncio.sleep(1)

    async def next(self, fleet: Fleet, **options: Any) -> Member:
        member = fleet.member(self.rules, self.notes.rules, **options)
        self.members[member.worker.id] = member
        await member.start()
        return member


async def live_until_dead_letter(fleet: Fleet, deadly: Deadly, lives: int, **options: Any) -> int:
    """Start one worker after another until there is a dead letter; return how many had to be."""
    for number in range(1, lives + 1):
        member = await deadly.next(fleet, **options)
        await until(lambda member=member: not member._is_alive or letters(fleet) or not fleet.pending(), 60)
        if letters(fleet):
            return number
    raise AssertionError("no dead letter")


@virtual
async def test_an_event_that_kills_each_owner_becomes_a_dead_letter() -> None:
    """After its third noted beginning it is not begun again; everybody else's events are handled, each once."""
    fleet, notes = Fleet(1), Notes()
    deadly = Deadly(notes)
    for number in range(10):
        fleet.post("noted", f"before{number}", number)
    fleet.post("poison", "p", 1)
    fleet.post("noted", "p", 1)
    for number in range(10):
        fleet.post("noted", f"after{number}", number)
    lives = await live_until_dead_letter(fleet, deadly, 8)
    assert lives <= 5
    await fleet.rest()
    assert [letter.failure.type.rpartition(".")[2] for letter in letters(fleet)] == ["PoisonEvent"]
    assert deadly.starts == ["p"] * (lives - 1)
    assert fleet.value("p", "order") == [1]
    for number in range(10):
        assert fleet.value(f"before{number}", "order") == fleet.value(f"after{number}", "order") == [number]


@virtual
async def test_poison_behind_ten_thousand_events_of_a_parked_subject_is_found() -> None:
    """An owner reads past what waits, so whoever looks for what has killed it reads as far."""
    fleet, notes = Fleet(1), Notes()
    deadly = Deadly(notes)
    parked = ["parked", *(f"parked{number}" for number in range(60))]
    notes.broken = {*parked}
    for subject in parked:
        fleet.post("fragile", subject, "first")
        fleet.post("noted", subject, 1, 2)
    fleet.post("noted", "parked", *range(10_000))
    member = await deadly.next(fleet, prefetch=50)
    await until(retries_are(fleet, 61))
    await member.stop()
    fleet.post("poison", "p", 1)
    fleet.post("noted", "other", 1)
    lives = await live_until_dead_letter(fleet, deadly, 8, prefetch=50)
    assert lives <= 5
    await until(lambda: fleet.value("other", "order") == [1], 5)
    assert [letter.subject for letter in letters(fleet)] == ["p"]


@virtual
async def test_poison_behind_the_long_lines_of_hot_subjects_is_found() -> None:
    """Lines that are put aside are not in the owner's memory either."""
    fleet, notes = Fleet(1), Notes()
    deadly = Deadly(notes)
    notes.seconds = {"hot": 5.0, "hotter": 5.0}
    fleet.post("noted", "hot", *range(500))
    fleet.post("noted", "hotter", *range(500))
    fleet.post("poison", "p", 1)
    lives = await live_until_dead_letter(fleet, deadly, 8, prefetch=50)
    assert lives <= 5
    assert [letter.subject for letter in letters(fleet)] == ["p"]


@virtual
async def test_a_retry_that_kills_each_owner_becomes_a_dead_letter() -> None:
    """Attempts are noted to begin as events are."""
    fleet = Fleet(1)
    rules = RuleSet("r")
    starts: list[int] = []

    @rules.on("kills", retry=RETRY)
    async def kill(ctx: Context) -> None:
        starts.append(ctx.attempt)
        if ctx.attempt == 1:
            raise LookupError
        next(one for one in fleet.members if one._is_alive).kill()
        await asyncio.sleep(1)

    fleet.post("kills", "s", 1)
    for _ in range(8):
        member = await fleet.member(rules).start()
        await until(lambda member=member: not member._is_alive or letters(fleet), 60)
        if letters(fleet):
            break
    assert [letter.failure.type.rpartition(".")[2] for letter in letters(fleet)] == ["PoisonEvent"]
    assert starts[0] == 1
    assert set(starts[1:]) == {2}
    assert len(starts) <= 5


@virtual
async def test_nobody_is_suspected_after_a_clean_hand_over() -> None:
    """A worker that was stopped has not been killed by what it left: nothing is noted."""
    fleet, notes = Fleet(1), Notes()
    notes.seconds = dict.fromkeys("ab", 3.0)
    member = await fleet.member(notes.rules, grace=1.0).start()
    for subject in "ab":
        fleet.post("noted", subject, 1)
    await until(lambda: len(notes.runs) == 2)
    await member.stop()
    following = await fleet.member(notes.rules).start()
    await fleet.rest()
    assert following.wire.counts["starting"] == member.wire.counts["starting"] == 0


@virtual
async def test_after_a_crash_others_are_handled_while_a_suspect_is() -> None:
    """Suspects are run alone, but once they are done all goes on side by side."""
    fleet, notes = Fleet(1), Notes()
    subjects = [f"s{number}" for number in range(5)]
    notes.seconds = dict.fromkeys(subjects, 1.0)
    for subject in subjects:
        fleet.post("noted", subject, 1, 2)
    for _ in range(2):
        member = await fleet.member(notes.rules).start()
        await until(lambda member=member: member.owned, LEASE + 3)
        await asyncio.sleep(0.2)
        member.kill()
    began = len(notes.runs)
    assert began == 10
    member = await fleet.member(notes.rules).start()
    await until(lambda: member.owned, LEASE + 3)
    await asyncio.sleep(0.2)
    assert len(notes.runs) == began + 1
    await until(lambda: len(notes.runs) == began + 10, 7)
    await fleet.rest()
    for subject in subjects:
        assert fleet.value(subject, "order") == [1, 2]


# -- state in memory


@virtual
async def test_a_new_tenure_trusts_no_state_of_the_one_before() -> None:
    """What another owner has committed meanwhile is loaded, though this process has seen the subject before."""
    fleet, notes = Fleet(1), Notes()
    first = await fleet.member(notes.rules).start()
    fleet.post("noted", "s", 1)
    await fleet.rest()
    first.stand_still()
    second = await fleet.member(notes.rules, id="w0").start()
    await until(lambda: second.owned, LEASE + 3)
    fleet.post("noted", "s", 2)
    await fleet.rest()
    await second.stop()
    first.go_on()
    await until(lambda: first.owned, 5)
    fleet.post("noted", "s", 3)
    await fleet.rest()
    assert fleet.value("s", "order") == [1, 2, 3]
    assert notes.of("s") == [1, 2, 3]


@virtual
async def test_a_bus_that_is_told_to_forget_loads_anew() -> None:
    """`bus.forget` reaches the partitions of its worker."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    for number in range(2):
        fleet.post("noted", "s", number)
        await fleet.rest()
    loads = member.wire.counts["load"]
    member.bus.forget("s")
    fleet.post("noted", "s", 2)
    await fleet.rest()
    assert member.wire.counts["load"] == loads + 1
