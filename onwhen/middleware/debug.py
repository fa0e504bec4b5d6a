"""An event's way, told to a developer: what came in, what each rule made of it, and what it led to.

Belongs here: which facts are told, and in which order. It must not know how they are shown on a terminal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, Final, TextIO

from onwhen.engine.chain import Next, Scope
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_program
from onwhen.engine.occurrences import change_data
from onwhen.engine.outcomes import Outcome, RuleRun, failure_of
from onwhen.engine.state import Change
from onwhen.engine.subjects import Subject
from onwhen.engine.turns import Turn
from onwhen.errors import Postponed, RuleDefinitionError
from onwhen.middleware._console import Line, show
from onwhen.middleware._redaction import Redaction
from onwhen.middleware._safe_text import MAX_ERROR, safe

__all__ = ["Debug"]

_MAX_VALUE: Final = 120  # characters shown of one value
_MAX_DEPTH: Final = 8  # further levels of a cascade are not indented further
_STYLES: Final = {"fired": "green", "failed": "bold red", "skipped": "dim", "stopped": "yellow", "postponed": "yellow"}


class Debug:
    """Prints what becomes of each event, in development.

        bus.use(Debug())

        order.taken to order:1, id 0193...
            data {"total": 12}
            before {"status": "new"}
            orders.take fired in 0.21 ms
                status: "new" -> "open"
                sends parcel.packed to parcel:1
            orders.note on status, by orders.take: skipped, is_gift at shop.py:12
            orders.charge failed in 0.05 ms: ValueError: card refused
                to be run again at 2026-11-05T13:45:00+00:00
            handled in 0.61 ms

    It is printed when the rules have run, before the commit, and all of it at once, because turns of other subjects go
    on meanwhile. What follows from an event is indented, by its depth. A turn that is run again is printed again.
    Around one rule only, there are two lines per run. With `rich` installed, and on a terminal, it has colours. Texts
    from outside cannot control the terminal: what is not printable is escaped.

    Args:
        stream: where to print; by default standard error.
        redact: fields of data and properties whose values are replaced by "***"; see `Logging`.

    Raises:
        RuleDefinitionError: an argument cannot be used.
    """

    scopes: tuple[Scope, ...] = ("event", "rule")

    def __init__(self, *, stream: TextIO | None = None, redact: Sequence[str] = ()) -> None:
        if stream is not None and not callable(getattr(stream, "write", None)):
            raise RuleDefinitionError(f"Debug: stream={stream!r:.80} must be a text stream, such as sys.stdout")
        self._stream = stream
        self._shown = Redaction(redact)
        self._timings = f"onwhen.debug/{id(self)}"

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, and print what came of it."""
        if ctx.rule is None:
            await self._around_event(ctx, next)
        else:
            await self._around_rule(ctx, ctx.rule.id, next)

    async def _around_event(self, ctx: Context[Any], next: Next) -> None:
        timings: dict[int, float] = {}
        ctx.set_metadata(self._timings, timings)
        turn = ctx.turn
        lines = list(self._beginning(ctx))
        began = perf_counter()
        try:
            await next()
        except BaseException as error:
            if not ends_the_program(error):
                lines += self._middle(turn, turn.outcome(), timings, is_kept=False)
                lines.append(_failed_as_a_whole(turn.verdict(error)))
                show(lines, self._stream, _indent(turn))
            raise
        outcome = turn.outcome()
        lines += self._middle(turn, outcome, timings, is_kept=outcome.error is None)
        if outcome.error is not None:
            lines.append(_failed_as_a_whole(outcome.error))
        else:
            stopped = f"stopped by {safe(ctx._stopped_by)}" if ctx._stopped_by else "handled"
            lines.append(Line(1, f"{stopped} in {_duration(perf_counter() - began)}", "bold"))
        show(lines, self._stream, _indent(turn))

    async def _around_rule(self, ctx: Context[Any], rule: str, next: Next) -> None:
        began = perf_counter()
        try:
            await next()
        except BaseException as error:
            if not ends_the_program(error):
                self._note_run(ctx, rule, error, perf_counter() - began)
            raise
        self._note_run(ctx, rule, ctx._error, perf_counter() - began)

    def _note_run(self, ctx: Context[Any], rule: str, error: BaseException | None, seconds: float) -> None:
        turn = ctx.turn
        timings: dict[int, float] | None = ctx.get_metadata(self._timings)
        if timings is not None:  # it is told with its event
            timings[id(turn._runs[-1])] = seconds
            return
        status, why = "stopped" if ctx._stopped_by else "fired", ""
        if error is not None:
            status, why = "postponed" if isinstance(error, Postponed) else "failed", f": {_error(error)}"
        by = f" by {safe(ctx._stopped_by)}" if ctx._stopped_by else ""
        lines = [_header(ctx), Line(1, f"{safe(rule)} {status}{by} in {_duration(seconds)}{why}", _STYLES[status])]
        show(lines, self._stream, _indent(turn))

    # -- what is told

    def _beginning(self, ctx: Context[Any]) -> Iterator[Line]:
        yield _header(ctx)
        if ctx.event.data is not None:
            yield Line(1, f"data {_told(self._shown.of_event(ctx.event))}")
        try:
            before = ctx.subject.dict("json")
        except Exception as error:  # a value that its class does not take any more, for instance
            yield Line(1, f"before: cannot be told: {_error(error)}")
        else:
            yield Line(1, f"before {self._value(before)}")

    def _middle(self, turn: Turn, outcome: Outcome, timings: dict[int, float], *, is_kept: bool) -> Iterator[Line]:
        # Of a turn that fails as a whole nothing is kept, so what was planned for a single rule is not done either.
        for run in outcome.runs:
            yield from self._of_run(turn, run, timings.get(id(run)), is_kept)
        if not outcome.runs:
            yield Line(1, "no rule matched", "dim")
        for letter in outcome.dead:
            if not letter.rule:
                told = f"refuses {safe(letter.event.type)}: {safe(letter.failure.message, MAX_ERROR)}"
                yield Line(2, told, "bold red")

    def _of_run(self, turn: Turn, run: RuleRun, seconds: float | None, is_kept: bool) -> Iterator[Line]:
        told = safe(run.rule)
        if run.property:
            told += f" on {safe(run.property)}, by {safe(run.cause) or 'another subject'}:"
        told += f" {run.status}"
        if run.status == "skipped":
            told += f", {safe(str(run.condition)) if run.condition is not None else 'no trigger fits the values'}"
        elif run.stopped_by:
            told += f" by {safe(run.stopped_by)}"
        elif seconds is not None:
            told += f" in {_duration(seconds)}"
        if run.error is not None:
            told += f": {_error(run.error)}"
        yield Line(1, told, _STYLES[run.status])
        if run.handled:
            yield Line(2, "handled by a middleware")
        elif is_kept and run.retry_at is not None:
            yield Line(2, f"to be run again at {run.retry_at.isoformat()}")
        elif is_kept and run.status == "failed":
            yield Line(2, "its subject is parked" if run.parked else "set aside as a dead letter")
        for change in run.changes:
            yield Line(2, self._change(turn.subject, change))
        for message in run.messages:
            yield Line(2, f"sends {safe(message.type)} to {safe(message.subject)}")
        for timer in run.timers:
            told = f"sets a timer for {timer.due.isoformat()}: {safe(timer.event.type)} to {safe(timer.event.subject)}"
            yield Line(2, told)
        for key in run.cancelled:
            yield Line(2, f"cancels timer {safe(key)}")

    def _change(self, subject: Subject, change: Change) -> str:
        try:
            data = change_data(subject, change)
        except Exception as error:  # what was written cannot be JSON, so the rule will have failed
            return f"{safe(change.property)}: cannot be told: {_error(error)}"
        if data is None:
            return "deletes the subject"
        old = self._value(data["old_value"], change.property)
        new = self._value(data["value"], change.property) if "value" in data else "deleted"
        return f"{safe(change.property)}: {old} -> {new}{', muted' if change.muted else ''}"

    def _value(self, value: Any, name: str = "") -> str:
        """Return a JSON value as it may be shown: without what is secret, on one line, and not too long."""
        (shown,) = self._shown({name: value}).values() if name else (self._shown(value),)
        return _told(shown)


def _told(shown: Any) -> str:
    return safe(json.dumps(shown, ensure_ascii=False), _MAX_VALUE)


def _header(ctx: Context[Any]) -> Line:
    event = ctx.event
    attempt = f", attempt {ctx.attempt}" if ctx.attempt > 1 else ""
    kind = safe(event.type)
    kind = f"\\x20{kind[1:]}" if kind.startswith(" ") else kind  # or it would look like what is told of another event
    return Line(0, f"{kind} to {safe(event.subject)}, id {safe(event.id)}{attempt}", "bold cyan")


def _indent(turn: Turn) -> int:
    return min(turn.event.depth, _MAX_DEPTH)


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _failed_as_a_whole(error: BaseException) -> Line:
    word, style = ("postponed", "yellow") if isinstance(error, Postponed) else ("failed", "bold red")
    return Line(1, f"{word} as a whole, nothing of it is kept: {_error(error)}", style)


def _error(error: BaseException) -> str:
    failure = failure_of(error)
    return safe(f"{failure.type}: {failure.message}" if failure.message else failure.type, MAX_ERROR)
