"""Recorded events through a bus: order, time, what is refused, and the figures."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import pytest

from onwhen import Context, Event, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, create_memory_storage, when
from onwhen.cli.replay import Reject, ReplayReport, Source, replay
from onwhen.engine.store import Accepted
from onwhen.storage.memory import MemoryStore

Line = Callable[..., bytes]

START = datetime(2024, 1, 1, tzinfo=UTC)


def at(**after: int) -> str:
    return (START + timedelta(**after)).isoformat()


def virtual(*rule_sets: RuleSet, **options: Any) -> EventBus:
    return EventBus(*rule_sets, store=create_memory_storage(), clock=VirtualClock(), **options)


def system(*rule_sets: RuleSet, **options: Any) -> EventBus:
    return EventBus(*rule_sets, store=create_memory_storage(), **options)


@pytest.fixture(params=[virtual, system])
def bus_of(request: pytest.FixtureRequest) -> Callable[..., EventBus]:
    """Buses of both kinds: on the events' own time, and on the machine's."""
    made: Callable[..., EventBus] = request.param
    return made


@pytest.fixture
def log() -> RuleSet:
    """A rule that keeps what each subject was told, in order."""
    rules = RuleSet("log")

    @rules.on("order.*")
    def keep(ctx: Context) -> None:
        ctx.subject.set("seen", lambda seen: [*(seen or []), ctx.event.id])

    return rules


async def rejected(bus: EventBus, data: bytes, **options: Any) -> list[Reject]:
    rejects: list[Reject] = []
    report = await replay(bus, [Source.data(data, "f")], on_reject=rejects.append, **options)
    assert report.rejects == len(rejects)
    return rejects


# -- order and time


async def test_events_of_a_subject_keep_their_order(bus_of: Callable[..., EventBus], line: Line) -> None:
    """Even if the earlier ones take longer."""
    rules = RuleSet("slow")

    @rules.on("order.*")
    async def keep(ctx: Context) -> None:
        for _ in range(ctx.payload):
            await asyncio.sleep(0)
        ctx.subject.set("seen", lambda seen: [*(seen or []), ctx.payload])

    data = b"".join(line(subject=f"s{n % 3}", data=100 - n) for n in range(100))
    bus = bus_of(rules)
    report = await replay(bus, [Source.data(data)])
    assert report.events == 100
    for n in range(3):
        assert (await bus.read(f"s{n}")).get("seen") == [100 - m for m in range(100) if m % 3 == n]


async def test_the_order_of_a_subject_does_not_depend_on_the_store(line: Line, log: RuleSet) -> None:
    """Here each event is accepted faster than the one before it."""

    class Uneven(MemoryStore):
        waits = 20

        async def append(
            self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None = None
        ) -> Sequence[Accepted]:
            self.waits -= 1
            for _ in range(self.waits):
                await asyncio.sleep(0)
            return await super().append(partition, events, bookmarks)

    bus = EventBus(log, store=Uneven())
    await replay(bus, [Source.data(b"".join(line(id=str(n)) for n in range(20)))])
    assert (await bus.read("order:1")).get("seen") == [str(n) for n in range(20)]


async def test_events_of_different_subjects_run_together_up_to_the_window(line: Line) -> None:
    """On the machine's clock."""
    rules = RuleSet("count")
    now = most = 0

    @rules.on("*")
    async def work(ctx: Context) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(20):
            await asyncio.sleep(0)
        now -= 1

    data = b"".join(line(subject=f"s{n}") for n in range(50))
    await replay(system(rules), [Source.data(data)], window=7)
    assert most == 7
    most = 0
    await replay(virtual(rules), [Source.data(data)], window=7)
    assert most == 1


async def test_timers_fire_between_events_exactly_when_due(line: Line) -> None:
    """At the moment of an event they fire before it; after the last event they stay pending."""
    rules = RuleSet("timers")
    told: list[tuple[str, datetime]] = []

    @rules.on("start")
    async def start(ctx: Context) -> None:
        for hours in (1, 2, 3):
            await ctx.emit(f"ring {hours}", delay=timedelta(hours=hours))

    @rules.on("*")
    def tell(ctx: Context) -> None:
        told.append((ctx.event_type, ctx.now))

    data = line("start", time=at()) + line("tick", time=at(hours=2)) + line("end", time=at(hours=2, minutes=59))
    report = await replay(virtual(rules), [Source.data(data)])
    assert told == [
        ("start", START),
        ("ring 1", START + timedelta(hours=1)),
        ("ring 2", START + timedelta(hours=2)),
        ("tick", START + timedelta(hours=2)),
        ("end", START + timedelta(hours=2, minutes=59)),
    ]
    assert (report.timers_set, report.timers_fired, report.timers_pending) == (3, 2, 1)


