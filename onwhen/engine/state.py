"""All of a subject that is kept, while it is worked on: its values, what changed and in which order.

Belongs here: what a turn or a session may do to a subject, and what of it a commit has to write. It must not
know what a subject looks like to its user, which types its properties have, or where they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from onwhen.engine import values
from onwhen.engine.bag import ABSENT, Bag, Codec, is_immutable
from onwhen.engine.store import SubjectRecord, SubjectWrite, Version
from onwhen.errors import PropertyError, PropertyTypeError, SubjectStateError

__all__ = ["ABSENT", "Change", "Operation", "Savepoint", "Snapshot", "State"]

Savepoint: TypeAlias = int
"""How long the log of a state was."""

Operation: TypeAlias = tuple[str, str, Any, bool, Mapping[str, Any] | None]
"""What was asked of a state (verb, name, value, muted, extra), so that it can be asked of a fresher one again."""


_UNCHANGED: Final = SubjectWrite()
_ATOMS: Final = values.ATOMS


class Change(msgspec.Struct, frozen=True):
    """One change of one property.

    Attributes:
        property: its name.
        old: the value before, None if there was none; lists and dicts of a dynamic subject are frozen.
        new: the value now, None if it was deleted; likewise.
        kind: "changed", "deleted", or "flushed" for the subject itself.
        muted: it was asked not to emit an event.
        extra: what the writer passed along for `ctx.extra`.
    """

    property: str
    old: Any
    new: Any
    kind: Literal["changed", "deleted", "flushed"] = "changed"
    muted: bool = False
    extra: Mapping[str, Any] | None = None


class State:
    """A subject that is loaded, and the log of what was done to it since.

    The log is the one account of a turn or session, in order: how each write is undone (a tuple of a bag), each
    `Change`, and whatever else the turn asked for. To remember its length is to remember everything; to go back is
    to undo it from its end.

    Args:
        name: name of the subject.
        codec: what knows the types of its properties.
        ext_codec: the same for extended properties.
        record: the subject as it was loaded.
        schema: schema version that a write declares.

    Attributes:
        log: what was done since the last commit, in order; changes in place once they were collected.
        operations: what was asked for, in order, or None where nobody will want to ask again.
    """

    __slots__ = ("_may_be_flushed", "ext", "log", "name", "operations", "properties", "schema", "version")

    def __init__(self, name: str, codec: Codec, ext_codec: Codec, record: SubjectRecord, schema: int) -> None:
        self.name = name
        self.log: list[Any] = []
        self.properties = Bag(name, codec, dict(record.properties), self.log)
        self.ext = Bag(name, ext_codec, dict(record.ext), self.log)
        self.version = record.version
        self.schema = schema
        self.operations: list[Operation] | None = None
        self._may_be_flushed = False

    def set(
        self, name: str, value: Any, muted: bool = False, extra: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """Set a property; return the new and the old value (ABSENT if there was none)."""
        if extra is not None:
            extra = self._checked(name, extra)
        bag, asked = self.properties, value
        if value.__class__ not in _ATOMS and callable(value):
            if self.operations is not None:
                self.collect()  # what was changed in place before is asked for before, if all is to be asked again
            value = _called(bag, name, value)
        new, old = bag.write(name, value)
        if new is not old:
            kept = old if old.__class__ in _ATOMS else self._kept(name, old)
            now = new if new.__class__ in _ATOMS else self._kept(name, new)
            self.log.append(Change(name, kept, now, "changed", muted, extra))
        if self.operations is not None:
            self.operations.append(("set", name, asked if callable(asked) else new, muted, extra))
        return new, old

    def delete(self, name: str, muted: bool = False, extra: Mapping[str, Any] | None = None) -> Any:
        """Delete a property; return its value, or ABSENT if it had none."""
        if extra is not None:
            extra = self._checked(name, extra)
        value, old = self.properties.remove(name)
        if old is not ABSENT:
            self.log.append(Change(name, self._kept(name, old), None, "deleted", muted, extra))
        if self.operations is not None:
            self.operations.append(("delete", name, None, muted, extra))
        return value

    def _kept(self, name: str, value: Any) -> Any:
        """Return a value as the log keeps it: apart from what the writer goes on to do with a mutable one."""
        if is_immutable(value):
            return None if value is ABSENT else value
        codec = self.properties.codec
        if codec.declared:
            return codec.decode(self.name, name, codec.encode(self.name, name, value))
        return values.freeze(value, name)

    def _checked(self, name: str, extra: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what a writer passes along as the JSON that it will be in the event of the change."""
        where = f"{self.name}: extra of {name}"
        try:
            checked: Mapping[str, Any] = values.freeze(dict(extra), where, values.MAX_DEPTH - 1)
        except (TypeError, ValueError) as error:
            raise PropertyTypeError(str(error), subject=self.name, property=name) from None
        return checked

    def set_ext(self, name: str, value: Any) -> tuple[Any, Any]:
        """Set an extended property; return the new and the old value (ABSENT if there was none)."""
        if self.operations is not None and callable(value):
            self.collect()
        bag = self.ext
        new, old = bag.write(name, _called(bag, name, value) if callable(value) else value)
        if self.operations is not None:
            self.operations.append(("set_ext", name, value if callable(value) else new, False, None))
        return new, old

    def delete_ext(self, name: str) -> Any:
        """Delete an extended property; return its value, or ABSENT if it had none."""
        value, _ = self.ext.remove(name)
        if self.operations is not None:
            self.operations.append(("delete_ext", name, None, False, None))
        return value

    def flush(self) -> None:
        """Delete every property and extended property, and note that the subject itself is deleted."""
        operations, self.operations = self.operations, None
        self.properties.forget()
        self.ext.forget()
        for name in self.properties.written():
            try:
                self.delete(name)
            except PropertyError:  # left by an older declaration: nobody can be told what it was
                self.properties.drop(name)
        for name in self.ext.written():
            self.ext.drop(name)
        self.log.append(Change("", None, None, "flushed"))
        self._may_be_flushed = True
        self.operations = operations
        if operations is not None:
            operations.append(("flush", "", None, False, None))

    @property
    def changes(self) -> list[Change]:
        """What changed since the last commit, in order; changes in place once they were collected."""
        return [entry for entry in self.log if type(entry) is Change]

    @property
    def flushed(self) -> bool:
        """Whether the subject was deleted since it was loaded; it may have been written again after that."""
        return self._may_be_flushed and "flushed" in [entry.kind for entry in self.log if type(entry) is Change]

    def ensure_writable(self) -> None:
        """Do nothing; a state that can only be read raises `SubjectStateError`."""

    def collect(self) -> None:
        """Turn values that were changed in place into changes, as if they had been set."""
        if self.properties.texts:
            for name, new, old in self.properties.collect():
                self.log.append(Change(name, self._kept(name, old), self._kept(name, new)))
                if self.operations is not None:
                    self.operations.append(("replace", name, (new, old), False, None))
        if self.ext.texts:
            for name, new, old in self.ext.collect():
                if self.operations is not None:
                    self.operations.append(("replace_ext", name, (new, old), False, None))

    def mark(self) -> Savepoint:
        """Return a savepoint; what was changed in place before belongs to before."""
        if self.properties.texts or self.ext.texts:
            self.collect()
        return len(self.log)

    def rollback(self, mark: Savepoint) -> None:
        """Undo all that was done since a savepoint, changes in place included."""
        log = self.log
        while len(log) > mark:
            entry = log.pop()
            if type(entry) is tuple:
                bag, *how = entry
                bag.restore(*how)
        self.properties.forget()
        self.ext.forget()

    def write(self) -> SubjectWrite | None:
        """Return what a commit has to write, or None if nothing differs from what is stored."""
        to_set, to_delete = self.properties.differences()
        set_ext, delete_ext = self.ext.differences() if self.ext.is_touched else ({}, [])
        if self.flushed and not self.properties.written() and not self.ext.written():
            return SubjectWrite(remove=True) if self.version is not None else None
        if not (to_set or to_delete or set_ext or delete_ext):
            return None
        if made := self.properties.made_defaults():
            to_set, to_delete = to_set | made, [name for name in to_delete if name not in made]
        return SubjectWrite(
            set=to_set,
            delete=to_delete,
            set_ext=set_ext,
            delete_ext=delete_ext,
            schema=self.schema,
        )

    def committed(self, write: SubjectWrite | None, version: Version | None) -> None:
        """Take what `write` returned as stored now, under this version."""
        self.version = version
        if write is not None and write.remove:
            self.properties.committed({}, list(self.properties.stored))
            self.ext.committed({}, list(self.ext.stored))
        else:
            write = write or _UNCHANGED
            self.properties.committed(write.set, write.delete)
            if self.ext.is_touched:
                self.ext.committed(write.set_ext, write.delete_ext)
        self.log.clear()
        self.operations = None
        self._may_be_flushed = False


class Snapshot(State):
    """A state that can only be read; changing a value of it in place changes nothing but this copy."""

    __slots__ = ()

    @classmethod
    def of(cls, state: State) -> Snapshot:
        """Return what a state was loaded as."""
        record = SubjectRecord(
            name=state.name, properties=state.properties.stored, ext=state.ext.stored, version=state.version
        )
        return cls(state.name, state.properties.codec, state.ext.codec, record, state.schema)

    def _refuse(self, *_: Any) -> Any:
        raise SubjectStateError(f"{self.name} is a read-only snapshot; change it by sending it a message")

    set = delete = set_ext = delete_ext = flush = ensure_writable = _refuse  # type: ignore[assignment]


def _called(bag: Bag, name: str, function: Any) -> Any:
    current = bag.read(name)
    return function(None if current is ABSENT else current)
