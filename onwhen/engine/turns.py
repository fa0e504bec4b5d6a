"""A turn: one event, one subject and the rules become a commit and an outcome.

Belongs here: the semantics of handling one event. It does no I/O of its own and needs no event loop: it is
given a loaded state and says what to store; a turn whose rules do not suspend runs through in one go.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from inspect import isawaitable
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from onwhen.engine import cascades, explaining
from onwhen.engine.chain import compose
from onwhen.engine.context import DEFERRED, Context
from onwhen.engine.effects import NOTHING_LEFT, Cancelled, Effects, Refused
from onwhen.engine.endings import ends_the_turn, timed
from onwhen.engine.events import Event
from onwhen.engine.occurrences import Occurrence, event_type_of
from onwhen.engine.outcomes import Outcome, RuleRun
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.rulebook import Match
from onwhen.engine.rules import Condition
from onwhen.engine.setbacks import set_aside
from onwhen.engine.state import Change, Savepoint, Snapshot, State
from onwhen.engine.store import Commit, DeadLetter, Position, Retry, Timer
from onwhen.engine.subjects import Subject
from onwhen.errors import (
    CascadeLimit,
    MiddlewareError,
    MigrationError,
    PoisonEvent,
    Postponed,
    RuleTimeout,
    UnknownRule,
)

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["RUNNING", "Turn"]

RUNNING: ContextVar[Context[Any] | None] = ContextVar("onwhen_running", default=None)
"""The context of the run that the running code is part of; what a rule has started keeps that of the rule."""

_ONCE: Final = RetryPolicy()
_UNTIL_RESUMED: Final = RetryPolicy(on_exhausted="park")
_HOPELESS: Final = {  # whatever the policy, another attempt would end the same way
    CascadeLimit: _ONCE,
    UnknownRule: _ONCE,
    PoisonEvent: _ONCE,
    MigrationError: _UNTIL_RESUMED,  # nothing is wrong with the event; it waits for other code
}

_MIDDLEWARE_TOO: Final = (PoisonEvent, RuleTimeout)  # may be about the middleware around the event: it is not run again


class Turn(Effects, kw_only=True):
    """The handling of one event on one subject.

    Attributes:
        event: what came in.
        retry: the waiting retry that this turn runs; then only its rule is run on the event.
        refused: why the subject could not be loaded as what it is; then no rule is run, and the event fails.
        explains: it is to be noted what each rule was asked, and kept with the commit.
    """

    event: Event
    retry: Retry | None = None
    refused: BaseException | None = None
    explains: bool = False
    _queue: deque[Occurrence] | tuple[()] = ()
    _reactions: int = 0
    _runs: list[RuleRun] = msgspec.field(default_factory=list)
    _retries: list[Retry] = msgspec.field(default_factory=list)
    _dead: list[DeadLetter] = msgspec.field(default_factory=list)
    _error: BaseException | None = None
    _retry_at: datetime | None = None
    _is_parked: bool = False
    _own: RuleRun = cast(RuleRun, None)  # of the middleware around the event, and up to where it is noted
    _mark: Savepoint = 0
    _has_failed: bool = False
    _is_of_trigger: bool = False  # the latest failure: a predicate of a trigger raised

    @classmethod
    def of(
        cls,
        event: Event,
        subject_type: type[Subject],
        state: State,
        bus: EventBus,
        retry: Retry | None = None,
        refused: BaseException | None = None,
        now: datetime | None = None,
    ) -> Turn:
        """Begin a turn.

        Args:
            event: what came in.
            subject_type: class of the subject.
            state: the subject, loaded; the turn changes it, and owns it until it ends.
            bus: whose turn it is: its rules are found in the bus's rulebook, its limits hold, its clock is asked once.
            retry: see `Turn`.
            refused: see `Turn`.
            now: when the turn begins, if that is known already.
        """
        if refused is not None:
            state = Snapshot.of(state)
        turn = cls(subject_type._of(state), state, bus, now or bus.clock.now(), event=event)
        if retry is not None:
            turn.retry, turn.around = retry, f"middleware@{retry.rule}"
        if refused is not None:
            turn.refused = turn._error = refused
        return turn

    def __str__(self) -> str:
        return f"the turn of {self.event.type} to {self.event.subject}"

    # -- running it

    async def run(self) -> None:
        """Run the rules; what they did is kept in the turn until it is committed."""
        within = RUNNING.get()
        while within is not None and within.turn.is_over:
            within = within.turn.within
        self.within = within
        beginning = len(self.state.log)
        try:
            first = Occurrence.of_event(self.event, self.subject)
            if self.bus.rulebook.around("event") and not isinstance(self.refused, _MIDDLEWARE_TOO):
                await self._run_inside(first)
            else:
                await self._handle(first, None)
        except BaseException as error:
            self.state.rollback(beginning)
            if ends_the_turn(error):
                raise
            self._fail_as_a_whole(self.verdict(error))
        finally:
            self.is_over = True
            self.subject._end()

    async def _run_inside(self, first: Occurrence) -> None:
        """Run the middleware that is around the whole event; what it does itself counts as a run without a rule."""
        book = self.bus.rulebook
        if (chain := book.event_chain) is None:
            chain = book.event_chain = compose(book.around("event"), _inside)
        attempt = self.retry.attempt if self.retry is not None else 1
        ctx: Context[Any] = Context(self.subject, None, first, self, attempt)
        self._own = run = RuleRun("", first.type, first.property_name, attempt=attempt)
        self._mark = self.state.mark()
        RUNNING.set(ctx)
        await chain(ctx)
        ctx._is_over = True
        if isinstance(self._error, asyncio.CancelledError) and not ends_the_turn(self._error):
            raise MiddlewareError(
                "a middleware around the event cancelled what next() runs, by a time-out for instance, and went on; "
                "half a turn cannot be kept, so give the rules a timeout= instead"
            ) from self._error
        if self._error is not None:
            raise self._error
        self._keep_own(first)
        if ctx._stopped_by:
            run.status, run.stopped_by = "stopped", ctx._stopped_by
        if ctx._stopped_by or run.changes or run.messages or run.timers or run.cancelled or run.refused:
            self._runs.append(run)
        if self._queue:
            occurrence = self._queue.popleft()
            await self._run_rules(occurrence, self._reactions_to(occurrence), 1, ctx)

    def _keep_own(self, first: Occurrence) -> None:
        """Note what the middleware around the event has done since it was last looked at."""
        self.state.collect()
        self._keep(self._own, self._mark, first)

    def _handle(self, first: Occurrence, outer: Context[Any] | None) -> Awaitable[None]:
        """Return what runs the rules on what came in, and those on the property changes that follow."""
        if self._error is not None:
            raise self._error
        matches = self.bus.rulebook.match(first.type, self.subject.__class__, first.property_name)
        attempt, only = 1, cast(object, None)
        if self.retry is not None and self.retry.rule:
            only, attempt = self.retry.rule, self.retry.attempt
        elif self.event.extensions:
            only = self.event.extensions.get(DEFERRED)
        if only is not None:
            matches = self._only(str(only), matches)
        return self._run_rules(first, matches, attempt, outer)

    def _reactions_to(self, occurrence: Occurrence) -> tuple[Match, ...]:
        return self.bus.rulebook.match(occurrence.type, self.subject.__class__, occurrence.property_name)

    def _only(self, rule: str, matches: Sequence[Match]) -> tuple[Match, ...]:
        found = tuple(match for match in matches if match.rule.id == rule)
        if not found:
            raise UnknownRule(
                f"no rule {rule!r} is run on {self.event.type} to {self.state.name} any more, but a run of it was "
                f"to be repeated; bring the rule back and replay this, or discard it"
            )
        return found

    async def _run_rules(
        self, occurrence: Occurrence, matches: Sequence[Match], attempt: int, outer: Context[Any] | None
    ) -> None:
        """Run rules on something, and then those on the property changes that wait, first in, first out."""
        state = self.state
        while True:
            for match in matches:
                rule, change = match.rule, occurrence.change
                ctx: Context[Any] = Context(self.subject, rule, occurrence, self, attempt, outer)
                run = RuleRun(rule.id, occurrence.type, attempt=attempt)
                if change is not None:
                    run.change, run.property, run.cause = change, change.property, occurrence.cause[0]
                self._runs.append(run)
                RUNNING.set(ctx)
                mark = len(state.log)
                try:
                    mark = state.mark()
                    rest = self._begin(match, ctx, run)
                    if rest is not None:
                        seconds = rule.timeout or self.bus.limits.rule_timeout
                        if seconds is None:
                            await rest
                        elif (late := timed(rest, rule.id, seconds, asyncio.get_running_loop())) is not None:
                            await late
                    if run.status == "fired":
                        state.collect()
                    if ctx._error is not None and ends_the_turn(ctx._error):
                        raise ctx._error  # no middleware can swallow the end of the program
                except BaseException as error:
                    run.status, run.error = "failed", error
                    if ends_the_turn(error):
                        raise
                    if isinstance(ctx._error, KeyboardInterrupt | SystemExit):
                        raise ctx._error from error  # nor can it make another error of it
                    self._failed(match, ctx, run, mark, error)
                else:
                    if ctx._error is not None:
                        run.status, run.error, run.handled = "failed", ctx._error, True
                        run.handled_by = ctx._handled_by
                        self._note_failure(match, ctx, run)
                    elif ctx._stopped_by:
                        run.status, run.stopped_by = "stopped", ctx._stopped_by
                    elif run.status == "skipped":
                        state.rollback(mark)
                ctx._is_over = True
                if outer is not None:
                    RUNNING.set(outer)
                if len(state.log) > mark:
                    self._keep(run, mark, occurrence)
            if not self._queue:
                return
            occurrence, attempt = self._queue.popleft(), 1
            matches = self._reactions_to(occurrence)

    def _begin(self, match: Match, ctx: Context[Any], run: RuleRun) -> Awaitable[object] | None:
        """Run a rule if its trigger fits the values and its conditions hold, as far as that goes without waiting.

        Returns:
            What is left to be awaited.
        """
        if self.explains:
            return self._begin_explained(match, ctx, run)
        condition: Condition | None = None
        try:
            if match.guards and not any(guard(ctx) for guard in match.guards):
                run.status = "skipped"
                return None
            conditions = iter(match.rule.conditions)
            for condition in conditions:
                holds = condition.test(ctx)
                if holds.__class__ is not bool and isawaitable(holds):
                    return self._go_on(match, ctx, run, conditions, condition, holds)
                if not holds:
                    run.status, run.condition = "skipped", condition
                    return None
        except BaseException:
            run.condition, self._is_of_trigger = condition, condition is None
            raise
        return _call(match, ctx)

    async def _go_on(
        self,
        match: Match,
        ctx: Context[Any],
        run: RuleRun,
        conditions: Iterator[Condition],
        condition: Condition,
        holds: Any,
    ) -> None:
        """Wait for what a condition says, test those after it, and run the rule if all hold."""
        tested: Condition | None = condition
        try:
            while tested is not None:
                if not (await holds if isawaitable(holds) else holds):
                    run.status, run.condition = "skipped", tested
                    return
                tested = next(conditions, None)
                holds = tested is None or tested.test(ctx)
        except BaseException:
            run.condition = tested
            raise
        if (rest := _call(match, ctx)) is not None:
            await rest

    async def _begin_explained(self, match: Match, ctx: Context[Any], run: RuleRun) -> None:
        if await explaining.fits(match, ctx, run) and (rest := _call(match, ctx)) is not None:
            await rest

    def _failed(self, match: Match, ctx: Context[Any], run: RuleRun, mark: Savepoint, error: BaseException) -> None:
        """Undo what a run did that has raised, and plan what is to become of it."""
        if isinstance(error, Postponed):
            run.status = "postponed"
        elif isinstance(error, RuleTimeout) and error.__cause__ and isinstance(ctx._error, asyncio.CancelledError):
            ctx._error = error  # that was how it ended the rule, and nobody has swallowed it
        self._undo_failed(ctx, mark, error)
        self._note_failure(match, ctx, run)
        event, policy = self._event_of(ctx._occurrence, error, match.rule.retry or self.bus.limits.retry)
        run.retry_at, run.parked = self._set_aside(event, match.rule.id, ctx.attempt, error, policy)

    def _undo_failed(self, ctx: Context[Any], mark: Savepoint, error: BaseException) -> None:
        """Undo what a failed rule did; if it is the function's error, what middleware did stays, as far as sound."""
        if error is ctx._error:
            with suppress(Exception):
                self.state.collect()
                return
        self.state.rollback(mark)

    def _note_failure(self, match: Match, ctx: Context[Any], run: RuleRun) -> None:
        """Note what a rule that has failed was asked, if failures are explained."""
        is_of_trigger, self._is_of_trigger = self._is_of_trigger, False
        if run.status == "failed":
            self._has_failed = True
            if self.bus.limits.explain_failures:
                explaining.note_failure(match, ctx, run, is_of_trigger=is_of_trigger)

    def _keep(self, run: RuleRun, mark: Savepoint, occurrence: Occurrence) -> None:
        """Note what a run did, and queue the reactions to it."""
        for entry in self.state.log[mark:]:
            kind = entry.__class__
            if kind is tuple:  # how to undo a write
                continue
            if kind is Change:
                self._consider(entry, run, occurrence)
                run.changes += (entry,)
            elif kind is Event:
                run.messages += (entry,)
            elif kind is Timer:
                run.timers += (entry,)
            elif kind is Cancelled:
                run.cancelled += (entry.key,)
            elif kind is Refused:
                run.refused += (self._refuse(entry.event),)

    def _consider(self, change: Change, run: RuleRun, occurrence: Occurrence) -> None:
        """Queue the reaction to a change, if any rule may react to it."""
        kind = event_type_of(change)
        if not change.muted and self.bus.rulebook.match(kind, self.subject.__class__, change.property):
            cause = (run.rule or self.around, run.attempt, -1 - len(run.changes))
            self._queue_up(Occurrence.of_change(kind, change, occurrence, cause, self))

    def _queue_up(self, occurrence: Occurrence) -> None:
        limit = self.bus.limits.max_reactions
        self._reactions += 1
        if self._reactions > limit:
            cycle = cascades.cycle_of_reactions(occurrence)
            raise CascadeLimit(
                f"{self.event.subject}: {self.event.type} caused more than {limit} reactions in one turn: {cycle}; "
                f"mute one of these changes, or add a condition that ends it",
                limit=limit,
                cycle=cycle,
            )
        if not self._queue:
            self._queue = deque()
        self._queue.append(occurrence)

    # -- when something fails

    def verdict(self, error: BaseException) -> BaseException:
        """Return why the turn fails, given what has left the middleware: of some errors it cannot make others."""
        own = self._error
        return own if own is not None and (own is self.refused or isinstance(own, CascadeLimit)) else error

    def _fail_as_a_whole(self, error: BaseException) -> None:
        """Keep nothing; repeat the event, or the one rule that was to be repeated, or leave a dead letter."""
        self._queue = ()
        self._retries.clear()
        self._dead.clear()
        for run in self._runs:
            run.forget()
        rule, attempt, policy = "", 1, self.bus.limits.retry
        if self.retry is not None:
            rule, attempt = self.retry.rule, self.retry.attempt
            policy = next((known.retry for known in self.bus.rulebook.rules() if known.id == rule), None) or policy
        self._error = error
        self._has_failed = self._has_failed or not isinstance(error, Postponed)
        policy = _HOPELESS.get(type(error), policy)
        self._retry_at, self._is_parked = self._set_aside(self.event, rule, attempt, error, policy)

    def _refuse(self, event: Event) -> CascadeLimit:
        """Leave a message as a dead letter, because its chain is too long."""
        limit, cycle = self.bus.limits.max_depth, cascades.cycle_of_messages(event)
        error = CascadeLimit(
            f"{event.subject}: {event.type} would be message {event.depth} in a chain, more than {limit} are not "
            f"sent: {cycle}; add a condition that ends it",
            limit=limit,
            cycle=cycle,
        )
        self._has_failed = True
        self._set_aside(event, "", 1, error, _ONCE)
        return error

    def _event_of(self, occurrence: Occurrence, error: BaseException, policy: RetryPolicy) -> tuple[Event, RetryPolicy]:
        """Return the event to be set aside with a failure, and the policy for that."""
        try:
            return occurrence.event, policy
        except Exception as problem:  # the error may be this very one; it must not cost the other rules their work
            name = occurrence.property_name
            error.add_note(f"the event of the change of {name!r} cannot be made, so its cause stands here: {problem}")
            return self.event, _ONCE

    def _set_aside(
        self, event: Event, rule: str, attempt: int, error: BaseException, policy: RetryPolicy
    ) -> tuple[datetime | None, bool]:
        """Plan the next attempt and return its moment, or park the subject, or leave a dead letter.

        Returns:
            When the next attempt will be, if there will be one, and whether the subject is parked.
        """
        before = self.retry
        if before is not None and not (before.rule == rule and event is self.event):
            before = None
        found = set_aside(event, rule, attempt, error, policy, now=self.now, before=before)
        if isinstance(found, DeadLetter):
            self._dead.append(found)
            return None, False
        self._retries.append(found)
        return (None, True) if found.parked else (found.due, False)

    # -- what came of it

    def commit(self, partition: int, token: str | None, handled: Position | None) -> Commit:
        """Return what has to be stored."""
        state = self.state
        write = state.write() if state.log else None
        left = self.left() if self.asked or state.flushed else NOTHING_LEFT
        explanation, has_failed = None, self._has_failed or bool(self._dead)
        if self.explains or (has_failed and self.bus.limits.explain_failures):
            explanation = explaining.explanation_of(self.outcome(), has_failed)
        return Commit(
            partition=partition,
            subject=state.name,
            version=state.version,
            token=token,
            handled=handled,
            retried=self.retry.key if self.retry is not None else None,
            write=write,
            messages=left.messages,
            timers=left.timers,
            cancelled=left.cancelled,
            cancel_all=left.flushed,
            retries=self._retries,
            dead=self._dead,
            explanation=explanation,
        )

    def outcome(self) -> Outcome:
        """Return what the rules did."""
        outcome = Outcome(
            event=self.event,
            runs=tuple(self._runs),
            error=self._error,
            retry_at=self._retry_at,
            parked=self._is_parked,
            dead=tuple(self._dead),
            time=self.now,
        )
        if self.retry is not None:
            outcome.rule = self.retry.rule
        if self.explains:
            outcome.is_explained = True
        return outcome


