"""A replay that is stopped, at each single moment there is, and started again."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from onwhen import EventBus, Limits, RetryPolicy, RuleSet, VirtualClock
from onwhen.cli._bookmarks import Bookmarks, InputChanged
from onwhen.cli._dump import dump_subjects
from onwhen.cli.replay import Reject, ReplayReport, Source, replay
from onwhen.engine import resend
from onwhen.engine.store import Store
from onwhen.storage import create_sqlite_storage
from onwhen.storage.memory import MemoryStore
from tests.cli.desks import rules

Line = Callable[..., bytes]

START = datetime(2024, 1, 1, tzinfo=UTC)


class Durable(MemoryStore):
    """A store that outlives the engine on it."""

    @property
    def volatile(self) -> bool:
        return False


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store whose process is gone does not answer any more; nobody is to wait for that."""
    monkeypatch.setattr(resend, "_PATIENCE", 0.0)


class Mortal:
    """Passes calls on to a store, until the process is dead: then nobody is answered any more.

    Args:
        store: where to.
        calls: how many calls it lives through (a count).
        late: it dies when the last of them has taken effect, and not before.
    """

    def __init__(self, store: Store, calls: int, *, late: bool) -> None:
        self._store = store
        self._left = calls
        self._late = late
        self.died = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        return self._mortal(found) if name in ("append", "commit", "promote", "load", "read", "starting") else found

    def _mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def mortal(*arguments: Any) -> Any:
            if self.died.is_set():
                raise asyncio.CancelledError
            self._left -= 1
            if self._left >= 0:
                answer = await call(*arguments)
                await asyncio.sleep(0)  # no file answers at once
                return answer
            if self._late:
                await call(*arguments)
            self.died.set()
            return await asyncio.Event().wait()

        return mortal


def bus_on(store: Store, *rule_sets: RuleSet) -> EventBus:
    clock = VirtualClock(datetime.min.replace(tzinfo=UTC))
    return EventBus(*rule_sets, store=store, clock=clock, limits=Limits(max_concurrent_turns=1))


async def dumped(bus: EventBus) -> bytes:
    out = io.BytesIO()
    await dump_subjects(bus, out)
    return out.getvalue()


async def life(core: Store, data: bytes, rule_sets: list[RuleSet], calls: int, *, late: bool = False) -> bytes | None:
    """Replay into a store; return the dump, or None if that was cut short after so many calls."""
    mortal = Mortal(core, calls, late=late)
    sources = [Source.data(data)]
    bookmarks = Bookmarks(mortal, "event", sources)  # type: ignore[arg-type]
    bus = bus_on(bookmarks.store, *rule_sets)

    async def all_of_it() -> bytes:
        assert (await replay(bus, sources, drain=True, bookmarks=bookmarks)).complete
        dump = await dumped(bus)
        await bus.close()
        return dump

    run = asyncio.create_task(all_of_it())
    death = asyncio.create_task(mortal.died.wait())
    await asyncio.wait((run, death), return_when=asyncio.FIRST_COMPLETED)
    death.cancel()
    if mortal.died.is_set():
        run.cancel()
        return None
    return await run


def whole(data: bytes, rule_sets: list[RuleSet]) -> bytes:
    """What comes of it in memory, with no bookmarks, in one go."""

    async def run() -> bytes:
        bus = bus_on(MemoryStore(), *rule_sets)
        await replay(bus, [Source.data(data)], drain=True)
        return await dumped(bus)

    return asyncio.run(run())


def calls_of(data: bytes, rule_sets: list[RuleSet]) -> int:
    """How many calls of the store a replay makes."""
    low, high = 1, 1 << 14
    while low < high:
        middle = (low + high) // 2
        if asyncio.run(life(Durable(), data, rule_sets, middle)) is None:
            low = middle + 1
        else:
            high = middle
    return low


def tickets(line: Line, number: int) -> bytes:
    """Events of some tickets, a few hours apart."""
    who = dict.fromkeys(("resource", "customer", "product", "workgroup", "service_level", "seriousness"), "x")
    steps = ("take_in_charge_ticket", "wait", "resolve_ticket", "closed")
    return b"".join(
        line(
            f"ticket.{steps[n % 4]}",
            f"ticket:{n % 5}",
            {**who, "resource": f"r{n % 3}"},
            id=f"n{n}",
            time=(START + timedelta(hours=2 * n)).isoformat(),
        )
        for n in range(number)
    )


