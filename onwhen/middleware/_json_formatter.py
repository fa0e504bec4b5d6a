"""Log records as JSON, one object per line, for machines to read.

Belongs here: a formatter for the standard library's `logging`, and how any value becomes JSON. It must not know what
is logged.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Any, Final

__all__ = ["JsonFormatter"]

_STANDARD: Final = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}
_MAX_DEPTH: Final = 32
_MAX_TEXT: Final = 20_000  # characters kept of one text
_MAX_VALUES: Final = 2000  # written of one record, nested ones counted
_MAX_BITS: Final = 1024  # of a whole number that is written as one; Python refuses to write very long ones


class JsonFormatter(logging.Formatter):
    """Writes each record as one JSON object on one line, in ASCII.

    It has `time` (RFC 3339, UTC, to the microsecond), `level`, `logger` and `message`, all attributes that were given
    as `extra`, and `exception` (the traceback) and `stack` where there are any. An attribute that has the name of one
    of ours gets `extra_` before it. NaN and infinities are texts, of bytes there is only the size, and what JSON has
    no form for is written as its text: no record is refused, whatever is in it.

        handler.setFormatter(JsonFormatter())

    Source: RFC 8259 (JSON), RFC 3339 (times).
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line of JSON, without the line's end."""
        fields: dict[str, Any] = {
            "time": _moment(record.created),
            "level": _text(record.levelname),
            "logger": _text(record.name),
            "message": _message(record),
        }
        last = self._traces(record)
        values = _Values()
        for name, value in vars(record).items():
            if name not in _STANDARD:
                key = _text(name)
                while key in fields or key in last:
                    key = f"extra_{key}"
                fields[key] = values.plain(value)
        return json.dumps(fields | last, allow_nan=False)

    def _traces(self, record: logging.LogRecord) -> dict[str, str]:
        traces: dict[str, str] = {}
        try:
            if record.exc_info and not record.exc_text:
                record.exc_text = self.formatException(record.exc_info)
            if record.exc_text:
                traces["exception"] = _text(_end_of(record.exc_text))
        except Exception as error:
            traces["exception"] = _unreadable(error)
        if record.stack_info:
            traces["stack"] = _text(record.stack_info)
        return traces


def _moment(created: float) -> str:
    try:
        return datetime.fromtimestamp(created, UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
    except (ValueError, OverflowError, OSError, TypeError):
        return _text(created)


def _message(record: logging.LogRecord) -> str:
    try:
        return _text(record.getMessage())
    except Exception as error:
        return f"{_text(record.msg)} {_unreadable(error)}"


class _Values:
    """Turns the values of one record into such as JSON has, as many as there is room for."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def plain(self, value: Any, depth: int = 0) -> Any:
        """Return a value as one that JSON has, not too large."""
        self._left -= 1
        kind = type(value)
        if kind is str:
            return _text(value)
        if kind is bool or value is None:
            return value
        if kind is int:
            return value if value.bit_length() <= _MAX_BITS else f"({value.bit_length()} bits)"
        if kind is float:
            return value if math.isfinite(value) else "NaN" if value != value else f"{'-' * (value < 0)}Infinity"
        try:
            return self._unusual(value, depth)
        except Exception as error:
            return _unreadable(error)

    def _unusual(self, value: Any, depth: int) -> Any:
        if isinstance(value, int | float):  # of a subclass
            return self.plain((int if isinstance(value, int) else float)(value))
        if isinstance(value, bytes | bytearray | memoryview):
            return f"({len(value)} bytes)"
        if isinstance(value, date | time):
            return value.isoformat()
        if not isinstance(value, Mapping | list | tuple | set | frozenset):
            return _text(value)
        if depth >= _MAX_DEPTH:
            return "…"
        if isinstance(value, Mapping):
            return self._of_mapping(value, depth)
        items: list[Any] = []
        for item in value:
            if self._left <= 0:
                items.append(f"… {len(value) - len(items)} more")
                break
            items.append(self.plain(item, depth + 1))
        return items

    def _of_mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        items: dict[str, Any] = {}
        for index, (name, item) in enumerate(value.items()):
            if self._left <= 0:
                items["…"] = f"{len(value) - index} more"
                break
            items[_text(name)] = self.plain(item, depth + 1)
        return items


def _text(value: Any) -> str:
    """Return the text of any value; halves of surrogate pairs, which UTF-8 cannot hold, are escaped."""
    try:
        text = value if type(value) is str else str(value)
        if len(text) > _MAX_TEXT:
            text = text[: _MAX_TEXT - 1] + "…"
        return text if text.isascii() else text.encode(errors="backslashreplace").decode()
    except Exception as error:
        return _unreadable(error)


def _end_of(trace: str) -> str:
    """Return a traceback without its beginning, if it is too long: what was raised, and where, is at its end."""
    return trace if len(trace) <= _MAX_TEXT else f"…{trace[1 - _MAX_TEXT :]}"


def _unreadable(error: Exception) -> str:
    return f"(cannot be written: {type(error).__qualname__})"
