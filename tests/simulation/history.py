"""What has happened in a simulated world, as records in the order in which it took effect.

Belongs here: plain data, and how a record reads as one line of a trace. Whoever looks at a history knows the truth:
what a store has done, whatever it has told. It must not know who makes the records, nor who judges them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

from onwhen.engine.events import Event
from onwhen.engine.store import (
    Accepted,
    Commit,
    CommitResult,
    LogEntry,
    Position,
    RetryKey,
)

__all__ = [
    "Appended",
    "Called",
    "Committed",
    "Discarded",
    "Fault",
    "History",
    "Life",
    "Promotion",
    "Record",
    "Returned",
    "Sent",
    "Started",
    "name_of",
    "place_of",
    "short",
]


@dataclass(frozen=True, slots=True)
class Appended:
    """Events were offered to the log of a partition."""

    time: float
    partition: int
    events: Sequence[Event]
    answers: Sequence[Accepted]


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit came to the store; `by` is "engine", or "stranger" for one from outside of any engine."""

    time: float
    commit: Commit
    result: CommitResult
    by: str


@dataclass(frozen=True, slots=True)
class Promotion:
    """Due timers were moved to the log; `late` is how much the store's clock is ahead of the time (seconds)."""

    time: float
    partition: int
    entries: Sequence[LogEntry]
    ahead: float


@dataclass(frozen=True, slots=True)
class Started:
    """The handling of something was noted to begin."""

    time: float
    partition: int
    starts: Mapping[Position | RetryKey, int]


@dataclass(frozen=True, slots=True)
class Discarded:
    """A dead letter was thrown away."""

    time: float
    id: str


@dataclass(frozen=True, slots=True)
class Sent:
    """A rule, while it ran, has asked for an event to be sent; that may never have been committed."""

    time: float
    parent: tuple[str, str]
    rule: str
    attempt: int
    index: int
    id: str


@dataclass(frozen=True, slots=True)
class Life:
    """A process was started, closed in good order, or killed; `by` is the id of the event that did it, if one did."""

    time: float
    what: str
    process: int
    by: str = ""


@dataclass(frozen=True, slots=True)
class Called:
    """Somebody outside has asked for something; `tag` is the id of an event, or what else it is known by."""

    time: float
    what: str
    tag: str
    process: int


@dataclass(frozen=True, slots=True)
class Returned:
    """Somebody outside was told what became of it; `status` is the name of an error if it was one."""

    time: float
    what: str
    tag: str
    status: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something was made to go wrong; for the reader of a trace only."""

    time: float
    what: str


Record: TypeAlias = Appended | Committed | Promotion | Started | Discarded | Sent | Life | Called | Returned | Fault


class History:
    """Records, in order."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, record: Record) -> None:
        """Note what has happened."""
        self.records.append(record)

    def lines(self, latest: int | None = None) -> list[str]:
        """Return the trace, or its latest lines."""
        return [short(record) for record in (self.records if latest is None else self.records[-latest:])]

    def digest(self) -> str:
        """Return a hash of the whole trace: equal for equal histories."""
        return blake2b("\n".join(self.lines()).encode(), digest_size=16).hexdigest()


def short(record: Record) -> str:
    """Return a record as one line."""
    return f"{record.time:11.6f} {_text(record)}"


def _text(record: Record) -> str:
    if isinstance(record, Appended):
        pairs = zip(record.events, record.answers, strict=True)
        told = ", ".join(f"{name_of(event)} at {place_of(answer.position, answer.is_new)}" for event, answer in pairs)
        return f"append p{record.partition}: {told}"
    if isinstance(record, Committed):
        return f"commit {record.by} p{record.commit.partition} {_commit(record.commit)} -> {_result(record.result)}"
    if isinstance(record, Promotion):
        told = ", ".join(f"{name_of(entry.event)} at {place_of(entry.position)}" for entry in record.entries)
        return f"promote p{record.partition}: {told or 'nothing'}"
    if isinstance(record, Started):
        return f"starting p{record.partition}: " + ", ".join(f"{k}: {n}" for k, n in record.starts.items())
    if isinstance(record, Discarded):
        return f"discard {record.id}"
    if isinstance(record, Sent):
        return f"rule {record.rule} attempt {record.attempt} on {record.parent[1]} sends {record.id}"
    if isinstance(record, Life):
        return f"process {record.process}: {record.what} {record.by}"
    if isinstance(record, Called):
        return f"{record.what} {record.tag} by process {record.process}"
    if isinstance(record, Returned):
        return f"{record.what} {record.tag} returns {record.status}"
    return f"fault: {record.what}"


def name_of(event: Event) -> str:
    """Return what an event is called in a trace."""
    tag = event.data.get("tag") if isinstance(event.data, Mapping) else None
    return f"{tag or event.type}[{event.id[:8]}]>{event.subject}"


def place_of(position: Position | None, is_new: bool = True) -> str:
    """Return what a position is called in a trace."""
    place = "nowhere" if position is None else f"{position >> 48}+{position & (1 << 48) - 1}"
    return place if is_new else f"{place} (known)"


def _commit(commit: Commit) -> str:
    write = commit.write
    parts = [
        commit.subject,
        f"v{commit.version}",
        f"handled {place_of(commit.handled)}" if commit.handled is not None else "",
        f"retried {commit.retried[:8]}" if commit.retried is not None else "",
        f"revived {','.join(id[:8] for id in commit.revived)}" if commit.revived else "",
        f"id {commit.id}" if commit.id is not None else "",
        "remove" if write is not None and write.remove else "",
        f"set {' '.join(f'{k}={v.decode()}' for k, v in sorted(write.set.items()))}"
        if write is not None and write.set
        else "",
        f"messages {' '.join(map(name_of, commit.messages))}" if commit.messages else "",
        f"timers {' '.join(f'{t.key}@{t.due:%H:%M:%S.%f}' for t in commit.timers)}" if commit.timers else "",
        f"cancelled {' '.join(commit.cancelled)}" if commit.cancelled else "",
        "cancel all" if commit.cancel_all else "",
        " ".join(f"retry {r.rule}#{r.attempt} {r.key[:8]}" for r in commit.retries),
        " ".join(f"dead {d.rule}#{d.attempts} {d.failure.type}" for d in commit.dead),
    ]
    return " ".join(part for part in parts if part)


def _result(result: CommitResult) -> str:
    told = f"{result.answer.value} v{result.version}"
    return f"{told} at {' '.join(map(place_of, result.appended))}" if result.appended else told
