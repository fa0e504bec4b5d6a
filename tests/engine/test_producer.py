"""A bus over a shared store accepts events and waits for others to handle them: receipts, refusals, and its life."""

import asyncio
from typing import Any

import pytest

from onwhen import Event, EventBus
from onwhen.engine.clock import SystemClock
from onwhen.errors import BusClosed, StoreBusy, StoreConflict, StoreError, SubjectStateError, UnknownDeadLetter
from tests.engine.fleets import Fleet, Notes, Wire, name, until, virtual
from tests.simulation.fleet.server import Server

# -- receipts


@virtual
async def test_emit_returns_once_the_event_is_accepted_and_handled_waits_for_its_turn() -> None:
    """Nobody runs turns yet: the event is safe, and a wait for its turn ends with the time-out."""
    fleet, notes = Fleet(), Notes()
    async with fleet.bus() as producer:
        receipt = await producer.emit("noted", "s", 1)
        assert receipt.status == "accepted"
        assert fleet.pending() == 1
        with pytest.raises(TimeoutError):
            await receipt.handled(timeout=30)
        assert receipt.status == "accepted"
        await fleet.member(notes.rules).start()
        assert (await receipt.handled(timeout=5)).status == "handled"
        assert fleet.value("s", "order") == [1]


@virtual
async def test_a_receipt_tells_of_handling_soon_after_it() -> None:
    """A wait of a few milliseconds is seen within as many; a long one is not asked about all the time."""
    fleet, notes = Fleet(), Notes()
    await fleet.member(notes.rules).start()
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        began = fleet.loop.time()
        await (await producer.emit("noted", "quick", 1)).handled()
        assert fleet.loop.time() - began < 0.03
        notes.seconds["slow"] = 60.0
        await (await producer.emit("noted", "slow", 1)).handled()
        assert wire.counts["pending"] < 400


@virtual
async def test_many_who_wait_are_asked_for_together() -> None:
    """However many receipts are waited for, the store is asked so often as for a few; each hears of its own turn."""
    fleet, notes = Fleet(1), Notes()
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        receipts = await asyncio.gather(*(producer.emit("noted", f"s{number % 50}", number) for number in range(1500)))
        waits = [asyncio.create_task(receipt.handled(timeout=60)) for receipt in receipts]
        lost = [asyncio.create_task(receipt.handled(timeout=1)) for receipt in receipts[:10]]
        notes.seconds = {f"s{number}": 0.2 for number in range(50)}
        await asyncio.sleep(2)
        assert {type(wait.exception()) for wait in lost} == {TimeoutError}
        await fleet.member(notes.rules).start()
        await asyncio.gather(*waits)
        assert not fleet.pending()
        assert wire.counts["pending"] < 1000
        assert max(len(args[1]) for called, args in wire.calls if called == "pending") <= 1000
        asked = wire.counts["pending"]
        await asyncio.sleep(10)
        assert wire.counts["pending"] == asked


@virtual
async def test_a_wait_for_a_turn_ends_with_the_bus() -> None:
    """Nobody looks any more; whoever waits is told, also one who comes later."""
    fleet = Fleet(1)
    producer = await fleet.bus().__aenter__()
    receipt = await producer.emit("noted", "s", 1)
    wait = asyncio.create_task(receipt.handled())
    await asyncio.sleep(1)
    await producer.close()
    for waiting in (wait, receipt.handled()):
        with pytest.raises(BusClosed):
            await waiting


@virtual
async def test_nobody_asks_for_what_nobody_waits_for() -> None:
    """A wait that has timed out leaves nothing behind that goes on asking."""
    fleet = Fleet(1)
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        receipt = await producer.emit("noted", "s", 1)
        with pytest.raises(TimeoutError):
            await receipt.handled(timeout=3)
        asked = wire.counts["pending"]
        await asyncio.sleep(30)
        assert wire.counts["pending"] == asked


