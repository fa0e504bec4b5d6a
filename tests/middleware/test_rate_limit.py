"""The rate limit: how many runs may begin, and what becomes of those that come too early."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import Context, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.errors import MiddlewareError, RateLimited, RuleDefinitionError
from onwhen.middleware import CircuitBreaker, Debounce, RateLimit
from onwhen.middleware._gcra import Pace, Permit, Queue, decide, idle

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PLAIN = RetryPolicy(jitter=0, in_order=False)


class Service:
    """Something outside that takes only so many calls.

    Attributes:
        calls: when each call came, in seconds since the beginning.
    """

    def __init__(self, *, jitter: float = 0.0) -> None:
        self.rules = RuleSet("shop", retry=RetryPolicy(jitter=jitter, in_order=False))
        self.clock = VirtualClock(START)
        limits = Limits(retry=PLAIN)
        self.bus = EventBus(self.rules, store=create_memory_storage(), clock=self.clock, limits=limits)
        self.calls: list[float] = []

    def limit(self, middleware: Any, event_type: str = "call", *, name: str = "call", **options: Any) -> None:
        """Have a rule call the service, with a limit around it."""

        @self.rules.on(event_type, name=name, middleware=[middleware] if middleware else [], **options)
        def call(ctx: Context) -> None:
            self.calls.append((self.clock.now() - START).total_seconds())

    async def call(self, count: int = 1, event_type: str = "call") -> list[str]:
        """Emit events that make the rule call; return what became of the runs."""
        receipts = [await self.bus.emit(event_type, f"order:{n}") for n in range(count)]
        return [receipt.runs[0].status for receipt in receipts]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with service.bus:
        yield service


# -- how many ----------------------------------------------------------------------------------------------------


async def test_so_many_at_once_and_then_at_its_pace(service: Service) -> None:
    """A burst of three, and from then on one every half second."""
    service.limit(RateLimit(2, per=1, burst=3, when_exceeded="drop"))
    assert await service.call(5) == ["fired"] * 3 + ["stopped"] * 2
    for _ in range(4):
        await service.bus.advance(SECOND / 4)
        await service.call()
    assert service.calls == [0, 0, 0, 0.5, 1]


async def test_by_default_the_burst_is_the_rate(service: Service) -> None:
    """Ten in a second means that ten may come at once."""
    service.limit(RateLimit(10, when_exceeded="drop"))
    assert (await service.call(12)).count("fired") == 10


async def test_less_than_one_in_a_second(service: Service) -> None:
    """Rates may be fractions, and durations timedeltas."""
    service.limit(RateLimit(0.5, per=SECOND, when_exceeded="drop"))
    assert await service.call(2) == ["fired", "stopped"]
    await service.bus.advance(2 * SECOND)
    assert await service.call(2) == ["fired", "stopped"]


async def test_a_pace_that_is_no_whole_number_is_a_little_slower(service: Service) -> None:
    """Never faster: a third of a second is more than 333,333 microseconds."""
    service.limit(RateLimit(3, burst=1, when_exceeded="drop"))
    await service.call()
    await service.bus.advance(timedelta(microseconds=333_333))
    assert await service.call() == ["stopped"]
    await service.bus.advance(timedelta(microseconds=1))
    assert await service.call() == ["fired"]


async def test_a_failed_run_counts(service: Service) -> None:
    """The service was called, after all."""

    @service.rules.on("call", middleware=[RateLimit(1, when_exceeded="drop")])
    def call(ctx: Context) -> None:
        raise ConnectionError

    assert await service.call(2) == ["failed", "stopped"]


# -- too early ---------------------------------------------------------------------------------------------------


async def test_what_is_too_early_is_put_off_to_its_place_in_line(service: Service) -> None:
    """They come back one behind the other, without having used up an attempt, and none is lost."""
    service.limit(RateLimit(2, per=1, burst=1))
    receipts = [await service.bus.emit("call", f"order:{n}") for n in range(5)]
    assert isinstance(receipts[1].runs[0].error, RateLimited)
    assert [receipt.runs[0].retry_at for receipt in receipts] == [None, *(START + n * SECOND / 2 for n in range(1, 5))]
    await service.bus.advance(10 * SECOND)
    assert service.calls == [0, 0.5, 1, 1.5, 2]


async def test_who_has_a_place_goes_before_those_who_come_anew(service: Service) -> None:
    """Also if they come at the very moment: nobody waits for ever while others come."""
    service.limit(RateLimit(1, burst=1), retry=PLAIN)
    seen = list[str]()
    service.rules.on("call", name="note")(lambda ctx: seen.append(ctx.subject.name))
    for n in range(3):
        await service.bus.emit("call", f"old:{n}")
    service.clock.advance(SECOND)  # the places are there, and nobody has come yet
    anew = await service.bus.emit("call", "new:1")
    assert anew.runs[0].retry_at == START + 3 * SECOND


async def test_those_who_come_back_late_do_not_come_all_at_once(service: Service) -> None:
    """After a pause of the worker, they are given places again."""
    service.limit(RateLimit(1, burst=1))
    await service.call(10)
    service.clock.advance(timedelta(hours=1))
    await service.bus.advance(timedelta(minutes=1))
    assert service.calls[0] == 0
    assert service.calls[1:] == [3600 + n for n in range(9)]


async def test_jitter_of_the_policy_does_not_break_the_limit() -> None:
    """Who comes back is judged by when he comes."""
    service = Service(jitter=0.5)
    service.limit(RateLimit(2, burst=1))
    async with service.bus:
        await service.call(50)
        await service.bus.advance(timedelta(minutes=2))
    assert len(service.calls) == 50
    assert min(b - a for a, b in pairwise(service.calls)) >= 0.5


async def test_it_may_drop_instead(service: Service) -> None:
    """The outcome says by whom the rule was stopped, and nothing is run later."""
    service.limit(RateLimit(1, when_exceeded="drop"))
    await service.call()
    (run,) = (await service.bus.emit("call", "order:1")).runs
    assert (run.status, run.stopped_by, run.retry_at) == ("stopped", "RateLimit", None)
    await service.bus.advance(60 * SECOND)
    assert service.calls == [0]


@pytest.mark.parametrize("scope", ["rule", "event"])
async def test_no_failure_is_dropped(scope: Any) -> None:
    """A retry that comes too soon is put off, and then it is run, or becomes a dead letter."""
    calls = list[int]()
    rules, limit = RuleSet("shop"), RateLimit(1, per=60, when_exceeded="drop")

    @rules.on(
        "call",
        middleware=[limit] if scope == "rule" else (),
        retry=RetryPolicy(attempts=3, delay=SECOND, factor=1, jitter=0),
    )
    def call(ctx: Context) -> None:
        calls.append(int((ctx.now - START).total_seconds()))
        raise ConnectionError

    async with EventBus(rules, store=create_memory_storage(), clock=VirtualClock(START)) as bus:
        if scope == "event":
            bus.use(limit, scope="event")
        await bus.emit("call", "order:1")
        await bus.advance(timedelta(hours=1))
        assert len(calls) == 3
        assert all(b - a >= 60 for a, b in pairwise(calls))
        assert [letter.attempts async for letter in bus.dead_letters()] == [5]


async def test_around_events_what_a_rule_has_put_off_is_not_dropped() -> None:
    """Its event was let through; the one that the timer brings is the rest of it."""
    rules, ran = RuleSet("shop"), list[str]()
    rules.on("call", name="call", middleware=[Debounce(1)])(lambda ctx: ran.append(ctx.subject.name))
    async with EventBus(rules, store=create_memory_storage(), clock=VirtualClock(START)) as bus:
        bus.use(RateLimit(1, per=60, when_exceeded="drop"), scope="event")
        assert [(await bus.emit("call", f"order:{n}")).runs[-1].status for n in (1, 2)] == ["stopped", "stopped"]
        await bus.advance(timedelta(minutes=5))
    assert ran == ["order:1"]


@pytest.mark.parametrize("shared", [False, True])
async def test_it_may_wait_instead(service: Service, shared: bool) -> None:
    """Within the turn, up to `max_wait`, by the event loop; what would take longer is put off to its place."""
    service.limit(RateLimit(100, burst=1, when_exceeded="wait", max_wait=0.035, shared=shared))
    began = asyncio.get_running_loop().time()
    receipts = [await service.bus.append("call", f"order:{n}") for n in range(6)]
    await asyncio.gather(*(receipt.handled() for receipt in receipts))
    assert asyncio.get_running_loop().time() - began >= 0.03
    assert [receipt.runs[0].status for receipt in receipts] == ["fired"] * 4 + ["postponed"] * 2
    assert [receipt.runs[0].retry_at for receipt in receipts[4:]] == [START + n * SECOND / 100 for n in (4, 5)]


async def test_who_is_sent_away_again_does_not_wait_any_longer(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All waits of a run together are bounded."""
    asked = list[bool]()

    def never(queue: Queue, pace: Pace, now: int, *, again: bool, waits: bool) -> Permit:
        asked.append(again)
        return Permit(queue, 10_000)

    monkeypatch.setattr("onwhen.middleware._limits.decide", never)
    service.limit(RateLimit(1, when_exceeded="wait", max_wait=0.035), timeout=2)
    assert await service.call() == ["postponed"]
    assert asked == [False, True, True, True]


