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
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from onwhen.errors import StoreCorrupt, StoreError, StoreFormatError, StoreInUse
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Connection, Word
from onwhen.storage.redis._copying import BookmarkRule, Copying, Progress, bookmarks_of, differing, undelivered
from onwhen.storage.redis._deployment import FORMAT, MOST_PARTITIONS
from onwhen.storage.redis._keys import DeploymentKeys, PartitionKeys
from onwhen.storage.redis._lanes import refusal
from onwhen.storage.redis._layouts import KINDS, Digest, Layout

__all__ = ["Moved", "Repartition", "Survey"]

_CLOSED: Final = "moving"  # what a partition is marked with while it is closed
_MICROSECONDS: Final = 1_000_000
_CATCH_UP: Final = 60.0  # seconds that replicas may take to have all that was copied
_AGAIN: Final = 0.1  # seconds
_MOVED_ONCE: Final = ("subjects", "events", "timers", "retries", "dead letters", "history")


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


@dataclass(frozen=True, slots=True)
class _State:
    """What the deployment's meta says."""

    partitions: int
    layout: int
    moving: str
    leaving: tuple[tuple[int, int], ...]


class Repartition:
    """Moves what is kept under one prefix.

    Args:
        connection: the way there; open.
        keys: names of the deployment's keys.
        bookmarks: decides about bookmarks that differ where they come together.
        progress: called with a kind of records and how many more of it were done.
    """

    def __init__(
        self,
        connection: Connection,
        keys: DeploymentKeys,
        *,
        bookmarks: BookmarkRule = lambda name, values: None,
        progress: Progress = lambda kind, number: None,
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._bookmarks = bookmarks
        self._progress = progress

    # -- what can be asked for

    async def survey(self, partitions: int) -> Survey:
        """Find out what there is to be done, and change nothing; it may be in use meanwhile.

        Args:
            partitions: how many there are to be (a count).
        """
        state = await self._state()
        old = self._layout(state.layout, state.partitions)
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
            workers=await self._workers(),
            owners=await self._owners(old),
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
            StoreCorrupt: what was copied is not what was read; the old layout is as it was, and open.
            StoreError: it was cut short. Run it again, or undo it.
            ValueError: there cannot be so many partitions, or there are as many already.
        """
        await self._clean()
        state = await self._state()
        if state.partitions == _valid(partitions) and not state.moving:
            raise ValueError(f"there are {partitions} partitions already")
        old = self._layout(state.layout, state.partitions)
        await self._refuse_workers(old)
        for name in await self._differing(old, partitions):
            raise differing(name, old.partitions)
        moving = await self._begin(partitions, state.layout)
        await self._close(old, moving)
        await self._caught_up(old)
        new = self._layout(int(moving.split()[0]), partitions)
        copying = Copying(self._connection, old, new, self._bookmarks, self._progress)
        await copying.run()
        problem = await self._problem(copying, old, new)
        if problem:
            await self.undo()
            raise StoreCorrupt(f"{problem}; nothing was changed, and there are {old.partitions} partitions as before")
        await self._caught_up(new)
        mark = f"{FORMAT} {new.number} {partitions}"
        await self._connection.ask_many([("HSET", keys.meta, "format", mark) for keys in new.keys])
        await self._switch(moving, new)
        await self._caught_up(new)  # before the old one goes
        await self._clean()
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
        await self._clean()
        state = await self._state()
        if not state.moving:
            return False
        # Ours from now on: somebody who still moves cannot switch any more, before the old partitions are open.
        moving = await self._begin(state.partitions, state.layout)
        await self._give_up(self._layout(state.layout, state.partitions), moving)
        return True

    # -- the steps

    async def _begin(self, partitions: int, layout: int) -> str:
        """Note that a move is under way, and remove what an earlier one has copied."""
        answer = await self._step("begin", partitions, secrets.token_hex(8), layout)
        if answer == b"OTHER":
            raise _overtaken()
        await self._clean()
        return str(answer.decode())

    async def _close(self, old: Layout, moving: str) -> None:
        """Close all partitions; if somebody owns one, open them again."""
        for partition, keys in enumerate(old.keys):
            answer = await self._gate(old, keys, 1)
            if isinstance(answer, list):
                await self._give_up(old, moving)
                raise _in_use({partition: answer[0].decode()}, ())
        if (await self._state()).moving != moving:
            raise _overtaken()

    async def _give_up(self, old: Layout, moving: str) -> None:
        for keys in old.keys:
            await self._gate(old, keys, 0)
        await self._step("end", moving)
        await self._clean()

    async def _gate(self, old: Layout, keys: PartitionKeys, is_closed: int) -> Any:
        mark = f"{FORMAT} {old.number} {old.partitions}"
        answer = await self._connection.run(_scripts.CLOSE, [keys.meta], [mark, _CLOSED, is_closed])
        if answer == b"BADFMT":
            raise refusal(answer, keys)
        return answer

    async def _switch(self, moving: str, new: Layout) -> None:
        if await self._step("switch", moving) == b"OTHER":
            await new.remove()  # perhaps written again since it was removed
            raise _overtaken()

    async def _clean(self) -> None:
        """Remove what is left of layouts that do not count any more."""
        for number, partitions in (await self._state()).leaving:
            await self._layout(number, partitions).remove()
            await self._step("cleaned", f"{number}:{partitions}")

    async def _problem(self, copying: Copying, old: Layout, new: Layout) -> str:
        """Read all that was copied, and compare it with what was to be; "" if that is the same."""
        found, counts = Digest(), dict.fromkeys(KINDS, 0)
        for partition in range(old.partitions):
            for kind, size in (await old.sizes(partition)).items():
                counts[kind] += size
        counts["events"] += copying.undelivered
        for partition in range(new.partitions):
            async for record in new.records(partition):
                if record.crc is not None and record.crc % new.partitions != partition:
                    return f"{record.kind} were found in partition {partition} that belong elsewhere"
                found.add(record)
                self._progress("compared", 1)
        differences = copying.expected.differences(found)
        if differences:
            return f"what was written is not what was read: {', '.join(differences)}"
        missed = [kind for kind in _MOVED_ONCE if counts[kind] != found.counts[kind]]
        if missed:
            return f"not all was read, or too much: {', '.join(missed)}"
        return ""

    async def _caught_up(self, layout: Layout) -> None:
        """Wait until the replicas have what was written: one of them may have to take over."""
        for keys in layout.keys:
            wanted: int | None = None
            async with asyncio.timeout(_CATCH_UP):
                while True:
                    offset, replicas = _replication(await self._connection.ask("INFO", "replication", key=keys.meta))
                    wanted = offset if wanted is None else wanted
                    if all(replica >= wanted for replica in replicas):
                        break
                    await asyncio.sleep(_AGAIN)

    # -- what is known

    def _layout(self, number: int, partitions: int) -> Layout:
        return Layout(self._connection, self._keys, number, partitions)

    async def _step(self, step: str, *words: Word) -> Any:
        answer = await self._connection.run(_scripts.MOVE, [self._keys.meta], [FORMAT, step, *words])
        if answer == b"BADFMT":
            raise StoreFormatError(
                f"there is no deployment {self._keys.prefix!r} on Redis {self._connection} that this version of onwhen "
                f"has made"
            )
        return answer

    async def _state(self) -> _State:
        answer: list[str] = [(word or b"").decode() for word in await self._step("look")]
        _, partitions, layout, moving, leaving, *_ = answer
        left = [item.split(":") for item in leaving.split()]
        return _State(int(partitions), int(layout), moving, tuple((int(a), int(b)) for a, b in left))

    async def _refuse_workers(self, old: Layout) -> None:
        workers, owners = await self._workers(), await self._owners(old)
        if workers or owners:
            raise _in_use(owners, workers)

    async def _workers(self) -> tuple[str, ...]:
        found = await self._connection.run(_scripts.BEAT, [self._keys.workers], ["", 0, ""])
        return tuple(sorted(id.decode() for id, _, _ in found))

    async def _owners(self, old: Layout) -> dict[int, str]:
        owners: dict[int, str] = {}
        for partition, keys in enumerate(old.keys):
            facts = await old.facts(partition)
            seconds, micros = await self._connection.ask("TIME", key=keys.meta)
            if b"token" in facts and int(facts[b"until"]) > int(seconds) * _MICROSECONDS + int(micros):
                owners[partition] = facts[b"worker"].decode()
        return owners

    async def _differing(self, old: Layout, partitions: int) -> list[str]:
        """Return the names of bookmarks that would come together with different values, and nobody can choose."""
        return sorted(
            {
                name
                for found in (await bookmarks_of(old, partitions)).values()
                for name, values in found.items()
                if len(values) > 1 and self._bookmarks(name, values) is None
            }
        )


def _valid(partitions: int) -> int:
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise ValueError(f"partitions={partitions} must be from 1 to {MOST_PARTITIONS:,}")
    return partitions


def _in_use(owners: Mapping[int, str], workers: Sequence[str]) -> StoreInUse:
    names = sorted({*workers, *owners.values()})
    owned = f", who own partitions {', '.join(map(str, sorted(owners)))}" if owners else ""
    return StoreInUse(
        f"workers live: {', '.join(names)}{owned}; stop them first, or wait until their leases have run out"
    )


def _overtaken() -> StoreError:
    return StoreError("somebody else has begun another move, or has undone this one; look what there is now")


def _replication(answer: bytes | str) -> tuple[int, list[int]]:
    """Return how far a server has come, and how far each of its replicas has (bytes)."""
    text = answer.decode() if isinstance(answer, bytes) else answer
    facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    replicas = [
        int(part.removeprefix("offset="))
        for name, value in facts.items()
        if name.startswith("slave") and "state=online" in value
        for part in value.split(",")
        if part.startswith("offset=")
    ]
    return int(facts.get("master_repl_offset", 0)), replicas
