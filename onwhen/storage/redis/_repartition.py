"""Moving a stopped deployment to another number of partitions: all of it is copied into a new layout, then that counts.

Belongs here: the steps, each of which can be cut short at any moment. It must not know what is copied (`_copying`).

1. `begin` notes in the deployment's meta that a move is under way: from now on no store is opened.
2. The old partitions are closed: their mark is another one, so whoever still has them open is refused, whatever he asks
   for, and told to start again. Nothing changes there any more.
3. All is copied into a layout that nobody has used before, and read again and compared.
4. `switch` makes the new layout the one that counts, in one step. Up to here all can be undone.
5. The old layout is removed.

Cut short before 4, a move is begun anew, into yet another layout; what was copied is removed. Cut short after it, only
what is left of the old layout has to be removed. Two moves at a time do no harm: the later one counts.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from onwhen.errors import StoreCorrupt, StoreError
from onwhen.storage.redis._connection import Connection
from onwhen.storage.redis._copying import BookmarksDiffer, Copying, Progress, bookmarks_of, undelivered
from onwhen.storage.redis._deployment import MOST_PARTITIONS
from onwhen.storage.redis._keys import DeploymentKeys
from onwhen.storage.redis._layouts import Layout
from onwhen.storage.redis._moves import Moves
from onwhen.storage.redis._records import KINDS, Digest

if TYPE_CHECKING:
    from onwhen.storage.redis._store import RedisStore

__all__ = ["BookmarksDiffer", "Moved", "Repartition", "Survey", "repartitioning"]

_CATCH_UP: Final = 60.0  # seconds that replicas may take to have all that was copied
_AGAIN: Final = 0.1  # seconds
_REPLICA: Final = re.compile(r"slave\d+$")  # what INFO calls them
_MOVED_ONCE: Final = ("subjects", "events", "timers", "retries", "dead letters", "history", "explanations")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a move has to do, or to go on with.

    Attributes:
        before: number of partitions now.
        workers: ids of the workers that live.
        owners: partition -> who owns it.
        counts: how many records there are of each kind (counts).
        undelivered: messages that are on their way from one partition to another (a count).
        largest: subjects of the largest new partition (a count).
        bookmarks: names of bookmarks that differ where they come together.
        is_moving: a move was begun, and has not ended.
        is_left: something of an earlier move is to be removed.
    """

    before: int
    workers: tuple[str, ...] = ()
    owners: Mapping[int, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    undelivered: int = 0
    largest: int = 0
    bookmarks: tuple[str, ...] = ()
    is_moving: bool = False
    is_left: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What a move has done.

    Attributes:
        before: number of partitions before.
        after: the same now.
        counts: how many records of each kind were copied, and found again (counts).
        undelivered: messages, among the pending events now, that were on their way before (a count).
    """

    before: int
    after: int
    counts: Mapping[str, int]
    undelivered: int


class Repartition:
    """Moves what is kept under one prefix.

    Args:
        connection: the way there; open.
        keys: names of the deployment's keys.
        forget_bookmarks: leave out bookmarks that come together with different values; else they are an error.
        progress: called with a kind of records and how many more of it were done.
    """

    def __init__(
        self,
        connection: Connection,
        keys: DeploymentKeys,
        *,
        forget_bookmarks: bool = False,
        progress: Progress = lambda kind, number: None,
    ) -> None:
        self._connection = connection
        self._moves = Moves(connection, keys)
        self._forget_bookmarks = forget_bookmarks
        self._progress = progress

    # -- what can be asked for

    async def survey(self, partitions: int) -> Survey:
        """Find out what there is to be done, and change nothing; it may be in use meanwhile.

        Args:
            partitions: how many there are to be (a count).
        """
        state = await self._moves.state()
        old = self._moves.layout(state.layout, state.partitions)
        counts = dict.fromkeys(KINDS, 0)
        sizes = [0] * _valid(partitions)
        for partition in range(old.partitions):
            for kind, size in (await old.sizes(partition)).items():
                counts[kind] += size
            async for record in old.records(partition, ("subjects",)):
                assert record.crc is not None
                sizes[record.crc % partitions] += 1
        return Survey(
            before=state.partitions,
            workers=await self._moves.workers(),
            owners=await self._moves.owners(old),
            counts=counts,
            undelivered=sum([1 async for _ in undelivered(self._connection, old)]),
            largest=max(sizes),
            bookmarks=tuple(await self._differing(old, partitions)),
            is_moving=bool(state.moving),
            is_left=bool(state.leaving),
        )

    async def run(self, partitions: int) -> Moved:
        """Move all of it; if this was cut short before, do what is left of it.

        Args:
            partitions: how many there are to be (a count).

        Raises:
            StoreInUse: workers live, or own partitions; nothing was changed.
            StoreFormatError: there is no deployment, or another version of onwhen has made it.
            BookmarksDiffer: some would have to be forgotten; nothing was changed.
            StoreCorrupt: what was copied is not what was read; the old layout is as it was, and open.
            StoreError: it was cut short. Run it again, or undo it.
            ValueError: there cannot be so many partitions, or there are as many already.
        """
        moves = self._moves
        await moves.clean()
        state = await moves.state()
        if state.partitions == _valid(partitions) and not state.moving:
            raise ValueError(f"there are {partitions} partitions already")
        old = moves.layout(state.layout, state.partitions)
        await moves.refuse_workers(old)
        for name in () if self._forget_bookmarks else await self._differing(old, partitions):
            raise BookmarksDiffer(name, old.partitions)
        move = await moves.begin(partitions, state.layout)
        await moves.close(old, move)
        await self._caught_up(old)
        new = moves.layout(move.layout, partitions)
        copying = Copying(self._connection, old, new, self._progress, forget_bookmarks=self._forget_bookmarks)
        try:
            await copying.run()
            await self._compare(copying, old, new)
        except BookmarksDiffer:  # since we have looked
            await self.undo()
            raise
        except StoreCorrupt as error:
            await self.undo()
            raise StoreCorrupt(f"{error}; all is as it was, in {old.partitions} partitions") from error
        await self._caught_up(new)
        await moves.switch(move, new)
        await self._caught_up(new)  # before the old one goes
        await moves.clean()
        return Moved(
            before=old.partitions,
            after=partitions,
            counts=copying.expected.counts,
            undelivered=copying.undelivered,
        )

    async def undo(self) -> bool:
        """Give up a move that was begun and has not ended; all is as before.

        Returns:
            False if there is none: none was begun, or it has come too far to be undone.
        """
        moves = self._moves
        await moves.clean()
        state = await moves.state()
        if not state.moving:
            return False
        # Ours from now on: somebody who still moves cannot switch any more, before the old partitions are open.
        move = await moves.begin(state.partitions, state.layout)
        await moves.give_up(moves.layout(state.layout, state.partitions), move)
        return True

    # -- what has to be seen to

    async def _compare(self, copying: Copying, old: Layout, new: Layout) -> None:
        """Read all that was copied, and see that it is what was to be.

        Raises:
            StoreCorrupt: it is not.
        """
        found, counts = Digest(), dict.fromkeys(KINDS, 0)
        for partition in range(old.partitions):
            for kind, size in (await old.sizes(partition)).items():
                counts[kind] += size
        counts["events"] += copying.undelivered
        for partition in range(new.partitions):
            async for record in new.records(partition):
                if record.crc is not None and record.crc % new.partitions != partition:
                    raise StoreCorrupt(f"{record.kind} were found in partition {partition} that belong elsewhere")
                found.add(record)
                self._progress("compared", 1)
        if differences := copying.expected.differences(found):
            raise StoreCorrupt(f"what was written is not what was read: {', '.join(differences)}")
        if missed := [kind for kind in _MOVED_ONCE if counts[kind] != found.counts[kind]]:
            raise StoreCorrupt(f"not all was read, or too much: {', '.join(missed)}")

    async def _caught_up(self, layout: Layout) -> None:
        """Wait until the replicas have what was written: one of them may have to take over."""
        try:
            async with asyncio.timeout(_CATCH_UP):
                for keys in layout.keys:
                    await self._caught_up_with(keys.meta)
        except TimeoutError:
            raise StoreError(
                f"a replica of {self._connection} does not catch up within {_CATCH_UP:g} s; see to it, and run onwhen "
                f"repartition again"
            ) from None

    async def _caught_up_with(self, key: bytes) -> None:
        wanted: int | None = None
        while True:
            offset, replicas = _replication(await self._connection.ask("INFO", "replication", key=key))
            wanted = offset if wanted is None else wanted
            if all(replica >= wanted for replica in replicas):
                return
            await asyncio.sleep(_AGAIN)

    async def _differing(self, old: Layout, partitions: int) -> list[str]:
        """Return the names of bookmarks that would come together with different values."""
        return sorted(
            {
                name
                for found in (await bookmarks_of(old, partitions)).values()
                for name, values in found.items()
                if len(values) > 1
            }
        )


@asynccontextmanager
async def repartitioning(store: RedisStore, **options: Any) -> AsyncIterator[Repartition]:
    """Give what moves a store, which is not opened for that: one that is on its way cannot be.

    Args:
        store: where it is.
        **options: see `Repartition`.
    """
    deployment = store._deployment
    await deployment.connection.open()
    try:
        yield Repartition(deployment.connection, deployment.keys, **options)
    finally:
        await deployment.connection.close()


def _valid(partitions: int) -> int:
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise ValueError(f"partitions={partitions} must be from 1 to {MOST_PARTITIONS:,}")
    return partitions


def _replication(answer: bytes | str) -> tuple[int, list[int]]:
    """Return how far a server has come, and how far each of its replicas has (bytes); -1 for one that has just come."""
    text = answer.decode() if isinstance(answer, bytes) else answer
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    replicas = [dict(part.split("=", 1) for part in facts[name].split(",")) for name in facts if _REPLICA.match(name)]
    reached = [int(replica["offset"]) if replica["state"] == "online" else -1 for replica in replicas]
    return int(facts.get("master_repl_offset", 0)), reached