# -- what is innermost in a chain ----------------------------------------------------------------------------------


async def _invoke(ctx: Context[Any]) -> None:
    """Run a rule's function; what it did is undone if it fails, before any middleware sees the error."""
    assert ctx.rule is not None
    effects = ctx._effects
    mark = effects.state.mark()
    try:
        result = ctx.rule.function(ctx)
        if result is not None and isawaitable(result):
            await result
        effects.state.collect()
    except BaseException as error:
        effects.state.rollback(mark)
        ctx._error = error
        raise


def _call(match: Match, ctx: Context[Any]) -> Awaitable[object] | None:
    """Call a rule, or what is around it; return what is left to be awaited."""
    if match.middleware:
        if (call := match.call) is None:
            call = match.call = compose(match.middleware, _invoke)
        return call(ctx)
    result = match.rule.function(ctx)
    if result is not None and (result.__class__ is CoroutineType or isawaitable(result)):
        return cast(Awaitable[object], result)
    return None


async def _inside(ctx: Context[Any]) -> None:
    """Run the rules of the turn, inside the middleware that is around the whole event."""
    turn = ctx.turn
    try:
        if turn._error is None:
            turn._keep_own(ctx._occurrence)
        await turn._handle(ctx._occurrence, ctx)
    except BaseException as error:
        turn._error = error  # a middleware may swallow it, but half a turn cannot be committed
        raise
    turn._mark = turn.state.mark()