async def test_a_timer_that_sets_the_next_one_keeps_its_beat(line: Line) -> None:
    """Each at its own moment, between two events as well."""
    rules = RuleSet("beats")
    beats: list[datetime] = []

    @rules.on("start", "beat")
    async def beat(ctx: Context) -> None:
        beats.append(ctx.now)
        await ctx.emit("beat", delay=timedelta(hours=1), key="beat")

    data = line("start", time=at()) + line("end", time=at(hours=5, minutes=30))
    report = await replay(virtual(rules), [Source.data(data)])
    assert beats == [START + timedelta(hours=n) for n in range(6)]
    assert (report.timers_set, report.timers_fired, report.timers_pending) == (6, 5, 1)


async def test_a_timer_without_delay_of_the_last_event_fires(line: Line) -> None:
    """It is due at the event's own time."""
    rules = RuleSet("timers")

    @rules.on("start")
    async def start(ctx: Context) -> None:
        await ctx.emit("ring", delay=timedelta(0))

    report = await replay(virtual(rules), [Source.data(line("start"))])
    assert (report.timers_fired, report.timers_pending) == (1, 0)


async def test_drain_goes_on_until_nothing_is_due(line: Line) -> None:
    """Timers and retries, each at its own moment."""
    rules = RuleSet("timers")
    told: list[tuple[str, datetime]] = []

    @rules.on("start")
    async def start(ctx: Context) -> None:
        await ctx.emit("far", delay=timedelta(days=400))

    @rules.on("far", retry=RetryPolicy(attempts=2, delay=timedelta(minutes=1), jitter=0))
    def far(ctx: Context) -> None:
        told.append((ctx.event_type, ctx.now))
        if ctx.attempt == 1:
            raise RuntimeError("not yet")

    report = await replay(virtual(rules), [Source.data(line("start", time=at()))], drain=True)
    due = START + timedelta(days=400)
    assert told == [("far", due), ("far", due + timedelta(minutes=1))]
    assert (report.timers_fired, report.timers_pending, report.retries_waiting) == (1, 0, 0)
    assert report.rules["timers.far"].retries == 1
    assert report.ok


async def test_drain_gives_up_on_timers_that_never_end(line: Line) -> None:
    """Here each one sets two; the figures say so, and which type it was."""
    rules = RuleSet("timers")

    @rules.on("start", "beat")
    async def beat(ctx: Context) -> None:
        await ctx.emit("beat", delay=timedelta(hours=1))
        await ctx.emit("beat", delay=timedelta(hours=1))

    report = await replay(virtual(rules), [Source.data(line("start"))], drain=True)
    assert "for beat" in report.endless
    assert 10_000 < report.timers_fired < 40_000
    assert report.timers_pending > 0


async def test_drain_needs_a_clock_that_can_be_moved(line: Line) -> None:
    """Waiting a month for a timer is not what anybody means."""
    with pytest.raises(ValueError, match="drain needs a bus on a VirtualClock, this one runs on SystemClock"):
        await replay(system(), [Source.data(line())], drain=True)


async def test_an_event_older_than_the_one_before_is_handled_late(line: Line, log: RuleSet) -> None:
    """Time does not run backwards; the figures count such events."""
    bus = virtual(log)
    data = line(time=at(hours=2)) + line(time=at(hours=1)) + line(time=at(hours=3))
    report = await replay(bus, [Source.data(data)])
    assert (report.events, report.late) == (3, 1)
    assert bus.clock.now() == START + timedelta(hours=3)
    assert (report.first, report.last) == (START + timedelta(hours=1), START + timedelta(hours=3))


