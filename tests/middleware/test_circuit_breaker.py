"""The circuit breaker: what opens and closes a circuit, what becomes of events meanwhile, and what is said of it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from onwhen import Context, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.store import Commit, SubjectWrite
from onwhen.errors import CircuitOpen, MiddlewareError, Postponed, RuleDefinitionError, RuleTimeout
from onwhen.middleware import CircuitBreaker, Fallback, Retry, Timeout
from tests.engine.fleets import Fleet, Notes, until, virtual

START = datetime(2024, 2, 29, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
PLAIN = RetryPolicy(jitter=0, in_order=False)


class Service:
    """Something outside that a rule calls; it fails as long as it is told to.

    Attributes:
        error: what a call raises, if it does.
        calls: subjects that have called.
        said: data of the events of circuits, with their types.
    """

    def __init__(self, **limits: Any) -> None:
        self.rules = RuleSet("shop", retry=PLAIN)
        self.clock = VirtualClock(START)
        self.bus = EventBus(
            self.rules, store=create_memory_storage(), clock=self.clock, limits=Limits(retry=PLAIN, **limits)
        )
        self.error: BaseException | None = None
        self.calls: list[str] = []
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.rules.on("circuit.*")(self.hear)

    def hear(self, ctx: Context) -> None:
        self.said.append((ctx.event_type.removeprefix("circuit."), dict(ctx.payload)))

    def guard(self, breaker: CircuitBreaker, event_type: str = "call", *, name: str = "call", **options: Any) -> None:
        """Have a rule call the service, with a breaker around it."""

        @self.rules.on(event_type, name=name, middleware=[breaker], **options)
        async def call(ctx: Context) -> None:
            self.calls.append(ctx.subject.name)
            await self.answer(ctx)

    async def answer(self, ctx: Context) -> None:
        if self.error is not None:
            raise self.error
        ctx.subject.set("answers", lambda n: (n or 0) + 1)

    async def call(self, number: int | str = 1, event_type: str = "call") -> str:
        """Emit an event that makes the rule call; return what became of the run."""
        receipt = await self.bus.emit(event_type, f"order:{number}")
        return receipt.runs[0].status

    async def fails(self, times: int, error: BaseException | None = None) -> list[str]:
        """Let so many calls fail."""
        self.error = error or ConnectionError("down")
        try:
            return [await self.call(number) for number in range(times)]
        finally:
            self.error = None

    @property
    def heard(self) -> list[str]:
        """What was said of circuits, in order."""
        return [word for word, _ in self.said]


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with service.bus:
        yield service


# -- closed, open, half-open -------------------------------------------------------------------------------------


async def test_failures_in_a_row_open_it_and_it_is_left_alone(service: Service) -> None:
    """The rule is not run any more; its events are put off until the circuit may be tried again."""
    service.guard(CircuitBreaker(failures=3, open_for=30))
    assert await service.fails(3) == ["failed"] * 3
    receipt = await service.bus.emit("call", "order:9")
    (run,) = receipt.runs
    assert (run.status, run.retry_at) == ("postponed", START + 30 * SECOND)
    assert isinstance(run.error, CircuitOpen)
    assert run.error.delay == 30 * SECOND
    assert len(service.calls) == 3


async def test_a_success_ends_the_row(service: Service) -> None:
    """Two failures, a success, two failures: nothing opens at three."""
    service.guard(CircuitBreaker(failures=3))
    await service.fails(2)
    assert await service.call() == "fired"
    assert await service.fails(2) == ["failed"] * 2
    assert await service.call() == "fired"


async def test_a_row_ends_when_nothing_fails_for_long(service: Service) -> None:
    """Failures that are further apart than the window are no row."""
    service.guard(CircuitBreaker(failures=2, window=60))
    for _ in range(4):
        assert await service.fails(1) == ["failed"]
        await service.bus.advance(61 * SECOND)
    assert await service.call() == "fired"
    await service.fails(1)
    await service.bus.advance(60 * SECOND)
    await service.fails(1)
    assert await service.call() == "postponed"


async def test_what_was_put_off_is_run_once_it_closes(service: Service) -> None:
    """Nothing is lost: the first one back is the probe, the others follow."""
    service.guard(CircuitBreaker(failures=1, open_for=30))
    await service.fails(1)
    assert [await service.call(f"late-{n}") for n in range(5)] == ["postponed"] * 5
    await service.bus.advance(29.9 * SECOND)
    assert len(service.calls) == 1
    await service.bus.advance(10 * SECOND)
    assert sorted(service.calls[1:]) == [f"order:late-{n}" for n in range(5)]
    assert [letter.subject async for letter in service.bus.dead_letters()] == ["order:0"]


async def test_exactly_one_probe_is_let_through(service: Service) -> None:
    """While it is under way, all others are put off for a tenth of the time; its success lets them pass."""
    service.guard(CircuitBreaker(failures=1, open_for=30))
    gate = asyncio.Event()
    await service.fails(1)
    await service.bus.advance(30 * SECOND)

    async def slow(ctx: Context) -> None:
        await gate.wait()

    service.answer = slow  # type: ignore[method-assign]
    probe = await service.bus.append("call", "order:probe")
    others = [await service.bus.emit("call", f"order:{n}") for n in range(10)]
    assert [other.runs[0].status for other in others] == ["postponed"] * 10
    assert {other.runs[0].retry_at for other in others} == {START + 33 * SECOND}
    assert service.calls[1:] == ["order:probe"]
    gate.set()
    await probe.handled()
    assert await service.call("after") == "fired"


async def test_a_probe_that_fails_opens_it_again(service: Service) -> None:
    """For as long as before."""
    service.guard(CircuitBreaker(failures=3, open_for=30))
    await service.fails(3)
    await service.bus.advance(30 * SECOND)
    assert await service.fails(2) == ["failed", "postponed"]
    await service.bus.advance(29 * SECOND)
    assert await service.call("late") == "postponed"
    assert len(service.calls) == 4
    await service.bus.advance(1 * SECOND)
    assert sorted(service.calls[4:]) == ["order:1", "order:late"]


async def test_a_probe_that_was_put_off_leaves_its_place_to_the_next(service: Service) -> None:
    """It has found out nothing, be it put off or stopped further in: all hangs on the next one still."""
    seen = list[str]()

    async def further_in(ctx: Any, next: Any) -> None:
        seen.append(ctx.subject.name)
        if ctx.subject.name == "order:later":
            raise Postponed("not now", delay=5 * SECOND)
        if ctx.subject.name != "order:stopped":
            await next()

    @service.rules.on("call", middleware=[CircuitBreaker(failures=2, open_for=30), further_in])
    async def call(ctx: Context) -> None:
        await service.answer(ctx)

    await service.fails(2)
    await service.bus.advance(30 * SECOND)
    assert [await service.call(name) for name in ("later", "stopped")] == ["postponed", "stopped"]
    service.error = ConnectionError()
    assert [await service.call(name) for name in ("in-earnest", "after")] == ["failed", "postponed"]
    assert seen == ["order:0", "order:1", "order:later", "order:stopped", "order:in-earnest"]


async def test_a_late_failure_does_not_open_it_longer(service: Service) -> None:
    """What began before the circuit opened does not count once it has."""
    service.guard(CircuitBreaker(failures=1, open_for=30))
    gate = asyncio.Event()

    async def slow(ctx: Context) -> None:
        if ctx.subject.name == "order:slow":
            await gate.wait()
        raise ConnectionError

    service.answer = slow  # type: ignore[method-assign]
    late = await service.bus.append("call", "order:slow")
    await service.call("quick")
    service.clock.advance(20 * SECOND)
    gate.set()
    await late.handled()
    receipt = await service.bus.emit("call", "order:9")
    assert receipt.runs[0].retry_at == START + 30 * SECOND
    assert service.heard == ["opened"]


# -- by rate -----------------------------------------------------------------------------------------------------


async def calls(service: Service, outcomes: str) -> None:
    """Let calls succeed and fail, as `.` and `x` say."""
    for number, outcome in enumerate(outcomes):
        service.error = ConnectionError() if outcome == "x" else None
        await service.call(f"{number}-{service.clock.now().timestamp()}")
    service.error = None


async def test_a_share_of_failures_opens_it(service: Service) -> None:
    """Half of at least ten: nine are too few, and the tenth decides."""
    service.guard(CircuitBreaker(rate=0.5, minimum=10))
    await calls(service, "x.x.x.x.x")
    assert await service.call() == "fired"
    await calls(service, "x")
    assert await service.call() == "postponed"
    assert service.said[0][1]["reason"] == "6 of 11 calls failed"


async def test_with_a_rate_failures_in_a_row_do_not_count_unless_asked_for(service: Service) -> None:
    """Nine failures in a row are below the minimum."""
    service.guard(CircuitBreaker(rate=0.5, minimum=10))
    await calls(service, "x" * 9)
    assert await service.call() == "fired"
    service.guard(CircuitBreaker(rate=0.5, minimum=10, failures=3), "strict", name="strict")
    service.error = ConnectionError()
    assert [await service.call(n, "strict") for n in range(4)] == ["failed"] * 3 + ["postponed"]


async def test_calls_leave_the_window(service: Service) -> None:
    """In tenths of it: what is older than a window has no say."""
    service.guard(CircuitBreaker(rate=0.5, window=60, minimum=4))
    await calls(service, "xx.")
    await service.bus.advance(60 * SECOND)
    await calls(service, "..x.x")
    assert await service.call() == "fired"


# -- what counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "counts", [ConnectionError, (TimeoutError, ConnectionError), lambda error: "down" in str(error)], ids=str
)
async def test_only_what_counts_is_a_failure(service: Service, counts: Any) -> None:
    """Classes, or a predicate; any other error is an answer, and ends the row as a success does."""
    service.guard(CircuitBreaker(failures=2, counts=counts))
    for _ in range(3):
        await service.fails(1)
        await service.fails(1, ValueError("no such article"))
    assert await service.call() == "fired"
    await service.fails(2)
    assert await service.call() == "postponed"


async def test_an_error_that_does_not_count_closes_it_as_an_answer(service: Service) -> None:
    """The service is there again, and says no."""
    service.guard(CircuitBreaker(failures=1, counts=ConnectionError, open_for=30))
    await service.fails(1)
    await service.bus.advance(30 * SECOND)
    assert await service.fails(1, ValueError("no such article")) == ["failed"]
    assert await service.call() == "fired"


async def test_what_is_put_off_further_in_is_no_failure(service: Service) -> None:
    """A rate limit inside of the breaker says nothing of the service."""
    service.guard(CircuitBreaker(failures=2))
    await service.fails(5, Postponed("not now", delay=SECOND))
    assert await service.call("other") == "fired"


async def hangs(ctx: Context) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("where", ["rule", "limits"])
async def test_a_time_out_of_the_rule_is_a_failure(where: str) -> None:
    """Although all that a middleware sees of it is that the run is cancelled."""
    service = Service(rule_timeout=0.01 if where == "limits" else None)
    breaker = CircuitBreaker(failures=2, counts=RuleTimeout)
    service.guard(breaker, timeout=0.01 if where == "rule" else None)
    service.answer = hangs  # type: ignore[method-assign]
    async with service.bus as bus:
        for number in range(2):
            assert isinstance((await bus.emit("call", f"order:{number}")).runs[0].error, RuleTimeout)
        assert (await bus.emit("call", "order:9")).runs[0].status == "postponed"
        assert breaker.states()["shop.call"].status == "open"
    assert [(word, data["error"]["type"]) for word, data in service.said] == [("opened", "onwhen.errors.RuleTimeout")]


async def test_the_deadline_of_the_turn_is_a_failure() -> None:
    """The event fails as a whole, and what its rules sent with it; that the circuit opened is said by the next run."""
    service = Service(turn_timeout=0.01)
    service.guard(CircuitBreaker(failures=1, counts=TimeoutError))
    service.answer = hangs  # type: ignore[method-assign]
    async with service.bus as bus:
        assert isinstance((await bus.emit("call", "order:1")).error, RuleTimeout)
        assert service.said == []
        assert (await bus.emit("call", "order:2")).runs[0].status == "postponed"
    assert service.heard == ["opened"]


def test_the_end_of_the_program_is_no_failure() -> None:
    """Then everything is cancelled, and that says nothing of the service."""
    service, breaker = Service(), CircuitBreaker(failures=1)
    service.guard(breaker)
    service.answer = hangs  # type: ignore[method-assign]

    async def main() -> None:
        await service.bus.append("call", "order:1")
        while not service.calls:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert breaker.states()["shop.call"].status == "closed"


@virtual
async def test_a_turn_that_is_taken_away_from_a_worker_is_no_failure() -> None:
    """It stops, or loses a partition, while the service is only slow: another worker runs the event."""
    fleet, notes, breaker = Fleet(), Notes(), CircuitBreaker(failures=1)
    notes.gates["s"] = asyncio.Event()
    first = fleet.member(notes.rules, grace=1.0)
    first.worker.bus.use(breaker)
    await first.start()
    async with fleet.bus() as producer:
        await producer.emit("noted", "s", 1)
        await until(lambda: notes.runs)
        await first.stop()
    assert breaker.states()["notes.note"].status == "closed"
    assert breaker.states()["notes.note"].failures == 0


async def test_what_was_to_be_said_by_a_turn_that_never_ends_is_said_by_another(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its worker has lost the subject to another one, say; once it has had its time, the next run says it."""
    seconds = 0.0
    monkeypatch.setattr("onwhen.middleware._announcements.time.monotonic", lambda: seconds)
    service.guard(CircuitBreaker(failures=1, when_open="skip"))
    gate = asyncio.Event()

    async def stuck(ctx: Any, next: Any) -> None:
        try:
            await next()
        except ConnectionError:
            await gate.wait()
            raise

    service.bus.use(stuck)
    service.error = ConnectionError()
    await service.bus.append("call", "order:1")
    await service.call(2)
    assert service.heard == []
    for seconds in (301.0, 1_000.0):  # noqa: B007
        await service.call(3)
        assert service.heard == ["opened"]
    gate.set()


