"""One namespace of a subject's values, between stored JSON text and live Python values.

Belongs here: what is read, what differs from what is stored, and changes in place.
It must not know which types the values have (a `Codec` does), of events, or where the text is stored.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

from onwhen.engine import values

__all__ = ["ABSENT", "Bag", "Codec", "is_immutable"]

_IMMUTABLE: Final = values.ATOMS | {bytes, Decimal, datetime, date, time, timedelta, UUID}
_TEXTUAL: Final = frozenset({float, Decimal, datetime, time})  # of these, equal values may read differently


class Absent(enum.Enum):
    """The type of `ABSENT`, which stands for "there is no value"."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = Absent.ABSENT

UPGRADED: Final = object()
"""In a log, always first: the state was brought to a newer schema version, which the next commit writes."""


class Codec(Protocol):
    """What a bag asks about the values that it holds."""

    @property
    def declared(self) -> tuple[str, ...]:
        """The names that have a declaration, in its order; none where any name will do."""
        ...

    @property
    def factories(self) -> tuple[str, ...]:
        """The names whose default is made anew each time, so that it has to be kept once the subject is."""
        ...

    def accept(self, subject: str, name: str, value: Any) -> tuple[Any, bytes | None]:
        """Return the value as it will be read back, and its JSON text if it can be changed in place.

        Raises:
            PropertyError: it is refused.
        """
        ...

    def encode(self, subject: str, name: str, value: Any) -> bytes:
        """Return the JSON text of a value that was accepted, or raise `PropertyError` if it is no longer JSON."""
        ...

    def decode(self, subject: str, name: str, text: bytes) -> Any:
        """Return the value of a stored JSON text, or raise `PropertyError`."""
        ...

    def same(self, subject: str, name: str, text: bytes, other: bytes) -> bool:
        """Tell whether two texts that differ are read as the same value."""
        ...

    def default(self, subject: str, name: str) -> Any:
        """Return the value of a property that was never set, or ABSENT; raise `UnknownProperty`."""
        ...


