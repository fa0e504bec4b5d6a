"""Debounce: a rule is run once its events have been quiet for a while, for each subject.

Belongs here: which events wait, as an extended property of their subject, and the timer that ends the wait. It must not
know how either is stored: both are a part of the turn, so they are committed with the fact that the event was handled.

How it works. Each event sets the one timer of the subject and rule anew, which brings a copy of it; so the rule is run
on the last. An event that comes when that timer is due, but has not been handled yet, sets another one: what had been
quiet for long enough is run by itself, a batch of its own. Batches are numbered, and each event that is collected
says to which it belongs; the one that a timer brings is run with all that is left up to its own number. So what a
failed batch could not hand over comes with its retry, or with the next batch, whichever is first, and never with both.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.subjects import Subject
from onwhen.errors import RuleDefinitionError
from onwhen.middleware._moments import micros
from onwhen.middleware._options import Duration, microseconds, one_of, only_one_of, positive_int

__all__ = ["Debounce", "Deliver"]

Deliver: TypeAlias = Literal["last", "all"]
"""What a rule is given: the last event, or all that have come."""

_MOST_BYTES: Final = 1024 * 1024  # of the events that wait for one rule; whoever loads the subject loads them too
_MOST_OLD: Final = 20  # batches that have failed, whose retry or dead letter may come back (a count)


class Debounce:
    """Runs a rule once no further event has come for `wait`, for each subject: on the last one, or on all.

    Every event until then is stopped, and the outcome says so. What waits is stored in the same commit as the fact that
    the event was handled: it is run exactly once, whatever crashes, and in order. Deleting the subject cancels it.

    Conditions are tested for each event, and again when the rule is run; the rule sees a copy of the last event, with
    an id of its own and the same correlation. What the rule defers itself (`ctx.defer`) is run as it is. What a
    middleware further in stops has not been run: a batch of "all" comes with the next one then. If the rule
    is gone when the time comes, that leaves a dead letter. A rule has one `Debounce` at most.

    Args:
        wait: how long it has to be quiet (seconds, or a timedelta).
        max_wait: the longest that the first event of a batch has to wait (seconds, or a timedelta); None for as long
            as it takes.
        deliver: "last", the rule is run on the last event; "all", so too, and `ctx.get_metadata("debounced")` is a
            list of all events of the batch, as they came, oldest first.
        limit: for "all": with so many events, or with a mebibyte of them, the batch is run at once (a count).

    Raises:
        RuleDefinitionError: an option is not what it must be.
    """

    scopes = ("rule",)

    def __init__(
        self, wait: Duration, *, max_wait: Duration | None = None, deliver: Deliver = "last", limit: int = 1000
    ) -> None:
        self._wait = microseconds(wait, "Debounce: wait")
        self._max_wait = None if max_wait is None else microseconds(max_wait, "Debounce: max_wait")
        if self._max_wait is not None and self._max_wait < self._wait:
            raise RuleDefinitionError(f"Debounce: max_wait={max_wait!r} must not be shorter than wait={wait!r}")
        self._collects = one_of(deliver, "Debounce: deliver", *get_args(Deliver)) == "all"
        self._limit = positive_int(limit, "Debounce: limit")

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Wait for quiet, or go on because it is."""
        name = f"onwhen.debounce/{only_one_of(ctx, 'Debounce').id}"
        waiting = _Waiting.of(ctx.subject, name)
        if ctx.deferred and ctx._occurrence.parent is None:  # a reaction has its cause's attributes
            await self._run_deferred(ctx, next, name, waiting)
        elif self._collects and waiting.is_full_with(ctx.event, self._limit):
            await self._run_early(ctx, next, name, waiting)
        else:
            self._put_off(ctx, name, waiting)

    def _put_off(self, ctx: Context[Any], name: str, waiting: _Waiting) -> None:
        """Let the event wait, and set the timer of its batch anew."""
        now = micros(ctx.now)
        if not waiting.id or now >= waiting.due:
            waiting.begin(now, self._collects)
        due = now + self._wait
        if self._max_wait is not None:
            due = max(now, min(due, waiting.first + self._max_wait))
        event = ctx.defer(key=waiting.timer(name), delay=timedelta(microseconds=due - now)).event
        assert event is not None
        waiting.id, waiting.due = event.id, due
        if self._collects:
            waiting.collect(ctx.subject, name, ctx.event)
        waiting.write(ctx.subject, name)

    async def _run_deferred(self, ctx: Context[Any], next: Next, name: str, waiting: _Waiting) -> None:
        """Run the rule because a timer has brought its event, unless that is of no use any more."""
        id, subject = ctx.event.id, ctx.subject
        number = waiting.number if id == waiting.id else waiting.old.get(id)
        if number is None and ctx.event.causation_id in waiting.held:
            number = waiting.held_up_to  # who has stopped that batch has put it off
        if self._collects:
            batch = [] if number is None else waiting.up_to(subject, name, number)
            if batch:
                ctx.set_metadata("debounced", batch)
            elif waiting.let_go(id):  # what it was to bring has been handed over already
                waiting.write(subject, name)
                return
            elif waiting.has(subject, name, ctx.event.causation_id):
                return  # the timer fired in the moment in which it was set anew
        await next()
        if number is not None and self._collects and ctx._stopped_by:
            waiting.hold(id, number)
            waiting.write(subject, name)
        elif number is not None:
            self._forget(subject, name, id, number)

    async def _run_early(self, ctx: Context[Any], next: Next, name: str, waiting: _Waiting) -> None:
        """Run the rule on all that wait and on this event, because there are too many."""
        ctx.set_metadata("debounced", [*waiting.up_to(ctx.subject, name, waiting.number), ctx.event])
        await next()
        if ctx._stopped_by:  # the batch waits on, with what has filled it, but it takes no more
            if waiting.has_room(self._limit):
                waiting.collect(ctx.subject, name, ctx.event)
            waiting.hold(ctx.event.id, waiting.number)
            waiting.write(ctx.subject, name)
            return
        if waiting.id:
            ctx.cancel(waiting.timer(name))
        self._forget(ctx.subject, name, "", waiting.number)

    def _forget(self, subject: Subject, name: str, id: str, number: int) -> None:
        """Let go of a batch that was run; a rule that has deleted its subject has done so itself."""
        waiting = _Waiting.of(subject, name)
        waiting.done(subject, name, id, number)
        waiting.write(subject, name)


