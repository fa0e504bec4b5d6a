"""What has happened in a simulated fleet, as steps in the order in which they took effect on a server.

Belongs here: plain data, and how a step reads as one line of a story. Whoever looks at a history knows the truth: what
a server has done, whatever it has told, and what it has lost again. It must not know who makes the steps, nor who
judges them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

from onwhen.engine.shared import Acquired, Delivered, Outgoing, Token
from onwhen.engine.store import LogEntry, Position
from tests.simulation.history import (
    Appended,
    Called,
    Committed,
    Discarded,
    Fault,
    Life,
    Promotion,
    Returned,
    Sent,
    Started,
    name_of,
    place_of,
    short,
)

__all__ = ["Delivery", "Ending", "Note", "Quiet", "Released", "Renewal", "SetBack", "Step", "Story", "Taken", "Trim"]


@dataclass(frozen=True, slots=True)
class Taken:
    """Somebody has asked for a partition; `time` is that of its server (seconds)."""

    time: float
    token: Token
    worker: str
    lease: float
    acquired: Acquired | None


@dataclass(frozen=True, slots=True)
class Renewal:
    """A lease was to be renewed."""

    time: float
    token: Token
    lease: float
    is_renewed: bool


@dataclass(frozen=True, slots=True)
class Released:
    """A partition was to be handed over."""

    time: float
    token: Token
    is_released: bool


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages of another partition have come."""

    time: float
    source: int
    expected: Position | None
    messages: Sequence[Outgoing]
    delivered: Delivered


@dataclass(frozen=True, slots=True)
class Trim:
    """The outbox was to let go of messages."""

    time: float
    token: Token
    upto: Position
    is_done: bool


@dataclass(frozen=True, slots=True)
class SetBack:
    """A fail-over has lost the latest changes of a partition; `changes` is how many are left of it."""

    time: float
    changes: int
    lost: int
    is_silent: bool


@dataclass(frozen=True, slots=True)
class Quiet:
    """From here on nothing goes wrong any more."""

    time: float


@dataclass(frozen=True, slots=True)
class Ending:
    """From here on all workers are stopped in good order."""

    time: float


What: TypeAlias = (
    Appended | Committed | Promotion | Started | Discarded | Taken | Renewal | Released | Delivery | Trim | SetBack
)


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a server did to one partition.

    Attributes:
        time: when (seconds).
        machine: number of the machine that has asked for it; 0 for nobody's.
        partition: whose.
        changes: how many changes the partition has seen then, this one included (a count).
        has_changed: whether there was one.
        what: what was asked and answered.
        posted: what has come to the log by it.
        out: what has come to the outbox by it.
    """

    time: float
    machine: int
    partition: int
    changes: int
    has_changed: bool
    what: What
    posted: Sequence[LogEntry] = ()
    out: Sequence[Outgoing] = ()


Note: TypeAlias = Step | Sent | Life | Called | Returned | Fault | Quiet | Ending


class Story:
    """Notes, in order."""

    def __init__(self) -> None:
        self.notes: list[Note] = []

    def add(self, note: Note) -> None:
        """Note what has happened."""
        self.notes.append(note)

    def lines(self, latest: int | None = None) -> list[str]:
        """Return the story, or its latest lines."""
        return [line(note) for note in (self.notes if latest is None else self.notes[-latest:])]

    def digest(self) -> str:
        """Return a hash of the whole story: equal for equal histories."""
        return blake2b("\n".join(self.lines()).encode(), digest_size=16).hexdigest()


def line(note: Note) -> str:
    """Return a note as one line."""
    if isinstance(note, Quiet | Ending):
        return f"{note.time:11.6f} --- {type(note).__name__.lower()}"
    if not isinstance(note, Step):
        return short(note)
    what = note.what
    is_common = isinstance(what, Appended | Committed | Promotion | Started | Discarded)
    told = short(what)[12:] if is_common else _told(what)
    parts = [
        f"{note.time:11.6f} m{note.machine} p{note.partition}:{note.changes}",
        "" if note.has_changed else "no",
        told,
    ]
    if note.posted and not isinstance(what, Appended):
        parts.append("log " + " ".join(f"{name_of(entry.event)}@{place_of(entry.position)}" for entry in note.posted))
    if note.out:
        parts.append("out " + " ".join(f"{name_of(out.event)}@{place_of(out.position)}" for out in note.out))
    return " ".join(part for part in parts if part)


def _told(what: Taken | Renewal | Released | Delivery | Trim | SetBack) -> str:
    if isinstance(what, Taken):
        return f"acquire by {what.worker} {what.token[:8]} for {what.lease:g} s -> {what.acquired}"
    if isinstance(what, Renewal):
        return f"renew {what.token[:8]} -> {what.is_renewed}"
    if isinstance(what, Released):
        return f"release {what.token[:8]} -> {what.is_released}"
    if isinstance(what, Trim):
        return f"trim {what.token[:8]} up to {place_of(what.upto)} -> {what.is_done}"
    if isinstance(what, SetBack):
        return f"FAIL-OVER{' in silence' if what.is_silent else ''}: {what.lost} changes are lost, {what.changes} left"
    told = " ".join(f"{name_of(out.event)}@{place_of(out.position)}" for out in what.messages)
    answer = f"{'ok' if what.delivered.is_accepted else 'GAP'} {place_of(what.delivered.watermark)}"
    return f"deliver from p{what.source} after {place_of(what.expected)}: {told or 'nothing'} -> {answer}"