@virtual
async def test_append_and_emit_are_the_same_thing() -> None:
    """Both return once the event is accepted; what it leads to is the workers'."""
    fleet, notes = Fleet(), Notes()
    await fleet.member(notes.rules).start()
    async with fleet.bus() as producer:
        receipt = await producer.append("noted", "s", 1)
        assert receipt.status == "accepted"
        await receipt.handled(timeout=5)
    assert fleet.value("s", "order") == [1]


@virtual
async def test_an_event_of_the_same_id_is_a_duplicate_once_it_is_handled() -> None:
    """While it is pending, a second receipt waits for the same turn."""
    fleet, notes = Fleet(), Notes()
    async with fleet.bus() as producer:
        first = await producer.emit("noted", "s", 1, id="x")
        again = await producer.emit("noted", "s", 1, id="x")
        assert fleet.pending() == 1
        await fleet.member(notes.rules).start()
        await first.handled(timeout=5)
        await again.handled(timeout=5)
        assert (await producer.emit("noted", "s", 1, id="x")).status == "duplicate"
    assert fleet.value("s", "order") == [1]


@virtual
async def test_events_of_one_producer_are_accepted_in_the_order_of_the_calls() -> None:
    """Whatever becomes of the calls to the store."""
    fleet = Fleet(2)
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        wire.fail("append", "before", "", "after", "after", "", "before")
        await asyncio.gather(*(producer.emit("noted", "s", number) for number in range(1200)))
        await producer.emit("noted", "s", 1200)
    entries = fleet.server.of("s").state.log.values()
    assert [entry.event.data for entry in entries] == list(range(1201))
    assert wire.counts["append"] < 20


@virtual
async def test_events_for_several_partitions_are_accepted_side_by_side() -> None:
    """A partition whose server does not answer holds up those alone that are for it."""
    fleet = Fleet(2)
    wire = Wire(fleet.server)
    wire.fail_always("append", "hung", when=lambda partition, *_: partition == 0)
    async with fleet.bus(wire=wire) as producer:
        waiting = asyncio.create_task(producer.emit("noted", name(0, 2), 1))
        async with asyncio.timeout(1):
            await producer.emit("noted", name(1, 2), 1)
        assert not waiting.done()
        wire.heal()
        await waiting


# -- refusals


@virtual
async def test_above_the_backlog_limit_a_producer_is_told_that_the_store_is_busy() -> None:
    """Nothing of what was refused is stored; it can be emitted again once there is room."""
    fleet, notes = Fleet(1, most=5), Notes()
    async with fleet.bus() as producer:
        for number in range(5):
            await producer.emit("noted", "s", number)
        with pytest.raises(StoreBusy) as caught:
            await producer.emit("noted", "s", 5)
        assert (caught.value.backlog, caught.value.limit, caught.value.partition) == (5, 5, 0)
        assert fleet.pending() == 5
        await fleet.member(notes.rules).start()
        await fleet.rest()
        await producer.emit("noted", "s", 5)
        await fleet.rest()
    assert fleet.value("s", "order") == list(range(6))


@virtual
async def test_a_bookmark_does_not_move_past_an_event_that_was_refused() -> None:
    """Later ones of the same source are refused as well, until the missing one is emitted again."""
    fleet, notes = Fleet(1, most=2), Notes()
    events = [Event("noted", "s", number, id=str(number)) for number in range(5)]
    async with fleet.bus() as producer:
        results = await asyncio.gather(
            *(producer.emit(event, bookmark=("file", event.id)) for event in events[:2]),
            return_exceptions=True,
        )
        assert [getattr(result, "status", result) for result in results] == ["accepted", "accepted"]
        with pytest.raises(StoreBusy):
            await producer.emit(events[2], bookmark=("file", "2"))
        await fleet.member(notes.rules).start()
        await fleet.rest()
        with pytest.raises(StoreError, match="emit it first"):
            await producer.emit(events[3], bookmark=("file", "3"))
        assert await producer.store.bookmark(0, "file") == "1"
        for event in events[2:]:
            await producer.emit(event, bookmark=("file", event.id))
        assert await producer.store.bookmark(0, "file") == "4"
        await fleet.rest()
    assert fleet.value("s", "order") == list(range(5))