async def test_a_time_out_of_the_rules_own_is_a_failure(service: Service) -> None:
    """`asyncio.timeout` in the rule, as most clients have it."""
    service.guard(CircuitBreaker(failures=1))

    async def impatient(ctx: Context) -> None:
        async with asyncio.timeout(0.01):
            await hangs(ctx)

    service.answer = impatient  # type: ignore[method-assign]
    assert await service.call() == "failed"
    assert await service.call(2) == "postponed"


async def test_a_predicate_that_raises_counts_nothing_and_is_told(service: Service) -> None:
    """The rule's own error stays what it is, with a note."""

    def broken(error: BaseException) -> bool:
        raise LookupError("typo")

    service.guard(CircuitBreaker(failures=1, counts=broken))
    error = ConnectionError("down")
    await service.fails(1, error)
    assert any("typo" in note for note in error.__notes__)
    assert await service.call() == "fired"


# -- which circuit -----------------------------------------------------------------------------------------------


async def test_each_rule_has_a_circuit_of_its_own(service: Service) -> None:
    """One breaker for all rules of the bus: what fails does not stop what works."""
    breaker = CircuitBreaker(failures=1)
    service.bus.use(breaker)

    @service.rules.on("call")
    def failing(ctx: Context) -> None:
        raise ConnectionError

    @service.rules.on("call")
    def working(ctx: Context) -> None: ...

    for statuses in (["failed", "fired"], ["postponed", "fired"]):
        receipt = await service.bus.emit("call", "order:1")
        assert [run.status for run in receipt.runs] == statuses
    assert {key: state.status for key, state in breaker.states().items()} == {
        "shop.failing": "open",
        "shop.working": "closed",
    }


