"""What a subject holds while it is worked on: values, what changed, and savepoints to go back to.

Belongs here: the bookkeeping between stored JSON text and live Python values. It must not know what a subject
looks like to its user, which types its properties have (a `Codec` does), or where the text is stored.

How it works. `stored` is the text of the last commit. `live` holds decoded values, and on the hot path is all
that a read touches. `overlay` holds the text of what differs: properties that were deleted, and every mutable
value that was handed out, as it was when last looked at: a list that was appended to is found by comparing.
Going back to a savepoint replays the journal in reverse and drops all mutable values, which are decoded anew.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, Protocol, TypeAlias
from uuid import UUID

import msgspec

from onwhen.engine import values
from onwhen.engine.store import SubjectRecord, SubjectWrite, Version
from onwhen.errors import SubjectStateError

__all__ = ["ABSENT", "Bag", "Change", "Codec", "Snapshot", "State"]

_GONE: Final = b""  # in an overlay: this property was deleted (no JSON text is empty)
_IMMUTABLE: Final = values.ATOMS | {Decimal, datetime, date, time, timedelta, UUID}
_TEXTUAL: Final = frozenset({float, Decimal, datetime, time})  # of these, equal values may read differently


class Absent(enum.Enum):
    """The type of `ABSENT`, which stands for "there is no value"."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT


class Change(msgspec.Struct, frozen=True):
    """One change of one property.

    Attributes:
        property: its name.
        old: the value before, None if there was none.
        new: the value now, None if it was deleted.
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


class Codec(Protocol):
    """What a bag asks about the values that it holds."""

    def validate(self, subject: str, name: str, value: Any) -> Any:
        """Return the value as it is to be kept, or raise a `PropertyError`."""
        ...

    def encode(self, subject: str, name: str, value: Any) -> bytes:
        """Return the JSON text of a value that was validated."""
        ...

    def decode(self, subject: str, name: str, text: bytes) -> Any:
        """Return the value of a stored JSON text."""
        ...

    def default(self, subject: str, name: str) -> Any:
        """Return the value of a property that was never set, or ABSENT; raise `UnknownProperty`."""
        ...

    def declared(self) -> tuple[str, ...]:
        """Return the names that have a declaration, in its order."""
        ...


class Bag:
    """One namespace of a subject's values: its properties, or its extended properties.

    Args:
        subject: name of the subject, for error messages.
        codec: what knows the values' types.
        stored: name -> JSON text, as loaded. The bag keeps it and updates it on `commit`.
    """

    __slots__ = ("_dirty", "_journal", "_overlay", "codec", "live", "stored", "subject")

    def __init__(self, subject: str, codec: Codec, stored: dict[str, bytes]) -> None:
        self.subject = subject
        self.codec = codec
        self.stored = stored
        self.live: dict[str, Any] = {}
        self._overlay: dict[str, bytes] = {}
        self._dirty: dict[str, None] = {}  # a set that keeps its order
        self._journal: list[tuple[str, Any, bytes | None]] = []

    # -- reading

    def read(self, name: str) -> Any:
        """Return the value, or ABSENT; of a mutable one, the object that is watched for changes."""
        try:
            return self.live[name]
        except KeyError:
            pass
        text = self._overlay.get(name) or (None if name in self._overlay else self.stored.get(name))
        if text is None:
            value = self.codec.default(self.subject, name)
            if value is ABSENT:
                return ABSENT
            if not _is_immutable(value):
                self._overlay[name] = self.codec.encode(self.subject, name, value)
        else:
            value = self.codec.decode(self.subject, name, text)
            if not _is_immutable(value):
                self._overlay[name] = text
        self.live[name] = value
        return value

    def names(self) -> Iterator[str]:
        """Go through the names that have a value, declared ones first."""
        declared = self.codec.declared()
        for name in declared:
            if self.read(name) is not ABSENT:
                yield name
        if not declared:
            yield from self.written()

    def written(self) -> list[str]:
        """Return the names that have a value of their own, not only a default."""
        names = [name for name in self.stored if self._overlay.get(name) != _GONE]
        return names + [name for name in self._dirty if name not in self.stored and self._has_own(name)]

    def snapshot(self, name: str) -> Any:
        """Return the value as it is now, or ABSENT; a copy, if it can be changed in place."""
        value = self.read(name)
        if value is ABSENT or _is_immutable(value):
            return value
        return self.codec.decode(self.subject, name, self.codec.encode(self.subject, name, value))

    # -- writing

    def write(self, name: str, value: Any) -> tuple[Any, Any] | None:
        """Set a value.

        Returns:
            The new and the old value (ABSENT if there was none), safe to keep; None if nothing changed.

        Raises:
            PropertyError: the value is refused, or there is no such property.
        """
        value = self.codec.validate(self.subject, name, value)
        before = self.read(name)
        old, new, text = before, value, None
        if not _is_immutable(before):
            old = self.codec.decode(self.subject, name, self._overlay[name])
        if not _is_immutable(value):
            text = self.codec.encode(self.subject, name, value)
            new = self.codec.decode(self.subject, name, text)
        if _same(value, before) if text is None else text == self._overlay.get(name):
            self.live[name] = value
            return None
        self._note(name)
        if text is None:
            self._overlay.pop(name, None)
        else:
            self._overlay[name] = text
        self.live[name] = value
        return new, old

    def remove(self, name: str) -> Any:
        """Delete a value; return it, or ABSENT if it had none of its own."""
        if not self._has_own(name):
            return ABSENT
        old = self.snapshot(name)
        self._note(name)
        self._overlay[name] = _GONE
        self.live.pop(name, None)
        return old

    def watched(self) -> Iterator[tuple[str, Any, Any]]:
        """Find the mutable values that were changed in place; yield name, new value and old value of each.

        Raises:
            PropertyError: what a value was changed to is refused.
        """
        for name, text in list(self._overlay.items()):
            if name not in self.live or text == _GONE:
                continue
            value = self.live[name]
            now = self.codec.encode(self.subject, name, value)
            if now == text:
                continue
            valid = self.codec.validate(self.subject, name, value)
            if (validated := self.codec.encode(self.subject, name, valid)) != now:
                self.live[name], now = valid, validated
            self._journal.append((name, ABSENT, text))
            self._dirty[name] = None
            self._overlay[name] = now
            decode = self.codec.decode
            yield name, decode(self.subject, name, now), decode(self.subject, name, text)

    # -- savepoints and the commit

    def mark(self) -> int:
        """Return a savepoint."""
        return len(self._journal)

    def rollback(self, mark: int) -> None:
        """Undo every write since a savepoint, changes in place included."""
        journal = self._journal
        while len(journal) > mark:
            name, value, text = journal.pop()
            if value is ABSENT:
                self.live.pop(name, None)
            else:
                self.live[name] = value
            if text is None:
                self._overlay.pop(name, None)
            else:
                self._overlay[name] = text
        for name in self._overlay:
            self.live.pop(name, None)

    def differences(self) -> tuple[dict[str, bytes], list[str]]:
        """Return what a commit has to write: name -> text of what is set, and the names that are deleted."""
        if not self._dirty:
            return {}, []
        to_set: dict[str, bytes] = {}
        to_delete: list[str] = []
        for name in self._dirty:
            text = self._overlay.get(name)
            if text is None:
                if name not in self.live:
                    continue  # set first in a rule that failed
                text = self.codec.encode(self.subject, name, self.live[name])
            if text == _GONE:
                if name in self.stored:
                    to_delete.append(name)
            elif text != self.stored.get(name):
                to_set[name] = text
        return to_set, to_delete

    def committed(self, to_set: Mapping[str, bytes], to_delete: Sequence[str]) -> None:
        """Take what `differences` returned as stored now; mutable values are handed out anew from here on."""
        self.stored.update(to_set)
        for name in to_delete:
            self.stored.pop(name, None)
        for name in self._overlay:
            self.live.pop(name, None)
        self._overlay.clear()
        self._dirty.clear()
        self._journal.clear()

    def upgrade(self, texts: Mapping[str, bytes]) -> None:
        """Take `texts` as what is held now, in place of what was stored; the next commit writes the difference."""
        for name in self.stored.keys() | texts.keys():
            text = texts.get(name, _GONE)
            if text != self.stored.get(name):
                self._overlay[name] = text
                self._dirty[name] = None

    # -- helpers

    def _has_own(self, name: str) -> bool:
        text = self._overlay.get(name)
        if text is not None:
            return text != _GONE and (name in self._dirty or name in self.stored)
        return name in self.stored or (name in self._dirty and name in self.live)

    def _note(self, name: str) -> None:
        value = self.live.get(name, ABSENT)
        text = self._overlay.get(name)
        self._journal.append((name, ABSENT if text is not None else value, text))
        self._dirty[name] = None


class State:
    """All of a subject that is kept, with the changes that were made to it, in order.

    Args:
        name: name of the subject.
        codec: what knows the types of its properties.
        ext_codec: the same for extended properties.
        record: the subject as it was loaded.
        schema: schema version that a write declares.
    """

    __slots__ = ("_flushes", "changes", "ext", "name", "operations", "properties", "schema", "version")

    def __init__(self, name: str, codec: Codec, ext_codec: Codec, record: SubjectRecord, schema: int) -> None:
        self.name = name
        self.properties = Bag(name, codec, dict(record.properties))
        self.ext = Bag(name, ext_codec, dict(record.ext))
        self.version = record.version
        self.schema = schema
        self.changes: list[Change] = []
        self.operations: list[Operation] | None = None
        self._flushes: list[Savepoint] = []

    def set(self, name: str, value: Any, muted: bool = False, extra: Mapping[str, Any] | None = None) -> Any:
        """Set a property; return the new and the old value (ABSENT if there was none)."""
        if self.operations is not None:
            self.operations.append(("set", name, value, muted, extra))
        bag = self.properties
        if callable(value):
            current = bag.read(name)
            value = value(None if current is ABSENT else current)
        written = bag.write(name, value)
        if written is None:
            current = bag.snapshot(name)
            return current, current
        new, old = written
        self.changes.append(Change(name, None if old is ABSENT else old, new, "changed", muted, extra))
        return written

    def delete(self, name: str, muted: bool = False, extra: Mapping[str, Any] | None = None) -> Any:
        """Delete a property; return its value, or ABSENT if it had none."""
        if self.operations is not None:
            self.operations.append(("delete", name, None, muted, extra))
        old = self.properties.remove(name)
        if old is not ABSENT:
            self.changes.append(Change(name, old, None, "deleted", muted, extra))
        return old

    def set_ext(self, name: str, value: Any) -> Any:
        """Set an extended property; return the new and the old value (ABSENT if there was none)."""
        if self.operations is not None:
            self.operations.append(("set_ext", name, value, False, None))
        bag = self.ext
        if callable(value):
            current = bag.read(name)
            value = value(None if current is ABSENT else current)
        written = bag.write(name, value)
        return written or (bag.snapshot(name),) * 2

    def delete_ext(self, name: str) -> Any:
        """Delete an extended property; return its value, or ABSENT if it had none."""
        if self.operations is not None:
            self.operations.append(("delete_ext", name, None, False, None))
        return self.ext.remove(name)

    def flush(self) -> None:
        """Delete every property and extended property, and note that the subject itself is deleted."""
        operations, self.operations = self.operations, None
        for name in self.properties.written():
            self.delete(name)
        for name in self.ext.written():
            self.ext.remove(name)
        self.changes.append(Change("", None, None, "flushed"))
        self._flushes.append(self.mark())
        if operations is not None:
            operations.append(("flush", "", None, False, None))
            self.operations = operations

    @property
    def flushed(self) -> bool:
        """Whether the subject was deleted since it was loaded; it may have been written again after that."""
        return bool(self._flushes)

    def collect(self) -> None:
        """Turn values that were changed in place into changes, as if they had been set."""
        for name, new, old in self.properties.watched():
            if self.operations is not None:
                self.operations.append(("replace", name, (new, old), False, None))
            self.changes.append(Change(name, old, new))
        for name, new, old in self.ext.watched():
            if self.operations is not None:
                self.operations.append(("replace_ext", name, (new, old), False, None))

    def mark(self) -> Savepoint:
        """Return a savepoint."""
        return self.properties.mark(), self.ext.mark(), len(self.changes), len(self._flushes)

    def rollback(self, mark: Savepoint) -> None:
        """Undo all that was done since a savepoint."""
        properties, ext, changes, flushes = mark
        self.properties.rollback(properties)
        self.ext.rollback(ext)
        del self.changes[changes:]
        del self._flushes[flushes:]

    def write(self) -> SubjectWrite | None:
        """Return what a commit has to write, or None if nothing differs from what is stored."""
        to_set, to_delete = self.properties.differences()
        set_ext, delete_ext = self.ext.differences()
        if self._flushes and not self.properties.written() and not self.ext.written():
            return SubjectWrite(remove=True) if self.version is not None else None
        if not (to_set or to_delete or set_ext or delete_ext):
            return None
        return SubjectWrite(set=to_set, delete=to_delete, set_ext=set_ext, delete_ext=delete_ext, schema=self.schema)

    def committed(self, write: SubjectWrite | None, version: Version | None) -> None:
        """Take what `write` returned as stored now, under this version."""
        self.version = version
        if write is not None and write.remove:
            self.properties.committed({}, list(self.properties.stored))
            self.ext.committed({}, list(self.ext.stored))
        else:
            self.properties.committed(*((write.set, write.delete) if write else ({}, ())))
            self.ext.committed(*((write.set_ext, write.delete_ext) if write else ({}, ())))
        self.changes = []
        self._flushes = []
        self.operations = None


class Snapshot(State):
    """A state that can only be read."""

    __slots__ = ()

    def _refuse(self, *_: Any) -> Any:
        raise SubjectStateError(f"{self.name} is a read-only snapshot; change it by sending it a message")

    set = delete = set_ext = delete_ext = flush = _refuse  # type: ignore[assignment]


Savepoint: TypeAlias = tuple[int, int, int, int]
"""How long the journals of a state were: properties, extended properties, changes, flushes."""

Operation: TypeAlias = tuple[str, str, Any, bool, Mapping[str, Any] | None]
"""What was asked of a state (verb, name, value, muted, extra), so that it can be asked of a fresher one again."""


def _is_immutable(value: Any) -> bool:
    return type(value) in _IMMUTABLE or isinstance(value, enum.Enum)


def _same(new: Any, old: Any) -> bool:
    """Tell whether two immutable values read the same: 1, 1.0 and True do not, nor do 0.0 and -0.0."""
    if new is old:
        return True
    kind = type(new)
    return kind is type(old) and new == old and (kind not in _TEXTUAL or repr(new) == repr(old))
