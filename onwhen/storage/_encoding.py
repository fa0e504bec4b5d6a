"""Values as they are kept, whatever keeps them: moments as numbers, events, errors and writes as JSON.

Belongs here: what several stores write alike. It must not know where it goes. Text that was damaged is a ValueError,
most often.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.store import Failure, SubjectWrite

__all__ = ["failure_of", "failure_text", "micros", "moment", "text_of", "write_of", "write_text"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_NOTHING: Final = SubjectWrite()


def micros(when: datetime) -> int:
    """Return a moment as microseconds since the epoch."""
    return (when - _EPOCH) // _MICROSECOND


def moment(when: int) -> datetime:
    """Return microseconds since the epoch as a moment, aware, in UTC; one that UTC does not have is the nearest."""
    try:
        return _EPOCH + timedelta(microseconds=when)
    except OverflowError:
        return _LAST if when > 0 else _FIRST


def text_of(event: Event) -> str:
    """Return an event as JSON; it has an id from now on."""
    event.detach()
    return event.to_json().decode()


def failure_text(failure: Failure) -> str:
    """Return an error as JSON."""
    # All in ASCII: messages of errors may hold what UTF-8 does not have, lone surrogates.
    return json.dumps([failure.type, failure.message, failure.traceback])


def failure_of(text: str) -> Failure:
    """Return the error of what `failure_text` has made."""
    type, message, traceback = json.loads(text)
    return Failure(type=type, message=message, traceback=traceback)


def write_text(write: SubjectWrite) -> str:
    """Return what a commit writes as JSON; each value is a string that holds JSON, so that it is kept to the byte."""
    # Without what is as in `_NOTHING`, so that it is the same when it is read: an empty list is no empty tuple.
    texts = {name: value for name, value in msgspec.structs.asdict(write).items() if value != getattr(_NOTHING, name)}
    for name in ("set", "set_ext"):
        if name in texts:
            texts[name] = {key: value.decode() for key, value in texts[name].items()}
    return msgspec.json.encode(texts).decode()


def write_of(text: str | bytes) -> SubjectWrite:
    """Return what a commit wrote, of what `write_text` has made."""
    texts: dict[str, Any] = json.loads(text)
    for name in ("set", "set_ext"):
        if name in texts:
            texts[name] = {key: value.encode() for key, value in texts[name].items()}
    return SubjectWrite(**texts)