@virtual
async def test_an_event_whose_acceptance_nobody_knows_of_raises_and_may_be_emitted_again() -> None:
    """After a few tries the caller is told; with the same id it is accepted once."""
    fleet, notes = Fleet(1), Notes()
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        wire.fail("append", *["after"] * 5)
        with pytest.raises(StoreError, match="nobody has heard"):
            await producer.emit("noted", "s", 1, id="x")
        receipt = await producer.emit("noted", "s", 1, id="x")
        await fleet.member(notes.rules).start()
        await receipt.handled(timeout=5)
    assert fleet.value("s", "order") == [1]


@virtual
async def test_a_store_that_does_not_answer_ends_the_wait_for_a_turn() -> None:
    """`handled` raises what the store says, after a few tries; the event is handled all the same."""
    fleet, notes = Fleet(1), Notes()
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        receipt = await producer.emit("noted", "s", 1)
        wire.fail("pending", "before", "after", "before")
        with pytest.raises(TimeoutError):
            await receipt.handled(timeout=3)
        wire.fail_always("pending")
        with pytest.raises(StoreError):
            await receipt.handled()
        wire.heal()
        await fleet.member(notes.rules).start()
        await receipt.handled(timeout=5)


# -- subjects outside a turn


@virtual
async def test_a_subject_stored_outside_a_turn_sends_its_changes_to_the_owner() -> None:
    """`store()` is one commit; its property events are handled by the workers, as receipts can wait for."""
    fleet, notes = Fleet(), Notes()
    seen: list[Any] = []

    @notes.rules.on("subject-property-changed")
    def see(ctx: Any) -> None:
        seen.append((ctx.subject.name, ctx.property_name, ctx.new_value))

    async with fleet.bus() as producer:
        subject = producer.subject("s")
        await subject.load()
        subject.set("color", "red")
        subject.set("size", 3, muted=True)
        receipts = await subject.store()
        assert fleet.value("s", "color") == "red"
        assert fleet.pending() == 1
        await fleet.member(notes.rules).start()
        for receipt in receipts:
            assert (await receipt.handled(timeout=5)).status == "handled"
    assert seen == [("s", "color", "red")]


@virtual
async def test_a_function_is_applied_again_when_a_worker_has_committed_meanwhile() -> None:
    """The version has moved on, so the state is loaded anew, and nothing of the worker's is overwritten."""
    fleet, notes = Fleet(1), Notes()
    await fleet.member(notes.rules).start()
    async with fleet.bus() as producer:
        await (await producer.emit("noted", "s", 1)).handled()
        subject = producer.subject("s")
        await subject.load()
        await (await producer.emit("noted", "s", 2)).handled()
        subject.set("order", lambda order: [*order, "outside"], muted=True)
        await subject.store()
        await (await producer.emit("noted", "s", 3)).handled()
    assert fleet.value("s", "order") == [1, 2, "outside", 3]


@virtual
async def test_a_store_outside_a_turn_whose_answer_is_lost_is_made_once_and_its_events_waited_for() -> None:
    """It is sent again under the same id; its receipts wait for the turns all the same."""
    fleet, notes = Fleet(1), Notes()
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        wire.fail("commit", "after", "before", "after")
        subject = producer.subject("s")
        await subject.load()
        subject.set("n", lambda n: (n or 0) + 1)
        (receipt,) = await subject.store()
        assert fleet.value("s", "n") == 1
        assert fleet.pending() == 1
        with pytest.raises(TimeoutError):
            await receipt.handled(timeout=1)
        await fleet.member(notes.rules).start()
        assert (await receipt.handled(timeout=5)).status == "handled"


# -- what failed


