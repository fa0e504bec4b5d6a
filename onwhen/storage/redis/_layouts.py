"""All that lies in the partitions of one layout, as records that can be put into another one.

Belongs here: reading the keys of partitions that nobody writes to, and the commands that write the same elsewhere. It
must not know when that is done. What is kept is moved as it is, to the byte; only what names a partition is changed.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec

from onwhen.storage.redis._connection import Connection, Word
from onwhen.storage.redis._keys import FIXED, DeploymentKeys, PartitionKeys

__all__ = ["KINDS", "Command", "Digest", "Layout", "Record", "Target", "crc_of", "id_parts", "pairs"]

KINDS: Final = (
    "subjects",
    "events",
    "timers",
    "retries",
    "dead letters",
    "history",
    "window",
    "delivered",
    "bookmarks",
)

_PAGE: Final = 200  # records that are read at once (a count)
_ORDER: Final = 34  # characters that timers and retries are sorted by: due moment and order number
_LETTER: Final = 16  # the same of dead letters: order number

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
_decode: Final = msgspec.json.decode


def crc_of(name: bytes) -> int:
    """Return what decides about a subject's partition; see `partition_of`."""
    return zlib.crc32(name)


def _crc_of_event(event: bytes) -> int:
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


class Layout:
    """The partitions of a layout.

    Args:
        connection: the way there, open.
        keys: names of the deployment's keys.
        number: of the layout.
        partitions: how many it has (a count).

    Attributes:
        partitions: the same.
        keys: those of each partition.
    """

    def __init__(self, connection: Connection, keys: DeploymentKeys, number: int, partitions: int) -> None:
        self.number = number
        self.partitions = partitions
        self.keys = [keys.partition(n, number) for n in range(partitions)]
        self._connection = connection

    def delivered(self, partition: int) -> bytes:
        """Return the key of what came to a partition from others."""
        return _named(self.keys[partition])["delivered"]

    # -- how much there is

    async def sizes(self, partition: int) -> dict[str, int]:
        """Return how many records of each kind a partition has, as the server counts them."""
        key = _named(self.keys[partition])
        ask = {
            "subjects": ("ZCARD", key["names"]),
            "events": ("XLEN", key["log"]),
            "timers": ("ZCARD", key["due"]),
            "retries": ("ZCARD", key["waiting"]),
            "dead letters": ("ZCARD", key["aside"]),
            "history": ("XLEN", key["history"]),
            "window": ("LLEN", key["window"]),
            "delivered": ("ZCARD", key["delivered"]),
            "bookmarks": ("HLEN", key["bookmarks"]),
        }
        return dict(zip(ask, await self._connection.ask_many(list(ask.values())), strict=True))

    async def facts(self, partition: int) -> dict[bytes, bytes]:
        """Return what is noted about a partition as a whole."""
        return dict(pairs(await self._connection.ask("HGETALL", self.keys[partition].meta)))

    async def starts(self, partition: int) -> dict[bytes, bytes]:
        """Return how often the handling of log entries and retries has begun, where that was noted."""
        return dict(pairs(await self._connection.ask("HGETALL", self.keys[partition].starts)))

    # -- what there is

    async def records(self, partition: int, kinds: Sequence[str] = KINDS) -> AsyncIterator[Record]:
        """Go through all records of some kinds in a partition, each kind in its order."""
        readers = {
            "subjects": self._subjects,
            "events": self._events,
            "timers": self._timers,
            "retries": self._retries,
            "dead letters": self._letters,
            "history": self._history,
            "window": self._window,
            "delivered": self._delivered,
            "bookmarks": self._bookmarks,
        }
        for kind in kinds:
            async for record in readers[kind](partition):
                yield record

    async def _subjects(self, partition: int) -> AsyncIterator[Record]:
        keys = self.keys[partition]
        async for names in self._members(keys.names):
            stored = await self._connection.ask_many([("HGETALL", keys.subject(name.decode())) for name in names])
            for name, answer in zip(names, stored, strict=True):
                fields = (word for pair in sorted(pairs(answer)) for word in pair)
                yield Record("subjects", crc_of(name), (name, *fields))

    async def _events(self, partition: int) -> AsyncIterator[Record]:
        starts = await self.starts(partition)
        async for id, (_, accepted, _, event) in self._stream(self.keys[partition].log):
            begun = starts.get(id, b"")
            yield Record("events", _crc_of_event(event), (id, accepted, event, begun))

    async def _timers(self, partition: int) -> AsyncIterator[Record]:
        key = _named(self.keys[partition])
        async for order, owner, value in self._ordered(key["due"], key["timers"], _ORDER):
            size, _, rest = owner.partition(b":")
            _, _, event = value[_ORDER:].partition(b" ")  # between them: the partition that it is addressed to
            yield Record("timers", crc_of(rest[: int(size)]), (order, owner, event))

    async def _retries(self, partition: int) -> AsyncIterator[Record]:
        key, starts = _named(self.keys[partition]), await self.starts(partition)
        async for order, which, value in self._ordered(key["waiting"], key["retries"], _ORDER):
            subject = _decode(value[_ORDER + 1 :])[0]
            yield Record("retries", crc_of(subject.encode()), (order, which, value, starts.get(which, b"")))

    async def _letters(self, partition: int) -> AsyncIterator[Record]:
        key = _named(self.keys[partition])
        async for order, id, value in self._ordered(key["aside"], key["dead"], _LETTER):
            subject = _decode(value[_LETTER:])[1]
            yield Record("dead letters", crc_of(subject.encode()), (order, id, value))

    async def _history(self, partition: int) -> AsyncIterator[Record]:
        async for id, fields in self._stream(_named(self.keys[partition])["history"]):
            subject = dict(pairs(fields))[b"s"]
            yield Record("history", crc_of(subject), (id, *fields))

    async def _window(self, partition: int) -> AsyncIterator[Record]:
        key, start = _named(self.keys[partition]), 0
        while page := await self._connection.ask("LRANGE", key["window"], start, start + _PAGE - 1):
            positions = await self._connection.ask("HMGET", key["seen"], *page)
            for which, position in zip(page, positions, strict=True):
                yield Record("window", None, (which, position or b""))
            start += len(page)

    async def _delivered(self, partition: int) -> AsyncIterator[Record]:
        key, start = _named(self.keys[partition])["delivered"], 0
        while page := pairs(await self._connection.ask("ZRANGE", key, start, start + _PAGE - 1, "WITHSCORES")):
            for which, score in page:
                yield Record("delivered", None, (which, b"%d" % int(float(score))))
            start += len(page)

    async def _bookmarks(self, partition: int) -> AsyncIterator[Record]:
        for name, value in pairs(await self._connection.ask("HGETALL", self.keys[partition].marks)):
            yield Record("bookmarks", None, (name, value))

    async def outbox(self, partition: int) -> AsyncIterator[tuple[bytes, int, bytes]]:
        """Go through the messages for other partitions: id, target, event."""
        async for id, (_, target, _, event) in self._stream(self.keys[partition].out):
            yield id, int(target), event

    # -- how it is read

    async def _members(self, key: bytes) -> AsyncIterator[list[bytes]]:
        """Go through a sorted set whose members are in the order of their bytes, in pages."""
        after: Word = "-"
        while page := await self._connection.ask("ZRANGEBYLEX", key, after, "+", "LIMIT", 0, _PAGE):
            yield page
            after = b"(" + page[-1]

    async def _ordered(self, index: bytes, values: bytes, width: int) -> AsyncIterator[tuple[bytes, bytes, bytes]]:
        """Go through what is kept in a hash in the order of a sorted set: what it is ordered by, key and value."""
        async for members in self._members(index):
            found = await self._connection.ask("HMGET", values, *(member[width:] for member in members))
            for member, value in zip(members, found, strict=True):
                yield member[:width], member[width:], value

    async def _stream(self, key: bytes) -> AsyncIterator[tuple[bytes, Sequence[bytes]]]:
        after = "-"
        while page := await self._connection.ask("XRANGE", key, after, "+", "COUNT", _PAGE):
            for id, fields in page:
                yield id, fields
            after = f"({id.decode()}"

    # -- removing it

    async def remove(self) -> None:
        """Remove all keys; called again after it was cut short, it goes on."""
        for keys in self.keys:
            while names := await self._connection.ask("ZRANGEBYLEX", keys.names, "-", "+", "LIMIT", 0, _PAGE):
                # The names last: as long as one is there, its subject is found.
                await self._connection.ask_many([("UNLINK", keys.subject(name.decode())) for name in names])
                await self._connection.ask("ZREM", keys.names, *names)
            await self._connection.ask_many([("UNLINK", key) for key in keys.fixed])


