"""Circuit breaker: what fails again and again is left alone for a while, and then tried with one call.

Belongs here: the middleware around a rule: which circuit a run belongs to, what counts as its failure, and what is said
about it. It must not know how a circuit decides (`_circuit`) or where it is kept (`_circuits`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal
from weakref import WeakKeyDictionary

from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_loop, ends_the_program, is_taken_away
from onwhen.engine.events import Event
from onwhen.engine.outcomes import failure_of
from onwhen.errors import CircuitOpen, InvalidEvent, MiddlewareError, Postponed, RuleDefinitionError, RuleTimeout
from onwhen.middleware._announcements import Announcements
from onwhen.middleware._by_key import ByKey
from onwhen.middleware._circuit import Result, State, Terms
from onwhen.middleware._circuits import Circuit, Local, Together
from onwhen.middleware._moments import delay_for, iso
from onwhen.middleware._options import (
    Duration,
    Errors,
    Key,
    error_test,
    key_function,
    microseconds,
    one_of,
    plain_name,
    positive_int,
    rule_of,
)
from onwhen.middleware._shared import Shared, cell_key

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["CIRCUIT_CLOSED", "CIRCUIT_HALF_OPENED", "CIRCUIT_OPENED", "CircuitBreaker", "State"]

CIRCUIT_OPENED: Final = "circuit.opened"
CIRCUIT_HALF_OPENED: Final = "circuit.half_opened"
CIRCUIT_CLOSED: Final = "circuit.closed"

_OWN: Final = "circuit."
_EVENTS: Final = {"open": CIRCUIT_OPENED, "half_open": CIRCUIT_HALF_OPENED, "closed": CIRCUIT_CLOSED}
_LONGEST_ERROR: Final = 500  # characters


class CircuitBreaker:
    """Stops running a rule that keeps failing, and tries it again with a single run.

        bus.use(CircuitBreaker(failures=5, open_for=30))  # each rule has a circuit of its own
        @orders.on("order.paid", middleware=[CircuitBreaker(key=lambda ctx: ctx.payload["host"], shared=True)])

    A circuit is closed at first. After so many failures it opens: for a while the rule is not run, and its events are
    put off (`CircuitOpen`) until that is over, without using up attempts; or with `when_open="skip"` the rule is
    stopped, and the outcome says so, but no failure is skipped: what has failed before, and is to be run again, is put
    off. Then it is half-open: exactly one run is let through, the probe. If that succeeds, the circuit closes; if it
    fails, it opens again. Those that come meanwhile are put off for a tenth of `open_for`.

    What counts: an error that `counts` is a failure, and so is a run that is cancelled by a time-out, which is judged
    as a `RuleTimeout`; a cancellation by which a worker hands the turn to another one, or the program ends, is not. Any
    other error is an answer, as a success is. A run that was put off further in (`Postponed`), or stopped there, is
    neither.

    What is said: `circuit.opened`, `circuit.half_opened` and `circuit.closed` go to the subject `circuit:KEY` with the
    turn in which the circuit has changed; where what that turn sends is undone, with the next run that comes by. Their
    data: `key`, `status`, `rule` (whose run it was), `failures` (in a row), `reason`, `error` (of the last failure, or
    None), `open_for` (seconds), and the `time` of the change. Rules on `circuit.*` events are run whatever a circuit
    says and count for none, so that none can keep itself busy. A process that is killed in the turn of a change may
    take with it what was to be said of that change.

    Who shares a circuit: by default each process counts for itself, and forgets when it ends. With `shared` all workers
    of the store do, by the store's clock. What opens, tries and closes it is decided on its newest state, so there is
    one probe among all of them. Of what others have found out a worker learns within `look`: for that long it may let
    runs through that it should not. A healthy circuit costs one call to the store per `look`; a failure costs one, and
    so does the first success after it. If the store does not answer, a worker goes by what it knows, and has a probe of
    its own. All that share a circuit have to be given the same options.

    Args:
        name: which circuit, for several rules that call the same service. By default each rule has its own, by its id.
        key: function of the context that returns which circuit, as a text; below `name` if there is one. At most 10,000
            are remembered, those that were used last.
        failures: open after so many in a row (a count). A row also ends when nothing fails for as long as `window`.
            By default 5; or None if there is a `rate`.
        rate: open when such a share of the calls in the window has failed (more than 0, up to 1).
        window: how far back calls count (seconds or a timedelta); it moves on in tenths.
        minimum: how many calls there must be for a `rate` (a count).
        open_for: how long nothing is run (seconds or a timedelta).
        counts: an exception class, a tuple of them, or a predicate on the error.
        when_open: "postpone" or "skip".
        shared: among all workers of the store.
        probe_for: when a probe counts as lost, because its worker is gone, and another run is let through (seconds or a
            timedelta). By default as long as a run may take: the rule's time-out, or that of a turn.
        look: with `shared`, how old what is known of the others may be (seconds or a timedelta).

    Raises:
        RuleDefinitionError: an option is not what it must be.
    """

    scopes = ("rule",)

    def __init__(
        self,
        name: str | None = None,
        *,
        key: Key | None = None,
        failures: int | None = None,
        rate: float | None = None,
        window: Duration = 60.0,
        minimum: int = 10,
        open_for: Duration = 30.0,
        counts: Errors = Exception,
        when_open: Literal["postpone", "skip"] = "postpone",
        shared: bool = False,
        probe_for: Duration | None = None,
        look: Duration = 0.5,
    ) -> None:
        if rate is not None and not (type(rate) in (int, float) and 0 < rate <= 1):
            raise RuleDefinitionError(f"CircuitBreaker: rate={rate!r} must be more than 0 and at most 1, or None")
        if failures is None and rate is None:
            failures = 5
        self._name = plain_name(name, "CircuitBreaker: name")
        self._key = None if key is None else key_function(key, "CircuitBreaker: key")
        self._terms = Terms(
            failures=None if failures is None else positive_int(failures, "CircuitBreaker: failures"),
            rate=rate,
            window=microseconds(window, "CircuitBreaker: window"),
            minimum=positive_int(minimum, "CircuitBreaker: minimum"),
            open_for=microseconds(open_for, "CircuitBreaker: open_for"),
        )
        self._is_failure = error_test(counts, "CircuitBreaker: counts")
        self._skips = one_of(when_open, "CircuitBreaker: when_open", "postpone", "skip") == "skip"
        self._shared = one_of(shared, "CircuitBreaker: shared", True, False)
        self._probe_for = None if probe_for is None else microseconds(probe_for, "CircuitBreaker: probe_for")
        self._look = microseconds(look, "CircuitBreaker: look")
        self._circuits = ByKey(self._make)  # with what is said of all those of a bus
        self._announcements: WeakKeyDictionary[EventBus, Announcements] = WeakKeyDictionary()

    @property
    def label(self) -> str | None:
        """What stands for all its circuits where no subject may; None if their keys are names of rules, or its own."""
        return None if self._key is None else self._name or "(keyed)"

    def states(self) -> Mapping[str, State]:
        """Return what is known here of each circuit, by key; that one is open says nothing of whether it is due."""
        return {key: circuit.state for key, (circuit, _) in self._circuits.items()}

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Run the rule if its circuit lets it through, and take note of how that ended."""
        rule = rule_of(ctx, "CircuitBreaker")
        if ctx.event_type.startswith(_OWN):
            await next()
            return
        key = self._key_for(ctx, rule.id)
        circuit, news = self._circuits.of(ctx.bus, key)
        probe = ""
        if not circuit.is_closed():
            entry = await circuit.enter(self._patience(ctx))
            if entry.verdict == "no":
                self._refuse(ctx, key, entry.wait, news)
                return
            probe = entry.probe
            self._note(news, ctx, key, entry.before, entry.after, None)
        if news.owed:
            news.say(ctx)
        try:
            await next()
        except BaseException as error:
            if not ends_the_program(error):
                judged = self._judged(ctx, error)
                result = self._result(judged)
                if probe or result != "neither":
                    self._note(news, ctx, key, *await circuit.leave(probe, result), judged)
                news.say(ctx)
            raise
        if ctx._stopped_by:
            if probe:
                await circuit.leave(probe, "neither")
        elif probe or not circuit.succeed():
            self._note(news, ctx, key, *await circuit.leave(probe, "ok"), None)
        if news.owed:
            news.say(ctx)

    # -- which circuit

    def _key_for(self, ctx: Context[Any], rule: str) -> str:
        if self._key is None:
            return self._name or rule
        return f"{self._name}/{self._key(ctx)}" if self._name else self._key(ctx)

    def _make(self, bus: EventBus, key: str) -> tuple[Circuit, Announcements]:
        try:
            Event(CIRCUIT_OPENED, _subject(key))
        except InvalidEvent as error:
            told = f"CircuitBreaker: key {key!r:.80} cannot be part of a subject's name: {error}"
            raise MiddlewareError(told) from None
        news = self._announcements.setdefault(bus, Announcements())
        if not self._shared:
            return Local(self._terms, bus.clock), news
        shared = Shared(bus.store, bus.clock, cell_key("circuit", key), State)
        return Together(self._terms, shared, self._look), news

    def _patience(self, ctx: Context[Any]) -> int:
        """Return how long a run that is tried may take before it counts as lost (microseconds)."""
        if self._probe_for is not None:
            return self._probe_for
        seconds = _allowed(ctx) or ctx.bus.limits.turn_timeout
        return self._terms.open_for if seconds is None else int(seconds * 1e6)

    # -- when it is open

    def _refuse(self, ctx: Context[Any], key: str, wait: int, news: Announcements) -> None:
        says = news.say(ctx)
        if self._skips and ctx.attempt == 1:
            return
        refusal = CircuitOpen(
            f"circuit {key!r} is open; {ctx.rule} is run again when it has had time to recover",
            delay=delay_for(ctx, wait),
        )
        if says:
            ctx._error = refusal  # as if the rule itself had put itself off, so that what is said here stays
        raise refusal

    # -- what became of a run

    def _judged(self, ctx: Context[Any], error: BaseException) -> BaseException:
        """Return what an error is judged as: a cancellation comes from a time-out, unless the turn or all ends."""
        if not isinstance(error, asyncio.CancelledError) or is_taken_away(error):
            return error
        if ends_the_loop(asyncio.get_running_loop()):
            return error
        if (seconds := _allowed(ctx)) is not None:
            return RuleTimeout(str(ctx.rule), seconds)
        return TimeoutError(f"{ctx.rule} was cancelled")

    def _result(self, error: BaseException) -> Result:
        if isinstance(error, Postponed | asyncio.CancelledError):
            return "neither"
        if self._is_failure(error):
            return "failed"
        return "ok" if isinstance(error, Exception) else "neither"

    def _note(
        self,
        news: Announcements,
        ctx: Context[Any],
        key: str,
        before: State,
        after: State,
        error: BaseException | None,
    ) -> None:
        """Note what is to be said if a circuit has changed."""
        if (before.status, before.since) != (after.status, after.since):
            data = {
                "key": key,
                "rule": str(ctx.rule),
                "status": after.status,
                "failures": after.failures,
                "reason": after.reason,
                "error": None if error is None else _told(error),
                "open_for": self._terms.open_for / 1e6,
                "time": iso(after.since),
            }
            news.add(_EVENTS[after.status], _subject(key), data)


def _allowed(ctx: Context[Any]) -> float | None:
    """Return how long a run may take (seconds), if there is a limit."""
    assert ctx.rule is not None
    return ctx.rule.timeout or ctx.bus.limits.rule_timeout


def _subject(key: str) -> str:
    return f"circuit:{key}"


def _told(error: BaseException) -> dict[str, str]:
    failure = failure_of(error)
    return {"type": failure.type, "message": failure.message[:_LONGEST_ERROR]}
