"""Records as words of commands, and answers as records.

Belongs here: how each value is written in Redis. It must not know which command it is for. Scripts move what is made
here about without reading it, but for what stands in front: due moments, order numbers, whether a retry is parked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import Any, Final, TypeAlias

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.store import (
    Cell,
    DeadLetter,
    Explanation,
    HistoryEntry,
    LogEntry,
    Position,
    Retry,
    SubjectRecord,
    Timer,
)
from onwhen.errors import StoreCorrupt, StoreError
from onwhen.storage._encoding import failure_of, failure_text, micros, moment, text_of, write_of

__all__ = [
    "BITS",
    "Row",
    "accepted_key",
    "cell_of",
    "cell_word",
    "commit_key",
    "dead_letter_of",
    "dead_words",
    "due_of",
    "due_text",
    "entry_of",
    "explanation_of",
    "explanation_words",
    "history_of",
    "id_of",
    "owner_key",
    "owner_prefix",
    "padded_id",
    "position_of",
    "reading",
    "record_of",
    "retry_of",
    "retry_words",
    "timer_of",
]

Row: TypeAlias = Sequence[Any]

BITS: Final = 24
"""Of a position, those below its order number: what its client has thrown dice for, and in the last whether the event
was a timer."""

_LOW: Final = (1 << BITS) - 1
_MOST: Final = 1 << (BITS + 63)  # a position is less
_ORDER: Final = 16  # digits of an order number, until the year 2286
_DUE: Final = 18  # digits of a due moment
_DUE_ZERO: Final = 10**17  # is added to due moments, so that none is negative
_PARKED: Final = _DUE + _ORDER  # where that is said of a retry

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
_event: Final = Event.restored


@contextmanager
def reading() -> Iterator[None]:
    """Say that what is stored is damaged, if it cannot be read."""
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise damaged(error) from error


def damaged(error: Exception) -> StoreCorrupt:
    """Return the error for something that cannot be read."""
    corrupt = StoreCorrupt(f"something that is stored in Redis is damaged, and left as it is: {error}")
    corrupt.__cause__ = error
    return corrupt


# -- positions


def id_of(position: Position) -> str:
    """Return the stream id of a position; one that cannot be is that of no entry."""
    return f"{position >> BITS}-{position & _LOW}" if 0 < position < _MOST else "0-0"


def padded_id(position: Position) -> str:
    """Return the id so that ids are in order as text."""
    position = min(max(position, 0), _MOST)
    return f"{position >> BITS:0{_ORDER}}-{position & _LOW}"


def position_of(id: bytes) -> Position:
    """Return the position of a stream id."""
    order, _, low = id.partition(b"-")
    return int(order) << BITS | int(low)


# -- ids that are looked for


def accepted_key(event: Event) -> bytes:
    """Return what stands for an event's source and id."""
    # No attribute holds a NUL, so no two of these texts are the same.
    return blake2b(f"{event.source}\0{event.id}".encode(), digest_size=16, person=b"onwhen.accepted").digest()


def commit_key(id: str) -> bytes:
    """Return what stands for the id of a commit."""
    return blake2b(id.encode(errors="surrogatepass"), digest_size=16, person=b"onwhen.commit").digest()


def owner_prefix(subject: str) -> bytes:
    """Return what the owners of all timers of a subject begin with, and no other."""
    name = subject.encode()
    return b"%d:%s:" % (len(name), name)


def owner_key(subject: str, key: str) -> bytes:
    """Return who owns a timer: the subject and the key."""
    return owner_prefix(subject) + key.encode()


def due_text(micros: int) -> str:
    """Return a due moment so that moments are in order as text."""
    return f"{micros + _DUE_ZERO:0{_DUE}}"


def due_of(text: bytes) -> int:
    """Return the microseconds of what `due_text` has made."""
    return int(text) - _DUE_ZERO


# -- retries and dead letters


def retry_words(retry: Retry) -> tuple[str, str, str, bytes]:
    """Return key, due moment, whether it is parked, and the rest of a retry."""
    rest = [
        retry.subject,
        retry.rule,
        retry.attempt,
        retry.in_order,
        micros(retry.first_failed),
        failure_text(retry.failure),
        retry.first_attempt,
        retry.starts,
        text_of(retry.event),
    ]
    return retry.key, due_text(micros(retry.due)), "1" if retry.parked else "0", _encode(rest)