async def test_rules_may_share_one_by_name(service: Service) -> None:
    """Two rules that call the same service."""
    breaker = CircuitBreaker("bank", failures=2)
    service.guard(breaker, "pay", name="pay")
    service.guard(breaker, "refund", name="refund")
    service.error = ConnectionError()
    assert [await service.call(n, kind) for n, kind in enumerate(["pay", "refund", "pay"])] == [
        *("failed", "failed", "postponed"),
    ]
    assert list(breaker.states()) == ["bank"]


async def test_or_each_key_has_its_own(service: Service) -> None:
    """By what the event says; below the name, if there is one."""
    breaker = CircuitBreaker("hosts", key=lambda ctx: ctx.payload["host"], failures=1)

    @service.rules.on("call", middleware=[breaker])
    def call(ctx: Context) -> None:
        if ctx.payload["host"] == "bad":
            raise ConnectionError

    statuses = [(await service.bus.emit("call", "o", {"host": host})).runs[0].status for host in ("bad", "good", "bad")]
    assert statuses == ["failed", "fired", "postponed"]
    assert list(breaker.states()) == ["hosts/good", "hosts/bad"]


async def test_each_bus_has_its_own(service: Service) -> None:
    """A twin for a test or a replay does not open the circuits of the one that works."""
    service.guard(CircuitBreaker(failures=1))
    async with service.bus.twin(store=create_memory_storage(), clock=VirtualClock(START)) as twin:
        service.error = ConnectionError()
        await twin.emit("call", "order:1")
        service.error = None
        assert (await twin.emit("call", "order:2")).runs[0].status == "postponed"
    assert await service.call() == "fired"