async def test_waiting_counts_towards_the_time_out_of_the_rule(service: Service) -> None:
    """It is part of the run."""
    service.limit(RateLimit(1, burst=1, when_exceeded="wait", max_wait=5), timeout=0.01)
    assert await service.call(2) == ["fired", "failed"]


async def test_the_time_that_a_turn_has_taken_already_is_added(service: Service) -> None:
    """Delays count from the turn's beginning, and places from now."""
    service.limit(RateLimit(1, burst=1))
    await service.call()

    async def before(ctx: Any, next: Any) -> None:
        service.clock.advance(SECOND / 4)
        await next()

    service.bus.use(before)
    receipt = await service.bus.emit("call", "order:2")
    assert receipt.runs[0].retry_at == START + SECOND


async def test_inside_of_a_circuit_breaker_it_is_no_failure(service: Service) -> None:
    """A run that was put off says nothing of the service."""
    limit = RateLimit(1, burst=1)

    @service.rules.on("call", middleware=[CircuitBreaker(failures=2), limit])
    def call(ctx: Context) -> None:
        service.calls.append(0)

    assert await service.call(9) == ["fired"] + ["postponed"] * 8
    await service.bus.advance(60 * SECOND)
    assert len(service.calls) == 9


# -- which limit -------------------------------------------------------------------------------------------------


