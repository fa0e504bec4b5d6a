"""Subjects outside a turn: loaded, changed, and committed in one piece with their events."""

import asyncio
from typing import Any

import pytest

from onwhen import (
    SUBJECT_DELETED,
    SUBJECT_PROPERTY_CHANGED,
    SUBJECT_PROPERTY_DELETED,
    Context,
    EventBus,
    Limits,
    RuleSet,
    Subject,
    changed,
    create_memory_storage,
)
from onwhen.errors import EventTooLarge, PropertyValueError, StoreConflict, SubjectStateError


class Ticket(Subject, prefix="ticket:"):
    status: str = "new"
    n: int = 0
    tags: list[str] = []


class Desk:
    """A bus that notes the property events it handles."""

    def __init__(self) -> None:
        self.rules = RuleSet("desk", subject=Ticket)
        self.seen: list[tuple[Any, ...]] = []
        self.bus = EventBus(self.rules, store=create_memory_storage(partitions=2))

        @self.rules.on(SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, SUBJECT_DELETED)
        def note(ctx: Context[Ticket]) -> None:
            self.seen.append((ctx.event_type, ctx.property_name, ctx.old_value, ctx.new_value))

    async def ticket(self) -> dict[str, Any]:
        return (await self.bus.read("ticket:1")).dict()


async def test_changes_are_committed_together_on_leaving() -> None:
    """All of them or, if the block raises, none; what was loaded is what was stored."""
    desk = Desk()
    async with desk.bus.subject("ticket:1") as ticket:
        ticket.status = "open"
        ticket.set("n", lambda n: n + 1)
        ticket.tags.append("x")
        ticket.ext["seen"] = "yes"
        assert (await desk.ticket())["status"] == "new"
    assert await desk.ticket() == {"status": "open", "n": 1, "tags": ["x"]}
    assert (await desk.bus.read("ticket:1")).ext == {"seen": "yes"}

    async def fail() -> None:
        async with desk.bus.subject("ticket:1") as ticket:
            ticket.status = "closed"
            raise LookupError

    with pytest.raises(LookupError):
        await fail()
    assert (await desk.ticket())["status"] == "open"


async def test_its_property_events_are_messages() -> None:
    """Sent by the commit, handled when the block is left, each in a turn of its own; muted changes send none."""
    desk = Desk()

    @desk.rules.on(changed("status", to="open"))
    async def react(ctx: Context[Ticket]) -> None:
        await asyncio.sleep(0)
        ctx.subject.n += 10

    async with desk.bus.subject("ticket:1") as ticket:
        ticket.status = "open"
        ticket.set("n", 1, muted=True)
        ticket.tags.append("x")
    assert desk.seen == [
        (SUBJECT_PROPERTY_CHANGED, "status", "new", "open"),
        (SUBJECT_PROPERTY_CHANGED, "n", 1, 11),
        (SUBJECT_PROPERTY_CHANGED, "tags", [], ["x"]),
    ]
    assert await desk.ticket() == {"status": "open", "n": 11, "tags": ["x"]}


async def test_property_events_are_no_larger_than_others() -> None:
    """A change whose event is too large is refused as any such event is, and nothing is stored; muted, it is stored."""
    bus = EventBus(store=create_memory_storage(), limits=Limits(max_event_bytes=1000))
    with pytest.raises(EventTooLarge):
        async with bus.subject("a") as subject:
            subject.set("text", "x" * 2000)
    assert "text" not in await bus.read("a")
    async with bus.subject("a") as subject:
        subject.set("text", "x" * 2000, muted=True)
    assert "text" in await bus.read("a")
    await bus.close()


async def test_load_and_store_by_hand() -> None:
    """`store` returns the receipts of what it sent, may be called again, and does nothing when nothing changed."""
    desk = Desk()
    ticket = desk.bus.subject("ticket:1")
    with pytest.raises(SubjectStateError, match="not loaded"):
        ticket.get("status")
    await ticket.load()
    ticket.status = "open"
    receipts = await ticket.store()
    assert [(receipt.status, receipt.fired) for receipt in receipts] == [("handled", ("desk.note",))]
    assert list(await ticket.store()) == []
    ticket.n = 5
    assert len(await ticket.store()) == 1
    ticket.n = 6
    await ticket.load()  # drops what was not stored
    assert ticket.n == 5


