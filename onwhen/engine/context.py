"""What a rule is given: the event, the subject, and the verbs that a turn offers.

Belongs here: `Context`. It must not know how a turn is run or stored; what it is asked to do it passes to the
turn's `Effects`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, cast

import msgspec
from typing_extensions import TypeVar

from onwhen.engine import values
from onwhen.engine.bag import is_immutable
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import key_of
from onwhen.engine.subjects import Subject
from onwhen.errors import SubjectStateError

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus
    from onwhen.engine.effects import Effects
    from onwhen.engine.occurrences import Occurrence
    from onwhen.engine.rules import Rule
    from onwhen.engine.turns import Turn

__all__ = ["DEFERRED", "Context", "Done"]

S = TypeVar("S", bound=Subject, default=Subject)

DEFERRED: Final = "onwhenrule"
"""Extension attribute of an event that is for one rule only, and its id: what `Context.defer` sends."""

_NOTHING: Final = values.FrozenDict()


class Done:
    """What a verb returns that has already done its work: await it, or do not.

    Attributes:
        event: the event that was recorded, if the verb recorded one.
    """

    __slots__ = ("event",)

    def __init__(self, event: Event | None = None) -> None:
        self.event = event

    def __await__(self) -> Generator[Any, None, Event | None]:
        return self.event
        yield  # what makes this a generator: it never suspends


class Context(msgspec.Struct, Generic[S], eq=False):
    """What a rule, a condition and a middleware are given.

    Attributes:
        subject: the subject of the turn, loaded; reading and writing it never awaits.
        rule: the rule that is run; None in a middleware around the whole event.
        attempt: 1 for the first run of this rule on this event; around the whole event, 1 for its first turn.
        around: the context of the middleware around the whole event, if there is any.
    """

    subject: S
    rule: Rule | None
    _occurrence: Occurrence
    _effects: Effects
    attempt: int = 1
    around: Context[Any] | None = None
    _index: int = 0
    _metadata: dict[str, Any] | None = None
    _stamps: dict[str, str] | None = None
    _stopped_by: str = ""
    _handled_by: str = ""
    _error: BaseException | None = None
    _raised: tuple[BaseException, str] | None = None  # by a middleware that kept the rest from being run, and its name
    _is_over: bool = False

    # -- what happened

    @property
    def event(self) -> Event:
        """The event, or the property event, that the rule is run on."""
        return self._occurrence.event

    @property
    def event_type(self) -> str:
        """Type of the event."""
        return self._occurrence.type

    @property
    def payload(self) -> Any:
        """Data of the event: a JSON value that cannot be changed, or bytes; an empty dict if it has none."""
        data = self._occurrence.event.data
        return _NOTHING if data is None else data

    @property
    def property_name(self) -> str | None:
        """The property that a property event is about, else None."""
        change = self._occurrence.change
        return change.property if change is not None and change.property else None

    @property
    def old_value(self) -> Any:
        """The property's value before; None if there was none. Changing it in place changes nothing else."""
        change = self._occurrence.change
        return self._own(change.property, change.old) if change is not None else None

    @property
    def new_value(self) -> Any:
        """The property's value after the change; None if it was deleted. Changing it in place changes nothing else."""
        change = self._occurrence.change
        return self._own(change.property, change.new) if change is not None else None

    def _own(self, name: str, value: Any) -> Any:
        """Return a value that no other rule is given: itself if it cannot be changed, else a copy."""
        if is_immutable(value) or isinstance(value, values.FrozenDict | values.FrozenList):
            return value
        codec = self.subject._codec
        return codec.decode(self.subject.name, name, codec.encode(self.subject.name, name, value))

    @property
    def extra(self) -> Mapping[str, Any]:
        """What the writer of the property passed along as `extra`."""
        change = self._occurrence.change
        return change.extra if change is not None and change.extra is not None else _NOTHING

    @property
    def now(self) -> datetime:
        """The moment at which the turn began, aware UTC; the same for all rules of the turn."""
        return self._effects.now

    @property
    def deferred(self) -> bool:
        """Whether this is the run that an earlier one has put off with `defer`."""
        return self.rule is not None and self.event.extensions.get(DEFERRED) == self.rule.id

    @property
    def turn(self) -> Turn:
        """The turn that this is part of. For middleware: its event, and with `outcome()` what came of it so far."""
        return cast("Turn", self._effects)

    @property
    def bus(self) -> EventBus:
        """The bus whose turn this is: for its clock, and its store."""
        return self._effects.bus

    @property
    def partition(self) -> int:
        """Number of the partition that the subject is in."""
        return partition_of(self.subject.name, self._effects.bus.store.partitions)

    @property
    def idempotency_key(self) -> str:
        """A text that stays the same however often this rule is run on this event; give it to services outside."""
        return key_of(self.event, self.rule.id if self.rule is not None else "")

    # -- what to do

    def emit(
        self,
        event_type: str,
        data: Any = None,
        subject: str | Subject | None = None,
        *,
        delay: timedelta | None = None,
        at: datetime | None = None,
        key: str | None = None,
        extensions: Mapping[str, str | int | bool] | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
    ) -> Done:
        """Send a message, or set a timer; it is recorded now and leaves with the turn's commit.

        Args:
            event_type: what happened.
            data: a JSON value, or bytes.
            subject: whom it is addressed to; by default the turn's own subject.
            delay: send it this long after the turn began; makes it a timer.
            at: send it at this moment (aware); makes it a timer.
            key: name of the timer; setting one of the same name replaces it, `cancel` takes it back.
            extensions: further CloudEvents attributes.
            datacontenttype: media type of the data; None means JSON.
            dataschema: URI of the schema of the data.

        Returns:
            Something that may be awaited, and gives the event.

        A message that follows from another one is one deeper in a chain, which may be at most 64 deep. A timer that
        is due later starts a chain of its own, so a rule may well set the timer that fires it.

        Raises:
            InvalidEvent: the event is not as it must be.
            SubjectStateError: the run that this context was made for has ended.
            TypeError: `delay` is not a timedelta, `at` not a datetime, or `key` not a str.
            ValueError: both `delay` and `at`, a key without either, or `at` without a time zone.
        """
        due = self._due(delay, at)
        if key is not None:
            key = _timer_key("emit", key)
            if due is None:
                raise ValueError(f"emit: key={key!r} names a timer, so it needs delay= or at=")
        return Done(
            self._effects.emit(self, event_type, data, subject, due, key, extensions, datacontenttype, dataschema)
        )

    def _due(self, delay: timedelta | None, at: datetime | None) -> datetime | None:
        if delay is not None:
            if at is not None:
                raise ValueError("emit: give delay or at, not both")
            if not isinstance(delay, timedelta):
                raise TypeError(f"emit: delay={delay!r} must be a timedelta, for example timedelta(seconds=30)")
            return self.now + delay
        if at is not None:
            if not isinstance(at, datetime):
                raise TypeError(f"emit: at={at!r} must be a datetime")
            if at.tzinfo is None:
                raise ValueError(f"emit: at={at.isoformat()} has no time zone; give an aware datetime")
        return at

    def defer(self, *, key: str, delay: timedelta | None = None, at: datetime | None = None) -> Done:
        """Run this rule on this event later, and no other rule: `deferred` is true then. For middleware, mostly.

        What comes is a timer of the subject with an event of the same type and data, so conditions are tested again.

        Args:
            key: name of the timer; setting one of the same name replaces it, `cancel` takes it back.
            delay: this long after the turn began.
            at: at this moment (aware).

        Raises:
            TypeError: `delay` is not a timedelta, `at` not a datetime, or `key` not a str.
            ValueError: not one of `delay` and `at` was given, or `at` without a time zone.
            SubjectStateError: the run has ended, or there is no rule: this is a middleware around the whole event.
        """
        due = self._due(delay, at)
        if due is None:
            raise ValueError("defer: give delay= or at=, to say when")
        if self.rule is None:
            raise SubjectStateError("defer: there is no rule to be deferred in a middleware around the whole event")
        return Done(self._effects.defer(self, self.rule.id, due, _timer_key("defer", key)))

    def cancel(self, key: str) -> Done:
        """Cancel a timer of this subject; one that is not set, or has fired, is no error.

        Raises:
            SubjectStateError: the run that this context was made for has ended.
            TypeError: `key` is not a str.
        """
        self._effects.cancel(self, _timer_key("cancel", key))
        return Done()

    async def read(self, subject: str) -> Subject:
        """Return a read-only snapshot of another subject, as it was last committed."""
        return await self._effects.bus.read(subject)

    # -- between middlewares

    def get_metadata(self, key: str, default: Any = None) -> Any:
        """Return what a middleware left for this run, or for the whole event."""
        if self._metadata is not None and key in self._metadata:
            return self._metadata[key]
        return default if self.around is None else self.around.get_metadata(key, default)

    def set_metadata(self, key: str, value: Any) -> None:
        """Leave something for those further in, and for those further out once they are returned to."""
        if self._metadata is None:
            self._metadata = {}
        self._metadata[key] = value

    def stamp(self, **attributes: str) -> None:
        """Give CloudEvents extension attributes to all that this run emits from now on. For middleware.

        Around the whole event they are given to what its rules emit, but for rules that have been given others.
        """
        self._stamps = {**(self._stamps or {}), **attributes}

    def __repr__(self) -> str:
        return f"<Context {self.event_type} to {self.subject.name}, rule {self.rule}>"


def _timer_key(verb: str, key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{verb}: key={key!r:.80} must be a str, the name of a timer")
    try:
        key.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{verb}: key={key!r:.80} holds half a surrogate pair, which is no text") from None
    return str.__str__(key)  # a StrEnum member becomes the str it stands for