async def test_each_rule_has_a_limit_of_its_own(service: Service) -> None:
    """One around all rules of the bus, counted for each."""
    service.limit(None)
    service.limit(None, name="other")
    service.bus.use(RateLimit(1, when_exceeded="drop"))
    for statuses in (["fired", "fired"], ["stopped", "stopped"]):
        assert [run.status for run in (await service.bus.emit("call", "order:1")).runs] == statuses


async def test_rules_may_share_one_by_name(service: Service) -> None:
    """Two rules that call the same service."""
    bank = RateLimit(1, name="bank", when_exceeded="drop")
    service.limit(bank, "pay", name="pay")
    service.limit(bank, "refund", name="refund")
    assert await service.call(1, "pay") + await service.call(1, "refund") == ["fired", "stopped"]


async def test_or_each_key_has_its_own(service: Service) -> None:
    """By what the event says; below the name, if there is one."""
    service.limit(RateLimit(1, name="each", key=lambda ctx: ctx.subject.name, when_exceeded="drop"))
    assert await service.call(3) == ["fired"] * 3
    assert await service.call(3) == ["stopped"] * 3


async def test_around_events_it_holds_for_all_of_them(service: Service) -> None:
    """The event as a whole is put off, before any rule is run."""
    service.limit(None)
    service.bus.use(RateLimit(1, burst=1), scope="event")
    assert (await service.bus.emit("call", "order:1")).error is None
    assert isinstance((await service.bus.emit("other", "order:2")).error, RateLimited)
    late = await service.bus.emit("call", "order:3")
    assert isinstance(late.error, RateLimited)
    await service.bus.advance(2 * SECOND)
    assert service.calls == [0, 2]


async def test_each_bus_has_its_own(service: Service) -> None:
    """A twin for a test or a replay takes nothing away."""
    service.limit(RateLimit(1, when_exceeded="drop"))
    async with service.bus.twin(store=create_memory_storage(), clock=VirtualClock(START)) as twin:
        await twin.emit("call", "order:1")
    assert await service.call() == ["fired"]


async def test_a_key_that_is_no_text_fails_the_rule(service: Service) -> None:
    """And is said so."""
    service.limit(RateLimit(1, key=lambda ctx: 5))  # type: ignore[arg-type,return-value]
    receipt = await service.bus.emit("call", "order:1")
    assert isinstance(receipt.runs[0].error, MiddlewareError)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("rate", value) for value in (0, -1, None, True, "10", 2e6, 1e-12, float("nan"))),
        *(("per", value) for value in (0, -1, None, "1s")),
        *(("burst", value) for value in (0, 1.5, True)),
        *(("when_exceeded", value) for value in ("skip", None)),
        *(("shared", value) for value in (1, None)),
        *(("max_wait", value) for value in (-1, None)),
        *(("key", value) for value in ("host", 5)),
        *(("name", value) for value in ("", 5)),
    ],
)
def test_an_option_that_cannot_be_is_named(option: str, value: Any) -> None:
    """Where the limit is made."""
    with pytest.raises(RuleDefinitionError, match=rf"RateLimit: {option}="):
        RateLimit(**{"rate": 1, option: value})


