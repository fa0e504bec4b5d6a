"""What CloudEvents says about single attributes: which strings, names, values and times are legal.

Each function takes one value and returns it checked, or raises InvalidEvent that names the attribute. It must not
know of the envelope as a whole, or of how events come about.

Source: CloudEvents 1.0.2, "Type System" and "Attribute Naming Convention"; RFC 3339 for times.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from onwhen.engine.values import FrozenDict
from onwhen.errors import InvalidEvent

__all__ = [
    "NO_EXTENSIONS",
    "REQUIRED",
    "aware",
    "bad_depth",
    "extensions",
    "format_time",
    "from_base64",
    "parse_time",
    "text",
]

REQUIRED: Final = {
    "type": "say what happened, for example 'ticket.taken'",
    "subject": "onwhen addresses every event to one subject; name it, for example 'ticket:3608'",
    "id": "each event needs one that is unique for its source",
    "source": "name what sends the event, for example '/helpdesk'",
}
"""The attributes that an event cannot do without, and what to do about a missing one."""

NO_EXTENSIONS: Final = FrozenDict()

_NONCHARACTERS: Final = "".join(chr(plane << 16 | code) for plane in range(17) for code in (0xFFFE, 0xFFFF))
_FORBIDDEN: Final = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NONCHARACTERS}]")
_EXTENSION_NAME: Final = re.compile("[a-z0-9]{1,20}")
_OWN_ARGUMENT: Final = {  # attributes that Event takes as arguments of their own
    **{name: name for name in (*REQUIRED, "time", "data", "datacontenttype", "dataschema")},
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "cascadedepth": "bad_depth",
}
_RFC3339: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt]"
    r"((?:[01][0-9]|2[0-3]):[0-5][0-9]):([0-5][0-9]|60)(\.[0-9]+)?"
    r"([Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
)


def text(value: Any, attribute: str) -> str:
    """Check a String that must not be empty."""
    if not isinstance(value, str):
        raise InvalidEvent(f"{attribute}: a string is needed, not {value.__class__.__name__}", attribute=attribute)
    if not value:
        raise InvalidEvent(f"{attribute}: empty; {REQUIRED.get(attribute, 'leave it out')}", attribute=attribute)
    return _string(value, attribute)


def _string(value: str, attribute: str) -> str:
    if not value.isprintable() and (bad := _FORBIDDEN.search(value)):
        reason = f"U+{ord(bad[0]):04X} at character {bad.start()} is not allowed in an attribute; take it out"
        raise InvalidEvent(f"{attribute}: {reason}", attribute=attribute)
    return str.__str__(value)  # a StrEnum member becomes the str it stands for


def bad_depth(value: Any) -> InvalidEvent:
    """Say what `cascadedepth` has to be; Event checks it in place, to spare the call."""
    reason = f"{value!r:.40} is not a count from 0 to 2,147,483,647"
    return InvalidEvent(f"cascadedepth: {reason}", attribute="cascadedepth")


def extensions(values: Any) -> FrozenDict:
    """Check extension attributes, names and values."""
    if not isinstance(values, Mapping):
        raise InvalidEvent(f"extensions: a mapping is needed, not {values.__class__.__name__}", attribute="extensions")
    return FrozenDict({_name(name): _value(value, name) for name, value in values.items()}) or NO_EXTENSIONS


def _name(name: Any) -> str:
    if not isinstance(name, str) or not _EXTENSION_NAME.fullmatch(name):
        shown = ascii(name).strip("'")[:40]
        reason = "not an attribute of CloudEvents, nor a name for an extension, which is 1 to 20 of a-z and 0-9"
        raise InvalidEvent(f"{shown}: {reason}", attribute=str(name))
    if name in _OWN_ARGUMENT:
        reason = f"not an extension; pass it to Event as {_OWN_ARGUMENT[name]}=..."
        raise InvalidEvent(f"{name}: {reason}", attribute=name)
    if name == "specversion":
        raise InvalidEvent("specversion: onwhen writes it itself; leave it out", attribute=name)
    return str.__str__(name)


def _value(value: Any, name: str) -> str | int | bool:
    if isinstance(value, str):
        return _string(value, name)
    if isinstance(value, bool):
        return value
    if value.__class__ is int and -(2**31) <= value < 2**31:
        return int(value)
    found = "an integer of more than 32 bits" if value.__class__ is int else value.__class__.__name__
    reason = f"{found} cannot be the value of an extension; pass str, bool or a 32-bit int"
    raise InvalidEvent(f"{name}: {reason}", attribute=name)


def from_base64(value: Any) -> bytes:
    """Read `data_base64`.

    Source: RFC 4648 section 4, padded and without line breaks.
    """
    if not isinstance(value, str):
        reason = f"a string is needed, not {value.__class__.__name__}"
        raise InvalidEvent(f"data_base64: {reason}", attribute="data_base64")
    try:
        return b64decode(value, validate=True)
    except ValueError as exc:  # binascii.Error, and what is not ASCII
        raise InvalidEvent(f"data_base64: not base64: {exc}", attribute="data_base64") from None


def aware(time: Any) -> datetime:
    """Check the attribute `time`: an instant that UTC can express."""
    if not isinstance(time, datetime):
        raise InvalidEvent(f"time: an aware datetime is needed, not {time.__class__.__name__}", attribute="time")
    if time.tzinfo is UTC:
        return time
    if time.utcoffset() is None:
        reason = "has no time zone; pass an aware one, for example datetime.now(UTC)"
        raise InvalidEvent(f"time: {time.isoformat()} {reason}", attribute="time")
    try:
        time.astimezone(UTC)
    except OverflowError:
        reason = "is outside the years 1 to 9999 in UTC"
        raise InvalidEvent(f"time: {time.isoformat()} {reason}", attribute="time") from None
    return time


def format_time(time: datetime) -> str:
    """Write an aware datetime as RFC 3339 in UTC."""
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"


def parse_time(value: str) -> datetime:
    """Read an RFC 3339 time.

    Digits after the microsecond are cut off. A leap second becomes the last microsecond of its minute, as datetime
    has none: the order of events stays, and no legal time is refused.
    """
    if match := _RFC3339.fullmatch(value):
        date, minute, second, fraction, offset = match.groups()
        leap = second == "60"
        clock = f"{minute}:59.999999" if leap else f"{minute}:{second}{fraction or ''}"
        try:
            time = datetime.fromisoformat(f"{date}T{clock}{offset.upper()}")
            if not leap or format_time(time)[11:16] == "23:59":
                return time
        except (ValueError, OverflowError):
            pass
    raise InvalidEvent(f"time: {value!r:.60} is not RFC 3339, such as '2026-11-05T13:45:00Z'", attribute="time")