def test_killed_at_any_call_of_the_store_it_ends_in_the_same_state(line: Line) -> None:
    """After it has taken effect, and so before the next: all notes of all rules are the same, in the same order."""
    data = tickets(line, 24)
    wanted = whole(data, rules)
    assert b"ask 3" in wanted
    assert b"tell 2" in wanted
    for calls in range(calls_of(data, rules)):
        core = Durable()
        assert asyncio.run(life(core, data, rules, calls, late=True)) is None
        assert asyncio.run(life(core, data, rules, 1 << 30)) == wanted, f"killed after {calls} calls"


def test_killed_again_and_again_it_gets_there(line: Line) -> None:
    """A few calls further each time; also while what was left is being taken up."""
    data = tickets(line, 24)
    wanted = whole(data, rules)
    for calls in range(12, 30):
        core, found, lives = Durable(), None, 0
        while found is None:
            found = asyncio.run(life(core, data, rules, calls, late=bool(lives % 2)))
            lives += 1
        assert found == wanted
        assert lives > 5


def test_what_a_retry_lets_go_on_is_handled_at_the_moment_of_the_retry(line: Line) -> None:
    """Wherever it was killed: no event keeps that moment, so the replay has to."""
    slow = RuleSet("slow")

    @slow.on("order.*", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1), jitter=0))
    def keep(ctx: Any) -> None:
        if ctx.payload == "fails" and ctx.attempt == 1:
            raise ConnectionError
        ctx.subject.set("seen", lambda seen: [*(seen or []), f"{ctx.now:%H:%M}"])

    moments = [START + timedelta(minutes=minutes) for minutes in (0, 10, 20, 200)]
    data = b"".join(line(data="fails" if n == 0 else None, time=moment.isoformat()) for n, moment in enumerate(moments))
    wanted = whole(data, [slow])
    assert json.loads(wanted)["properties"]["seen"] == ["01:00", "01:00", "01:00", "03:20"]
    for calls in range(calls_of(data, [slow])):
        core = Durable()
        assert asyncio.run(life(core, data, [slow], calls, late=True)) is None
        assert asyncio.run(life(core, data, [slow], 1 << 30)) == wanted, f"killed after {calls} calls"


def at_one_moment() -> RuleSet:
    """Rules whose timers and retries all come due on the full hour, some of them at once; each tells one log."""
    kept, hour = RuleSet("kept"), timedelta(hours=1)

    def note(ctx: Any, what: str) -> None:
        ctx.subject.set("seen", lambda seen: [*(seen or []), f"{what} {ctx.attempt} {ctx.now:%H:%M}"])
        ctx.emit("told", {"what": f"{what} {ctx.subject.name}"}, "log")

    @kept.on("told")
    def told(ctx: Any) -> None:
        ctx.subject.set("seen", lambda seen: [*(seen or []), ctx.payload["what"]])

    @kept.on("order.*", retry=RetryPolicy(attempts=3, delay=hour, factor=1, jitter=0))
    async def ordered(ctx: Any) -> None:
        if ctx.attempt < 3 and ctx.payload == "fails":
            raise ConnectionError
        note(ctx, "ordered")

    @kept.on("order.*", retry=RetryPolicy(attempts=3, delay=hour, factor=1, jitter=0, in_order=False))
    def loose(ctx: Any) -> None:
        if ctx.attempt < 3:
            raise ConnectionError
        note(ctx, "loose")

    @kept.on("order.*", "later")
    async def timers(ctx: Any) -> None:
        note(ctx, "timers")
        if ctx.event_type != "later":
            await ctx.emit("later", delay=hour, key="hour")
        await ctx.emit("now", delay=0 * hour, key="now")

    @kept.on("now")
    def now(ctx: Any) -> None:
        note(ctx, "now")
        if "once" not in ctx.subject:
            ctx.subject.set("once", True)
            ctx.emit("now", delay=0 * hour, key="now")

    return kept