async def test_in_event_time_the_same_input_gives_the_same_result(line: Line) -> None:
    """Retries with jitter, messages, timers: all of it, to the last byte."""
    rules = RuleSet("busy")

    @rules.on("tick", retry=RetryPolicy(attempts=3, delay=timedelta(seconds=1), jitter=1.0))
    async def tick(ctx: Context) -> None:
        if ctx.attempt < 3 and ctx.payload % 3 == 0:
            raise RuntimeError("again")
        ctx.subject.set("seen", lambda seen: [*(seen or []), [ctx.event.id, ctx.now.isoformat()]])
        await ctx.emit("told", {"n": ctx.payload}, "other")
        await ctx.emit("tock", ctx.payload, delay=timedelta(seconds=ctx.payload % 7))

    @rules.on("told", "tock")
    async def tell(ctx: Context) -> None:
        await asyncio.sleep(0)
        ctx.subject.set("told", lambda told: [*(told or []), [ctx.event.id, ctx.now.isoformat()]])

    data = b"".join(line("tick", f"s{n % 5}", n) for n in range(60))
    results = []
    for _ in range(2):
        bus = virtual(rules)
        report = await replay(bus, [Source.data(data)], drain=True)
        report.seconds = 0
        results.append((report, [record async for record in bus.store.subjects()]))
    (first, subjects), (second, again) = results
    assert first == second
    assert [(record.name, record.properties) for record in subjects] == [(r.name, r.properties) for r in again]


# -- sources


async def test_sources_are_read_one_after_the_other(bus_of: Callable[..., EventBus], line: Line, log: RuleSet) -> None:
    """Plain and gzip may be mixed."""
    bus = bus_of(log)
    data = [line() + b"\n  \r\n" + line(), gzip.compress(line()), b"", b"\xef\xbb\xbf" + line().rstrip() + b"\r\n"]
    report = await replay(bus, [Source.data(one) for one in data])
    assert (await bus.read("order:1")).get("seen") == ["e1", "e2", "e3", "e4"]
    assert (report.lines, report.events, report.rejects) == (4, 4, 0)
    assert report.bytes == sum(map(len, data))


async def test_a_broken_source_is_a_reject_and_the_next_one_is_read(line: Line) -> None:
    """What was whole before the break counts."""
    rejects: list[Reject] = []
    broken = gzip.compress(line())[:-3]
    report = await replay(virtual(), [Source.data(broken, "a.gz"), Source.data(line(), "b")], on_reject=rejects.append)
    assert report.events == 2
    assert [(r.file, r.line, r.reason) for r in rejects] == [
        ("a.gz", 2, "cannot be read further: the gzip data is cut off")
    ]
    assert report.broken == ["a.gz:2: cannot be read further: the gzip data is cut off"]
    assert not report.complete


async def test_an_event_that_came_before_is_counted_as_a_duplicate(
    bus_of: Callable[..., EventBus], line: Line, log: RuleSet
) -> None:
    """Same source and id; the same id of another source is another event."""
    bus = bus_of(log)
    data = line(id="a") + line(id="a") + line(id="a", source="/other") + line(id="b")
    report = await replay(bus, [Source.data(data)])
    assert (report.events, report.duplicates) == (3, 1)
    assert (await bus.read("order:1")).get("seen") == ["a", "a", "b"]


# -- rejects


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "not JSON"),
        (b'{"a', "not JSON: Unterminated string starting at line 1, column 2"),
        (b"[1, 2]", "a JSON object is needed, not list"),
        (b"\xff\xfe{}", "not UTF-8 at byte 0"),
        (b'{"a": 1, "a": 2}', 'duplicate key "a"'),
        (b'{"specversion": "0.3"}', "specversion"),
        (b'{"specversion": "1.0", "id": "1", "source": "/", "type": "t"}', "subject: missing"),
        (b'{"specversion": "1.0", "id": "1", "source": "/", "type": 3, "subject": "s"}', "type"),
        (b'{"specversion": "1.0", "id": "1", "source": "/", "type": "t", "subject": "s", "time": "soon"}', "time"),
        (b'{"specversion": "1.0", "id": "1", "source": "/", "type": "t", "subject": "s", "Bad-Name": 1}', "Bad-Name"),
        (b'{"data": ' + b"[" * 1001 + b"]" * 1001 + b"}", "nested more than"),
        (b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than"),
        (b'{"data": NaN}', "JSON has no NaN"),
        (b"\0" * 10, "not JSON"),
    ],
)
async def test_a_line_that_is_no_event_is_rejected_and_the_run_goes_on(
    bus_of: Callable[..., EventBus], line: Line, raw: bytes, reason: str
) -> None:
    """With file, number, reason and the raw line."""
    rejects: list[Reject] = []
    data = line() + raw + b"\n" + line()
    report = await replay(bus_of(), [Source.data(data, "f")], on_reject=rejects.append)
    (reject,) = rejects
    assert (reject.file, reject.line) == ("f", 2)
    assert reason in reject.reason
    assert reject.raw == raw[: 64 * 1024]
    assert (report.lines, report.events, report.rejects) == (3, 2, 1)
    assert not report.ok


