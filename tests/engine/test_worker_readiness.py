"""Whether a worker is ready: what counts as too old, and messages that do not get through."""

import asyncio

from tests.engine.fleets import Fleet, Notes, name, until, virtual


@virtual
async def test_events_behind_a_parked_subject_do_not_make_it_unready() -> None:
    """They wait for a person, and no worker that takes its place would handle them sooner."""
    fleet, notes = Fleet(1), Notes()
    notes.broken = {"parked"}
    member = await fleet.member(notes.rules, max_age=30).start()
    fleet.post("fragile", "parked", "first")
    fleet.post("noted", "parked", 1, 2)
    await asyncio.sleep(200)
    status = member.worker.status()
    assert (status.is_ready, status.oldest_age, status.backlog) == (True, None, 2)


@virtual
async def test_an_event_that_could_be_handled_and_is_not_makes_it_unready() -> None:
    """A turn before it takes too long."""
    fleet, notes = Fleet(1), Notes()
    notes.gates["slow"] = asyncio.Event()
    member = await fleet.member(notes.rules, max_age=30).start()
    fleet.post("noted", "slow", 1, 2)
    await asyncio.sleep(60)
    assert "the oldest pending event is" in member.worker.status().reason
    notes.gates["slow"].set()
    await until(lambda: member.worker.status().is_ready, 20)


@virtual
async def test_messages_that_are_not_delivered_make_it_unready() -> None:
    """The reason names the partition that takes none, and what it says; until it takes them again."""
    fleet, notes = Fleet(2), Notes()
    member = await fleet.member(notes.rules, max_age=30).start()
    member.wire.fail_always("deliver")
    fleet.post("passed", name(0, 2), [(name(1, 2), "hello")])
    await asyncio.sleep(60)
    status = member.worker.status()
    assert not status.is_ready
    assert "partition 1 has taken no messages for" in status.reason
    assert "deliver was not done" in status.reason
    member.wire.heal()
    await fleet.rest()
    await until(lambda: member.worker.status().is_ready, 20)