# -- the algorithm -----------------------------------------------------------------------------------------------

paces = st.builds(Pace, st.integers(1, 50), st.integers(1, 5))
comings = st.lists(st.tuples(st.integers(0, 30), st.booleans(), st.booleans()), max_size=60)


def most_in_any_stretch(passed: Sequence[int], pace: Pace) -> None:
    """From any pass to any later one, the bound holds."""
    for first, begin in enumerate(passed):
        for last in range(first, len(passed)):
            assert (last - first + 1) <= pace.burst + (passed[last] - begin) / pace.interval


@given(paces, comings)
def test_never_more_than_the_burst_and_the_rate_in_any_stretch_of_time(pace: Pace, came: Any) -> None:
    """Whoever comes, whenever, for the first time or again."""
    queue, now, passed = idle, 0, list[int]()
    for pause, again, waits in came:
        now += pause
        permit = decide(queue, pace, now, again=again, waits=waits)
        queue = permit.queue
        if not permit.wait:
            passed.append(now)
        assert permit.wait >= 0
    most_in_any_stretch(passed, pace)


@given(paces, st.lists(st.integers(0, 30), min_size=1, max_size=40))
def test_all_who_wait_pass_in_time_and_in_order(pace: Pace, pauses: list[int]) -> None:
    """Who comes back at his place is let through there, if nobody is late; and those who came first go first."""
    queue, now = idle, 0
    coming = [(sum(pauses[: n + 1]), 0, n) for n in range(len(pauses))]
    passed = list[tuple[int, int]]()
    while coming:
        coming.sort(key=lambda one: (one[0], -one[1], one[2]))
        now, times, number = coming.pop(0)
        permit = decide(queue, pace, now, again=times > 0)
        queue = permit.queue
        if permit.wait:
            assert times == 0, "sent away twice"
            coming.append((now + permit.wait, times + 1, number))
        else:
            passed.append((now, number))
    assert [number for _, number in passed] == list(range(len(pauses)))
    most_in_any_stretch([moment for moment, _ in passed], pace)


@given(paces, st.integers(1, 40), st.integers(0, 10_000))
def test_who_all_come_back_too_late_have_passed_soon(pace: Pace, count: int, late: int) -> None:
    """Each is sent away at most once more, and all are through as fast as the pace allows."""
    queue = idle
    for _ in range(count):
        queue = decide(queue, pace, 0).queue
    coming = [(late, 0)] * count
    passed, sent = list[int](), 0
    while coming:
        coming.sort()
        now, _ = coming.pop(0)
        permit = decide(queue, pace, now, again=True)
        queue = permit.queue
        if permit.wait:
            sent += 1
            coming.append((now + permit.wait, 1))
        else:
            passed.append(now)
    assert sent <= count
    assert passed[-1] <= late + (count + pace.burst) * pace.interval
    most_in_any_stretch(passed, pace)


def test_who_comes_anew_stays_behind_those_who_came_back_too_late() -> None:
    """They have been given places once more."""
    pace = Pace(10, 1)
    late = idle
    for _ in range(3):
        late = decide(late, pace, 0).queue
    first = decide(late, pace, 100, again=True)
    second = decide(first.queue, pace, 100, again=True)
    anew = decide(second.queue, pace, 100)
    assert [permit.wait for permit in (first, second, anew)] == [0, 10, 20]


def test_a_clock_that_is_a_little_behind_lets_nobody_through_too_early() -> None:
    """Clocks of workers differ; the later one counts."""
    queue = Queue(due=1_000, seen=1_000)
    assert decide(queue, Pace(10, 1), 500).wait == 500


@given(paces, comings, comings, st.integers(5_000_001, 10**10))
def test_a_clock_that_was_set_back_changes_nothing(pace: Pace, before: Any, after: Any, behind: int) -> None:
    """Nobody waits until it is there again: it is as if it had always been so late."""
    queue, other, now, back = idle, idle, 10**12, 0
    for step, (pause, again, _) in enumerate([*before, *after]):
        if step == len(before):
            back = behind
        else:
            now += pause
        permit = decide(queue, pace, now - back, again=again)
        expected = decide(other, pace, now, again=again)
        assert permit.wait == expected.wait
        queue, other = permit.queue, expected.queue
