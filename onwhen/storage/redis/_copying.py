"""Everything of one layout into another: each record to where its subject belongs, in the order that it had.

Belongs here: what goes where, and in which order. It must not know how a record is read or written (`_layouts`), nor
what has to be seen to before and after (`_repartition`).
"""

from __future__ import annotations

import heapq
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from math import gcd
from typing import Final, TypeAlias

from onwhen.engine.events import Event
from onwhen.errors import StoreError
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Connection
from onwhen.storage.redis._encoding import accepted_key
from onwhen.storage.redis._layouts import Layout
from onwhen.storage.redis._records import Command, Digest, Record, Target, crc_of, id_parts, named

__all__ = ["BookmarksDiffer", "Copying", "Progress", "bookmarks_of", "undelivered"]

Progress: TypeAlias = Callable[[str, int], None]
"""Called with a kind of records, and how many more of it were done."""

_BATCH: Final = 1_000  # commands that are sent at once
_TOGETHER: Final = 500  # records in one script (a count)
_ROOM: Final = 4 << 20  # bytes of them; it may be one record more
_LOW: Final = 23  # bits of an id that tell it from the same one of a server that had lost this

_Ordered: TypeAlias = "tuple[tuple[int, int], int, Record]"


class BookmarksDiffer(StoreError):
    """A source was read to different places for subjects that come together in one partition."""

    def __init__(self, name: str, partitions: int) -> None:
        super().__init__(
            f"source {name!r} was read to different places for subjects that come together in one partition, and only "
            f"whoever reads it can tell where to go on; choose a multiple of {partitions} partitions, which keeps them "
            f"apart, or have such places forgotten (--forget-bookmarks): then these sources are read from the beginning"
        )


class Copying:
    """A copy on its way.

    Args:
        connection: the way to both layouts.
        old: where it is read; nobody writes there.
        new: where it is written; nothing is there, and nobody looks.
        forget_bookmarks: leave out those that come together with different values; else they are an error.
        progress: called now and then.

    Attributes:
        expected: what has to be found in the new layout in the end.
        undelivered: messages among the events that were on their way between partitions (a count).
    """

    def __init__(
        self, connection: Connection, old: Layout, new: Layout, progress: Progress, *, forget_bookmarks: bool
    ) -> None:
        self.expected = Digest()
        self.undelivered = 0
        self._connection = connection
        self._old = old
        self._new = new
        self._forget_bookmarks = forget_bookmarks
        self._progress = progress
        self._targets = [Target(keys, new.partitions) for keys in new.keys]
        self._commands: list[Command] = []
        self._size = 0
        self._recalled: dict[int, list[Record]] = {}
        self._changed: dict[tuple[int, bytes], bytes] = {}  # ids that were taken in the new layout already

    async def run(self) -> None:
        """Copy all of it."""
        facts = [await self._old.facts(partition) for partition in range(self._old.partitions)]
        order = max(int(fact.get(b"n", 0)) for fact in facts)
        for partition in range(self._old.partitions):
            async for record in self._old.records(partition, ("subjects", "timers", "retries", "dead letters")):
                await self._put(record)
        order = await self._events(order)
        for kind in ("history", "explanations"):
            await self._merged(kind, _id_order, self._changing_ids())
        await self._window()
        for partition in range(self._old.partitions):
            async for record in self._old.records(partition, ("delivered",)):
                for target in self._candidates(partition):
                    await self._recall(record, target)
        for target in tuple(self._recalled):
            await self._recall_now(target)
        await self._bookmarks()
        await self._facts(facts, order)
        await self._flush()

    def _candidates(self, partition: int) -> range:
        """Return the new partitions that subjects of an old one may belong to."""
        common = gcd(self._old.partitions, self._new.partitions)
        return range(partition % common, self._new.partitions, common)

    # -- the log, and what is on its way to it

    async def _events(self, order: int) -> int:
        """Copy pending events in the order of their ids, then the messages that were not delivered yet.

        Args:
            order: the greatest order number that was given.

        Returns:
            The same, of the new layout.
        """
        await self._merged("events", _id_order, self._changing_ids())
        seconds, micros = await self._connection.ask("TIME", key=self._old.keys[0].meta)
        now = int(seconds) * 1_000_000 + int(micros)
        order = max(order + 1, now)
        low = secrets.randbits(_LOW) << 1
        async for id, event in undelivered(self._connection, self._old):
            order += 1
            self.undelivered += 1
            new_id = b"%d-%d" % (order, low | id_parts(id)[1] & 1)
            crc = crc_of(Event.from_json(event).subject.encode())
            await self._put(Record("events", crc, (new_id, b"%d" % now, event, b"")))
        return order

    def _changing_ids(self) -> Callable[[int, int, Record], Record]:
        """Return what gives a record another id, if the new stream has that already: ids of several were its own."""
        latest = [(0, 0)] * self._new.partitions

        def changed(partition: int, target: int, record: Record) -> Record:
            id = record.words[0]
            parts = id_parts(id)
            if parts <= latest[target]:
                order, low = latest[target]
                parts = order, low + 2 - (low ^ parts[1]) % 2  # whether it is odd says that it was a timer
                new_id = b"%d-%d" % parts
                if record.kind == "events":
                    self._changed[partition, id] = new_id
                record = record._replace(words=(new_id, *record.words[1:]))
            latest[target] = parts
            return record

        return changed

    async def _window(self) -> None:
        """Copy what is known of accepted events; whose they were is not, so all go wherever they may belong."""
        orders = [0] * self._old.partitions

        def age(partition: int, record: Record) -> tuple[int, int]:
            if record.words[1]:  # a commit's has none
                orders[partition] = id_parts(record.words[1])[0]
            return orders[partition], 0

        def moved(partition: int, target: int, record: Record) -> Record:
            which, id = record.words
            return record._replace(words=(which, self._changed.get((partition, id), id)))

        await self._merged("window", age, moved)

    async def _merged(
        self,
        kind: str,
        age: Callable[[int, Record], tuple[int, int]],
        changed: Callable[[int, int, Record], Record],
    ) -> None:
        """Copy what has an order across partitions, oldest first."""
        async for partition, record in _merge(
            [self._old.records(partition, (kind,)) for partition in range(self._old.partitions)], age
        ):
            if record.crc is not None:
                target = record.crc % self._new.partitions
                await self._put(changed(partition, target, record), target)
            else:
                for target in self._candidates(partition):
                    await self._recall(changed(partition, target, record), target)

    # -- bookmarks, and what is noted of a partition

    async def _bookmarks(self) -> None:
        for target, found in (await bookmarks_of(self._old, self._new.partitions)).items():
            for name, values in found.items():
                if len(values) == 1:
                    await self._put(Record("bookmarks", None, (name.encode(), values.pop().encode())), target)
                elif not self._forget_bookmarks:
                    raise BookmarksDiffer(name, self._old.partitions)

    async def _facts(self, facts: Sequence[Mapping[bytes, bytes]], order: int) -> None:
        """Write what is noted of each partition, but for the mark without which nobody can use it."""
        for partition, keys in enumerate(self._new.keys):
            self._commands.append(("HSET", keys.meta, "n", order))
            before = [facts[old] for old in range(self._old.partitions) if partition in self._candidates(old)]
            if any(b"token" in fact for fact in before):
                # Its owner was gone without a word, so whoever comes next has to be careful; see `Acquired`.
                self._commands.append(("HSET", keys.meta, "token", "moved", "until", 0, "worker", ""))
            await self._room()

    # -- writing

    async def _recall(self, record: Record, target: int) -> None:
        """Write what an earlier move may have copied to several partitions, which come together again now."""
        waiting = self._recalled.setdefault(target, [])
        if waiting and waiting[0].kind != record.kind:
            await self._recall_now(target)
        waiting.append(record)
        if len(waiting) >= _TOGETHER:
            await self._recall_now(target)

    async def _recall_now(self, target: int) -> None:
        waiting = self._recalled[target]
        if not waiting:
            return
        key = named(self._new.keys[target])
        words = [word for record in waiting for word in record.words]
        are_new = await self._connection.run(
            _scripts.RECALL, [key["seen"], key["window"], key["delivered"]], [waiting[0].kind, *words]
        )
        for record, is_new in zip(waiting, are_new, strict=True):
            if is_new:
                self.expected.add(record)
        self._progress(waiting[0].kind, len(waiting))
        waiting.clear()

    async def _put(self, record: Record, target: int | None = None) -> None:
        if target is None:
            assert record.crc is not None
            target = record.crc % self._new.partitions
        self.expected.add(record)
        self._commands += self._targets[target].commands(record)
        self._size += sum(map(len, record.words))
        self._progress(record.kind, 1)
        await self._room()

    async def _room(self) -> None:
        if len(self._commands) >= _BATCH or self._size >= _ROOM:
            await self._flush()

    async def _flush(self) -> None:
        if self._commands:
            await self._connection.ask_many(self._commands)
        self._commands, self._size = [], 0