async def test_time_is_needed_only_where_it_drives_the_clock(line: Line) -> None:
    """An event without it cannot be put into its place."""
    data = json.dumps({"specversion": "1.0", "id": "1", "source": "/", "type": "t", "subject": "s"}).encode()
    (reject,) = await rejected(virtual(), data)
    assert reject.reason == "time: missing; it drives the clock in event time"
    assert await rejected(system(), data) == []


async def test_a_line_longer_than_the_limit_is_rejected(bus_of: Callable[..., EventBus], line: Line) -> None:
    """The one after it is read as usual; the limit itself is allowed."""
    long = line(data="x" * 5000)
    data = long + line()
    (reject,) = await rejected(bus_of(), data, max_line_bytes=len(long) - 2)
    assert reject.reason == f"a line of {len(long) - 1:,} bytes is longer than the {len(long) - 2:,} that are read"
    assert await rejected(bus_of(), data, max_line_bytes=len(long) - 1) == []


async def test_data_larger_than_the_bus_allows_is_rejected(bus_of: Callable[..., EventBus], line: Line) -> None:
    """With what to set; nothing of the event is accepted."""
    bus = bus_of(limits=Limits(max_event_bytes=1000))
    (reject,) = await rejected(bus, line(data="x" * 1500) + line())
    assert "ONWHEN_MAX_EVENT_BYTES" in reject.reason
    assert b"x" * 1500 in reject.raw
    (reject,) = await rejected(bus, line(data="x" * 100_000))
    assert "is longer than the 69,536 that are read" in reject.reason


async def test_strict_stops_at_the_first_reject(bus_of: Callable[..., EventBus], line: Line, log: RuleSet) -> None:
    """What came before it is handled, what comes after it is not."""
    bus = bus_of(log, limits=Limits(max_event_bytes=1000))
    for before, bad in ("a", b"{\n"), ("b", line(id="big", data="x" * 1500)):
        rejects: list[Reject] = []
        data = line(id=before) + bad + line(id="after") * 500 + b"{\n"
        report = await replay(
            bus, [Source.data(data, "f"), Source.data(line(id="next"))], strict=True, on_reject=rejects.append
        )
        assert [reject.line for reject in rejects] == [2]
        assert report.stopped == "f:2 was rejected"
    assert (await bus.read("order:1")).get("seen") == ["a", "b"]


# -- figures


async def test_the_figures_say_what_rules_did(bus_of: Callable[..., EventBus], line: Line) -> None:
    """Fired, skipped, stopped, failed; messages; dead letters with their errors."""
    rules = RuleSet("all")

    async def stopper(ctx: Context, next: Callable[[], Any]) -> None:
        return

    @rules.on("a")
    async def fires(ctx: Context) -> None:
        await ctx.emit("b", {"n": 1}, "other")
        await ctx.emit("b", {"n": 2}, "other")

    @rules.on("a")
    @when(lambda ctx: False)
    def skips(ctx: Context) -> None: ...

    @rules.on("a", middleware=[stopper])
    def stops(ctx: Context) -> None: ...

    @rules.on("b")
    def fails(ctx: Context) -> None:
        raise ValueError(f"no {ctx.payload['n']}")

    report = await replay(bus_of(rules), [Source.data(line("a", "s") + line("c", "s"))])
    counts = {name: (f.fired, f.skipped, f.stopped, f.failed) for name, f in report.rules.items()}
    assert counts == {
        "all.fires": (1, 0, 0, 0),
        "all.skips": (0, 1, 0, 0),
        "all.stops": (0, 0, 1, 0),
        "all.fails": (0, 0, 0, 2),
    }
    assert {name: (f.read, f.messages) for name, f in report.types.items()} == {"a": (1, 0), "b": (0, 2), "c": (1, 0)}
    assert (report.events, report.messages, report.dead_letters, report.subjects) == (2, 2, 2, 0)
    dead = report.dead["all.fails", "ValueError"]
    assert (dead.count, dead.first.failure.message, dead.first.subject) == (2, "no 1", "other")
    assert not report.ok
    assert report.seconds > 0


