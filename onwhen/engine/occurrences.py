"""What rules are run on: an event that came in, or a property change of the same turn.

Belongs here: the two as one, and the property event as the data that it is outside of a turn. It must not know of
rules, nor how a turn is run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from onwhen.engine import values
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
from onwhen.engine.state import Change
from onwhen.engine.subjects import Subject
from onwhen.errors import UnknownProperty

if TYPE_CHECKING:
    from onwhen.engine.effects import Effects

__all__ = ["Occurrence", "change_data", "event_type_of"]

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
        if value is None:
            return None
        try:
            return values.decode(subject._codec.encode(subject.name, change.property, value))
        except UnknownProperty:
            return value  # left by an older class, and deleted now: it was never more than its JSON

    data = {"property_name": change.property, "old_value": plain(change.old)}
    if change.kind == "changed":
        data["value"] = plain(change.new)
    if change.extra is not None:
        data["extra"] = dict(change.extra)
    return data


class Occurrence(msgspec.Struct, eq=False):
    """What rules are run on: an event that came in, or a property change of the same turn.

    The event of a property change is made when somebody asks for it, because most rules only look at the values.

    Attributes:
        type: type of the event.
        change: what changed, for a property event.
        parent: what the rule that made the change was run on; None for what came in.
        cause: of a property change, the rule that made it, its attempt, and which of its changes this is.
    """

    type: str
    change: Change | None
    _event: Event | None = None
    parent: Occurrence | None = None
    cause: tuple[str, int, int] = ("", 0, 0)
    _effects: Effects | None = None

    @classmethod
    def of_change(
        cls, type: str, change: Change, parent: Occurrence, cause: tuple[str, int, int], effects: Effects
    ) -> Occurrence:
        """Return a change that a rule has made; `cause` is the rule, its attempt, and which of its changes this is."""
        return cls(type, change, None, parent, cause, effects)

    @classmethod
    def of_event(cls, event: Event, subject: Subject) -> Occurrence:
        """Return what came in; a property event from outside a turn brings its values as data."""
        kind = event.type
        if kind not in (SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED) or not isinstance(event.data, dict):
            return cls(kind, None, event)
        data = event.data
        name = data.get("property_name")
        if not isinstance(name, str):
            return cls(kind, None, event)

        def decoded(value: Any) -> Any:
            if value is None or not subject._codec.declared:
                return value  # an event's data is frozen
            try:
                return subject._codec.decode(subject.name, name, values.encode(value))
            except UnknownProperty:
                return value  # the event is older than the class

        extra = data.get("extra")
        change = Change(
            name,
            old=decoded(data.get("old_value")),
            new=decoded(data.get("value")),
            kind="changed" if kind == SUBJECT_PROPERTY_CHANGED else "deleted",
            extra=extra if isinstance(extra, dict) else None,
        )
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
            assert self._effects is not None
            parent, effects = self.parent.event, self._effects
            self._event = Event.caused_by(
                parent,
                *self.cause,
                self.type,
                effects.subject.name,
                change_data(effects.subject, self.change),
                source=effects.bus.source,
                time=effects.now,
                extensions=parent.extensions or None,
                depth=parent.depth,  # it is handled in its parent's turn, so the chain of messages is no longer
            )
        return self._event
