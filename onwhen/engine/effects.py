"""What the code of a turn can ask for beside changes of its subject: messages, timers, snapshots of others.

Belongs here: what is behind every `Context` of one turn. It must not know which rules there are, in which
order they run, or what a failure leads to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from onwhen.engine import cascades
from onwhen.engine.context import DEFERRED
from onwhen.engine.events import Event
from onwhen.engine.state import Change, State
from onwhen.engine.store import Timer
from onwhen.engine.subjects import Subject
from onwhen.errors import SubjectStateError

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus
    from onwhen.engine.context import Context

__all__ = ["NOTHING_LEFT", "Cancelled", "Effects", "Left", "Refused"]


class Cancelled(msgspec.Struct, frozen=True):
    """In a log: a timer is cancelled."""

    key: str


class Refused(msgspec.Struct, frozen=True):
    """In a log: a message that is not sent, because its chain is too long."""

    event: Event


class Left(msgspec.Struct, frozen=True):
    """What a turn leaves beside the state of its subject.

    Attributes:
        messages: what is to be sent, in order.
        flushed: the subject was deleted, and with it all timers that it had before.
        timers: what is to be set.
        cancelled: keys of the timers to cancel.
    """

    messages: Sequence[Event] = ()
    flushed: bool = False
    timers: Sequence[Timer] = ()
    cancelled: Sequence[str] = ()


NOTHING_LEFT: Final = Left()


class Effects(msgspec.Struct, eq=False):
    """What the code of one turn can ask for; it is written to the log of the state, and with that it is undone.

    In the log, an `Event` is a message to be sent, a `Timer` is to be set or `Cancelled`, and a `Refused` message
    will be a dead letter.

    Attributes:
        subject: the subject of the turn.
        state: what it holds.
        bus: whose turn it is.
        now: the moment at which the turn began, aware UTC.
        around: what stands in for a rule's id where the middleware around the whole event does something; another
            one in a turn that repeats a rule, so that no two turns on one event derive the same event ids.
        is_over: the turn has ended; nothing can be asked for any more.
        asked: something was asked for, though it may have been undone since.
        within: what ran when the turn began, if that is part of a turn itself: one of another bus.
    """

    subject: Subject
    state: State
    bus: EventBus
    now: datetime
    around: str = "middleware"
    is_over: bool = False
    within: Context[Any] | None = None
    asked: bool = False

    def emit(
        self,
        ctx: Context[Any],
        event_type: str,
        data: Any,
        subject: str | Subject | None,
        due: datetime | None,
        key: str | None,
        extensions: Mapping[str, str | int | bool] | None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
    ) -> Event:
        """Record a message, or a timer that is `due` some time."""
        self._check_open("emit", ctx)
        own, limit = self.state.name, self.bus.limits.max_depth
        if (stamps := _stamps_of(ctx)) is not None:
            extensions = {**stamps, **(extensions or {})}
        target = own if subject is None else subject if isinstance(subject, str) else subject.name
        cause, rule = ctx.event, ctx.rule.id if ctx.rule is not None else self.around
        index, ctx._index = ctx._index, ctx._index + 1
        # Time passes until a timer fires, so one that sets itself again and again is a schedule and not a runaway.
        starts_anew = due is not None and due > self.now
        if not starts_anew and (trail := cascades.trail(cause, limit, rule, event_type)) is not None:
            extensions = {**(extensions or {}), cascades.TRAIL: trail}
        event = Event.caused_by(
            cause,
            rule,
            ctx.attempt,
            index,
            event_type,
            target,
            data,
            source=self.bus.source,
            time=due or self.now,
            extensions=extensions,
            datacontenttype=datacontenttype,
            dataschema=dataschema,
            depth=0 if starts_anew else None,
        )
        event.check_size(self.bus.limits.max_event_bytes)
        if event.depth > limit:
            self.state.log.append(Refused(event))
        elif due is None:
            self.state.log.append(event)
        else:
            event.detach()
            self.state.log.append(Timer(subject=own, key=event.id if key is None else key, due=due, event=event))
        return event

    def defer(self, ctx: Context[Any], rule: str, due: datetime, key: str) -> Event:
        """Record a timer that runs a rule again, on the event that it is run on now."""
        self._check_open("defer", ctx)
        cause = ctx.event
        index, ctx._index = ctx._index, ctx._index + 1
        event = Event.caused_by(
            cause,
            rule,
            ctx.attempt,
            index,
            cause.type,
            self.state.name,
            cause.data,
            source=cause.source,
            time=cause.time,
            extensions={**cause.extensions, **(_stamps_of(ctx) or {}), DEFERRED: rule},
            datacontenttype=cause.datacontenttype,
            dataschema=cause.dataschema,
            depth=cause.depth,
        )
        event.detach()
        self.state.log.append(Timer(subject=self.state.name, key=key, due=due, event=event))
        return event

    def cancel(self, ctx: Context[Any], key: str) -> None:
        """Record that a timer is cancelled."""
        self._check_open("cancel", ctx)
        self.state.log.append(Cancelled(key))

    def _check_open(self, verb: str, ctx: Context[Any]) -> None:
        self.asked = True
        if self.is_over:
            raise SubjectStateError(
                f"ctx.{verb} after the turn of {self.state.name} has ended; await what the rule starts, or emit "
                f"through the bus"
            )
        if ctx._is_over:
            who = f"rule {ctx.rule.id}" if ctx.rule is not None else "the middleware around the event"
            raise SubjectStateError(
                f"{verb} by what {who} has started, or left its context to: its run has ended, and what comes later "
                f"in the turn of {self.state.name} is not its own; await what it starts"
            )

    def left(self) -> Left:
        """Return what is left to be sent and set: of each timer the last word; deleting the subject cancels them."""
        messages: list[Event] = []
        timers: dict[str, Timer | Cancelled] = {}
        flushed = False
        for entry in self.state.log:
            kind = type(entry)
            if kind is Event:
                messages.append(entry)
            elif kind is Timer or kind is Cancelled:
                timers[entry.key] = entry
            elif kind is Change and entry.kind == "flushed":
                timers.clear()
                flushed = True
        if not timers:
            return Left(messages, flushed)
        to_set = [timer for timer in timers.values() if isinstance(timer, Timer)]
        cancelled = [entry.key for entry in timers.values() if isinstance(entry, Cancelled)]
        return Left(messages, flushed, to_set, cancelled)


def _stamps_of(ctx: Context[Any]) -> dict[str, str] | None:
    return ctx._stamps if ctx._stamps is not None or ctx.around is None else ctx.around._stamps
