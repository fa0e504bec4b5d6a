"""The notes in a deployment that a move to another number of partitions is under way, and the gates of its partitions.

Belongs here: what is noted, and by which single steps that changes. It must not know what is copied, nor when.

Of several moves at a time the latest counts: each step of the others is refused from then on.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onwhen.errors import StoreCorrupt, StoreError, StoreFormatError, StoreInUse
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Connection, Word
from onwhen.storage.redis._deployment import CLOSED, FORMAT
from onwhen.storage.redis._keys import DeploymentKeys, PartitionKeys
from onwhen.storage.redis._lanes import refusal
from onwhen.storage.redis._layouts import Layout

__all__ = ["Move", "Moves", "State"]

_MICROSECONDS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class State:
    """What is noted.

    Attributes:
        partitions: how many there are (a count).
        layout: number of the layout that counts.
        moving: the move that is under way, "" if none is.
        leaving: layouts of which something may be left: number and partitions.
    """

    partitions: int
    layout: int
    moving: str
    leaving: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Move:
    """A move that was begun.

    Attributes:
        note: what is noted about it.
        layout: number of the layout that it makes.
    """

    note: str
    layout: int


class Moves:
    """The moves of one deployment.

    Args:
        connection: the way there; open.
        keys: names of the deployment's keys.
    """

    def __init__(self, connection: Connection, keys: DeploymentKeys) -> None:
        self._connection = connection
        self._keys = keys

    def layout(self, number: int, partitions: int) -> Layout:
        """Return a layout, be there anything of it or not."""
        return Layout(self._connection, self._keys, number, partitions)

    async def state(self) -> State:
        """Return what is noted.

        Raises:
            StoreFormatError: there is no deployment, or another version of onwhen has made it.
        """
        answer: list[str] = [(word or b"").decode() for word in await self._step("look")]
        _, partitions, layout, moving, leaving, *_ = answer
        left = [item.split(":") for item in leaving.split()]
        return State(int(partitions), int(layout), moving, tuple((int(a), int(b)) for a, b in left))

    # -- the steps

    async def begin(self, partitions: int, layout: int) -> Move:
        """Note that a move is under way, in place of any other, and remove what an earlier one has copied.

        Args:
            partitions: how many there are to be (a count).
            layout: number of the layout that counts.
        """
        answer = await self._step("begin", partitions, secrets.token_hex(8), layout)
        if answer == b"OTHER":
            raise _overtaken()
        await self.clean()
        note = answer.decode()
        return Move(note, int(note.split()[0]))

    async def close(self, old: Layout, move: Move) -> None:
        """Close all partitions: whoever has them open is refused from now on.

        Raises:
            StoreInUse: somebody owns one; all are open again, and the move is given up.
        """
        for partition, keys in enumerate(old.keys):
            answer = await self._gate(old, keys, 1)
            if isinstance(answer, list):
                await self.give_up(old, move)
                raise _in_use({partition: answer[0].decode()}, ())
        moving = (await self.state()).moving
        if moving != move.note:
            if not moving:  # it was given up while we closed: nobody else opens them
                await self._open(old)
            raise _overtaken()

    async def switch(self, move: Move, new: Layout) -> None:
        """Make the new layout the one that counts."""
        await self._connection.ask_many([("HSET", keys.meta, "format", _mark(new)) for keys in new.keys])
        if await self._step("switch", move.note) == b"OTHER":
            await new.remove()  # perhaps it was removed before, and we went on writing
            raise _overtaken()

    async def give_up(self, old: Layout, move: Move) -> None:
        """Open all partitions again, and end the move."""
        await self._open(old)
        await self._step("end", move.note)
        await self.clean()

    async def clean(self) -> None:
        """Remove what is left of layouts that do not count any more."""
        for number, partitions in (await self.state()).leaving:
            await self.layout(number, partitions).remove()
            await self._step("cleaned", f"{number}:{partitions}")

    async def _open(self, old: Layout) -> None:
        for keys in old.keys:
            await self._gate(old, keys, 0)

    async def _gate(self, old: Layout, keys: PartitionKeys, is_closed: int) -> Any:
        answer = await self._connection.run(_scripts.CLOSE, [keys.meta], [_mark(old), CLOSED, is_closed])
        if answer == b"BADFMT":
            raise refusal(answer, keys)
        return answer

    async def _step(self, step: str, *words: Word) -> Any:
        answer = await self._connection.run(_scripts.MOVE, [self._keys.meta], [FORMAT, step, *words])
        if answer == b"BADFMT":
            raise StoreFormatError(
                f"there is no store under {self._keys.prefix!r} on Redis {self._connection} that this version of "
                f"onwhen has made"
            )
        return answer

    # -- who is there

    async def refuse_workers(self, old: Layout) -> None:
        """See that nobody works, and that all partitions are there.

        Raises:
            StoreInUse: somebody does.
            StoreCorrupt: one is not.
        """
        for partition in range(old.partitions):
            if (await old.facts(partition)).get(b"format") not in (_mark(old), CLOSED.encode()):
                raise StoreCorrupt(
                    f"partition {partition} of {self._keys.prefix!r} on Redis {self._connection} is not there any "
                    f"more: the server that kept it has lost it; restore it from a copy"
                )
        workers, owners = await self.workers(), await self.owners(old)
        if workers or owners:
            raise _in_use(owners, workers)

    async def workers(self) -> tuple[str, ...]:
        """Return the ids of the workers that live."""
        found = await self._connection.run(_scripts.BEAT, [self._keys.workers], ["", 0, ""])
        return tuple(sorted(id.decode() for id, _, _ in found))

    async def owners(self, old: Layout) -> dict[int, str]:
        """Return the partitions that are owned, with the workers that own them."""
        owners: dict[int, str] = {}
        for partition, keys in enumerate(old.keys):
            facts = await old.facts(partition)
            seconds, micros = await self._connection.ask("TIME", key=keys.meta)
            if b"token" in facts and int(facts[b"until"]) > int(seconds) * _MICROSECONDS + int(micros):
                owners[partition] = facts[b"worker"].decode()
        return owners


def _mark(layout: Layout) -> bytes:
    """Return what the partitions of a layout are marked with."""
    return b"%s %d %d" % (FORMAT.encode(), layout.number, layout.partitions)


def _in_use(owners: Mapping[int, str], workers: Sequence[str]) -> StoreInUse:
    names = sorted({*workers, *owners.values()})
    owned = f", who own partitions {', '.join(map(str, sorted(owners)))}" if owners else ""
    return StoreInUse(
        f"workers live: {', '.join(names)}{owned}; stop them first, or wait until their leases have run out"
    )


def _overtaken() -> StoreError:
    return StoreError("somebody else has begun another move, or has undone this one; look what there is now")