async def test_circuits_not_used_for_longest_are_forgotten(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come from outside, so the memory for them is bounded."""
    monkeypatch.setattr("onwhen.middleware._by_key._MOST", 2)
    breaker = CircuitBreaker(key=lambda ctx: ctx.subject.name)
    service.guard(breaker)
    for name in ("a", "b", "a", "c"):
        await service.call(name)
    assert list(breaker.states()) == ["order:a", "order:c"]


@pytest.mark.parametrize("key", [7, None, "a\0b"])
async def test_a_key_that_is_none_fails_the_rule(service: Service, key: Any) -> None:
    """It has to be a text that may be part of a subject's name."""
    service.guard(CircuitBreaker(key=lambda ctx: key))
    receipt = await service.bus.emit("call", "order:1")
    assert isinstance(receipt.runs[0].error, MiddlewareError)
    assert service.calls == []


# -- while it is open --------------------------------------------------------------------------------------------


async def test_it_may_skip_instead(service: Service) -> None:
    """Then the rule is stopped, the outcome says by whom, and nothing is run later."""
    service.guard(CircuitBreaker(failures=1, when_open="skip"))
    await service.fails(1)
    receipt = await service.bus.emit("call", "order:2")
    assert [(run.status, run.stopped_by, run.retry_at) for run in receipt.runs] == [("stopped", "CircuitBreaker", None)]
    await service.bus.advance(60 * SECOND)
    assert service.calls == ["order:0"]


@pytest.mark.parametrize("when_open", ["postpone", "skip"])
async def test_a_retry_of_the_rule_waits_for_the_circuit_and_uses_up_nothing(service: Service, when_open: Any) -> None:
    """Its policy allows two attempts; the circuit is open for much longer than that would take."""
    breaker = CircuitBreaker(failures=1, open_for=3600, when_open=when_open)
    service.guard(breaker, retry=RetryPolicy(attempts=2, delay=SECOND, jitter=0))
    await service.fails(1)
    await service.bus.advance(timedelta(minutes=59))
    assert service.calls == ["order:0"]
    await service.bus.advance(timedelta(minutes=1))
    assert service.calls == ["order:0"] * 2
    assert [letter async for letter in service.bus.dead_letters()] == []


async def test_the_time_that_a_turn_has_taken_already_is_added(service: Service) -> None:
    """Delays count from the turn's beginning, and the circuit goes by the clock."""
    service.guard(CircuitBreaker(failures=1, open_for=30))
    await service.fails(1)

    async def before(ctx: Any, next: Any) -> None:
        service.clock.advance(10 * SECOND)
        await next()

    service.bus.use(before)
    receipt = await service.bus.emit("call", "order:2")
    assert receipt.runs[0].retry_at == START + 30 * SECOND


# -- what is said of it ------------------------------------------------------------------------------------------


async def test_each_change_is_an_event(service: Service) -> None:
    """To the subject of the circuit, with the turn in which it changed; rules can react to it."""
    service.guard(CircuitBreaker(failures=2, open_for=30))
    await service.fails(2)
    await service.bus.advance(30 * SECOND)
    await service.fails(1)
    await service.bus.advance(30 * SECOND)
    receipt = await service.bus.emit("call", "order:5")
    assert [event.subject for event in receipt.sent] == ["circuit:shop.call"] * 2
    assert service.heard == ["opened", "half_opened", "opened", "half_opened", "closed"]
    assert service.said[0][1] == {
        "key": "shop.call",
        "status": "open",
        "rule": "shop.call",
        "failures": 2,
        "reason": "2 failures in a row",
        "error": {"type": "ConnectionError", "message": "down"},
        "open_for": 30.0,
        "time": START.isoformat(),
    }
    assert service.said[2][1]["reason"] == "the probe failed"
    assert service.said[2][1]["failures"] == 3
    assert service.said[4][1]["error"] is None


async def test_a_rule_on_such_events_cannot_trip_its_own_circuit(service: Service) -> None:
    """It is run whatever the circuit says, and its failures are nobody's: no loop of openings."""
    breaker = CircuitBreaker("all", failures=1, open_for=30)
    service.bus.use(breaker)
    alarms = list[str]()

    @service.rules.on("circuit.*")
    def alarm(ctx: Context) -> None:
        alarms.append(ctx.event_type)
        raise ConnectionError("no pager")

    @service.rules.on("call")
    def call(ctx: Context) -> None:
        raise ConnectionError("down")

    await service.bus.emit("call", "order:1")
    assert alarms == ["circuit.opened"]
    assert breaker.states()["all"].failures == 1
    assert service.heard == ["opened"]


@pytest.mark.parametrize("when_open", ["postpone", "skip"])
async def test_what_a_late_turn_could_not_say_is_said_by_the_next_run(service: Service, when_open: Any) -> None:
    """What a rule's time-out undoes is not forgotten: also a run that is put off says it. Once."""
    service.guard(CircuitBreaker(failures=1, when_open=when_open), timeout=0.01)
    service.answer = hangs  # type: ignore[method-assign]
    await service.call()
    assert await service.call(2) in ("postponed", "stopped")
    assert service.heard == ["opened"]
    await service.call(3)
    assert service.heard == ["opened"]


async def test_a_turn_that_is_run_again_says_it_again(service: Service) -> None:
    """Somebody else has changed the subject meanwhile, so what the first run said is lost; the second one says it."""
    service.guard(CircuitBreaker(failures=1, when_open="skip"))
    meddled = list[str]()

    async def meddling(ctx: Context) -> None:
        if not meddled:
            meddled.append(ctx.subject.name)
            record = await service.bus.store.load(ctx.subject.name)
            write = SubjectWrite(set={"by": b'"them"'})
            theirs = Commit(partition=0, subject=record.name, version=record.version, write=write, id="x1")
            await service.bus.store.commit(theirs)
        raise ConnectionError

    service.answer = meddling  # type: ignore[method-assign]
    assert await service.call() == "stopped"
    assert service.calls == ["order:1"]
    assert service.heard == ["opened"]


# -- with others -------------------------------------------------------------------------------------------------


async def test_a_time_out_further_in_is_a_failure_and_said_at_once(service: Service) -> None:
    """`Timeout` as a middleware lets those further out deal with what is late."""

    @service.rules.on("call", middleware=[CircuitBreaker(failures=1, counts=RuleTimeout), Timeout(0.01)])
    async def call(ctx: Context) -> None:
        await hangs(ctx)

    assert await service.call() == "failed"
    assert service.heard == ["opened"]
    assert service.said[0][1]["error"]["type"] == "onwhen.errors.RuleTimeout"


async def test_what_is_tried_again_further_out_is_counted_each_time(service: Service) -> None:
    """And once the circuit is open it is left to that: the turn ends, and the event is put off. All is said once."""

    @service.rules.on("call", middleware=[Retry(5, delay=0), CircuitBreaker(failures=3)])
    def call(ctx: Context) -> None:
        service.calls.append(ctx.subject.name)
        raise ConnectionError

    assert await service.call() == "postponed"
    assert len(service.calls) == 3
    assert service.heard == ["opened"]


async def test_a_fallback_further_out_answers_at_once(service: Service) -> None:
    """While the circuit is open; the outcome still tells of it."""

    def instead(ctx: Context) -> None:
        ctx.subject.set("answers", "none today")

    @service.rules.on("call", middleware=[Fallback(instead), CircuitBreaker(failures=1)])
    async def call(ctx: Context) -> None:
        await service.answer(ctx)

    await service.fails(1)
    (run,) = (await service.bus.emit("call", "order:1")).runs
    assert (run.status, run.handled, type(run.error)) == ("failed", True, CircuitOpen)
    assert (await service.bus.read("order:1")).get("answers") == "none today"
    assert service.heard == ["opened"]


# -- how it is made ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("failures", value) for value in (0, -1, 1.5, True, "5")),
        *(("rate", value) for value in (0, 1.1, -0.5, True, "0.5")),
        *(("window", value) for value in (0, -1, None, "60", float("nan"))),
        *(("minimum", value) for value in (0, 2.5)),
        *(("open_for", value) for value in (0, timedelta(0), "PT30S")),
        *(("counts", value) for value in ("Exception", 5, int, (ValueError, "x"))),
        *(("when_open", value) for value in ("drop", None, True)),
        *(("shared", value) for value in (1, "yes")),
        *(("probe_for", value) for value in (0, -1)),
        *(("look", value) for value in (0, -1)),
        *(("key", value) for value in ("host", 5)),
        *(("name", value) for value in ("", 5, "a\nb")),
    ],
)
def test_an_option_that_cannot_be_is_named(option: str, value: Any) -> None:
    """Where the breaker is made, not when the first rule fails."""
    with pytest.raises(RuleDefinitionError, match=rf"CircuitBreaker: {option}="):
        CircuitBreaker(**{option: value})


async def test_it_is_for_rules(service: Service) -> None:
    """Around a whole event there is nothing that it could count; by itself it goes around rules."""
    service.guard(CircuitBreaker())
    service.bus.use(CircuitBreaker(failures=1))
    await service.fails(1)
    assert await service.call() == "postponed"
    service.bus.use(CircuitBreaker(), scope="event")
    receipt = await service.bus.emit("call", "order:1")
    assert isinstance(receipt.error, MiddlewareError)
    assert "scope" in str(receipt.error)