async def test_a_retry_that_is_not_due_yet_waits(line: Line) -> None:
    """It is neither a dead letter nor forgotten."""
    rules = RuleSet("again")

    @rules.on("a", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1)))
    def fails(ctx: Context) -> None:
        raise ValueError("no")

    report = await replay(virtual(rules), [Source.data(line("a") + line("b"))])
    assert (report.events, report.retries_waiting, report.dead_letters) == (2, 1, 0)


async def test_timers_that_are_replaced_or_cancelled_do_not_fire(line: Line) -> None:
    """Set counts each; fired and pending only those that were left."""
    rules = RuleSet("timers")

    @rules.on("set")
    async def set_it(ctx: Context) -> None:
        await ctx.emit("ring", delay=timedelta(hours=1), key="k")

    @rules.on("cancel")
    def cancel(ctx: Context) -> None:
        ctx.cancel("k")

    data = line("set", "a") + line("set", "a") + line("cancel", "a") + line("set", "b") + line("set", "b")
    report = await replay(virtual(rules), [Source.data(data)], drain=True)
    assert (report.timers_set, report.timers_fired, report.timers_pending) == (4, 1, 0)
    assert report.types["ring"].timers == 1


async def test_a_turn_that_failed_as_a_whole_sent_nothing(line: Line) -> None:
    """What its rules had recorded was undone, and is not counted."""
    rules = RuleSet("loop")

    @rules.on("a")
    async def sends(ctx: Context) -> None:
        await ctx.emit("b")
        await ctx.emit("c", delay=timedelta(hours=1))
        ctx.subject.set("n", 1)

    @rules.on("subject-property-changed")
    def loops(ctx: Context) -> None:
        ctx.subject.set("n", lambda n: n + 1)

    report = await replay(virtual(rules), [Source.data(line("a"))])
    assert (report.messages, report.timers_set, report.dead_letters) == (0, 0, 1)


async def test_many_event_types_take_bounded_room(line: Line) -> None:
    """Past 10,000 they share one row."""
    data = b"".join(line(f"t{n}") for n in range(10_050))
    report = await replay(virtual(), [Source.data(data)])
    assert len(report.types) == 10_001
    assert report.types["(other types)"].read == 50


async def test_progress_and_report_can_be_watched(bus_of: Callable[..., EventBus], line: Line) -> None:
    """The report that was passed in is the one that is filled, from the first event on."""
    mine = ReplayReport()
    seen: list[int] = []

    def watch(report: ReplayReport) -> None:
        assert report is mine
        seen.append(report.events)

    data = line() + line() + line()
    assert await replay(bus_of(), [Source.data(data)], report=mine, progress=watch) is mine
    assert {1, 2, 3} <= set(seen)


async def test_a_cancelled_replay_leaves_its_figures(bus_of: Callable[..., EventBus], line: Line) -> None:
    """And the bus is no longer observed."""
    rules = RuleSet("hang")
    hanging = asyncio.Event()

    @rules.on("ok")
    def fine(ctx: Context) -> None: ...

    @rules.on("hang")
    async def hang(ctx: Context) -> None:
        hanging.set()
        await asyncio.Event().wait()

    bus, report = bus_of(rules), ReplayReport()
    data = line("ok", "a") + line("ok", "b") + line("hang", "c") + line("ok", "c")
    running = asyncio.create_task(replay(bus, [Source.data(data)], report=report))
    async with asyncio.timeout(10):
        await hanging.wait()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert report.events == 2
    assert report.seconds > 0
    await bus.emit("ok", "d")
    assert report.rules["hang.fine"].fired == 2


async def test_an_error_of_the_store_ends_the_replay_as_itself(bus_of: Callable[..., EventBus], line: Line) -> None:
    """Not wrapped in a group."""

    class Full(MemoryStore):
        async def append(self, *_: object) -> NoReturn:
            raise RuntimeError("the store is full")

    bus = bus_of()
    full = bus.twin(store=Full(), clock=bus.clock)
    with pytest.raises(RuntimeError, match="the store is full"):
        await replay(full, [Source.data(line() + line())])