class Target:
    """The commands that put records into a partition of a layout.

    Args:
        keys: of the partition.
        partitions: how many the layout has (a count).
    """

    def __init__(self, keys: PartitionKeys, partitions: int) -> None:
        self._keys = keys
        self._key = _named(keys)
        self._partitions = partitions
        self._put: Mapping[str, Callable[..., Iterator[Command]]] = {
            "subjects": self._subject,
            "events": self._event,
            "timers": self._timer,
            "retries": self._retry,
            "dead letters": self._letter,
            "history": self._history,
            "window": self._window,
            "delivered": self._delivered,
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
        target = _crc_of_event(event) % self._partitions
        yield "HSET", self._keys.timers, owner, b"%s%d %s" % (order, target, event)
        yield "ZADD", self._key["due"], 0, order + owner
        yield "ZADD", self._keys.own, 0, owner

    def _retry(self, order: bytes, which: bytes, value: bytes, begun: bytes) -> Iterator[Command]:
        yield "HSET", self._key["retries"], which, value
        yield "ZADD", self._key["waiting"], 0, order + which
        if value[_ORDER : _ORDER + 1] == b"1":
            yield "HINCRBY", self._keys.meta, "parked", 1
        if begun:
            yield "HSET", self._keys.starts, which, begun

    def _letter(self, order: bytes, id: bytes, value: bytes) -> Iterator[Command]:
        yield "HSET", self._keys.dead, id, value
        yield "ZADD", self._key["aside"], 0, order + id

    def _history(self, id: bytes, *fields: bytes) -> Iterator[Command]:
        yield "XADD", self._key["history"], id, *fields

    def _window(self, which: bytes, position: bytes) -> Iterator[Command]:
        yield "HSET", self._key["seen"], which, position
        yield "RPUSH", self._key["window"], which

    def _delivered(self, which: bytes, score: bytes) -> Iterator[Command]:
        yield "ZADD", self._key["delivered"], score, which

    def _bookmark(self, name: bytes, value: bytes) -> Iterator[Command]:
        yield "HSET", self._keys.marks, name, value


def _named(keys: PartitionKeys) -> dict[str, bytes]:
    return dict(zip(FIXED, keys.fixed, strict=True))