class Bag:
    """The properties of a subject, or its extended properties.

    `stored` is the text of the last commit, and `_own` says what has become of it since: True for a name that has
    a value of its own, False for one that was deleted. `live` holds decoded values, and on the hot path is all
    that a read touches. A value that could be changed in place has its text in `texts` too, as it was when last
    looked at: a list that was appended to is found by comparing. Each write leaves an entry in the log of the state
    that says how to undo it.

    Args:
        subject: name of the subject, for error messages.
        codec: what knows the values' types.
        stored: name -> JSON text, as loaded. The bag keeps it and updates it on `commit`.
        log: what was done to the subject, shared with all that does something to it.
    """

    __slots__ = ("_log", "_own", "codec", "live", "stored", "subject", "texts")

    def __init__(self, subject: str, codec: Codec, stored: dict[str, bytes], log: list[Any]) -> None:
        self.subject = subject
        self.codec = codec
        self.stored = stored
        self.live: dict[str, Any] = {}
        self.texts: dict[str, bytes] = {}
        self._own: dict[str, bool] = {}
        self._log = log

    # -- reading

    def read(self, name: str) -> Any:
        """Return the value, or ABSENT; of a mutable one, the object that is watched for changes."""
        try:
            return self.live[name]
        except KeyError:
            pass
        text = self.texts.get(name)
        if text is None and self._own.get(name, True):
            text = self.stored.get(name)
        if text is None:
            value = self.codec.default(self.subject, name)
            if value is ABSENT:
                return ABSENT
        else:
            value = self.codec.decode(self.subject, name, text)
        if not is_immutable(value):
            self.texts[name] = self.codec.encode(self.subject, name, value) if text is None else text
        self.live[name] = value
        return value

    def copy(self, name: str) -> Any:
        """Return the value as it is now, or ABSENT; a copy, if it can be changed in place."""
        value = self.read(name)
        if is_immutable(value):
            return value
        return self.codec.decode(self.subject, name, self.codec.encode(self.subject, name, value))

    def names(self) -> list[str]:
        """Return the names that have a value, in order of declaration if they are declared."""
        declared = self.codec.declared
        return [name for name in declared if self.read(name) is not ABSENT] if declared else self.written()

    def written(self) -> list[str]:
        """Return the names that have a value of their own, not only a default."""
        own = self._own
        names = [name for name in self.stored if own.get(name, True)]
        return names + [name for name, is_own in own.items() if is_own and name not in self.stored]

    # -- writing

    def write(self, name: str, value: Any) -> tuple[Any, Any]:
        """Set a value.

        Returns:
            The new value and the old one, before it was changed in place (ABSENT if there was none). Both are safe
            to keep; they are the same object if nothing changed.

        Raises:
            PropertyError: the value is refused, or there is no such property.
        """
        value, text = self.codec.accept(self.subject, name, value)
        if text is None and name in self.live and name not in self.texts:
            return self._replace(name, value, self.live[name])
        before, before_text = ABSENT, self.texts.get(name)
        if before_text is None:
            before = self.read(name)
            before_text = self.texts.get(name)
        if text is None or before_text is None:
            is_same = text is before_text and _same(value, before)
        else:
            is_same = text == before_text or self.codec.same(self.subject, name, text, before_text)
        if is_same:
            old = value
        elif before_text is None:
            old = before
        else:
            old = self.codec.decode(self.subject, name, before_text)  # what was changed in place does not count
        if not is_same or not self._has_own(name):
            self._note(name)
            self._own[name] = True
        if text is not None:
            self.texts[name] = text
            self.live.pop(name, None)  # the value is the caller's; the next read makes one of our own
            return value, old
        if before_text is not None:
            del self.texts[name]
        self.live[name] = value
        return value, old

    def _replace(self, name: str, value: Any, before: Any) -> tuple[Any, Any]:
        """Set a value that cannot be changed in place, where another such is: the common case, and nothing else."""
        own = self._own.get(name)
        if _same(value, before):
            if own or (own is None and name in self.stored):
                return value, value
            before = value
        self._log.append((self, name, self.live[name], None, own))
        self._own[name] = True
        self.live[name] = value
        return value, before

    def remove(self, name: str) -> tuple[Any, Any]:
        """Delete a value.

        Returns:
            The value, and what it was before it was changed in place; both ABSENT if it had none of its own.
        """
        value, text = self.read(name), self.texts.get(name)
        if not self._has_own(name):
            if text is not None:
                del self.live[name]  # a default that was changed in place is as declared again
            return ABSENT, ABSENT
        old = value if text is None else self.codec.decode(self.subject, name, text)
        self.drop(name)
        return value, old

    def drop(self, name: str) -> None:
        """Delete a value without looking at it."""
        self._note(name)
        self._own[name] = False
        self.live.pop(name, None)
        self.texts.pop(name, None)

    def collect(self) -> Iterator[tuple[str, Any, Any]]:
        """Write the values that were changed in place; yield name, new and old value of each.

        Raises:
            PropertyError: what a value was changed to is refused.
        """
        for name, text in list(self.texts.items()):
            value = self.live.get(name, ABSENT)
            if value is ABSENT:
                continue
            now = self.codec.encode(self.subject, name, value)
            if now == text or self.codec.same(self.subject, name, now, text):
                continue
            new, old = self.write(name, value)
            if self.texts.get(name) == now:
                self.live[name] = value  # whoever holds it may go on changing it
            if new is not old:
                yield name, new, old

    @property
    def is_touched(self) -> bool:
        """Whether anything was written, deleted or handed out that can be changed."""
        return bool(self._own or self.texts)

    def forget(self) -> None:
        """Let go of all values that were handed out and can be changed, and with them of changes in place."""
        for name in self.texts:
            self.live.pop(name, None)

    # -- savepoints and the commit

    def restore(self, name: str, value: Any, text: bytes | None, is_own: bool | None) -> None:
        """Undo one write, as its entry in the log says."""
        _restore(self.live, name, value)
        _restore(self.texts, name, ABSENT if text is None else text)
        _restore(self._own, name, ABSENT if is_own is None else is_own)

    def differences(self) -> tuple[dict[str, bytes], list[str]]:
        """Return what a commit has to write: name -> text of what is set, and the names that are deleted."""
        to_set: dict[str, bytes] = {}
        to_delete: list[str] = []
        if not self._own:
            return to_set, to_delete
        stored, texts, live = self.stored, self.texts, self.live
        for name, is_own in self._own.items():
            if not is_own:
                if name in stored:
                    to_delete.append(name)
                continue
            if name in live and name not in texts:
                text = self.codec.encode(self.subject, name, live[name])
            else:
                text = self._text(name)
            if text != stored.get(name):
                to_set[name] = text
        return to_set, to_delete

    def made_defaults(self) -> dict[str, bytes]:
        """Return name -> text of the defaults that were made for this subject alone, to be kept with it."""
        made = self.codec.factories
        return {name: self._text(name) for name in made if not self._has_own(name)} if made else {}

    def committed(self, to_set: Mapping[str, bytes], to_delete: Sequence[str]) -> None:
        """Take this as stored now; mutable values are handed out anew from here on."""
        if to_set:
            self.stored.update(to_set)
        for name in to_delete:
            self.stored.pop(name, None)
        if self.texts:
            self.forget()
            self.texts.clear()
        if self._own:
            self._own.clear()

    def upgrade(self, texts: Mapping[str, bytes]) -> None:
        """Take `texts` in place of what was stored, for good; the next commit writes the difference.

        Raises:
            PropertyError: one of them is not what is declared.
        """
        declared = self.codec.declared
        self._log.append(UPGRADED)
        for name in self.stored.keys() | texts.keys():
            text = texts.get(name)
            self._own[name] = text is not None
            if text is None:
                continue
            value = self.codec.decode(self.subject, name, text) if not declared or name in declared else ABSENT
            if value is ABSENT or not is_immutable(value):
                self.texts[name] = text
            else:
                self.live[name] = value

    # -- helpers

    def _has_own(self, name: str) -> bool:
        return self._own.get(name, name in self.stored)

    def _text(self, name: str) -> bytes:
        text = self.texts.get(name)
        if text is None:
            value = self.read(name)
            text = self.texts.get(name)
            if text is None:
                text = self.codec.encode(self.subject, name, value)
        return text

    def _note(self, name: str) -> None:
        text = self.texts.get(name)
        value = ABSENT if text is not None else self.live.get(name, ABSENT)
        self._log.append((self, name, value, text, self._own.get(name)))


def is_immutable(value: Any) -> bool:
    """Tell whether a value, or ABSENT, cannot be changed in place."""
    return type(value) in _IMMUTABLE or isinstance(value, enum.Enum)


def _same(new: Any, old: Any) -> bool:
    """Tell whether two immutable values read the same: 1, 1.0 and True do not, nor do 0.0 and -0.0."""
    if new is old:
        return True
    kind = new.__class__
    return kind is old.__class__ and new == old and (kind not in _TEXTUAL or repr(new) == repr(old))


def _restore(mapping: dict[str, Any], name: str, value: Any) -> None:
    if value is ABSENT:
        mapping.pop(name, None)
    else:
        mapping[name] = value