class _Waiting(msgspec.Struct, omit_defaults=True):
    """What waits for one rule on one subject; the events themselves are extended properties of their own.

    Attributes:
        number: number of the latest batch.
        id: id of the event that its timer brings; "" if none is set.
        due: when that will be (microseconds since the epoch, like `first`).
        first: when the first event of the batch came.
        begin_at: place of the oldest event that was collected.
        end_at: place of the next one.
        size: of all that were collected (bytes).
        old: of batches before, id of the event that a timer brings or has brought -> number of the batch.
        cancelled: ids of events whose timer was cancelled, perhaps too late.
        held: ids of events whose batches were stopped further in, by somebody who may bring one of them later.
        held_up_to: number of the latest of these batches; whichever is brought, it comes with all up to that.
    """

    number: int = 0
    id: str = ""
    due: int = 0
    first: int = 0
    begin_at: int = 0
    end_at: int = 0
    size: int = 0
    old: dict[str, int] = {}
    cancelled: list[str] = []
    held: list[str] = []
    held_up_to: int = 0

    @classmethod
    def of(cls, subject: Subject, name: str) -> _Waiting:
        """Return what is noted on a subject."""
        found = subject.get_ext(name)
        return cls() if found is None else msgspec.convert(found, cls)

    def write(self, subject: Subject, name: str) -> None:
        """Note it on the subject, or take it away if there is nothing to note."""
        if self.id or self.begin_at < self.end_at or self.old or self.cancelled:
            subject.set_ext(name, msgspec.to_builtins(self))
        else:
            subject.delete_ext(name)

    def timer(self, name: str) -> str:
        """Return the key of the timer of the latest batch."""
        return f"{name}/{self.number}"

    def begin(self, now: int, collects: bool) -> None:
        """Begin another batch; the one before goes its way."""
        if self.id and collects:
            self.old[self.id] = self.number
            for oldest in list(self.old)[:-_MOST_OLD]:
                del self.old[oldest]
        self.number, self.first = self.number + 1, now

    # -- the events of "all"

    def collect(self, subject: Subject, name: str, event: Event) -> None:
        """Add an event to the latest batch."""
        text = event.to_json().decode()
        # Each is a property of its own: what is stored with one more event does not grow with those before.
        subject.set_ext(f"{name}/{self.end_at}", f"{self.number} {text}")
        self.end_at, self.size = self.end_at + 1, self.size + len(text)

    def is_full_with(self, event: Event, limit: int) -> bool:
        """Tell whether there is no room for one more event."""
        count = self.end_at - self.begin_at + 1
        return count >= limit or self.size + len(event.to_json()) > _MOST_BYTES

    def has_room(self, limit: int) -> bool:
        """Tell whether the event that makes it full may be kept as well."""
        return self.end_at - self.begin_at < limit and self.size <= _MOST_BYTES

    def up_to(self, subject: Subject, name: str, number: int) -> list[Event]:
        """Return the events of a batch, and what is left of those before it."""
        return [Event.restored(text) for of, text in self._events(subject, name) if of <= number]

    def has(self, subject: Subject, name: str, id: str | None) -> bool:
        """Tell whether an event of this id waits."""
        return any(Event.restored(text).id == id for _, text in self._events(subject, name))

    def _events(self, subject: Subject, name: str) -> Iterator[tuple[int, str]]:
        """Go through number of the batch, and event as JSON, of each that was collected; oldest first."""
        for place in range(self.begin_at, self.end_at):
            number, _, text = subject.get_ext(f"{name}/{place}").partition(" ")
            yield int(number), text

    # -- batches that are done

    def done(self, subject: Subject, name: str, id: str, number: int) -> None:
        """Let go of a batch, and of what was left of those before it.

        Args:
            subject: whose it is.
            name: of the extended property.
            id: id of the event that its timer has brought; "" if the timer was cancelled.
            number: of the batch.
        """
        for of, text in list(self._events(subject, name)):
            if of > number:
                break
            subject.delete_ext(f"{name}/{self.begin_at}")
            self.begin_at, self.size = self.begin_at + 1, self.size - len(text)
        if id:
            if id == self.id:
                self.cancelled = []  # what was on its way was ahead of this one, which was set later
            self.let_go(id)
        elif self.id:
            self.cancelled = [*self.cancelled, self.id][-_MOST_OLD:]
            self.id = ""

    def hold(self, id: str, number: int) -> None:
        """Keep a batch, and what is left of those before it, that somebody further in has stopped."""
        self.let_go(id)
        if id not in self.held:
            self.held = [*self.held, id][-_MOST_OLD:]
        # A retry may bring an older batch after a later one was stopped.
        self.held_up_to = max(self.held_up_to, number)

    def let_go(self, id: str) -> bool:
        """Forget the event that a timer brings; tell whether it was known."""
        if id == self.id:
            self.id = ""
        elif id in self.cancelled:
            self.cancelled.remove(id)
        else:
            return self.old.pop(id, None) is not None
        return True
