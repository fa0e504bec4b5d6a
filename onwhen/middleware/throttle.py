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
from onwhen.engine.events import Event
from onwhen.middleware._moments import micros
from onwhen.middleware._options import Duration, Key, key_function, microseconds, only_one_of

__all__ = ["Throttle"]

_CAUSE: Final = "onwhenthrottled"
"""Extension attribute of what a timer of ours brings: the id of the event that was too early, which caused it. What has
inherited it, a reaction or what the rule defers itself, has another cause."""


class Throttle:
    """Runs a rule at most once in `per`, for each subject: the first event at once, further ones of the interval not.

    Those are stopped, and the outcome says so; with `trailing`, the last of them is run when the interval ends. The
    moment of the last run is stored with what the rule did, so it holds whichever worker runs the next event, and
    after a crash. Deleting the subject forgets all.

    A run that fails does not count, so its retry is run; that of a trailing event only if no later one was run
    meanwhile. Where events may go ahead of a retry (`in_order=False`, or a replay), it is an event like any other: in
    the interval of another run it is stopped, and with `trailing` it is the last one only if no later one, by the
    `time` of the events, waits already.

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
        self._per = microseconds(per, "Throttle: per")
        self._key = None if key is None else key_function(key, "Throttle: key")
        self._trailing = trailing

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on if the interval is over."""
        name = f"onwhen.throttle/{only_one_of(ctx, 'Throttle').id}"
        key = "" if self._key is None else self._key(ctx)
        timer = f"{name}/{key}" if key else name
        now = micros(ctx.now)
        known = _known(ctx, name).get(key)
        is_trailing = _is_of_our_timer(ctx)
        if is_trailing and known is not None and ctx.event.id != known.pending:
            return  # a later event has taken its place: while its timer fired, or before it was retried or replayed
        if ctx.attempt > 1 and known is not None and known.is_later_than(ctx.event):
            return  # a retry, or a replay, that others went ahead of: the last of them is still to be run
        # Which event a timer has brought is certain, whatever the clock of the store says. And a clock that was put
        # back must not stop a rule for longer than an interval.
        if known is None or is_trailing or abs(now - known.last) >= self._per:
            await next()
            if not ctx._stopped_by and not ctx.subject._state.flushed:
                if known is not None and known.pending and not is_trailing:
                    ctx.cancel(timer)
                self._remember(ctx, name, key, _Last(last=now))
        elif self._trailing:
            event = self._defer(ctx, timer, timedelta(microseconds=known.last + self._per - now))
            self._remember(ctx, name, key, _Last(last=known.last, pending=event.id, time=_time_of(event)))

    def _defer(self, ctx: Context[Any], timer: str, delay: timedelta) -> Event:
        stamps = ctx._stamps
        inherited = ctx.around._stamps if stamps is None and ctx.around is not None else None
        ctx.stamp(**{**(inherited or {}), _CAUSE: ctx.event.id})
        event = ctx.defer(key=timer, delay=delay).event
        ctx._stamps = stamps  # what others emit in this run is not of our timer
        assert event is not None
        return event

    def _remember(self, ctx: Context[Any], name: str, key: str, fact: _Last) -> None:
        now = micros(ctx.now)
        # What is over is as good as never; so there are no more keys than an interval can have.
        facts = {other: known for other, known in _known(ctx, name).items() if abs(now - known.last) < self._per}
        ctx.subject.set_ext(name, msgspec.to_builtins(facts | {key: fact}))


class _Last(msgspec.Struct, omit_defaults=True):
    """What is known of one key.

    Attributes:
        last: when the rule was run last (microseconds since the epoch).
        pending: id of the event that the timer brings; "" if none is set.
        time: of that event (microseconds since the epoch); 0 if it has none.
    """

    last: int
    pending: str = ""
    time: int = 0

    def is_later_than(self, event: Event) -> bool:
        """Tell whether another event waits that came after this one; of two of the same moment, the one that waits."""
        return self.pending not in ("", event.id) and _time_of(event) <= self.time


def _is_of_our_timer(ctx: Context[Any]) -> bool:
    event = ctx.event
    return ctx.deferred and event.extensions.get(_CAUSE) == event.causation_id


def _time_of(event: Event) -> int:
    return 0 if event.time is None else micros(event.time)


def _known(ctx: Context[Any], name: str) -> dict[str, _Last]:
    found = ctx.subject.get_ext(name)
    return {} if found is None else msgspec.convert(found, dict[str, _Last])
