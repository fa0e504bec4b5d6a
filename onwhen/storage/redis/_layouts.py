"""All that lies in the partitions of one layout, read as records.

Belongs here: reading the keys of partitions that nobody writes to, in pages, and removing them. It must not know when
that is done, nor what becomes of the records.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from onwhen.errors import StoreCorrupt
from onwhen.storage.redis._connection import Connection, Word
from onwhen.storage.redis._keys import DeploymentKeys
from onwhen.storage.redis._records import KINDS, LETTER, ORDER, Record, crc_of, crc_of_event, named, pairs

__all__ = ["Layout"]

_PAGE: Final = 200  # records that are read at once, if they are small (a count)
_FIRST: Final = 4  # while it is not known how large they are
_ROOM: Final = 16 << 20  # bytes of them; of streams, all partitions' together, for these are read at the same time

_decode: Final = msgspec.json.decode


class _Paging:
    """How many records to read at once, by how large those before were.

    Args:
        room: how much a page may be, about (bytes).
    """

    def __init__(self, room: float) -> None:
        self.count = _FIRST
        self._room = room

    def seen(self, number: int, size: int) -> None:
        """Take note of a page: records (a count) and bytes."""
        self.count = min(_PAGE, max(1, int(self._room * number / max(size, 1))), 4 * self.count)


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
        return named(self.keys[partition])["delivered"]

    # -- how much there is

    async def sizes(self, partition: int) -> dict[str, int]:
        """Return how many records of each kind a partition has, as the server counts them."""
        key = named(self.keys[partition])
        ask = {
            "subjects": ("ZCARD", key["names"]),
            "events": ("XLEN", key["log"]),
            "timers": ("ZCARD", key["due"]),
            "retries": ("ZCARD", key["waiting"]),
            "dead letters": ("ZCARD", key["aside"]),
            "history": ("XLEN", key["history"]),
            "explanations": ("XLEN", key["explained"]),
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
            "explanations": self._explanations,
            "window": self._window,
            "delivered": self._delivered,
            "bookmarks": self._bookmarks,
        }
        for kind in kinds:
            async for record in readers[kind](partition):
                yield record

    async def _subjects(self, partition: int) -> AsyncIterator[Record]:
        keys = self.keys[partition]
        paging = _Paging(_ROOM)
        async for names in self._members(keys.names, paging):
            stored = await self._connection.ask_many([("HGETALL", keys.subject(name.decode())) for name in names])
            found = [[word for pair in sorted(pairs(answer)) for word in pair] for answer in stored]
            paging.seen(len(names), sum([len(word) for fields in found for word in fields]))
            for name, fields in zip(names, found, strict=True):
                yield Record("subjects", crc_of(name), (name, *fields))

    async def _events(self, partition: int) -> AsyncIterator[Record]:
        starts = await self.starts(partition)
        async for id, (_, accepted, _, event) in self._stream(self.keys[partition].log):
            begun = starts.get(id, b"")
            yield Record("events", crc_of_event(event), (id, accepted, event, begun))

    async def _timers(self, partition: int) -> AsyncIterator[Record]:
        key = named(self.keys[partition])
        async for order, owner, value in self._ordered(key["due"], key["timers"], ORDER):
            size, _, rest = owner.partition(b":")
            _, _, event = value[ORDER:].partition(b" ")  # between them: the partition that it is addressed to
            yield Record("timers", crc_of(rest[: int(size)]), (order, owner, event))

    async def _retries(self, partition: int) -> AsyncIterator[Record]:
        key, starts = named(self.keys[partition]), await self.starts(partition)
        async for order, which, value in self._ordered(key["waiting"], key["retries"], ORDER):
            subject = _decode(value[ORDER + 1 :])[0]
            yield Record("retries", crc_of(subject.encode()), (order, which, value, starts.get(which, b"")))

    async def _letters(self, partition: int) -> AsyncIterator[Record]:
        key = named(self.keys[partition])
        async for order, id, value in self._ordered(key["aside"], key["dead"], LETTER):
            subject = _decode(value[LETTER:])[1]
            yield Record("dead letters", crc_of(subject.encode()), (order, id, value))

    async def _history(self, partition: int) -> AsyncIterator[Record]:
        async for id, fields in self._stream(named(self.keys[partition])["history"]):
            subject = dict(pairs(fields))[b"s"]
            yield Record("history", crc_of(subject), (id, *fields))

    async def _explanations(self, partition: int) -> AsyncIterator[Record]:
        async for id, fields in self._stream(named(self.keys[partition])["explained"]):
            subject = dict(pairs(fields))[b"s"]
            yield Record("explanations", crc_of(subject), (id, *fields))

    async def _window(self, partition: int) -> AsyncIterator[Record]:
        key, start = named(self.keys[partition]), 0
        while page := await self._connection.ask("LRANGE", key["window"], start, start + _PAGE - 1):
            positions = await self._connection.ask("HMGET", key["seen"], *page)
            for which, position in zip(page, positions, strict=True):
                yield Record("window", None, (which, position or b""))
            start += len(page)

    async def _delivered(self, partition: int) -> AsyncIterator[Record]:
        key, start = named(self.keys[partition])["delivered"], 0
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

    async def _members(self, key: bytes, paging: _Paging) -> AsyncIterator[list[bytes]]:
        """Go through a sorted set whose members are in the order of their bytes, in pages."""
        after: Word = "-"
        while page := await self._connection.ask("ZRANGEBYLEX", key, after, "+", "LIMIT", 0, paging.count):
            yield page
            after = b"(" + page[-1]

    async def _ordered(self, index: bytes, values: bytes, width: int) -> AsyncIterator[tuple[bytes, bytes, bytes]]:
        """Go through what is kept in a hash in the order of a sorted set: what it is ordered by, key and value."""
        paging = _Paging(_ROOM)
        async for members in self._members(index, paging):
            found = await self._connection.ask("HMGET", values, *(member[width:] for member in members))
            paging.seen(len(members), sum([len(value or b"") for value in found]))
            for member, value in zip(members, found, strict=True):
                if value is None:
                    raise StoreCorrupt(f"{values.decode()} in Redis lacks something that {index.decode()} names")
                yield member[:width], member[width:], value

    async def _stream(self, key: bytes) -> AsyncIterator[tuple[bytes, Sequence[bytes]]]:
        after, paging = "-", _Paging(_ROOM / self.partitions)
        while page := await self._connection.ask("XRANGE", key, after, "+", "COUNT", paging.count):
            paging.seen(len(page), sum([len(word) for _, fields in page for word in fields]))
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
