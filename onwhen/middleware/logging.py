"""Logging: one record per event and one per failed rule, through the standard library's `logging`.

Belongs here: what is recorded, at which level, and that nothing in it can forge a line. It must not configure a
handler or a formatter: where records go and how they look is for the application to say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import datetime
from time import perf_counter
from types import TracebackType
from typing import Any, Final

from onwhen.engine.chain import Next, Scope
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_program
from onwhen.engine.events import Event
from onwhen.engine.outcomes import Outcome, RuleRun, failure_of
from onwhen.engine.partitions import partition_of
from onwhen.engine.turns import RUNNING, Turn
from onwhen.errors import Postponed, RuleDefinitionError
from onwhen.middleware._json_formatter import JsonFormatter
from onwhen.middleware._redaction import Redaction
from onwhen.middleware._safe_text import MAX_ERROR, safe

__all__ = ["JsonFormatter", "Logging"]

_STATUSES: Final = ("fired", "skipped", "failed", "stopped", "postponed")


class Logging:
    """Logs what becomes of events: a record per event, and one per rule that failed or was put off in it.

        bus.use(Logging())

    That is around events and around rules. Around rules alone, `scope="rule"` or `middleware=[Logging()]` of one rule,
    there is no record per event, and a condition that raises is not seen: conditions are tested before a rule's
    middleware is entered. Around events alone, `scope="event"`, durations of rules are not known. What the engine does
    outside of the chain is never seen: an event whose subject could not be loaded, and reactions to what another
    middleware around the event has changed. A turn that is run again, because its subject moved on meanwhile, is
    logged again.

    Every record has these attributes, from `extra`, for a formatter or a handler to use:
        event_type: of the event; for a rule that reacts to a property, of that property event.
        event_id, subject, correlation_id: of the event whose turn it was.
        partition: number of the partition that the subject is in.
        rule: id of the rule, None in the record of an event.
        outcome: of an event "handled", "stopped" by a middleware, or "failed" as a whole; of a rule "fired",
            "stopped" or "failed"; of both "postponed" (see `Postponed`), and "cancelled" (a time-out, or the engine's
            end); of a message "refused", because its chain was too long.
        duration: in seconds; None for a failed rule that was not timed: its condition failed, or this is not used
            around rules.
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
        timings: dict[int, float] = {}
        ctx.set_metadata(self._timings, timings)
        turn = _turn()
        began = perf_counter()
        try:
            await next()
        except BaseException as error:
            if not ends_the_program(error):
                self._log_failed_event(ctx, turn, turn.verdict(error), perf_counter() - began)
            raise
        duration = perf_counter() - began
        outcome = turn.outcome()
        if outcome.error is not None:  # a middleware further in has swallowed it; the engine has not
            self._log_failed_event(ctx, turn, outcome.error, duration)
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
        extra = self._extra(turn, ctx.event_type, None, word, duration, ctx.attempt) | counts
        text = "%s to %s: %s (%s) in %.6f s"
        self._logger.log(self._level, text, extra["event_type"], extra["subject"], word, told, duration, extra=extra)

    def _log_failed_event(self, ctx: Context[Any], turn: Turn, error: BaseException, duration: float) -> None:
        level, word = self._judged(error)
        if self._logger.isEnabledFor(level):
            extra = self._extra(turn, ctx.event_type, None, word, duration, ctx.attempt)
            text = "%(event_type)s to %(subject)s: %(outcome)s as a whole: %(error)s"
            self._write(level, error, extra | _failure(error), text)

    def _log_failed_run(self, turn: Turn, run: RuleRun, error: BaseException, duration: float | None) -> None:
        """Log a rule's failure once its turn is over, when it is known what the engine does about it."""
        then, level, word = "set aside as a dead letter", logging.ERROR, "failed"
        if run.handled:
            then, level = "handled by a middleware", logging.WARNING
        elif run.retry_at is not None:
            then, level = f"to be run again at {run.retry_at.isoformat()}", logging.WARNING
        elif run.parked:
            then = "its subject is parked"
        if run.status == "postponed":
            level, word = self._level, "postponed"
        if self._logger.isEnabledFor(level):
            extra = self._extra(turn, run.event_type, run.rule, word, duration, run.attempt)
            extra |= _failure(error, run.handled, run.retry_at)
            text = f"%(rule)s {word} on %(event_type)s to %(subject)s, {then}: %(error)s"
            self._write(level, error, extra, text)

    def _log_refused(self, turn: Turn, message: Event, reason: str) -> None:
        if self._logger.isEnabledFor(logging.ERROR):
            extra = _named(turn, message, message.type)
            extra |= {"rule": None, "outcome": "refused", "duration": None, "attempt": 1}
            extra |= {"error": safe(reason, MAX_ERROR), "handled": False, "retry_at": None}
            if self._shown is not None:
                extra["payload"] = self._shown(message.data)
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
            stopped = ctx._stopped_by
            extra = self._extra(_turn(), ctx.event_type, rule, "stopped" if stopped else "fired", duration, ctx.attempt)
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
        level, word = self._judged(error, handled)
        if self._logger.isEnabledFor(level):
            extra = self._extra(turn, ctx.event_type, rule, word, duration, ctx.attempt) | _failure(error, handled)
            self._write(level, error, extra, "%(rule)s %(outcome)s on %(event_type)s to %(subject)s: %(error)s")

    # -- records

    def _extra(
        self, turn: Turn, event_type: str, rule: str | None, outcome: str, duration: float | None, attempt: int
    ) -> dict[str, Any]:
        extra = _named(turn, turn.event, event_type) | {
            "rule": None if rule is None else safe(rule),
            "outcome": outcome,
            "duration": duration,
            "attempt": attempt,
        }
        if self._shown is not None:
            extra["payload"] = self._shown(turn.event.data)
        return extra

    def _judged(self, error: BaseException, handled: bool = False) -> tuple[int, str]:
        """Return level and outcome of a failure of which no more than the error is known."""
        if isinstance(error, asyncio.CancelledError):
            return logging.WARNING, "cancelled"
        if isinstance(error, Postponed) and not handled:
            return self._level, "postponed"
        return (logging.WARNING if handled else logging.ERROR), "failed"

    def _write(self, level: int, error: BaseException | None, extra: dict[str, Any], text: str) -> None:
        """Write the record of a failure; its file, line and function are those where the error was raised."""
        logger = self._logger
        if error is None or not self._tracebacks or isinstance(error, Postponed):
            logger.log(level, text, extra, extra=extra)
            return
        file, line, function = _raised_at(error.__traceback__)
        trace = (type(error), error, error.__traceback__)
        record = logger.makeRecord(logger.name, level, file, line, text, (extra,), trace, function, extra)
        # Formatters print this text if it is there, in place of the traceback that they would make of `exc_info`.
        record.exc_text = "\n".join(f"  | {safe(line, MAX_ERROR)}" for line in failure_of(error).traceback.splitlines())
        logger.handle(record)


