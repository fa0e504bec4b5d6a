"""De-duplication: of events that mean the same one takes effect, and none is lost over one that failed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import (
    Context,
    EventBus,
    Limits,
    Receipt,
    RetryPolicy,
    RuleSet,
    Subject,
    VirtualClock,
    create_memory_storage,
    create_sqlite_storage,
)
from onwhen.engine.store import Cell, Commit, SubjectWrite
from onwhen.errors import MiddlewareError, Postponed, RuleDefinitionError, StoreError
from onwhen.middleware import Debounce, Deduplication
from onwhen.middleware.deduplication import _Memory
from onwhen.storage.memory import MemoryStore

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
PLAIN = RetryPolicy(jitter=0, in_order=False)
TWICE = RetryPolicy(attempts=2, delay=10 * SECOND, jitter=0, in_order=False)


def receipt_number(ctx: Context) -> str:
    return str(ctx.payload["receipt"])


class Till:
    """Books what is paid; fails for receipts that are broken, as often as it is told to.

    Attributes:
        broken: receipt -> how often booking it fails.
        runs: receipts that a run has begun with.
    """

    def __init__(self, store: Any = None, retry: RetryPolicy = PLAIN) -> None:
        self.rules = RuleSet("till")
        self.clock = VirtualClock(START)
        store = store or create_memory_storage()
        self.bus = EventBus(self.rules, store=store, clock=self.clock, limits=Limits(retry=retry))
        self.broken: dict[int, int] = {}
        self.runs: list[int] = []
        self.gate: asyncio.Event | None = None

    def book(self, middleware: Any, *, retry: RetryPolicy = PLAIN, inside: Any = None, **options: Any) -> None:
        around = [one for one in (middleware, inside) if one is not None]

        @self.rules.on("paid", middleware=around, retry=retry, **options)
        async def book(ctx: Context) -> None:
            receipt = ctx.payload["receipt"]
            self.runs.append(receipt)
            if self.gate is not None:
                await self.gate.wait()
            if self.broken.get(receipt, 0):
                self.broken[receipt] -= 1
                raise ConnectionError("no paper")
            ctx.subject.set("booked", [*ctx.subject.get("booked", []), receipt])
            ctx.emit("booked", receipt, "ledger")

    async def pay(self, receipt: int, subject: str = "till:1", **options: Any) -> Receipt:
        return await self.bus.emit("paid", subject, {"receipt": receipt}, **options)

    async def paid(self, receipt: int, subject: str = "till:1") -> str:
        """Pay; return what became of the run."""
        return (await self.pay(receipt, subject)).runs[0].status

    async def booked(self, subject: str = "till:1") -> list[int]:
        return list((await self.bus.read(subject)).get("booked", []))


@pytest.fixture
async def till() -> AsyncIterator[Till]:
    till = Till()
    async with till.bus:
        yield till


BY_RECEIPT: list[Callable[[], Deduplication]] = [
    lambda: Deduplication(receipt_number),
    lambda: Deduplication(receipt_number, shared=True),
]
either = pytest.mark.parametrize("made", BY_RECEIPT, ids=["subject", "shared"])


# -- what both ways promise --------------------------------------------------------------------------------------


@either
async def test_the_second_of_two_is_stopped(till: Till, made: Any) -> None:
    """Although it has an id of its own; the outcome says by whom, and other keys pass."""
    till.book(made())
    assert await till.paid(7) == "fired"
    again = await till.pay(7)
    assert [(run.status, run.stopped_by) for run in again.runs] == [("stopped", "Deduplication")]
    assert await till.paid(8) == "fired"
    assert await till.booked() == [7, 8]


@either
async def test_after_the_window_it_counts_as_new(till: Till, made: Any) -> None:
    """An hour, unless told otherwise; a duplicate does not begin it anew."""
    till.book(made())
    await till.paid(7)
    await till.bus.advance(HOUR - SECOND)
    assert await till.paid(7) == "stopped"
    await till.bus.advance(SECOND)
    assert await till.paid(7) == "fired"


@either
async def test_what_failed_may_be_run_again(till: Till, made: Any) -> None:
    """Its own retry passes, and then it counts."""
    till.book(made(), retry=TWICE)
    till.broken[7] = 1
    assert await till.paid(7) == "failed"
    await till.bus.advance(10 * SECOND)
    assert till.runs == [7, 7]
    assert await till.paid(7) == "stopped"
    assert await till.booked() == [7]


@either
async def test_a_duplicate_may_do_what_the_first_has_failed_to(till: Till, made: Any) -> None:
    """And then the retry of the first is the duplicate."""
    till.book(made(), retry=TWICE)
    till.broken[7] = 1
    assert await till.paid(7) == "failed"
    assert await till.paid(7) == "fired"
    await till.bus.advance(10 * SECOND)
    assert till.runs == [7, 7]
    assert await till.booked() == [7]


@either
async def test_what_was_put_off_or_stopped_further_in_is_not_remembered(till: Till, made: Any) -> None:
    """It has not taken effect."""
    moods = ["later", "stop", "go", "never asked"]

    async def inside(ctx: Any, next: Any) -> None:
        mood = moods.pop(0)
        if mood == "later":
            raise Postponed("not now", delay=HOUR)
        if mood != "stop":
            await next()

    till.book(made(), inside=inside)
    assert [await till.paid(7) for _ in range(4)] == ["postponed", "stopped", "fired", "stopped"]
    assert moods == ["never asked"]


@either
async def test_a_turn_that_is_run_again_is_no_duplicate_of_itself(till: Till, made: Any) -> None:
    """Its subject was changed by somebody else, so the first run was not stored."""
    meddled = False

    async def meddling(ctx: Any, next: Any) -> None:
        nonlocal meddled
        if not meddled:
            meddled = True
            record = await till.bus.store.load("till:1")
            write = SubjectWrite(set={"by": b'"them"'})
            await till.bus.store.commit(
                Commit(partition=0, subject="till:1", version=record.version, write=write, id="x1")
            )
        await next()

    till.book(made(), inside=meddling)
    assert await till.paid(7) == "fired"
    assert till.runs == [7, 7]
    assert await till.booked() == [7]
    assert await till.paid(7) == "stopped"


@either
async def test_around_events_the_whole_event_is_stopped(till: Till, made: Any) -> None:
    """All of its rules; but a rule of the first one that failed is retried."""
    till.book(None, retry=TWICE)
    till.broken[7] = 1
    others = list[int]()

    @till.rules.on("paid")
    def other(ctx: Context) -> None:
        others.append(ctx.payload["receipt"])

    till.bus.use(made(), scope="event")
    first = await till.pay(7)
    assert [run.status for run in first.runs] == ["failed", "fired"]
    again = await till.pay(7)
    assert [(run.rule, run.status, run.stopped_by) for run in again.runs] == [("", "stopped", "Deduplication")]
    await till.bus.advance(10 * SECOND)
    assert (till.runs, others) == ([7, 7], [7])
    assert await till.booked() == [7]


@either
async def test_a_whole_event_that_failed_may_be_overtaken_by_a_duplicate(made: Any) -> None:
    """Then it is the duplicate when it comes again."""
    till = Till(retry=TWICE)
    till.book(None)
    failures = ["once"]

    async def failing(ctx: Any, next: Any) -> None:
        if failures:
            failures.pop()
            raise ConnectionError
        await next()

    till.bus.use(made(), scope="event")
    till.bus.use(failing, scope="event")
    async with till.bus:
        assert isinstance((await till.pay(7)).error, ConnectionError)
        assert await till.paid(7) == "fired"
        await till.bus.advance(20 * SECOND)
    assert till.runs == [7]


@either
async def test_a_late_retry_passes_although_its_key_has_been_used_again(made: Any) -> None:
    """Its event was let through long ago; what is left of it is no duplicate."""
    till = Till()
    till.book(None, retry=RetryPolicy(attempts=2, delay=2 * HOUR, jitter=0, in_order=False))
    till.broken[7] = 1
    till.bus.use(made(), scope="event")
    async with till.bus:
        assert await till.paid(7) == "failed"
        await till.bus.advance(HOUR)
        assert await till.paid(7) == "fired"
        await till.bus.advance(HOUR)
        assert await till.booked() == [7, 7]


@either
async def test_around_events_what_was_put_off_by_a_rule_is_no_duplicate(till: Till, made: Any) -> None:
    """The event that a timer brings has another id and the same key; the event itself was let through."""
    till.book(Debounce(30))
    till.bus.use(made(), scope="event")
    await till.pay(7)
    assert (await till.pay(7)).runs[0].status == "stopped"
    await till.bus.advance(30 * SECOND)
    assert await till.booked() == [7]


@pytest.mark.parametrize("shared", [False, True])
async def test_two_around_one_rule_are_told_apart_by_their_names(till: Till, shared: bool) -> None:
    """One of them has seen nothing of what the other one has; without names they are refused."""

    def by(option: str, name: str | None = None) -> Deduplication:
        return Deduplication(lambda ctx: str(ctx.payload[option]), name=name, shared=shared)

    @till.rules.on("bought", middleware=[by("receipt"), by("customer", "customer")])
    def buy(ctx: Context) -> None: ...

    @till.rules.on("sold", middleware=[by("receipt"), by("customer")])
    def sell(ctx: Context) -> None: ...

    async def bought(receipt: int, customer: int) -> str:
        data = {"receipt": receipt, "customer": customer}
        return (await till.bus.emit("bought", "till:1", data)).runs[0].status

    assert [await bought(1, 2), await bought(2, 3), await bought(1, 4), await bought(4, 3)] == [
        *("fired", "fired"),
        *("stopped", "stopped"),
    ]
    (run,) = (await till.bus.emit("sold", "till:1", {"receipt": 5, "customer": 6})).runs
    assert isinstance(run.error, MiddlewareError)
    assert "name=" in str(run.error)


@either
async def test_rules_do_not_share_their_keys(till: Till, made: Any) -> None:
    """One around all rules of the bus stops none because another one has seen the key."""
    till.book(None)

    @till.rules.on("paid")
    def other(ctx: Context) -> None: ...

    till.bus.use(made())
    assert {run.status for run in (await till.pay(7)).runs} == {"fired"}
    assert {run.status for run in (await till.pay(7)).runs} == {"stopped"}


@pytest.mark.parametrize("shared", [False, True])
async def test_a_key_that_is_no_text_fails_the_rule(till: Till, shared: bool) -> None:
    """And is said so."""
    till.book(Deduplication(lambda ctx: ctx.payload["receipt"], shared=shared))
    assert isinstance((await till.pay(7)).runs[0].error, MiddlewareError)


# -- on the subject ----------------------------------------------------------------------------------------------


async def test_a_key_counts_for_its_subject(till: Till) -> None:
    """Two tills may have the same receipt number."""
    till.book(Deduplication(receipt_number))
    assert [await till.paid(7, "till:1"), await till.paid(7, "till:2")] == ["fired", "fired"]


async def test_it_is_remembered_with_what_was_done(tmp_path: Path) -> None:
    """In a file: stored together with it, and there for whoever opens it next."""
    path = tmp_path / "till.db"
    for status in ("fired", "stopped"):
        till = Till(create_sqlite_storage(path))
        till.book(Deduplication(receipt_number))
        async with till.bus:
            assert await till.paid(7) == status
            assert await till.booked() == [7]


@pytest.mark.parametrize("scope", ["rule", "event"])
async def test_without_a_key_source_and_id_count(scope: Any) -> None:
    """For ids that come again when the store has forgotten them."""
    till = Till(create_memory_storage(dedup_window=1))
    till.book(None)
    till.bus.use(Deduplication(), scope=scope)
    async with till.bus:
        for id, status in (("a", "fired"), ("b", "fired"), ("a", "stopped")):
            assert (await till.pay(7, id=id)).runs[0].status == status


async def test_the_memory_of_a_subject_is_bounded(till: Till) -> None:
    """The oldest keys are forgotten first, and those that are over with them."""
    till.book(Deduplication(receipt_number, limit=2, window=100))
    for receipt in (1, 2, 1, 3):
        await till.paid(receipt)
        await till.bus.advance(SECOND)
    assert [await till.paid(receipt) for receipt in (3, 2, 1)] == ["stopped", "stopped", "fired"]
    full = await stored(till)
    await till.bus.advance(200 * SECOND)
    await till.paid(9)
    assert len(await stored(till)) == len(full) / 2


async def stored(till: Till) -> str:
    """Return what is stored of the keys that a subject has seen."""
    return str((await till.bus.read("till:1")).get_ext("onwhen.deduplication/till.book"))


digests = st.sampled_from(["a" * 20, "b" * 20, "ab" * 10, "ba" * 10, "0" * 20])


@given(steps=st.data())
def test_a_subject_remembers_what_a_mapping_would(steps: st.DataObject) -> None:
    """Also keys that look like parts of others, and whatever the clock does."""
    text, limit, window = "", steps.draw(st.integers(1, 4)), 10
    entries = list[tuple[str, int]]()
    for _ in range(steps.draw(st.integers(0, 20))):
        digest, now = steps.draw(digests), steps.draw(st.integers(0, 60))
        memory = _Memory(text)
        latest = next((until for seen, until in reversed(entries) if seen == digest), 0)
        assert memory.holds(digest, now) == (latest > now)
        if latest <= now:
            text = memory.with_one_more(digest, now, window, limit)
            entries = entries[max(len(entries) - limit + 1, 0) :]
            while entries and entries[0][1] <= now:
                entries.pop(0)
            entries.append((digest, now + window))
            assert len(text) == len(entries) * 34


async def test_deleting_the_subject_forgets_its_keys(till: Till) -> None:
    """And what is remembered does not bring it back to life."""

    @till.rules.on("closed", middleware=[Deduplication(lambda ctx: "closed")])
    def close(ctx: Context) -> None:
        ctx.subject.set("closing", True)
        ctx.subject.flush()

    for _ in range(2):
        assert (await till.bus.emit("closed", "till:1")).runs[0].status == "fired"
        assert (await till.bus.store.load("till:1")).version is None


async def test_on_a_typed_subject(till: Till) -> None:
    """Its properties are declared; the keys are no property."""

    class Desk(Subject, prefix="desk:"):
        n: int = 0

    rules = RuleSet("desks", subject=Desk)

    @rules.on("paid", middleware=[Deduplication(receipt_number)])
    def count(ctx: Context[Desk]) -> None:
        ctx.subject.n += 1

    till.bus.include(rules)
    for _ in range(3):
        await till.pay(7, "desk:1")
    assert (await till.bus.read("desk:1")).dict() == {"n": 1}


# -- among all ---------------------------------------------------------------------------------------------------


async def test_a_shared_key_counts_for_all_subjects(till: Till) -> None:
    """Whichever comes first."""
    till.book(Deduplication(receipt_number, shared=True))
    assert [await till.paid(7, f"till:{n}") for n in range(3)] == ["fired", "stopped", "stopped"]


async def test_others_wait_until_it_is_decided(till: Till) -> None:
    """A second at a time; then they are stopped, or one of them runs if it was in vain."""
    till.book(Deduplication(receipt_number, shared=True))
    till.gate = asyncio.Event()
    first = await till.bus.append("paid", "till:1", {"receipt": 7})
    second = await till.pay(7, "till:2")
    assert (second.runs[0].status, second.runs[0].retry_at) == ("postponed", START + SECOND)
    till.broken[7] = 1
    till.gate.set()
    await first.handled()
    await till.bus.advance(SECOND)
    assert till.runs == [7, 7]
    assert await till.booked("till:2") == [7]
    assert await till.paid(7, "till:3") == "stopped"


async def test_a_claim_whose_worker_has_died_is_over_in_time(till: Till) -> None:
    """As long as a run may take, and a little; its own event may have it again at any time."""
    till.book(Deduplication(receipt_number, shared=True), timeout=20)
    store = till.bus.store
    claimed = b'["x",{"owner":"another event/till:9"}]'
    cell = await store.exchange("onwhen.deduplication/till.book/7", None, claimed, 25.0)
    assert cell.value == claimed
    assert await till.paid(7) == "postponed"
    await till.bus.advance(24 * SECOND)
    assert till.runs == []
    await till.bus.advance(2 * SECOND)
    assert till.runs == [7]


class Moody(MemoryStore):
    """A store whose cells do not answer at times.

    Attributes:
        script: what becomes of each exchange: "." works, "x" fails, "l" works and its answer is lost, "h" hangs.
    """

    script = ""

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        word, self.script = self.script[:1], self.script[1:]
        if word == "x":
            raise StoreError("the connection was refused")
        if word == "h":
            await asyncio.Event().wait()
        cell = await super().exchange(key, expected, new, ttl)
        if word == "l":
            raise StoreError("the connection was lost")
        return cell


@pytest.mark.parametrize(
    ("script", "status", "booked"),
    [
        ("xx", "postponed", []),  # nobody knows whether the key is new
        ("x.", "fired", [7]),
        ("l", "fired", [7]),  # its own claim is known for what it is
        (".xx", "postponed", []),  # done, but it cannot be stored that the key is used up: so it is undone
        (".l", "fired", [7]),
        ("h", "postponed", []),
    ],
)
async def test_when_the_store_does_not_answer(
    script: str, status: str, booked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be known is not guessed: the run is put off, and comes again. Nothing is lost or done twice."""
    monkeypatch.setattr("onwhen.middleware._shared._PATIENCE", 0.05)
    store = Moody()
    till = Till(store)
    till.book(Deduplication(receipt_number, shared=True))
    store.script = script
    async with till.bus:
        assert await till.paid(7) == status
        assert await till.booked() == booked
        store.script = ""
        await till.bus.advance(10 * SECOND)
        assert await till.booked() == [7]
        assert await till.paid(7, "till:2") == "stopped"


