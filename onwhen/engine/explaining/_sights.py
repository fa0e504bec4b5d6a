"""What a condition sees, to be looked at once more.

Belongs here: a context whose subject is a copy. It must not know what is looked at.
"""

from __future__ import annotations

from typing import Any, Final

from onwhen.engine.bag import ABSENT, Bag
from onwhen.engine.context import Context
from onwhen.engine.state import Snapshot
from onwhen.engine.store import SubjectRecord
from onwhen.engine.subjects import Subject

__all__ = ["Sight", "Unseen"]

_OF_CONTEXT: Final = frozenset(
    {"rule", "attempt"} | {name for name, what in vars(Context).items() if isinstance(what, property) and name != "bus"}
)


class Unseen(Exception):
    """An expression cannot be evaluated without running what might do something."""


class Sight:
    """What a condition sees, to be looked at once more: its context, with a read-only copy of the subject.

    Whatever is done to the copy, by a computed property for instance, changes nothing else.
    """

    def __init__(self, ctx: Context[Any]) -> None:
        self.ctx = ctx
        self._subject: Subject | None = None

    @property
    def subject(self) -> Subject:
        """A copy of the subject as it is now, changes in place included."""
        if self._subject is None:
            state, name = self.ctx.subject._state, self.ctx.subject.name
            record = SubjectRecord(
                name=name, properties=_texts(state.properties), ext=_texts(state.ext), version=state.version
            )
            copy = Snapshot(name, state.properties.codec, state.ext.codec, record, state.schema)
            self._subject = type(self.ctx.subject)._of(copy)
        return self._subject

    def read(self, name: str) -> Any:
        """Return an attribute of the context."""
        if name == "subject":
            return self.subject
        if name in _OF_CONTEXT:
            return getattr(self.ctx, name)
        raise Unseen


def _texts(bag: Bag) -> dict[str, bytes]:
    """Return all values of a bag as JSON, without the bag keeping anything of that."""
    found: dict[str, bytes] = {}
    for name in {**dict.fromkeys(bag.written()), **bag.texts}:
        value = bag.live.get(name, ABSENT)
        if value is not ABSENT:
            found[name] = bag.codec.encode(bag.subject, name, value)
        else:
            found[name] = bag.texts[name] if name in bag.texts else bag.stored[name]
    return found
