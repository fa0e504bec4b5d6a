"""What a rule is given: the event, the subject, and the verbs that a turn offers.

Belongs here: `Context`, and `Occurrence`, the event or property change that a rule is run on. It must not know
how a turn is run or stored; what it is asked to do it passes to its `Effects`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol

from typing_extensions import TypeVar

from onwhen.engine import values
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
from onwhen.engine.state import Change
from onwhen.engine.subjects import Subject
from onwhen.errors import UnknownProperty

if TYPE_CHECKING:
    from onwhen.engine.rules import Rule

__all__ = ["Context", "Done", "Effects", "Occurrence", "change_data"]

S = TypeVar("S", bound=Subject, default=Subject)

_NOTHING: Final = values.FrozenDict()
_EVENT_OF: Final = {
    "changed": SUBJECT_PROPERTY_CHANGED,
    "deleted": SUBJECT_PROPERTY_DELETED,
    "flushed": SUBJECT_DELETED,
}


def event_type_of(change: Change) -> str:
    """Return the type of the event that tells of a change."""
    return _EVENT_OF[change.kind]


def change_data(subject: Subject, change: Change) -> dict[str, Any] | None:
    """Return the data of the event that tells of a change of a subject, as JSON values."""
    if change.kind == "flushed":
        return None

    def plain(value: Any) -> Any:
        return None if value is None else values.decode(subject._codec.encode(subject.name, change.property, value))

    data = {"property_name": change.property, "old_value": plain(change.old)}
    if change.kind == "changed":
        data["value"] = plain(change.new)
    if change.extra is not None:
        data["extra"] = dict(change.extra)
    return data


class Occurrence:
    """What rules are run on: an event that came in, or a property change of the same turn.

    The event of a property change is made when somebody asks for it, because most rules only look at the values.
    """

    __slots__ = ("_event", "_subject", "cause", "change", "parent", "type")

    def __init__(
        self,
        type: str,
        change: Change | None,
        event: Event | None = None,
        parent: Occurrence | None = None,
        cause: tuple[str, int, int] = ("", 0, 0),
        subject: Subject | None = None,
    ) -> None:
        self.type = type
        self.change = change
        self.parent = parent
        self.cause = cause  # the rule, its attempt, and which of its changes
        self._event = event
        self._subject = subject

    @classmethod
    def of_event(cls, event: Event, subject: Subject) -> Occurrence:
        """Return what came in; a property event from outside a turn brings its values as data."""
        kind = event.type
        if kind not in (SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED) or not isinstance(event.data, dict):
            return cls(kind, None, event)
        data = event.data
        name = str(data.get("property_name", ""))

        def decoded(value: Any) -> Any:
            if value is None:
                return None
            try:
                return subject._codec.decode(subject.name, name, values.encode(value))
            except UnknownProperty:
                return value

        old, new, extra = decoded(data.get("old_value")), decoded(data.get("value")), data.get("extra")
        change = Change(name, old, new, "changed" if kind == SUBJECT_PROPERTY_CHANGED else "deleted", False, extra)
        return cls(kind, change, event)

    @property
    def property_name(self) -> str:
        """The property that a property event is about, else ""."""
        return self.change.property if self.change is not None else ""

    @property
    def event(self) -> Event:
        """The event."""
        if self._event is None:
            assert self.parent is not None
            assert self.change is not None
            assert self._subject is not None
            parent = self.parent.event
            rule, attempt, index = self.cause
            data = change_data(self._subject, self.change)
            self._event = Event.caused_by(
                parent,
                rule,
                attempt,
                index,
                self.type,
                parent.subject,
                data,
                time=parent.time,
                extensions=parent.extensions or None,
                depth=parent.depth,  # it is handled in its parent's turn, so the chain of messages is no longer
            )
        return self._event


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


class Effects(Protocol):
    """What a turn does when a context is asked to."""

    @property
    def now(self) -> datetime:
        """The moment at which the turn began."""
        ...

    def emit(
        self,
        ctx: Context[Any],
        event_type: str,
        data: Any,
        subject: str | Subject | None,
        due: datetime | timedelta | None,
        key: str | None,
        extensions: Mapping[str, str | int | bool] | None,
    ) -> Event:
        """Record a message or a timer."""
        ...

    def cancel(self, key: str) -> None:
        """Record that a timer is cancelled."""
        ...

    async def read(self, name: str) -> Subject:
        """Return a read-only snapshot of a subject."""
        ...


class Context(Generic[S]):
    """What a rule, a condition and a middleware are given.

    Attributes:
        subject: the subject of the turn, loaded; reading and writing it never awaits.
        rule: the rule that is run; None in a middleware around the whole event.
        attempt: 1 for the first run of this rule on this event.
    """

    __slots__ = (
        "_effects",
        "_error",
        "_index",
        "_inherited",
        "_metadata",
        "_occurrence",
        "_stopped_by",
        "attempt",
        "rule",
        "subject",
    )

    def __init__(
        self, subject: S, rule: Rule | None, occurrence: Occurrence, effects: Effects, attempt: int = 1
    ) -> None:
        self.subject = subject
        self.rule = rule
        self.attempt = attempt
        self._occurrence = occurrence
        self._effects = effects
        self._index = 0
        self._metadata: dict[str, Any] | None = None
        self._inherited: Context[Any] | None = None
        self._stopped_by = ""
        self._error: BaseException | None = None

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
        """The property's value before; None if there was none."""
        change = self._occurrence.change
        return change.old if change is not None else None

    @property
    def new_value(self) -> Any:
        """The property's value now; None if it was deleted."""
        change = self._occurrence.change
        return change.new if change is not None else None

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
    def idempotency_key(self) -> str:
        """A text that stays the same however often this rule is run on this event; give it to services outside."""
        return f"{self.event.id}/{self.rule.id if self.rule else ''}"

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

        Returns:
            Something that may be awaited, and gives the event.

        Raises:
            InvalidEvent: the event is not as it must be.
            ValueError: both `delay` and `at`, or a key without either.
        """
        if delay is not None and at is not None:
            raise ValueError("emit: give delay or at, not both")
        due = delay if delay is not None else at
        if key is not None and due is None:
            raise ValueError(f"emit: key={key!r} names a timer, so it needs delay= or at=")
        return Done(self._effects.emit(self, event_type, data, subject, due, key, extensions))

    def cancel(self, key: str) -> Done:
        """Cancel a timer of this subject; one that is not set, or has fired, is no error."""
        self._effects.cancel(key)
        return Done()

    async def read(self, subject: str) -> Subject:
        """Return a read-only snapshot of another subject, as it was last committed."""
        return await self._effects.read(subject)

    # -- between middlewares

    def get_metadata(self, key: str, default: Any = None) -> Any:
        """Return what a middleware left for this run, or for the whole event."""
        if self._metadata is not None and key in self._metadata:
            return self._metadata[key]
        return default if self._inherited is None else self._inherited.get_metadata(key, default)

    def set_metadata(self, key: str, value: Any) -> None:
        """Leave something for those further in, and for those further out once they are returned to."""
        if self._metadata is None:
            self._metadata = {}
        self._metadata[key] = value

    def __repr__(self) -> str:
        return f"<Context {self.event_type} to {self.subject.name}, rule {self.rule}>"
