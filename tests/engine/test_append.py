"""Append: events that are accepted now and handled in their own time; bookmarks of where they were read from."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Context, Event, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Store
from onwhen.errors import BusClosed, EventTooLarge, InvalidEvent, StoreError, StoreFull
from tests.engine.buses import until, value
from tests.engine.stores import Flaky, kill, process

pytestmark = pytest.mark.usefixtures("no_pauses")


class Gated:
    """A rule that waits at a gate, and one that follows from it."""

    def __init__(self, store: Store, **options: Any) -> None:
        self.gate = asyncio.Event()
        self.rules = RuleSet("gated")
        self.bus = EventBus(self.rules, store=store, **options)

        @self.rules.on("go")
        async def go(ctx: Context) -> None:
            await self.gate.wait()
            ctx.subject.set("order", [*ctx.subject.get("order", []), ctx.payload])
            ctx.emit("gone", ctx.payload, "other")

        @self.rules.on("gone")
        async def gone(ctx: Context) -> None:
            await asyncio.sleep(0)
            ctx.subject.set("n", lambda n: (n or 0) + 1)


async def test_append_returns_as_soon_as_the_event_is_accepted(store: Store) -> None:
    """It is in the log, and not handled yet; `handled` waits until it is, with all that follows from it."""
    gated = Gated(store)
    async with asyncio.timeout(5), gated.bus as bus:
        receipt = await bus.append("go", "a", 1)
        assert (receipt.status, receipt.runs) == ("accepted", ())
        assert (await store.stats()).pending == 1
        handling = asyncio.create_task(receipt.handled())
        await asyncio.sleep(0)
        assert not handling.done()
        gated.gate.set()
        assert await handling is receipt
        assert (receipt.status, receipt.fired) == ("handled", ("gated.go",))
        assert [one.status for one in receipt.cascade] == ["handled"]
        assert await value(bus, "other", "n") == 1


async def test_appended_events_keep_their_order(store: Store) -> None:
    """Also among events that are emitted."""
    gated = Gated(store)
    async with asyncio.timeout(5), gated.bus as bus:
        for number in range(3):
            await bus.append("go", "a", number)
        emitting = asyncio.create_task(bus.emit("go", "a", 3))
        await asyncio.sleep(0)
        gated.gate.set()
        await emitting
        assert await value(bus, "a", "order") == [0, 1, 2, 3]


async def test_closing_waits_until_appended_events_are_handled(store: Store) -> None:
    """Nobody has to ask for the receipt."""
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        receipts = [await bus.append("go", f"s{number}", number) for number in range(5)]
    assert {receipt.status for receipt in receipts} == {"handled"}


async def test_many_may_wait_for_one_receipt_and_again_later(store: Store) -> None:
    """All have the same one; who asks afterwards has it at once; who is cancelled keeps nobody from it."""
    gated = Gated(store)
    async with asyncio.timeout(5), gated.bus as bus:
        receipt = await bus.append("go", "a", 1)
        waiting = [asyncio.create_task(receipt.handled()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting.pop().cancel()
        gated.gate.set()
        assert await asyncio.gather(*waiting) == [receipt, receipt]
        assert await receipt.handled(timeout=0) is receipt


async def test_waiting_may_be_bounded_in_time(store: Store) -> None:
    """The event is handled all the same, and can be waited for again."""
    gated = Gated(store)
    async with asyncio.timeout(5), gated.bus as bus:
        receipt = await bus.append("go", "a", 1)
        with pytest.raises(TimeoutError):
            await receipt.handled(timeout=0.001)
        gated.gate.set()
        assert (await receipt.handled()).status == "handled"


async def test_a_failed_rule_is_in_the_receipt(store: Store) -> None:
    """As with `emit`: nothing is raised."""
    rules = RuleSet("rules")

    @rules.on("go")
    def go(ctx: Context) -> None:
        raise LookupError

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        receipt = await (await bus.append("go", "a")).handled()
        assert (receipt.ok, len(receipt.dead)) == (False, 1)
        assert await receipt.handled() is receipt


async def test_an_event_that_waits_for_a_retry_is_not_waited_for(store: Store) -> None:
    """`handled` returns, and the receipt says that it waits; it is filled in when it is handled."""
    rules, broken = RuleSet("rules"), [True]

    @rules.on("go", retry=RetryPolicy(on_exhausted="park"))
    def go(ctx: Context) -> None:
        if broken:
            raise LookupError

    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:
        await bus.append("go", "a")
        receipt = await (await bus.append("go", "a")).handled()
        assert receipt.status == "waiting"
        broken.clear()
        await bus.resume("a")
        await bus.idle()
        assert receipt.status == "handled"


async def test_a_duplicate_is_not_accepted_again(store: Store) -> None:
    """Whether the first one waits, is being handled, or was; `handled` has nothing to wait for."""
    gated = Gated(store)
    async with asyncio.timeout(5), gated.bus as bus:
        first = [await bus.append("go", "a", number, id=str(number)) for number in range(2)]
        again = [await bus.append("go", "a", number, id=str(number)) for number in range(2)]
        for receipt in again:
            assert (await receipt.handled()).status == "duplicate"
        gated.gate.set()
        await first[1].handled()
        assert (await bus.append("go", "a", 0, id="0")).status == "duplicate"
        assert await value(bus, "a", "order") == [0, 1]


async def test_duplicates_that_are_appended_at_once_are_one_event(store: Store) -> None:
    """They are in one batch, or in two."""
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        receipts = await asyncio.gather(*(bus.append("go", "a", number % 3, id=str(number % 3)) for number in range(9)))
        await bus.idle()
        assert sorted(receipt.status for receipt in receipts) == ["duplicate"] * 6 + ["handled"] * 3
        assert sorted(await value(bus, "a", "order")) == [0, 1, 2]


async def test_what_cannot_be_accepted_is_refused_before_the_store_is_asked(store: Store) -> None:
    """Too large, not an event, or given twice over."""
    async with asyncio.timeout(5), EventBus(store=store, limits=Limits(max_event_bytes=10)) as bus:
        with pytest.raises(EventTooLarge):
            await bus.append("go", "a", "x" * 11)
        with pytest.raises(InvalidEvent):
            await bus.append("go", "a", id="")
        with pytest.raises(TypeError, match="a whole event says everything itself"):
            await bus.append(Event("go", "a"), "b")
        assert (await store.stats()).pending == 0


async def test_a_closed_bus_takes_nothing(store: Store) -> None:
    """One that was not opened yet opens, as with `emit`."""
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5):
        await (await gated.bus.append("go", "a", 1)).handled()
        await gated.bus.close()
        with pytest.raises(BusClosed):
            await gated.bus.append("go", "a", 2)


async def test_appending_inside_a_turn_records_a_message(store: Store) -> None:
    """It leaves with the commit; there is nothing to wait for yet."""
    rules, statuses = RuleSet("rules"), []

    @rules.on("go")
    async def go(ctx: Context) -> None:
        receipt = await (await bus.append("gone", "b", 1)).handled()
        statuses.append(receipt.status)
        if ctx.payload:
            raise LookupError

    bus = EventBus(rules, store=store)
    async with asyncio.timeout(5), bus:
        receipt = await bus.emit("go", "a", 0)
        assert [one.event.type for one in receipt.cascade] == ["gone"]
        assert (await bus.emit("go", "a", 1)).cascade == []
        assert statuses == ["recorded", "recorded"]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("type", ["go", "pass"])
def test_an_interrupt_of_an_appended_event_ends_the_program(kind: type[BaseException], type: str) -> None:
    """Nobody waits for it, so it leaves the event loop; also out of a message that follows."""
    rules, memory = RuleSet("rules"), create_memory_storage()

    @rules.on("pass")
    def pass_on(ctx: Context) -> None:
        ctx.emit("go", subject="b")

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await asyncio.sleep(0)
        raise kind

    async def main() -> None:
        await EventBus(rules, store=memory).append(type, "a")
        await asyncio.sleep(5)

    with pytest.raises(kind):
        asyncio.run(main())
    assert asyncio.run(memory.stats()).pending == 1


async def test_an_interrupt_of_an_event_that_is_waited_for_goes_to_who_waits() -> None:
    """As with `emit`."""
    rules, gate = RuleSet("rules"), asyncio.Event()

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await gate.wait()
        raise KeyboardInterrupt

    bus = EventBus(rules, store=create_memory_storage())
    receipt = await bus.append("go", "a")
    asyncio.get_running_loop().call_soon(gate.set)
    with pytest.raises(KeyboardInterrupt):
        await receipt.handled()


def test_what_was_appended_survives_a_crash() -> None:
    """Once `append` has returned, the event is handled, by whichever process."""
    memory, begun = create_memory_storage(), []

    async def first() -> None:
        gated = Gated(Flaky(memory))
        for number in range(3):
            await gated.bus.append("go", "a", number, id=str(number))
        begun.append(True)
        await kill()

    async def second() -> None:
        gated = Gated(Flaky(memory))
        gated.gate.set()
        async with gated.bus as bus:
            assert (await (await bus.append("go", "a", 2, id="2")).handled()).status == "duplicate"
            await bus.idle()
            assert await value(bus, "a", "order") == [0, 1, 2]

    assert process(first)
    assert begun
    assert not process(second)


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_an_append_whose_answer_is_lost_is_accepted_once(outcome: str) -> None:
    """Its caller does not notice."""
    store = Flaky(create_memory_storage(), append=[outcome] * 4)
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        receipt = await (await bus.append("go", "a", 1)).handled()
        assert receipt.status == "handled"
        assert await value(bus, "a", "order") == [1]


async def test_a_store_that_does_not_answer_is_the_callers_error() -> None:
    """And what is waited for is that error too."""
    store = Flaky(create_memory_storage(), append=["before"] * 5)
    gated = Gated(store)
    async with asyncio.timeout(5), gated.bus as bus:
        with pytest.raises(StoreError):
            await bus.append("go", "a", 1)
        await bus.idle()
        assert await value(bus, "a", "order") is None


async def test_a_full_store_refuses_and_goes_on_when_there_is_room() -> None:
    """What was refused is not there; the store is not asked for it afterwards."""

    class Small(Flaky):
        is_full = False

        async def append(self, *arguments: Any) -> Any:
            if self.is_full:
                raise StoreFull("no room")
            return await super().append(*arguments)

    store = Small(create_memory_storage())
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        await bus.emit("go", "a", 1)
        store.is_full, reads = True, store.calls.count("read")
        with pytest.raises(StoreFull):
            await bus.append("go", "a", 2)
        await bus.idle()
        assert store.calls.count("read") == reads
        store.is_full = False
        assert (await bus.emit("go", "a", 3)).status == "handled"
        assert await value(bus, "a", "order") == [1, 3]


async def test_cancelling_an_append_stops_the_waiting_only(store: Store) -> None:
    """The event is accepted and handled all the same."""
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        appending = asyncio.create_task(bus.append("go", "a", 1))
        await asyncio.sleep(0)
        appending.cancel()
        await asyncio.wait([appending])
        await until(lambda: True)
        await bus.idle()
        assert await value(bus, "a", "order") == [1]


# -- bookmarks


@pytest.mark.parametrize("verb", ["emit", "append"])
async def test_a_bookmark_is_stored_with_its_event(store: Store, verb: str) -> None:
    """How far a source was read is known exactly when the event that was read is accepted."""
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        assert await store.bookmark(0, "mail") is None
        for number in range(3):
            await getattr(bus, verb)("go", "a", number, bookmark=("mail", str(number)))
            assert await store.bookmark(0, "mail") == str(number)
        await getattr(bus, verb)("go", "a", 3, bookmark=("chat", "7"))
        assert [await store.bookmark(0, name) for name in ("mail", "chat")] == ["2", "7"]


async def test_the_bookmark_of_a_duplicate_is_stored(store: Store) -> None:
    """What was read again after a crash is read, though it was accepted before."""
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        await bus.emit("go", "a", 1, id="1", bookmark=("mail", "1"))
        assert (await bus.emit("go", "a", 1, id="1", bookmark=("mail", "2"))).status == "duplicate"
        assert await store.bookmark(0, "mail") == "2"
        assert await value(bus, "a", "order") == [1]


async def test_of_events_that_are_accepted_together_the_last_bookmark_counts(store: Store) -> None:
    """In the order of the calls."""
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        await asyncio.gather(*(bus.emit("go", f"s{n}", n, bookmark=("mail", str(n))) for n in range(50)))
        assert await store.bookmark(0, "mail") == "49"


async def test_each_partition_has_its_own_bookmarks() -> None:
    """They are stored with the event, so in its partition."""
    store = Flaky(create_memory_storage(partitions=4))
    gated = Gated(store)
    gated.gate.set()
    async with asyncio.timeout(5), gated.bus as bus:
        for number in range(12):
            await bus.append("go", f"s{number}", number, bookmark=("mail", str(number)))
        wanted = {partition_of(f"s{number}", 4): str(number) for number in range(12)}
        assert {n: await store.bookmark(n, "mail") for n in wanted} == wanted


async def test_an_event_that_is_refused_moves_no_bookmark(store: Store) -> None:
    """It was not read to any effect."""
    async with asyncio.timeout(5), EventBus(store=store, limits=Limits(max_event_bytes=10)) as bus:
        with pytest.raises(EventTooLarge):
            await bus.append("go", "a", "x" * 11, bookmark=("mail", "1"))
        assert await store.bookmark(0, "mail") is None


def test_a_reader_that_is_killed_anywhere_reads_each_line_once() -> None:
    """Whoever goes on from the bookmark, with ids or without, repeats nothing and leaves nothing out."""
    memory, lines, steps = create_memory_storage(), list(range(20)), [0]

    async def read() -> None:
        gated = Gated(Flaky(memory))
        gated.gate.set()
        async with gated.bus as bus:
            start = int(await memory.bookmark(0, "file") or 0)
            for number in lines[start:]:
                await bus.append("go", "a", number, bookmark=("file", str(number + 1)))
                steps[0] += 1
                if steps[0] % 3 == 0:
                    await kill()

    while process(read):
        assert steps[0] < 100

    async def check() -> None:
        bus = EventBus(store=memory)
        assert await value(bus, "a", "order") == lines
        assert await value(bus, "other", "n") == len(lines)

    asyncio.run(check())


async def test_an_id_that_another_subject_uses_too(store: Store) -> None:
    """One of the same source and id is the same event, whomever it is addressed to: the first one is handled."""
    rules, clock = RuleSet("rules"), VirtualClock()

    @rules.on("go", retry=RetryPolicy(attempts=2, jitter=0))
    def go(ctx: Context) -> None:
        if ctx.payload == 1 and ctx.attempt == 1:
            raise LookupError
        ctx.subject.set("seen", [*ctx.subject.get("seen", []), ctx.payload])

    async with EventBus(rules, store=store, clock=clock) as bus:
        await bus.emit("go", "a", 1, id="1")
        await bus.emit("go", "a", 2, id="2")
        assert (await bus.emit("go", "b", 3, id="2")).status == "duplicate"
        await bus.advance(timedelta(hours=1))
        assert (await bus.read("a")).get("seen") == [1, 2]
        assert (await bus.read("b")).get("seen") is None


async def test_a_bookmark_inside_a_turn_is_refused(store: Store) -> None:
    """What a turn sends was not read from anywhere."""
    rules = RuleSet("rules")
    bus = EventBus(rules, store=store)

    @rules.on("go")
    async def go(ctx: Context) -> None:
        await bus.emit("done", "a", bookmark=("source", "1"))

    bus.include(rules)
    async with bus:
        ((_, error),) = (await bus.emit("go", "a")).failures
        assert isinstance(error, TypeError)
        assert "bookmark" in str(error)


async def test_a_bookmark_never_passes_what_was_not_accepted() -> None:
    """When an event finds no room, those that were read after it are refused as well, until it is accepted."""
    rules = RuleSet("rules")

    @rules.on("go")
    def go(ctx: Context) -> None:
        ctx.subject.set("seen", [*ctx.subject.get("seen", []), ctx.payload])

    class Full(Flaky):
        left = 0

        async def append(self, *arguments: Any) -> Any:
            if self.left:
                self.left -= 1
                raise StoreFull("there is no room")
            return await super().append(*arguments)

    events = [Event("go", "a", number) for number in range(5)]
    store = Full(create_memory_storage())
    async with asyncio.timeout(5), EventBus(rules, store=store) as bus:

        async def emit(*numbers: int) -> list[bool]:
            tasks = [bus.emit(events[number], bookmark=("file", str(number))) for number in numbers]
            return [not isinstance(one, StoreError) for one in await asyncio.gather(*tasks, return_exceptions=True)]

        assert await emit(0) == [True]
        store.left = 5
        assert await emit(1, 2) == [False, False]
        assert await emit(3) == [False]
        assert await emit(2, 3) == [False, False]
        assert await store.bookmark(0, "file") == "0"
        assert await emit(1, 2, 3, 4) == [True] * 4
        assert await store.bookmark(0, "file") == "4"
        assert await value(bus, "a", "seen") == [0, 1, 2, 3, 4]
