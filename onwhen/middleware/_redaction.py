"""Payloads made fit for a log: secrets replaced, bytes left out, and not too long.

Belongs here: a pure function of an event's data. It must not know what is logged, nor when.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from onwhen.engine.events import SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
from onwhen.errors import RuleDefinitionError
from onwhen.middleware._safe_text import safe

__all__ = ["REDACTED", "Redaction"]

REDACTED: Final = "***"

_MAX_TEXT: Final = 1000  # characters kept of one text
_MAX_SIZE: Final = 10_000  # characters kept of all together, counted roughly as JSON
_MAX_PATH: Final = 1000  # characters of a path that are compared; the end of it is
_MAX_BITS: Final = 1024  # of a whole number that is shown; formatters may refuse to write a longer one
_PLAIN: Final = (bool, float, type(None))
_OF_PROPERTIES: Final = (SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED)
_NO_NAMES: Final[Mapping[str, str]] = {}


class Redaction:
    """Copies data without what nobody should read.

    A pattern is the name of a field, or a path of names with dots between them, and is compared with the end of the
    path that leads to a value: `card.number` is the number of a card, wherever the card is. `*` stands for any
    characters, dots included, `?` for one, `[ab]` for one of these; a `*.` at the beginning changes nothing. Case does
    not matter. Lists are not a step of a path. A value that is found is replaced as a whole, whatever it is.

    Args:
        patterns: what to replace.

    Raises:
        RuleDefinitionError: a pattern is no text, or empty.
    """

    def __init__(self, patterns: Sequence[str] = ()) -> None:
        if isinstance(patterns, str | bytes) or not isinstance(patterns, Sequence):
            raise RuleDefinitionError(f"redact={patterns!r:.80} must be a list of patterns, such as ['password']")
        for pattern in patterns:
            if not isinstance(pattern, str) or not pattern.removeprefix("*.").strip("."):
                raise RuleDefinitionError(
                    f"redact={pattern!r:.80} must be the name of a field or a path, such as 'password' or 'card.number'"
                )
        ends = [re.sub(r"^(\*\.)+", "", pattern.casefold()) for pattern in patterns]
        regexes = [fnmatch.translate(one) for end in ends for one in (end, f"*.{end}")]
        self._secret = re.compile("|".join(regexes)) if regexes else None

    def __call__(self, data: Any) -> Any:
        """Return a copy of a JSON value, or of bytes, as it may stand in a log; it is a JSON value in any case.

        A text that is all there is, is escaped as well, because a formatter may print it as it is.
        """
        if isinstance(data, str):
            return safe(data, _MAX_TEXT)
        return self._copy(data, "", _Room())

    def of_event(self, event: Event) -> Any:
        """Return a copy of an event's data; in a property event, a value has the name of the property as well."""
        data = event.data
        if event.type in _OF_PROPERTIES and isinstance(data, Mapping) and isinstance(data.get("property_name"), str):
            property = data["property_name"]
            return self._of_mapping(data, "", _Room(), {"old_value": property, "value": property})
        return self(data)

    def _copy(self, value: Any, path: str, room: _Room) -> Any:
        if isinstance(value, Mapping):
            return self._of_mapping(value, path, room)
        if isinstance(value, list | tuple):
            room.left -= 4
            copied: list[Any] = []
            for index, item in enumerate(value):
                if room.left <= 0:
                    copied.append(f"… {len(value) - index} more")
                    break
                copied.append(self._copy(item, path, room))
            return copied
        room.left -= 4
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, int):
            return value if value.bit_length() <= _MAX_BITS else f"({value.bit_length()} bits)"
        if isinstance(value, bytes | bytearray | memoryview):
            return f"({len(value)} bytes)"
        text = str(value)
        room.left -= min(len(text), _MAX_TEXT)
        return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"

    def _of_mapping(
        self, value: Mapping[str, Any], path: str, room: _Room, known_as: Mapping[str, str] = _NO_NAMES
    ) -> dict[str, Any]:
        room.left -= 4
        copied: dict[str, Any] = {}
        for index, (name, item) in enumerate(value.items()):
            if room.left <= 0:
                copied["…"] = f"{len(value) - index} more"
                break
            kept = name if len(name) <= _MAX_TEXT else name[: _MAX_TEXT - 1] + "…"
            room.left -= len(kept) + 4
            inner = _below(path, name)
            is_secret = self._is_secret(inner)
            if name in known_as:
                inner = _below(path, known_as[name])
                is_secret = is_secret or self._is_secret(inner)
            copied[kept] = REDACTED if is_secret else self._copy(item, inner, room)
        return copied

    def _is_secret(self, path: str) -> bool:
        return self._secret is not None and self._secret.fullmatch(path) is not None


def _below(path: str, name: str) -> str:
    return (f"{path}.{name.casefold()}" if path else name.casefold())[-_MAX_PATH:]


class _Room:
    """How many characters may still be kept."""

    def __init__(self) -> None:
        self.left = _MAX_SIZE