@virtual
async def test_a_producer_replays_resumes_and_skips() -> None:
    """The receipts of what is run again wait for the worker that does it."""
    fleet, notes = Fleet(1), Notes()
    notes.broken = {"a", "b"}
    await fleet.member(notes.rules).start()
    async with fleet.bus() as producer:
        await producer.emit("fragile", "a", 1)
        await producer.emit("fragile", "b", 2)
        await until(lambda: len(fleet.server.partitions[0].retries()) == 2)
        assert sorted([retry.subject async for retry in producer.parked()]) == ["a", "b"]
        (letter,) = await producer.skip("a")
        notes.broken.clear()
        (receipt,) = await producer.resume("b")
        assert (await receipt.handled(timeout=2)).status == "handled"
        assert fleet.value("b", "order") == [2]
        receipt = await producer.replay(letter.id)
        assert (await receipt.handled(timeout=2)).status == "handled"
        assert fleet.value("a", "order") == [1]
        with pytest.raises(UnknownDeadLetter):
            await producer.replay(letter.id)
        assert await producer.resume("b") == []


@virtual
async def test_a_letter_that_two_processes_replay_at_once_is_run_once() -> None:
    """One of them is told that it was replayed meanwhile."""
    fleet, notes = Fleet(1), Notes()
    notes.broken = {"a"}
    await fleet.member(notes.rules).start()
    async with fleet.bus() as one, fleet.bus() as other:
        await one.emit("fragile", "a", 1)
        await until(lambda: fleet.server.partitions[0].retries())
        (letter,) = await one.skip("a")
        notes.broken.clear()
        results = await asyncio.gather(one.replay(letter.id), other.replay(letter.id), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["Receipt", "UnknownDeadLetter"]
        await until(lambda: fleet.value("a", "order") == [1])
        await asyncio.sleep(3)
    assert notes.of("a") == [1, 1]


# -- life


@virtual
async def test_a_bus_that_was_not_opened_opens_at_the_first_emit() -> None:
    """What is emitted before the store is open waits for it, in order."""
    fleet = Fleet(2)
    wire = Wire(fleet.server)
    wire.fail("open", "held")
    producer = fleet.bus(wire=wire)
    emits = [asyncio.create_task(producer.emit("noted", "s", number)) for number in range(5)]
    await until(lambda: wire.held("open"))
    assert fleet.pending() == 0
    wire.heal()
    await asyncio.gather(*emits)
    assert [entry.event.data for entry in fleet.server.of("s").state.log.values()] == list(range(5))
    assert wire.counts["open"] == 1
    await producer.close()


@virtual
async def test_a_store_that_cannot_be_opened_fails_who_waits_and_is_tried_again_by_the_next() -> None:
    """Each that was emitted before is told why; nothing of it comes later by surprise."""
    fleet = Fleet(2)
    wire = Wire(fleet.server)
    wire.fail("open", "before")
    producer = fleet.bus(wire=wire)
    results = await asyncio.gather(*(producer.emit("noted", one, 1) for one in "ab"), return_exceptions=True)
    assert [str(result) for result in results] == ["open was not done"] * 2
    assert (await producer.emit("noted", "a", 2)).status == "accepted"
    assert [entry.event.data for entry in fleet.server.of("a").state.log.values()] == [2]
    await producer.close()


@virtual
async def test_a_bus_that_is_closed_first_accepts_what_was_emitted() -> None:
    """Events under way are accepted or their callers told; later ones are refused."""
    fleet = Fleet(2)
    wire = Wire(fleet.server)
    producer = await fleet.bus(wire=wire).__aenter__()
    wire.fail("append", "held")
    emits = [asyncio.create_task(producer.emit("noted", "s", number)) for number in range(3)]
    await until(lambda: wire.held("append"))
    closing = asyncio.create_task(producer.close())
    await asyncio.sleep(1)
    assert not closing.done()
    with pytest.raises(BusClosed):
        await producer.emit("noted", "s", 9)
    wire.heal()
    await closing
    assert {(await emit).status for emit in emits} == {"accepted"}
    with pytest.raises(BusClosed):
        await producer.emit("noted", "s", 9)
    async with producer:
        await producer.emit("noted", "s", 3)
    assert [entry.event.data for entry in fleet.server.of("s").state.log.values()] == [0, 1, 2, 3]


@virtual
async def test_a_bus_closes_though_its_store_does_not_answer() -> None:
    """Those who wait are told that it is not known; closing takes a few tries, not for ever."""
    fleet = Fleet(2)
    wire = Wire(fleet.server)
    producer = await fleet.bus(wire=wire).__aenter__()
    wire.down = 1.0
    emit = asyncio.create_task(producer.emit("noted", "s", 1))
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        await producer.close()
    with pytest.raises(StoreError):
        await emit


@virtual
async def test_cancelling_an_emit_stops_the_waiting_only() -> None:
    """The event was on its way; it is accepted, and the bus goes on."""
    fleet = Fleet(2)
    wire = Wire(fleet.server)
    async with fleet.bus(wire=wire) as producer:
        wire.fail("append", "held")
        emit = asyncio.create_task(producer.emit("noted", "s", 1))
        await until(lambda: wire.held("append"))
        emit.cancel()
        await asyncio.wait([emit])
        assert emit.cancelled()
        wire.heal()
        await producer.emit("noted", "s", 2)
    assert [entry.event.data for entry in fleet.server.of("s").state.log.values()] == [1, 2]


def test_a_producer_opens_again_on_a_second_event_loop() -> None:
    """The first loop has ended in the middle of things; on the next one the bus works as new."""
    server = Server(2)
    wire = Wire(server)
    producer = EventBus(store=wire, clock=SystemClock())

    async def first() -> None:
        await producer.emit("noted", "s", 1)
        wire.fail_always("append", "after")
        task = asyncio.create_task(producer.emit("noted", "s", 2, id="lost"))
        while wire.counts["append"] < 2:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def second() -> None:
        await producer.emit("noted", "s", 3)
        await producer.close()

    asyncio.run(first())
    wire.heal()
    asyncio.run(second())
    data = [entry.event.data for entry in server.of("s").state.log.values()]
    assert data == [1, 2, 3]


@virtual
async def test_inside_a_turn_of_its_worker_an_emit_is_the_turns_own() -> None:
    """A process that has a worker may emit as well: from a rule it leaves with the commit, else at once."""
    fleet, notes = Fleet(2), Notes()
    member = fleet.member(notes.rules)
    statuses: list[str] = []

    @notes.rules.on("emits")
    async def emit(ctx: Any) -> None:
        receipt = await member.bus.emit("noted", name(1, 2), "inside")
        statuses.append(receipt.status)
        with pytest.raises(SubjectStateError):
            await member.bus.idle()

    await member.start()
    await (await member.bus.emit("emits", name(0, 2))).handled(timeout=3)
    await fleet.rest()
    assert statuses == ["recorded"]
    assert fleet.value(name(1, 2), "order") == ["inside"]


@virtual
async def test_state_in_place_that_was_changed_by_a_worker_is_a_conflict() -> None:
    """A change in place cannot be applied again, and the error says what can."""
    fleet, notes = Fleet(1), Notes()
    await fleet.member(notes.rules).start()
    async with fleet.bus() as producer:
        await (await producer.emit("noted", "s", 1)).handled()
        subject = producer.subject("s")
        await subject.load()
        subject.get("order").append("outside")
        await (await producer.emit("noted", "s", 2)).handled()
        with pytest.raises(StoreConflict, match="order"):
            await subject.store()


@virtual
async def test_an_event_whose_first_answer_was_lost_is_no_duplicate_when_it_was_handled_meanwhile() -> None:
    """Nobody can tell whether it was this emit that had it accepted; that it is handled is certain."""
    fleet, notes = Fleet(1), Notes()
    await fleet.member(notes.rules).start()
    async with fleet.bus(wire=(wire := Wire(fleet.server))) as producer:
        wire.fail("append", "after")
        receipt = await producer.emit("noted", "s", 1)
        await receipt.handled(timeout=5)
    assert receipt.status == "handled"
    assert fleet.value("s", "order") == [1]