async def test_a_claim_that_cannot_be_given_up_is_over_by_itself(till: Till) -> None:
    """The rule's own error is what counts; others wait a little longer."""
    store = Moody()
    till = Till(store)
    till.book(Deduplication(receipt_number, shared=True), timeout=20)
    till.broken[7] = 1
    store.script = ".xx"
    async with till.bus:
        failed = await till.pay(7)
        assert isinstance(failed.runs[0].error, ConnectionError)
        assert await till.paid(7, "till:2") == "postponed"
        await till.bus.advance(26 * SECOND)
        assert await till.booked("till:2") == [7]


async def test_who_loses_his_claim_is_undone(till: Till) -> None:
    """A run that took so long that another one began is put off; if that other one has succeeded, it is stopped."""
    till.book(Deduplication(receipt_number, shared=True))
    till.gate = asyncio.Event()
    slow = await till.bus.append("paid", "till:1", {"receipt": 7})
    till.clock.advance(306 * SECOND)
    gate, till.gate = till.gate, None
    assert await till.paid(7, "till:2") == "fired"
    gate.set()
    await slow.handled()
    assert slow.runs[0].status == "postponed"
    await till.bus.advance(2 * SECOND)
    assert till.runs == [7, 7]
    assert (await till.booked("till:1"), await till.booked("till:2")) == ([], [7])


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("key", value) for value in ("receipt", 5)),
        *(("window", value) for value in (0, -1, None, "1h")),
        *(("shared", value) for value in (1, None)),
        *(("limit", value) for value in (0, 1.5)),
    ],
)
def test_an_option_that_cannot_be_is_named(option: str, value: Any) -> None:
    """Where it is made."""
    with pytest.raises(RuleDefinitionError, match=rf"Deduplication: {option}="):
        Deduplication(**{option: value})


def test_shared_needs_a_key() -> None:
    """Events with the same source and id are the store's own to know."""
    with pytest.raises(RuleDefinitionError, match="give a key"):
        Deduplication(shared=True)