def test_what_is_due_at_the_same_moment_has_one_order_on_every_store(tmp_path: Path, line: Line) -> None:
    """Events first, as they stand in the log, then timers, then retries; in memory, in a file, and killed anywhere."""
    data = b"".join(
        line(
            data=None if n % 3 else "fails",
            subject=f"order:{n % 2}",
            time=(START + timedelta(minutes=30 * n)).isoformat(),
        )
        for n in range(5)
    )
    rule_sets = [at_one_moment()]
    wanted = whole(data, rule_sets)
    file = create_sqlite_storage(tmp_path / "f.db")
    assert asyncio.run(life(file, data, rule_sets, 1 << 30)) == wanted
    for calls in range(calls_of(data, rule_sets)):
        core = Durable()
        assert asyncio.run(life(core, data, rule_sets, calls, late=True)) is None
        assert asyncio.run(life(core, data, rule_sets, 1 << 30)) == wanted, f"killed after {calls} calls"


def test_a_dump_does_not_depend_on_the_order_in_which_names_came(line: Line) -> None:
    """No store keeps that. Declared properties are in the order of their declaration; see the command's tests."""
    rules = RuleSet("free")

    @rules.on("order.*")
    def keep(ctx: Any) -> None:
        for name in ctx.payload:
            ctx.subject.set(name, 1)
            ctx.subject.set_ext(name, 1)

    def dump(names: str) -> bytes:
        return whole(line(data=list(names)), [rules])

    assert dump("bca") == dump("cab")
    assert list(json.loads(dump("cab"))["properties"]) == ["a", "b", "c"]


# -- which input it is


@pytest.fixture
def log() -> RuleSet:
    """A rule that keeps what each subject was told, in order."""
    kept = RuleSet("log")

    @kept.on("order.*")
    def keep(ctx: Any) -> None:
        ctx.subject.set("seen", lambda seen: [*(seen or []), ctx.event.id])

    return kept


class Depot:
    """A store, and one replay after the other into it."""

    def __init__(self, rule_set: RuleSet) -> None:
        self.store = Durable(partitions=3, dedup_window=0)
        self.rules = rule_set
        self.rejects: list[Reject] = []

    async def replay(self, *data: bytes, strict: bool = False, name: str = "f") -> ReplayReport:
        sources = [Source.data(one, f"{name}{n}") for n, one in enumerate(data)]
        bookmarks = Bookmarks(self.store, "event", sources)
        bus = bus_on(bookmarks.store, self.rules)
        self.rejects = []
        try:
            return await replay(bus, sources, strict=strict, bookmarks=bookmarks, on_reject=self.rejects.append)
        finally:
            await bus.close()

    async def seen(self, subject: str = "order:1") -> list[str]:
        return json.loads((await self.store.load(subject)).properties["seen"])


def ordered(line: Line, *ids: str) -> list[bytes]:
    return [line(id=id, subject=f"order:{1 + n % 2}") for n, id in enumerate(ids)]


async def test_a_replay_that_was_done_is_not_done_again(line: Line, log: RuleSet) -> None:
    """The store remembers no ids here: it is the bookmarks that know."""
    depot, data = Depot(log), b"".join(ordered(line, "a", "b", "c"))
    assert ((report := await depot.replay(data)).events, report.done_before) == (3, 0)
    assert ((report := await depot.replay(data)).events, report.done_before) == (0, 3)
    assert await depot.seen() == ["a", "c"]


async def test_input_that_was_cut_off_may_be_completed(line: Line, log: RuleSet) -> None:
    """In the middle of a line, and in each of several files."""
    depot = Depot(log)
    one, two = ordered(line, "a", "b", "c"), ordered(line, "d", "e", "f")
    report = await depot.replay(one[0] + one[1][:20], two[0] + two[1] + b"\n" + two[2][:-10])
    assert (report.events, report.rejects) == (3, 2)
    report = await depot.replay(b"".join(one), b"".join([two[0], two[1], b"\n", two[2]]))
    assert (report.events, report.done_before, report.rejects) == (3, 3, 0)
    assert sorted(await depot.seen() + await depot.seen("order:2")) == list("abcdef")