async def test_deleting_sends_events_and_cancels_timers() -> None:
    """`flush` outside a turn is the same as inside."""
    desk = Desk()

    @desk.rules.on("go")
    def go(ctx: Context[Ticket]) -> None:
        ctx.subject.status = "open"
        ctx.emit("late", at=ctx.now.replace(year=2999))

    await desk.bus.emit("go", "ticket:1")
    desk.seen.clear()
    async with desk.bus.subject("ticket:1") as ticket:
        ticket.flush()
    assert [entry[:2] for entry in desk.seen] == [(SUBJECT_PROPERTY_DELETED, "status"), (SUBJECT_DELETED, None)]
    stats = await desk.bus.store.stats()
    assert (stats.subjects, stats.timers) == (0, 0)


async def test_functions_are_applied_again_to_newer_state() -> None:
    """Any number of writers that count on one subject lose nothing; each property event tells its own step."""
    desk = Desk()

    async def count() -> None:
        async with desk.bus.subject("ticket:1") as ticket:
            await asyncio.sleep(0)
            ticket.set("n", lambda n: n + 1)

    @desk.rules.on("counted")
    async def counted(ctx: Context[Ticket]) -> None:
        before = ctx.subject.n
        await asyncio.sleep(0)
        ctx.subject.n = before + 1

    emits = [desk.bus.emit("counted", "ticket:1") for _ in range(10)]
    await asyncio.gather(*(count() for _ in range(30)), *emits)
    assert (await desk.ticket())["n"] == 40
    steps = {(old, new) for _, name, old, new in desk.seen if name == "n"}  # a turn that came too late has run twice
    assert steps == {(n, n + 1) for n in range(40)}


async def changed_meanwhile(desk: Desk, *changes: dict[str, Any]) -> Subject:
    """Return a subject that is loaded, and somebody else commits changes after that."""
    ticket = await desk.bus.subject("ticket:1").load()
    for change in changes:
        async with desk.bus.subject("ticket:1") as other:
            for name, value in change.items():
                other.set(name, value)
    return ticket


async def test_other_properties_do_not_interfere() -> None:
    """What others have changed meanwhile stays; plain values that both have set are the later writer's."""
    desk = Desk()
    ticket = await changed_meanwhile(desk, {"status": "open", "n": 5})
    ticket.set("n", 7)
    ticket.set_ext("by", "me")
    ticket.get("tags").append("x")
    await ticket.store()
    assert await desk.ticket() == {"status": "open", "n": 7, "tags": ["x"]}


async def test_deletions_are_applied_again_as_well() -> None:
    """Deleting a property, an extended property or everything holds for the newer state too."""
    desk = Desk()
    async with desk.bus.subject("ticket:1") as ticket:
        ticket.status = "open"
        ticket.ext["by"] = "me"
    ticket = await changed_meanwhile(desk, {"status": "closed"})
    ticket.delete("status")
    ticket.delete_ext("by")
    await ticket.store()
    assert (await desk.ticket())["status"] == "new"
    assert len((await desk.bus.read("ticket:1")).ext) == 0
    ticket = await changed_meanwhile(desk, {"n": 9})
    ticket.flush()
    await ticket.store()
    assert (await desk.bus.store.stats()).subjects == 0


async def test_changing_one_value_in_place_twice_over_is_a_conflict() -> None:
    """Nobody can tell how to join the two, so it is an error that says what to write instead; nothing is stored."""
    desk = Desk()
    ticket = await changed_meanwhile(desk, {"tags": ["theirs"]})
    ticket.set("n", 1)
    ticket.get("tags").append("mine")
    with pytest.raises(StoreConflict, match="function"):
        await ticket.store()
    assert await desk.ticket() == {"status": "new", "n": 0, "tags": ["theirs"]}