def _turn() -> Turn:
    ctx = RUNNING.get()
    assert ctx is not None  # a chain is only ever entered by a turn
    return ctx.turn


def _level(level: int | str) -> int:
    number = logging.getLevelNamesMapping().get(level.upper()) if isinstance(level, str) else level
    if not isinstance(number, int) or isinstance(number, bool):
        raise RuleDefinitionError(f"Logging: level={level!r:.80} must be a level of logging, such as 'INFO'")
    return number


def _named(turn: Turn, event: Event, event_type: str) -> dict[str, Any]:
    return {
        "event_type": safe(event_type),
        "event_id": safe(event.id),
        "subject": safe(event.subject),
        "correlation_id": safe(event.correlation_id),
        "partition": partition_of(event.subject, turn.bus.store.partitions),
    }


def _failure(error: BaseException, handled: bool = False, retry_at: datetime | None = None) -> dict[str, Any]:
    failure = failure_of(error)
    return {
        "error": safe(f"{failure.type}: {failure.message}" if failure.message else failure.type, MAX_ERROR),
        "handled": handled,
        "retry_at": retry_at.isoformat() if retry_at is not None else None,
    }


def _raised_at(trace: TracebackType | None) -> tuple[str, int, str]:
    if trace is None:
        return "(unknown file)", 0, "(unknown function)"
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return code.co_filename, trace.tb_lineno, code.co_name