async def undelivered(connection: Connection, layout: Layout) -> AsyncIterator[tuple[bytes, bytes]]:
    """Go through the messages that are in an outbox and not where they belong: id and event, each outbox in order."""
    facts = [await layout.facts(partition) for partition in range(layout.partitions)]
    for source in range(layout.partitions):
        reached = [fact.get(b"from:%d" % source) for fact in facts]
        async for id, target, event in layout.outbox(source):
            watermark = reached[target]
            if watermark and id_parts(id) <= id_parts(watermark):
                continue
            key = accepted_key(Event.from_json(event))
            # The turn that sent it may have been run again, after its partition had lost it.
            if await connection.ask("ZSCORE", layout.delivered(target), key) is None:
                yield id, event


async def bookmarks_of(old: Layout, partitions: int) -> dict[int, dict[str, set[str]]]:
    """Return, for each partition of a layout to be, the bookmarks by name with the values that the old ones have."""
    common = gcd(old.partitions, partitions)
    found: dict[int, dict[str, set[str]]] = {}
    for partition in range(old.partitions):
        async for record in old.records(partition, ("bookmarks",)):
            name, value = (word.decode() for word in record.words)
            for target in range(partition % common, partitions, common):
                found.setdefault(target, {}).setdefault(name, set()).add(value)
    return found


def _id_order(partition: int, record: Record) -> tuple[int, int]:
    return id_parts(record.words[0])


async def _merge(
    sources: Sequence[AsyncIterator[Record]], age: Callable[[int, Record], tuple[int, int]]
) -> AsyncIterator[tuple[int, Record]]:
    """Go through several sources at once, oldest first, with the number of the source."""
    heap: list[_Ordered] = []
    for number, source in enumerate(sources):
        if (first := await anext(source, None)) is not None:
            heap.append((age(number, first), number, first))
    heapq.heapify(heap)
    while heap:
        _, number, record = heap[0]
        yield number, record
        following = await anext(sources[number], None)
        if following is None:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (age(number, following), number, following))
