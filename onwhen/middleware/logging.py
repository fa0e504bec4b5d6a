"""Logging: one record per event and one per failed rule, through the standard library's `logging`.

Belongs here: what is recorded, at which level, and that nothing in it can forge a line. It must not configure a
handler or a formatter: where records go and how they look is for the application to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any, Final
from weakref import WeakSet

from onwhen.engine.bus import EventBus
from onwhen.engine.chain import Next, Scope
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_program, ends_the_turn
from onwhen.engine.events import Event
from onwhen.engine.outcomes import Outcome, RuleRun
from onwhen.engine.store import Store
from onwhen.engine.turns import RUNNING, Turn
from onwhen.errors import Postponed, RuleDefinitionError
from onwhen.middleware import _log_records as records
from onwhen.middleware._json_formatter import JsonFormatter
from onwhen.middleware._redaction import Redaction
from onwhen.middleware._safe_text import MAX_ERROR, safe

__all__ = ["JsonFormatter", "Logging"]

_STATUSES: Final = ("fired", "skipped", "failed", "stopped", "postponed")
_MOST_FAILING: Final = 1000  # events that have failed as a whole and are not committed yet (a count)


class Logging:
    """Logs what becomes of events: a record per event, and one per rule that failed or was put off in it.

        bus.use(Logging())

    That is around events and around rules. Around rules alone, `scope="rule"` or `middleware=[Logging()]` of one rule,
    there is no record per event, and a condition that raises is not seen: conditions are tested before a rule's
    middleware is entered. Around events alone, `scope="event"`, durations of rules are not known. Reactions to what
    another middleware around the event has changed are never seen. A turn that is run again, because its subject moved
    on meanwhile, is logged again.

    That an event has failed as a whole is logged once that is committed, also if the engine has not let any middleware
    see it: its turn took too long, say, or it has killed processes. A bus is known for that from the first event on
    that reaches this middleware; `watch(bus)` makes it known at once.

    Every record has these attributes, from `extra`, for a formatter or a handler to use:
        event_type: of the event; for a rule that reacts to a property, of that property event.
        event_id, subject, correlation_id: of the event whose turn it was.
        partition: number of the partition that the subject is in.
        rule: id of the rule, None in the record of an event.
        outcome: of an event "handled", "stopped" by a middleware, or "failed" as a whole; of a rule "fired",
            "stopped" or "failed"; of both "postponed" (see `Postponed`), and "cancelled" (by a time-out or the end of
            the engine; what comes of that is not known yet); of a message "refused", as its chain was too long.
        duration: in seconds; None for what was not timed: a rule whose condition failed, an event not seen here.
        attempt: 1 for the first run on this event.
        fired, skipped, failed, stopped, postponed: in the record of an event, how many rules did so (counts).
        error, handled, retry_at: in the record of a failure, class and text of the error; whether a middleware dealt
            with it; when the rule will be run again (ISO 8601), or None.
        payload: the event's data, if `payloads` is set: a JSON value.

    Levels: `level` for events, and for what was put off; DEBUG for rules that ran; WARNING for a failure that is
    retried, was dealt with by a middleware or is a cancellation; ERROR for every other one. Used around rules alone it
    cannot know of retries, so each failed attempt is an ERROR.

    Types, subjects, rules and errors come from outside: in messages and attributes they are cut to a sane length, and
    characters that cannot be printed are escaped, so that no record can pretend to be two.

    Args:
        logger: a logger, or its name.
        level: level of the records of events, as a number or a name of `logging`.
        payloads: put the event's data into the records, at most about 10,000 characters of it, and of bytes only the
            size. Off by default, because it may be secret.
        redact: fields of payloads whose values are replaced by "***": names such as `password`, which are found at any
            depth, or ends of paths such as `card.number`; `*`, `?` and `[...]` as in file names; case does not matter.
            A value in a property event goes by the name of the property, too.
        tracebacks: give records of failures their traceback; each of its lines begins with "  | ". An error's text
            may quote data of the event.

    Raises:
        RuleDefinitionError: an argument cannot be used.
    """

    scopes: tuple[Scope, ...] = ("event", "rule")

    def __init__(
        self,
        logger: logging.Logger | str = "onwhen",
        *,
        level: int | str = logging.INFO,
        payloads: bool = False,
        redact: Sequence[str] = (),
        tracebacks: bool = True,
    ) -> None:
        if not isinstance(logger, logging.Logger | str):
            raise RuleDefinitionError(f"Logging: logger={logger!r:.80} must be a logger, or the name of one")
        self._logger = logging.getLogger(logger) if isinstance(logger, str) else logger
        self._level = _level(level)
        redaction = Redaction(redact)
        if redact and not payloads:
            raise RuleDefinitionError("Logging: redact= is about payloads, which are left out; add payloads=True")
        self._shown = redaction if payloads else None
        self._tracebacks = tracebacks
        self._timings = f"onwhen.logging/{id(self)}"
        self._watched: WeakSet[EventBus] = WeakSet()
        self._failing: dict[tuple[str, str], tuple[float, int]] = {}  # duration and attempt, until it is committed

    def watch(self, bus: EventBus) -> Logging:
        """Log from now on which events of a bus fail as a whole; return this. Doing it again does nothing."""
        if bus not in self._watched:
            self._watched.add(bus)
            bus.observe(partial(self._log_failed_event, bus.store))
        return self

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, and log what came of it."""
        if not self._logger.isEnabledFor(max(logging.ERROR, self._level)):
            await next()
        elif ctx.rule is None:
            await self._around_event(ctx, next)
        else:
            await self._around_rule(ctx, ctx.rule.id, next)

    # -- around an event

    async def _around_event(self, ctx: Context[Any], next: Next) -> None:
        self.watch(ctx.bus)
        timings: dict[int, float] = {}
        ctx.set_metadata(self._timings, timings)
        turn = _turn()
        began = perf_counter()
        try:
            await next()
        except BaseException as error:
            if not ends_the_turn(error):
                self._note_failing(ctx, perf_counter() - began)
            elif not ends_the_program(error):
                self._log_at_once(ctx, None, error, perf_counter() - began)
            raise
        duration = perf_counter() - began
        outcome = turn.outcome()
        if outcome.error is not None:  # a middleware further in has swallowed it; the engine has not
            self._note_failing(ctx, duration)
            return
        for run in outcome.runs:
            if run.error is not None:
                self._log_failed_run(turn, run, run.error, timings.get(id(run)))
        for letter in outcome.dead:
            if not letter.rule:
                self._log_refused(turn, letter.event, letter.failure.message)
        if self._logger.isEnabledFor(self._level):
            self._log_event(ctx, turn, outcome, duration)

    def _log_event(self, ctx: Context[Any], turn: Turn, outcome: Outcome, duration: float) -> None:
        counts = dict.fromkeys(_STATUSES, 0)
        for run in outcome.runs:
            counts[run.status] += 1
        told = ", ".join(f"{number} {status}" for status, number in counts.items() if number) or "no rule matched"
        word = "stopped" if ctx._stopped_by else "handled"
        if ctx._stopped_by:
            told = f"by {safe(ctx._stopped_by)}"
        extra = self._extra(turn.event, turn.bus.store, ctx.event_type, None, word, duration, ctx.attempt) | counts
        text = "%s to %s: %s (%s) in %.6f s"
        self._logger.log(self._level, text, extra["event_type"], extra["subject"], word, told, duration, extra=extra)

    def _note_failing(self, ctx: Context[Any], duration: float) -> None:
        while len(self._failing) >= _MOST_FAILING:  # this worker has lost the partition before it could commit these
            self._failing.pop(next(iter(self._failing)), None)
        self._failing[ctx.event.source, ctx.event.id] = duration, ctx.attempt

    def _log_failed_event(self, store: Store, outcome: Outcome) -> None:
        """Log that an event has failed as a whole, if it has: what is observed is every turn that is committed."""
        error, event = outcome.error, outcome.event
        noted = self._failing.pop((event.source, event.id), None) if self._failing else None
        if error is None:
            return
        duration, attempt = noted or (None, outcome.dead[-1].attempts if outcome.dead else 1)
        then, level, word = self._decided(error, outcome)
        if self._logger.isEnabledFor(level):
            extra = self._extra(event, store, event.type, None, word, duration, attempt)
            extra |= records.of_failure(error, retry_at=outcome.retry_at)
            text = f"%(event_type)s to %(subject)s: %(outcome)s as a whole, {then}: %(error)s"
            self._write(level, error, extra, text)

    def _log_failed_run(self, turn: Turn, run: RuleRun, error: BaseException, duration: float | None) -> None:
        """Log a rule's failure once its turn is over, when it is known what the engine does about it."""
        then, level, word = self._decided(error, run)
        if run.handled:
            then, level, word = "handled by a middleware", logging.WARNING, "failed"
        if self._logger.isEnabledFor(level):
            extra = self._extra(turn.event, turn.bus.store, run.event_type, run.rule, word, duration, run.attempt)
            extra |= records.of_failure(error, run.handled, run.retry_at)
            text = f"%(rule)s {word} on %(event_type)s to %(subject)s, {then}: %(error)s"
            self._write(level, error, extra, text)

    def _decided(self, error: BaseException, what: Outcome | RuleRun) -> tuple[str, int, str]:
        """Return what the engine does about a failure, and the level and the outcome of its record."""
        if what.retry_at is not None:
            then = f"to be run again at {what.retry_at.isoformat()}"
            if isinstance(error, Postponed):
                return then, self._level, "postponed"
            return then, logging.WARNING, "failed"
        return ("its subject is parked" if what.parked else "set aside as a dead letter"), logging.ERROR, "failed"

    def _log_refused(self, turn: Turn, message: Event, reason: str) -> None:
        if self._logger.isEnabledFor(logging.ERROR):
            extra = self._extra(message, turn.bus.store, message.type, None, "refused", None, 1)
            extra |= {"error": safe(reason, MAX_ERROR), "handled": False, "retry_at": None}
            self._write(logging.ERROR, None, extra, "%(event_type)s to %(subject)s: %(outcome)s: %(error)s")

    # -- around a rule

    async def _around_rule(self, ctx: Context[Any], rule: str, next: Next) -> None:
        began = perf_counter()
        try:
            await next()
        except BaseException as error:
            if not ends_the_program(error):
                self._note_failure(ctx, rule, error, perf_counter() - began, handled=False)
            raise
        duration = perf_counter() - began
        if ctx._error is not None:
            self._note_failure(ctx, rule, ctx._error, duration, handled=True)
        elif self._logger.isEnabledFor(logging.DEBUG):
            stopped, event, store = ctx._stopped_by, _turn().event, ctx.bus.store
            word = "stopped" if stopped else "fired"
            extra = self._extra(event, store, ctx.event_type, rule, word, duration, ctx.attempt)
            told = f"stopped by {safe(stopped)}" if stopped else "fired"
            text = "%s %s on %s to %s in %.6f s"
            self._logger.debug(text, extra["rule"], told, extra["event_type"], extra["subject"], duration, extra=extra)

    def _note_failure(
        self, ctx: Context[Any], rule: str, error: BaseException, duration: float, *, handled: bool
    ) -> None:
        turn = _turn()
        timings: dict[int, float] | None = ctx.get_metadata(self._timings)
        if timings is not None:  # it is logged around the event, where more is known of it
            timings[id(turn._runs[-1])] = duration
            return
        self._log_at_once(ctx, rule, error, duration, handled)

    def _log_at_once(
        self, ctx: Context[Any], rule: str | None, error: BaseException, duration: float, handled: bool = False
    ) -> None:
        """Log a failure of which it is not known what the engine does about it."""
        level, word = logging.WARNING if handled else logging.ERROR, "failed"
        if isinstance(error, asyncio.CancelledError):
            level, word = logging.WARNING, "cancelled"
        elif isinstance(error, Postponed) and not handled:
            level, word = self._level, "postponed"
        if self._logger.isEnabledFor(level):
            what = "%(event_type)s to %(subject)s"
            text = f"{what}: {word} as a whole: %(error)s" if rule is None else f"%(rule)s {word} on {what}: %(error)s"
            extra = self._extra(_turn().event, ctx.bus.store, ctx.event_type, rule, word, duration, ctx.attempt)
            self._write(level, error, extra | records.of_failure(error, handled), text)

    # -- records

    def _extra(
        self,
        event: Event,
        store: Store,
        event_type: str,
        rule: str | None,
        outcome: str,
        duration: float | None,
        attempt: int,
    ) -> dict[str, Any]:
        extra = records.of_event(event, event_type, store.partitions) | {
            "rule": None if rule is None else safe(rule),
            "outcome": outcome,
            "duration": duration,
            "attempt": attempt,
        }
        if self._shown is not None:
            extra["payload"] = self._shown.of_event(event)
        return extra

    def _write(self, level: int, error: BaseException | None, extra: dict[str, Any], text: str) -> None:
        if error is None or not self._tracebacks or isinstance(error, Postponed):
            self._logger.log(level, text, extra, extra=extra)
        else:
            self._logger.handle(records.with_traceback(self._logger, level, error, extra, text))


def _turn() -> Turn:
    ctx = RUNNING.get()
    assert ctx is not None  # a chain is only ever entered by a turn
    return ctx.turn


def _level(level: int | str) -> int:
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int) or isinstance(number, bool):
        raise RuleDefinitionError(f"Logging: level={level!r:.80} must be a level of logging, such as 'INFO'")
    return number