def retry_of(value: bytes, starts: bytes) -> Retry:
    """Return the retry of its value in the hash, and how often it was noted to begin since it was set, if it was."""
    subject, rule, attempt, in_order, first_failed, failure, first_attempt, begun, event = _decode(value[_PARKED + 1 :])
    return Retry(
        subject=subject,
        event=_event(event),
        rule=rule,
        attempt=attempt,
        due=moment(due_of(value[:_DUE])),
        in_order=in_order,
        first_failed=moment(first_failed),
        failure=failure_of(failure),
        first_attempt=first_attempt,
        parked=value[_PARKED : _PARKED + 1] == b"1",
        starts=int(starts or begun),
    )


def dead_words(letter: DeadLetter) -> tuple[bytes, bytes]:
    """Return id and all else of a dead letter."""
    rest = [
        letter.id,
        letter.subject,
        letter.rule,
        letter.attempts,
        micros(letter.first_failed),
        micros(letter.time),
        failure_text(letter.failure),
        text_of(letter.event),
    ]
    return letter.id.encode(), _encode(rest)


def dead_letter_of(value: bytes) -> DeadLetter:
    """Return the dead letter of its value in the hash."""
    id, subject, rule, attempts, first_failed, time, failure, event = _decode(value[_ORDER:])
    return DeadLetter(
        id=id,
        subject=subject,
        event=_event(event),
        rule=rule,
        failure=failure_of(failure),
        attempts=attempts,
        first_failed=moment(first_failed),
        time=moment(time),
    )


# -- answers to records


def entry_of(id: bytes, fields: Sequence[bytes], starts: bytes | None) -> LogEntry:
    """Return the log entry of a stream's."""
    return LogEntry(position_of(id), _event(fields[3]), moment(int(fields[1])), int(starts or 0))


def timer_of(owner: bytes, value: bytes) -> Timer:
    """Return the timer of its owner and its value in the hash."""
    size, _, rest = owner.partition(b":")
    name, key = rest[: int(size)], rest[int(size) + 1 :]
    event = value[value.index(b" ", _DUE + _ORDER) + 1 :]
    return Timer(subject=name.decode(), key=key.decode(), due=moment(due_of(value[:_DUE])), event=_event(event))


def record_of(name: str, fields: Mapping[bytes, bytes]) -> SubjectRecord:
    """Return a subject of its hash; one without fields is not stored."""
    properties: dict[str, bytes] = {}
    ext: dict[str, bytes] = {}
    version: str | None = None
    schema = 1
    for field, value in fields.items():
        kind = field[:2]
        if kind == b"p:":
            properties[field[2:].decode()] = value
        elif kind == b"e:":
            ext[field[2:].decode()] = value
        elif kind == b"_v":
            version = value.decode()
            schema = int(version.rpartition(".")[2])
    return SubjectRecord(name=name, properties=properties, ext=ext, version=version, schema=schema)


def history_of(fields: Sequence[bytes]) -> HistoryEntry:
    """Return the entry of the history of its fields."""
    found = dict(zip(fields[::2], fields[1::2], strict=True))
    event, rule = found.get(b"e"), ""
    if b"p" in found:
        about = _decode(found[b"p"])
        rule, event = about[1], about[-1]
    write = found[b"w"]
    return HistoryEntry(
        time=moment(int(found[b"a"])),
        subject=found[b"s"].decode(),
        event=None if event is None else _event(event),
        rule=rule,
        write=write_of(write) if write else None,
    )


# -- explanations


def explanation_words(explanation: Explanation, most: int) -> tuple[int, bytes, bytes, bytes, bytes]:
    """Return how many are kept, subject, correlation id, what else is known of an explanation, and its body."""
    facts = [micros(explanation.time), explanation.event, explanation.rule, explanation.failed]
    return (
        most,
        explanation.subject.encode(),
        explanation.correlation.encode(),
        _encode(facts),
        explanation.body,
    )


def explanation_of(subject: bytes, correlation: bytes, facts: bytes, body: bytes) -> Explanation:
    """Return the explanation of its words."""
    time, event, rule, failed = _decode(facts)
    return Explanation(
        time=moment(time),
        subject=subject.decode(),
        correlation=correlation.decode(),
        event=event,
        rule=rule,
        failed=failed,
        body=body,
    )


# -- cells


def cell_word(value: bytes | None) -> bytes:
    """Return what may be in a cell so that nothing is told from what is empty."""
    return b"" if value is None else b"=" + value


def cell_of(answer: Sequence[bytes]) -> Cell:
    """Return the cell of what there is, and the time."""
    value, time = answer
    return Cell(value[1:] if value else None, moment(int(time)))
