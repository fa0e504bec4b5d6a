"""Throttle: a rule is run at most once in an interval, for each subject.

Belongs here: when a rule was run last, as an extended property of its subject, and what becomes of events that come too
early. It must not know how that is stored: it is a part of the turn, so it is committed with what the rule did.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import msgspec

from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.middleware._moments import micros
from onwhen.middleware._options import Duration, Key, key_function, rule_of, seconds

__all__ = ["Throttle"]

_MOST_PASSED_OVER: Final = 20  # a count; one store is not so far behind another clock that more are on their way


class Throttle:
    """Runs a rule at most once in `per`, for each subject: the first event at once, further ones of the interval not.

    Those are stopped, and the outcome says so; with `trailing`, the last of them is run when the interval ends. The
    moment of the last run is stored with what the rule did, so it holds whichever worker runs the next event, and
    after a crash. A run that fails does not count, so its retry is run. Deleting the subject forgets all.

    Moments are those at which turns begin, by the clock of the bus. A rule has one `Throttle` at most.

    Args:
        per: the interval (seconds, or a timedelta).
        key: function of the context; of one subject, each key has its own intervals. By default all have the same.
        trailing: run the last event of an interval when it ends, by a timer of the subject.

    Raises:
        RuleDefinitionError: an option is not what it must be.
    """

    scopes = ("rule",)

    def __init__(self, per: Duration, *, key: Key | None = None, trailing: bool = False) -> None:
        self._per = int(seconds(per, "Throttle: per") * 1_000_000) or 1
        self._key = None if key is None else key_function(key, "Throttle: key")
        self._trailing = trailing

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on if the interval is over."""
        name = f"onwhen.throttle/{rule_of(ctx, 'Throttle').id}"
        key = "" if self._key is None else self._key(ctx)
        timer = f"{name}/{key}" if key else name
        now = micros(ctx.now)
        known = _known(ctx, name).get(key)
        id = ctx.event.id if ctx.deferred and ctx._occurrence.parent is None else ""
        if known is not None and id in known.passed_over:
            return  # its timer fired in the moment in which a later event took its place
        # Which event a timer has brought is certain, whatever the clock of the store says. And a clock that was put
        # back must not stop a rule for longer than an interval.
        is_trailing = known is not None and bool(id) and id == known.pending
        if known is None or is_trailing or abs(now - known.last) >= self._per:
            await next()
            if not ctx._stopped_by and not ctx.subject._state.flushed:
                ran = _Last(last=now)
                if known is not None and known.pending and not is_trailing:
                    ctx.cancel(timer)
                    ran.pass_over(known)
                self._remember(ctx, name, key, ran)
        elif self._trailing and not (id and known.pending):
            event = ctx.defer(key=timer, delay=timedelta(microseconds=known.last + self._per - now)).event
            assert event is not None
            waits = _Last(last=known.last, pending=event.id)
            waits.pass_over(known)
            self._remember(ctx, name, key, waits)

    def _remember(self, ctx: Context[Any], name: str, key: str, fact: _Last) -> None:
        now = micros(ctx.now)
        # What is over is as good as never; so there are no more keys than an interval can have.
        facts = {
            other: known
            for other, known in _known(ctx, name).items()
            if known.pending or abs(now - known.last) < self._per
        }
        ctx.subject.set_ext(name, msgspec.to_builtins(facts | {key: fact}))


class _Last(msgspec.Struct, omit_defaults=True):
    """What is known of one key.

    Attributes:
        last: when the rule was run last (microseconds since the epoch).
        pending: id of the event that the timer brings; "" if none is set.
        passed_over: ids of those that it was to bring before; perhaps it was too late to cancel it.
    """

    last: int
    pending: str = ""
    passed_over: list[str] = []

    def pass_over(self, before: _Last) -> None:
        """Note what a timer was to bring that is not to be run any more."""
        if before.pending:
            self.passed_over = [*before.passed_over, before.pending][-_MOST_PASSED_OVER:]


def _known(ctx: Context[Any], name: str) -> dict[str, _Last]:
    found = ctx.subject.get_ext(name)
    return {} if found is None else msgspec.convert(found, dict[str, _Last])