async def test_rejects_are_all_told_each_time(line: Line, log: RuleSet) -> None:
    """Those between lines that were done before as well, with the same numbers."""
    depot, (first, last) = Depot(log), ordered(line, "a", "b")
    for events in (2, 0):
        report = await depot.replay(b"{\n" + first + b"[]\n\n" + last + b"{")
        assert (report.events, [reject.line for reject in depot.rejects]) == (events, [1, 3, 6])


async def test_strict_stops_at_the_same_line_each_time(line: Line, log: RuleSet) -> None:
    """What was rejected once is mended by nobody but the user."""
    depot, (first, last) = Depot(log), ordered(line, "a", "b")
    for _ in range(2):
        report = await depot.replay(first + b"{\n" + last, strict=True)
        assert report.stopped == "f0:2 was rejected"
    report = await depot.replay(first + b"{\n" + last)
    assert (report.events, report.done_before) == (1, 1)


async def test_input_that_goes_on_otherwise_is_refused(line: Line, log: RuleSet) -> None:
    """Else its first lines would be passed over as done, and silently lost."""
    depot, (one, two, three, four) = Depot(log), ordered(line, "a", "b", "c", "d")
    await depot.replay(one + two + three)
    with pytest.raises(InputChanged, match=r"f0: its first [23] lines are not the ones"):
        await depot.replay(one + four + three)
    with pytest.raises(InputChanged, match="f0: has 2 lines, but 3 of it"):
        await depot.replay(one + two)
    assert await depot.seen() == ["a", "c"]
    assert (await depot.replay(one + two + three + four)).events == 1


async def test_input_that_begins_otherwise_is_another_one(line: Line, log: RuleSet) -> None:
    """As with standard input, which has the same name each day; and it says so."""
    depot, (one, two, three, four) = Depot(log), ordered(line, "a", "b", "c", "d")
    await depot.replay(one + two)
    report = await depot.replay(three + four)
    assert (report.events, report.done_before, report.others) == (2, 0, ["f0"])
    assert ((report := await depot.replay(three + four)).done_before, report.others) == (2, [])


async def test_other_arguments_are_another_replay_of_the_same_store(line: Line, log: RuleSet) -> None:
    """It goes on from the state that is there."""
    depot, data = Depot(log), b"".join(ordered(line, "a", "b", "c"))
    await depot.replay(data)
    assert (await depot.replay(data, name="g")).events == 3
    assert await depot.seen() == ["a", "c", "a", "c"]


async def test_a_drain_that_was_given_up_is_not_taken_up_again(line: Line) -> None:
    """Until more comes; so what it leaves is the same however often it is looked at."""
    beats = RuleSet("beats")

    @beats.on("order.placed", "beat")
    async def beat(ctx: Any) -> None:
        ctx.subject.set("n", lambda n: (n or 0) + 1)
        await ctx.emit("beat", delay=timedelta(hours=1))

    store, data = Durable(), line()

    async def run(data: bytes) -> tuple[str, bytes]:
        sources = [Source.data(data)]
        bookmarks = Bookmarks(store, "event", sources)
        bus = bus_on(bookmarks.store, beats)
        report = await replay(bus, sources, drain=True, bookmarks=bookmarks)
        await bus.close()
        return report.endless, (await store.load("order:1")).properties["n"]

    endless, number = await run(data)
    assert "of them for beat" in endless
    assert await run(data) == (endless, number)
    more, higher = await run(data + line("other"))
    assert int(higher) > int(number)
    assert more


def test_what_is_known_of_a_source_depends_on_the_kind_of_time_and_all_names() -> None:
    """And on nothing else, so that options like --window may change."""
    sources = [Source.data(b"", name) for name in ("a", "b")]

    def name(time: str, sources: list[Source]) -> str:
        return Bookmarks(MemoryStore(), time, sources)._name

    assert name("now", sources) == name("now", [replace(source, size=7) for source in sources])
    names = {name("now", sources), name("event", sources), name("now", sources[::-1]), name("now", sources[:1])}
    assert len(names) == 4
