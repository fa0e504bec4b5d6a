"""Failures as events: a rule that fails is told to other rules, which may count, page somebody, or make a list of it.

Belongs here: when such an event is sent, to whom, and what it says. It must not know what is done about a failure: it
goes on to be retried, or set aside.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, TypeAlias

from onwhen.engine.chain import Next, Scope
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_turn
from onwhen.engine.events import Event
from onwhen.engine.outcomes import failure_of
from onwhen.engine.setbacks import set_aside
from onwhen.engine.store import Retry
from onwhen.errors import InvalidEvent, Postponed, RuleDefinitionError

__all__ = ["ErrorEvents"]

_MAX_ERROR: Final = 2000  # characters kept of an error's text
_ERRORS: Final = "error."

Addressee: TypeAlias = "str | Callable[[Context[Any]], str] | None"


class ErrorEvents:
    """Sends an event for each rule that has failed.

        bus.use(ErrorEvents(subject="errors:all"))

        @rules.on("error.handler_failed")
        def note(ctx): ...

    Its data, a JSON object:
        original_event: type of what the rule was run on; of a reaction, of the property event.
        property: of a reaction, the property, else None.
        rule: id of the rule.
        error, error_type: text and class of the error. The text may quote data of the event.
        subject: name of the subject whose turn it was.
        timestamp: when that turn began (ISO 8601).
        attempt: 1 for the first run on this event.
        event_id, correlation_id: of the event whose turn it was.
        retry_at: when the rule will be run again (ISO 8601), or None.
        gave_up: whether it will not be: the event is set aside, or its subject is parked.

    A failure that a middleware has dealt with is not told, nor is a run that was postponed, nor an event that failed
    as a whole: nothing of that turn is kept. And it never feeds itself: what fails on an event whose type begins with
    `error.`, or is the one that is sent here, sends nothing.

    The event is a message like any other: it leaves with the commit that notes the failure. To the failing subject, it
    may have to wait there until the rule has succeeded or given up (see `RetryPolicy.in_order`); another subject is
    told at once.

    It belongs around events. Around one rule only, `middleware=[ErrorEvents()]`, it tells of errors of the rule's own
    function, but not of conditions, of time-outs, or of what other middleware raises: with those, the engine undoes
    what was emitted meanwhile.

    Args:
        event_type: type of the event that is sent.
        subject: whom it is sent to: a name, or a function of the context that returns one; by default the subject of
            the turn. Around events the context is that of the event. If the function fails, or what it returns is no
            name, the event goes to the subject of the turn and says why as `misdirected`.
        only_final: send nothing for a failure that is retried.

    Raises:
        RuleDefinitionError: an argument cannot be used.
    """

    scopes: tuple[Scope, ...] = ("event",)

    def __init__(
        self,
        *,
        event_type: str = "error.handler_failed",
        subject: Addressee = None,
        only_final: bool = False,
    ) -> None:
        is_function = callable(subject) and not isinstance(subject, type) and not inspect.iscoroutinefunction(subject)
        if subject is not None and not isinstance(subject, str) and not is_function:
            raise RuleDefinitionError(
                f"ErrorEvents: subject={subject!r:.80} must be a name, or a plain function of the context"
            )
        try:
            Event(event_type, subject if isinstance(subject, str) else "any")
        except InvalidEvent as error:
            raise RuleDefinitionError(f"ErrorEvents: {error}") from error
        if not isinstance(only_final, bool):
            raise RuleDefinitionError(f"ErrorEvents: only_final={only_final!r:.80} must be True or False")
        self._type = event_type
        self._subject = subject
        self._only_final = only_final

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, and send an event for what has failed."""
        kind = ctx.turn.event.type
        if kind.startswith(_ERRORS) or kind == self._type:
            await next()
        elif ctx.rule is None:
            await self._around_event(ctx, next)
        else:
            await self._around_rule(ctx, ctx.rule.id, next)

    async def _around_event(self, ctx: Context[Any], next: Next) -> None:
        await next()
        for run in ctx.turn.outcome().runs:
            if run.status == "failed" and run.error is not None and not run.handled:
                what = {"original_event": run.event_type, "property": run.property or None, "rule": run.rule}
                self._send(ctx, what, run.error, run.attempt, run.retry_at)

    async def _around_rule(self, ctx: Context[Any], rule: str, next: Next) -> None:
        try:
            await next()
        except BaseException as error:
            if ends_the_turn(error) or isinstance(error, Postponed):
                raise
            what = {"original_event": ctx.event_type, "property": ctx.property_name, "rule": rule}
            self._send(ctx, what, error, ctx.attempt, _due(ctx, rule, error))
            raise

    def _send(
        self, ctx: Context[Any], what: dict[str, Any], error: BaseException, attempt: int, due: datetime | None
    ) -> None:
        if due is not None and self._only_final:
            return
        event, failure = ctx.turn.event, failure_of(error)
        data = {
            **what,
            "error": failure.message[:_MAX_ERROR],
            "error_type": failure.type,
            "subject": event.subject,
            "timestamp": ctx.now.isoformat(),
            "attempt": attempt,
            "event_id": event.id,
            "correlation_id": event.correlation_id,
            "retry_at": due.isoformat() if due is not None else None,
            "gave_up": due is None,
        }
        addressee, problem = self._addressee(ctx)
        if problem:
            data["misdirected"] = problem
        ctx.emit(self._type, data, addressee)

    def _addressee(self, ctx: Context[Any]) -> tuple[str | None, str]:
        """Return whom to send it to, and what is wrong with whom it should have been sent to."""
        if self._subject is None or isinstance(self._subject, str):
            return self._subject, ""
        try:
            name = self._subject(ctx)
            Event(self._type, name)
        except Exception as error:
            failure = failure_of(error)
            return None, f"subject= of ErrorEvents: {failure.type}: {failure.message}"[:_MAX_ERROR]
        return name, ""


def _due(ctx: Context[Any], rule: str, error: BaseException) -> datetime | None:
    """Return when the engine will run a rule again that is failing now; None if it will not."""
    assert ctx.rule is not None
    turn, policy = ctx.turn, ctx.rule.retry or ctx.bus.limits.retry
    before = turn.retry if turn.retry is not None and turn.retry.rule == rule and ctx.event is turn.event else None
    found = set_aside(ctx.event, rule, ctx.attempt, error, policy, now=ctx.now, before=before)
    return found.due if isinstance(found, Retry) and not found.parked else None
