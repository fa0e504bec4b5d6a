"""What lies in a partition, as records that can be put into another one: what they are, and how they are written.

Belongs here: the commands that write a record as it was read, and what tells whether all of them are there. It must not
know how they are read (`_layouts`), nor where they belong. What is kept is moved as it is, to the byte; only what
names a partition is changed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from onwhen.storage.redis._connection import Word
from onwhen.storage.redis._keys import FIXED, PartitionKeys

__all__ = [
    "KINDS",
    "LETTER",
    "ORDER",
    "Command",
    "Digest",
    "Record",
    "Target",
    "crc_of",
    "crc_of_event",
    "id_parts",
    "named",
    "pairs",
]

KINDS: Final = (
    "subjects",
    "events",
    "timers",
    "retries",
    "dead letters",
    "history",
    "explanations",
    "window",
    "delivered",
    "bookmarks",
)

ORDER: Final = 34
"""How much timers and retries are sorted by, at the start of their values: due moment and order number (bytes)."""

LETTER: Final = 16
"""The same of dead letters: order number (bytes)."""

Command: TypeAlias = "tuple[Word, ...]"


class Record(NamedTuple):
    """Something that is kept.

    Attributes:
        kind: one of `KINDS`.
        crc: CRC-32 of its subject's name, which says where it belongs; None where that is not kept.
        words: all of it, but for what names a partition.
    """

    kind: str
    crc: int | None
    words: tuple[bytes, ...]


class _Addressed(msgspec.Struct):
    subject: str


_addressed: Final = msgspec.json.Decoder(_Addressed).decode


def crc_of(name: bytes) -> int:
    """Return what decides about a subject's partition; see `partition_of`."""
    return zlib.crc32(name)


def crc_of_event(event: bytes) -> int:
    """Return the same of whom an event is addressed to."""
    return crc_of(_addressed(event).subject.encode())


def pairs(answer: Any) -> list[tuple[bytes, Any]]:
    """Return an answer of names and values, which RESP 2 and 3 write differently, in its order."""
    if isinstance(answer, dict):
        return list(answer.items())
    if answer and isinstance(answer[0], list | tuple):
        return [(name, value) for name, value in answer]
    return list(zip(answer[::2], answer[1::2], strict=True))


def id_parts(id: bytes) -> tuple[int, int]:
    """Return both numbers of a stream's id: ids are in the order of these."""
    order, _, low = id.partition(b"-")
    return int(order), int(low)


class Digest:
    """Tells whether two layouts hold the same records, wherever they lie: count and content of each kind."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(KINDS, 0)
        self._sums = dict.fromkeys(KINDS, 0)

    def add(self, record: Record) -> None:
        """Take a record in."""
        content = blake2b(digest_size=16)
        for word in record.words:
            content.update(b"%d " % len(word))
            content.update(word)
        self.counts[record.kind] += 1
        self._sums[record.kind] = (self._sums[record.kind] + int.from_bytes(content.digest())) % (1 << 128)

    def differences(self, other: Digest) -> list[str]:
        """Return the kinds that are not the same, with the counts of both."""
        return [
            f"{kind} ({self.counts[kind]:,} and {other.counts[kind]:,})"
            for kind in KINDS
            if (self.counts[kind], self._sums[kind]) != (other.counts[kind], other._sums[kind])
        ]


class Target:
    """The commands that put records into a partition of a layout, but for those that may be there already (`recall`).

    Args:
        keys: of the partition.
        partitions: how many the layout has (a count).
    """

    def __init__(self, keys: PartitionKeys, partitions: int) -> None:
        self._keys = keys
        self._key = named(keys)
        self._partitions = partitions
        self._put: Mapping[str, Callable[..., Iterator[Command]]] = {
            "subjects": self._subject,
            "events": self._event,
            "timers": self._timer,
            "retries": self._retry,
            "dead letters": self._letter,
            "history": self._history,
            "explanations": self._explanation,
            "bookmarks": self._bookmark,
        }

    def commands(self, record: Record) -> Iterator[Command]:
        """Return what puts a record there; of those that have an order, each after the one before."""
        return self._put[record.kind](*record.words)

    def _subject(self, name: bytes, *fields: bytes) -> Iterator[Command]:
        yield "ZADD", self._keys.names, 0, name  # first: whoever removes all this finds the rest by it
        if fields:
            yield "HSET", self._keys.subject(name.decode()), *fields

    def _event(self, id: bytes, accepted: bytes, event: bytes, begun: bytes) -> Iterator[Command]:
        yield "XADD", self._keys.log, id, "a", accepted, "e", event
        if id_parts(id)[1] % 2:
            yield "ZADD", self._key["fired"], 0, id
        if begun:
            yield "HSET", self._keys.starts, id, begun

    def _timer(self, order: bytes, owner: bytes, event: bytes) -> Iterator[Command]:
        target = crc_of_event(event) % self._partitions
        yield "HSET", self._keys.timers, owner, b"%s%d %s" % (order, target, event)
        yield "ZADD", self._key["due"], 0, order + owner
        yield "ZADD", self._keys.own, 0, owner

    def _retry(self, order: bytes, which: bytes, value: bytes, begun: bytes) -> Iterator[Command]:
        yield "HSET", self._key["retries"], which, value
        yield "ZADD", self._key["waiting"], 0, order + which
        if value[ORDER : ORDER + 1] == b"1":
            yield "HINCRBY", self._keys.meta, "parked", 1
        if begun:
            yield "HSET", self._keys.starts, which, begun

    def _letter(self, order: bytes, id: bytes, value: bytes) -> Iterator[Command]:
        yield "HSET", self._keys.dead, id, value
        yield "ZADD", self._key["aside"], 0, order + id

    def _history(self, id: bytes, *fields: bytes) -> Iterator[Command]:
        yield "XADD", self._key["history"], id, *fields

    def _explanation(self, id: bytes, *fields: bytes) -> Iterator[Command]:
        yield "XADD", self._key["explained"], id, *fields

    def _bookmark(self, name: bytes, value: bytes) -> Iterator[Command]:
        yield "HSET", self._keys.marks, name, value


def named(keys: PartitionKeys) -> dict[str, bytes]:
    """Return the keys of a partition by their names in `FIXED`."""
    return dict(zip(FIXED, keys.fixed, strict=True))
