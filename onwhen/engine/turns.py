"""A turn: one event, one subject and the rules become a commit and an outcome.

Belongs here: the semantics of handling one event. It does no I/O of its own and needs no event loop: it is
given a loaded state and says what to store; a turn whose rules do not suspend runs through in one go.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import datetime, timedelta
from inspect import isawaitable
from typing import Any, Final, TypeAlias

from onwhen.engine import cascades
from onwhen.engine.chain import Call, compose
from onwhen.engine.clock import Clock
from onwhen.engine.context import Context, Occurrence, event_type_of
from onwhen.engine.events import Event
from onwhen.engine.limits import Limits
from onwhen.engine.outcomes import Outcome, RuleRun, failure_of
from onwhen.engine.retries import RetryAfter, RetryPolicy
from onwhen.engine.rulebook import Match, Rulebook
from onwhen.engine.state import State
from onwhen.engine.store import Commit, DeadLetter, Position, Retry, SubjectWrite, Timer
from onwhen.engine.subjects import Subject
from onwhen.errors import CascadeLimit, RuleTimeout, SubjectStateError

__all__ = ["CURRENT", "Turn"]

CURRENT: ContextVar[Turn | None] = ContextVar("onwhen_turn", default=None)
"""The turn that the running code is part of, however deep."""

_FATAL: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)  # never a rule's failure: they end the program

_Mark: TypeAlias = tuple[Any, int, int, int]


class Turn:
    """The handling of one event on one subject.

    Args:
        event: what came in.
        subject_type: class of the subject.
        state: the subject, loaded; the turn changes it, and owns it until it ends.
        rulebook: where the rules are found.
        limits: what the engine allows.
        clock: asked once, when the turn begins.
        read: loads a read-only snapshot of another subject.
        retry: the waiting retry that this turn runs; then only its rule is run on the event.
        refused: why the subject could not be loaded as what it is; then no rule is run, and the event fails.
    """

    __slots__ = (
        "_clock", "_dead", "_error", "_limits", "_messages", "_now", "_queue", "_reactions", "_read", "_retries",
        "_retry", "_rulebook", "_running", "_runs", "_timers", "_type", "event", "is_over", "state", "subject",
    )  # fmt: skip

    def __init__(
        self,
        *,
        event: Event,
        subject_type: type[Subject],
        state: State,
        rulebook: Rulebook,
        limits: Limits,
        clock: Clock,
        read: Callable[[str], Awaitable[Subject]],
        retry: Retry | None = None,
        refused: BaseException | None = None,
    ) -> None:
        self.event = event
        self.state = state
        self.subject = subject_type._of(state)
        self.is_over = False
        self._type = subject_type
        self._rulebook = rulebook
        self._limits = limits
        self._clock = clock
        self._read = read
        self._retry = retry
        self._now: datetime | None = None
        self._running: Context[Any] | None = None
        self._queue: deque[Occurrence] = deque()
        self._reactions = 0
        self._runs: list[RuleRun] = []
        self._messages: list[Event] = []
        self._timers: list[Timer | str] = []  # a str is the key of a cancelled one
        self._retries: list[Retry] = []
        self._dead: list[DeadLetter] = []
        self._error = refused

    # -- running it

    async def run(self) -> None:
        """Run the rules; what they did is kept in the turn until it is committed."""
        CURRENT.set(self)
        mark = self._mark()
        try:
            if self._error is not None:
                raise self._error
            around = self._rulebook.around("event")
            if around:
                await self._run_inside(around)
            else:
                await self._handle(None)
        except _FATAL:
            raise
        except BaseException as error:
            if _is_cancelled(error):
                raise
            self._fail_as_a_whole(mark, error)
        finally:
            self.is_over = True
            self.subject._end()

    async def _run_inside(self, around: tuple[Any, ...]) -> None:
        ctx: Context[Any] = Context(self.subject, None, Occurrence.of_event(self.event, self.subject), self)
        self._running = ctx
        await compose(around, self._handle)(ctx)
        self.state.collect()
        if ctx._stopped_by:
            self._runs.append(
                RuleRun(rule="", event_type=self.event.type, status="stopped", stopped_by=ctx._stopped_by)
            )

    async def _handle(self, outer: Context[Any] | None) -> None:
        first = Occurrence.of_event(self.event, self.subject)
        only = self._retry.rule if self._retry is not None else ""
        for match in self._rulebook.match(first.type, self._type, first.property_name):
            if not only or match.rule.id == only:
                await self._run_rule(match, first, outer)
        queue = self._queue
        while queue:
            occurrence = queue.popleft()
            for match in self._rulebook.match(occurrence.type, self._type, occurrence.property_name):
                await self._run_rule(match, occurrence, outer)

    async def _run_rule(self, match: Match, occurrence: Occurrence, outer: Context[Any] | None) -> None:
        rule = match.rule
        attempt = 1
        if self._retry is not None and occurrence.parent is None:
            attempt = self._retry.attempt
        ctx: Context[Any] = Context(self.subject, rule, occurrence, self, attempt)
        ctx._inherited = outer
        self._running = ctx
        mark = self._mark()
        run = RuleRun(rule=rule.id, event_type=occurrence.type, attempt=attempt)
        if occurrence.change is not None:
            run.property = occurrence.change.property
            run.cause = occurrence.cause[0]
        self._runs.append(run)
        try:
            if match.guards and not any(guard(ctx) for guard in match.guards):
                run.status = "skipped"
                return
            for condition in rule.conditions:
                holds = condition.test(ctx)
                if condition.is_async:
                    holds = await holds
                if not holds:
                    run.status = "skipped"
                    run.condition = condition
                    self._undo(mark)
                    return
            await (match.call or _prepare(match, self._limits))(ctx)
            self.state.collect()
        except _FATAL:
            raise
        except BaseException as error:
            if _is_cancelled(error):
                raise
            if ctx._error is None:
                self._undo(mark)  # it was not the function that failed, so nothing was undone yet
            self._fail(run, error, rule.retry or self._limits.retry, occurrence)
        else:
            if ctx._error is not None:
                run.status, run.error, run.handled = "failed", ctx._error, True
            elif ctx._stopped_by:
                run.status, run.stopped_by = "stopped", ctx._stopped_by
        self._keep(run, mark, occurrence, attempt)

    def _keep(self, run: RuleRun, mark: _Mark, occurrence: Occurrence, attempt: int) -> None:
        """Note what a run did, and queue the reactions to it."""
        state, messages, timers, _ = mark
        if len(self._messages) > messages:
            run.messages = tuple(self._messages[messages:])
        if len(self._timers) > timers:
            run.timers = tuple(timer for timer in self._timers[timers:] if isinstance(timer, Timer))
            run.cancelled = tuple(key for key in self._timers[timers:] if isinstance(key, str))
        changes = self.state.changes
        if len(changes) == state[2]:
            return
        run.changes = tuple(changes[state[2] :])
        for index, change in enumerate(run.changes):
            if change.muted:
                continue
            kind = event_type_of(change)
            if self._rulebook.match(kind, self._type, change.property):
                cause = (run.rule, attempt, -1 - index)
                self._react(Occurrence(kind, change, None, occurrence, cause, self.subject))

    def _react(self, occurrence: Occurrence) -> None:
        limit = self._limits.max_reactions
        self._reactions += 1
        if self._reactions > limit:
            cycle = cascades.cycle_of_reactions(occurrence)
            raise CascadeLimit(
                f"{self.event.subject}: {self.event.type} caused more than {limit} reactions in one turn: {cycle}; "
                f"mute one of these changes, or add a condition that ends it",
                limit=limit,
                cycle=cycle,
            )
        self._queue.append(occurrence)

    # -- when something fails

    def _fail(self, run: RuleRun, error: BaseException, policy: RetryPolicy, occurrence: Occurrence) -> None:
        run.status, run.error = "failed", error
        run.retry_at = self._set_aside(occurrence.event, run.rule, run.attempt, error, policy)

    def _fail_as_a_whole(self, mark: _Mark, error: BaseException) -> None:
        self._undo(mark)
        self._queue.clear()
        self._retries.clear()
        self._dead.clear()
        self._error = error
        attempt = self._retry.attempt if self._retry is not None else 1
        policy = RetryPolicy() if isinstance(error, CascadeLimit) else self._limits.retry
        rule = self._retry.rule if self._retry is not None else ""
        self._set_aside(self.event, rule, attempt, error, policy)

    def _set_aside(
        self, event: Event, rule: str, attempt: int, error: BaseException, policy: RetryPolicy
    ) -> datetime | None:
        """Plan the next attempt and return its moment, or leave a dead letter and return None."""
        now = self.now
        key = f"{event.id}/{rule}"
        before = self._retry if self._retry is not None and self._retry.key == (event.id, rule) else None
        first_failed = before.first_failed if before is not None else now
        decision = policy.decide(error, attempt=attempt, seed=key)
        if isinstance(decision, RetryAfter):
            due = now + decision.delay
            self._retries.append(
                Retry(
                    subject=self.state.name,
                    event=event,
                    rule=rule,
                    attempt=attempt + 1,
                    due=due,
                    in_order=policy.in_order,
                    first_failed=first_failed,
                    failure=failure_of(error),
                )
            )
            return due
        self._bury(key, event, rule, error, attempt, first_failed)
        return None

    def _bury(
        self, id: str, event: Event, rule: str, error: BaseException, attempts: int, first_failed: datetime
    ) -> None:
        self._dead.append(
            DeadLetter(
                id=id,
                subject=event.subject,
                event=event,
                rule=rule,
                failure=failure_of(error),
                attempts=attempts,
                first_failed=first_failed,
                time=self.now,
            )
        )

    def _mark(self) -> _Mark:
        return self.state.mark(), len(self._messages), len(self._timers), len(self._dead)

    def _undo(self, mark: _Mark) -> None:
        state, messages, timers, dead = mark
        self.state.rollback(state)
        del self._messages[messages:]
        del self._timers[timers:]
        del self._dead[dead:]

    # -- what a context asks for (see `Effects`)

    @property
    def now(self) -> datetime:
        """The moment at which the turn began, as far as anybody asked."""
        if self._now is None:
            self._now = self._clock.now()
        return self._now

    @property
    def family(self) -> object:
        """Which rulebook, or copy of it, the turn runs on."""
        return self._rulebook.family

    @property
    def running(self) -> Context[Any] | None:
        """The context of what is running."""
        return self._running

    def emit(
        self,
        ctx: Context[Any],
        event_type: str,
        data: Any,
        subject: str | Subject | None,
        due: datetime | timedelta | None,
        key: str | None,
        extensions: Mapping[str, str | int | bool] | None,
    ) -> Event:
        """Record a message or a timer."""
        self._check_open("emit")
        own = self.state.name
        target = own if subject is None else subject if isinstance(subject, str) else subject.name
        cause, rule = ctx.event, ctx.rule.id if ctx.rule is not None else ""
        index, ctx._index = ctx._index, ctx._index + 1
        limit = self._limits.max_depth
        trail = cascades.trail(cause, limit, rule, event_type)
        if trail is not None:
            extensions = {**(extensions or {}), cascades.TRAIL: trail}
        moment = self.now if due is None else self.now + due if isinstance(due, timedelta) else due
        event = Event.caused_by(
            cause, rule, ctx.attempt, index, event_type, target, data, time=moment, extensions=extensions
        )
        event.check_size(self._limits.max_event_bytes)
        if event.depth > limit:
            self._refuse_depth(event, rule, limit)
        elif due is None:
            self._messages.append(event)
        else:
            event.detach()
            self._timers.append(Timer(subject=own, key=key or event.id, due=moment, event=event))
        return event

    def _refuse_depth(self, event: Event, rule: str, limit: int) -> None:
        cycle = cascades.cycle_of_messages(event)
        error = CascadeLimit(
            f"{event.subject}: {event.type} would be message {event.depth} in a chain, more than {limit} are not "
            f"sent: {cycle}; add a condition that ends it",
            limit=limit,
            cycle=cycle,
        )
        self._bury(f"{event.id}/", event, "", error, 1, self.now)

    def cancel(self, key: str) -> None:
        """Record that a timer is cancelled."""
        self._check_open("cancel")
        self._timers.append(key)

    async def read(self, name: str) -> Subject:
        """Return a read-only snapshot of a subject."""
        return await self._read(name)

    def _check_open(self, verb: str) -> None:
        if self.is_over:
            raise SubjectStateError(
                f"ctx.{verb} after the turn of {self.event.type} to {self.state.name} has ended; await what the rule "
                f"starts, or emit through the bus"
            )

    # -- what came of it

    def commit(
        self, partition: int, *, token: str | None, handled: Position | None
    ) -> tuple[Commit, SubjectWrite | None]:
        """Return what has to be stored, and the part of it that is about the subject."""
        write = self.state.write()
        timers: dict[str, Timer | str] = {}
        for timer in self._timers:
            timers[timer if isinstance(timer, str) else timer.key] = timer
        commit = Commit(
            partition=partition,
            subject=self.state.name,
            version=self.state.version,
            token=token,
            handled=handled,
            retried=self._retry.key if self._retry is not None else None,
            write=write,
            messages=self._messages,
            timers=[timer for timer in timers.values() if isinstance(timer, Timer)],
            cancelled=[key for key in timers.values() if isinstance(key, str)],
            cancel_all=self.state.flushed,
            retries=self._retries,
            dead=self._dead,
        )
        return commit, write

    def outcome(self) -> Outcome:
        """Return what the rules did."""
        return Outcome(event=self.event, runs=tuple(self._runs), error=self._error, dead=tuple(self._dead))


# -- what is innermost in a chain ----------------------------------------------------------------------------------


async def _invoke(ctx: Context[Any]) -> None:
    """Run a rule's function; what it did is undone if it fails, before any middleware sees the error."""
    turn: Any = ctx._effects
    mark = turn._mark()
    try:
        assert ctx.rule is not None
        result = ctx.rule.function(ctx)
        if result is not None and isawaitable(result):
            await result
        turn.state.collect()
    except BaseException as error:
        turn._undo(mark)
        ctx._error = error
        raise


def _prepare(match: Match, limits: Limits) -> Call:
    """Compose what is around a rule, once."""
    call = compose(match.middleware, _invoke)
    seconds = match.rule.timeout or limits.rule_timeout
    match.call = call if seconds is None else _timed(call, match.rule.id, seconds)
    return match.call


def _timed(call: Call, rule: str, seconds: float) -> Call:
    async def timed(ctx: Context[Any]) -> None:
        try:
            async with asyncio.timeout(seconds) as scope:
                await call(ctx)
        except TimeoutError:
            if not scope.expired():
                raise
            raise RuleTimeout(rule, seconds) from None

    return timed


def _is_cancelled(error: BaseException) -> bool:
    """Tell whether an error means that the engine's own task is cancelled; a rule may raise CancelledError too."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