async def test_a_second_conflict_is_noticed_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in place that was applied again once is still one in place the next time."""
    desk = Desk()
    ticket = await changed_meanwhile(desk, {"n": 1})
    ticket.get("tags").append("mine")
    load, loads = desk.bus.store.load, []

    async def interfere(name: str) -> Any:
        record = await load(name)
        loads.append(name)
        if len(loads) == 1:
            async with desk.bus.subject(name) as other:
                other.set("tags", ["theirs"])
        return record

    monkeypatch.setattr(desk.bus.store, "load", interfere)
    with pytest.raises(StoreConflict):
        await ticket.store()
    assert (await desk.ticket())["tags"] == ["theirs"]


async def test_a_value_that_is_refused_is_not_asked_for_again() -> None:
    """An error that was caught in the block does not come back when the rest is applied to newer state."""
    desk = Desk()
    ticket = await changed_meanwhile(desk, {"status": "open"})
    with pytest.raises(PropertyValueError):
        ticket.set("n", "many")
    ticket.set("n", 3)
    await ticket.store()
    assert await desk.ticket() == {"status": "open", "n": 3, "tags": []}


async def test_a_turn_sees_what_was_stored_outside_before_it() -> None:
    """A subject that was in use by rules is loaded anew after that; a turn under way runs again."""
    desk, gate, runs = Desk(), asyncio.Event(), []

    @desk.rules.on("go")
    async def go(ctx: Context[Ticket]) -> None:
        runs.append(ctx.subject.n)
        await gate.wait()
        ctx.subject.n += 1

    emitting = asyncio.create_task(desk.bus.emit("go", "ticket:1"))
    while not runs:
        await asyncio.sleep(0)
    ticket = await desk.bus.subject("ticket:1").load()
    ticket.set("n", 10, muted=True)
    await ticket.store()
    gate.set()
    await emitting
    assert runs == [0, 10]
    assert (await desk.ticket())["n"] == 11


async def test_storing_another_subject_inside_a_turn_is_refused() -> None:
    """A turn writes its own subject only; reading another one is fine."""
    desk = Desk()

    @desk.rules.on("go")
    async def go(ctx: Context[Ticket]) -> None:
        async with desk.bus.subject("ticket:2") as other:
            assert other.get("n") == 0
        async with desk.bus.subject("ticket:2") as other:
            other.set("n", 1)

    receipt = await desk.bus.emit("go", "ticket:1")
    assert isinstance(receipt.runs[0].error, SubjectStateError)
    assert (await desk.bus.read("ticket:2")).get("n") == 0


async def test_a_rule_may_store_a_subject_of_an_unrelated_bus() -> None:
    """Another bus is the outside world."""
    desk, other = Desk(), EventBus(store=create_memory_storage())

    @desk.rules.on("go")
    async def go(ctx: Context[Ticket]) -> None:
        async with other.subject("x") as subject:
            subject.set("n", 1)

    (await desk.bus.emit("go", "ticket:1")).raise_for_failure()
    assert (await other.read("x")).get("n") == 1


async def test_cancelling_a_store_stops_the_waiting_only() -> None:
    """The commit is whole, and its events are handled, though the caller has gone."""
    desk, gate = Desk(), asyncio.Event()

    @desk.rules.on(changed("status"))
    async def react(ctx: Context[Ticket]) -> None:
        await gate.wait()
        ctx.subject.n += 1

    async def work() -> None:
        async with desk.bus.subject("ticket:1") as ticket:
            ticket.status = "open"

    async with desk.bus:
        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await desk.ticket() == {"status": "open", "n": 1, "tags": []}


async def test_a_store_that_was_cut_short_is_not_asked_again() -> None:
    """Nobody knows whether it was stored, and a function must not be applied twice: load it and look."""
    desk = Desk()
    gate = asyncio.Event()

    @desk.rules.on(changed("n"))
    async def slow(ctx: Context) -> None:
        await gate.wait()

    ticket = await desk.bus.subject("ticket:1").load()
    ticket.set("n", lambda n: n + 1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ticket.store(), 0.01)
    with pytest.raises(SubjectStateError, match=r"ticket:1 is being stored, or that was cut short.*await load\(\)"):
        await ticket.store()
    gate.set()
    await desk.bus.idle()
    assert (await ticket.load()).get("n") == 1


async def test_a_change_in_place_before_a_function_is_not_lost_in_a_conflict() -> None:
    """Both are asked for again, in their order; the change in place only if nobody else has changed the value."""
    desk = Desk()
    ticket = await changed_meanwhile(desk, {"n": 1})
    ticket.get("tags").append("x")
    ticket.set("tags", lambda tags: [*tags, "y"])
    await ticket.store()
    assert await desk.ticket() == {"status": "new", "n": 1, "tags": ["x", "y"]}
