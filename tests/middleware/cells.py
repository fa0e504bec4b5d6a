"""Workers that share cells, without a server: calls take turns by chance, and may lose their answers.

Belongs here: a store whose cells are far away. It must not know what is in them.
"""

import asyncio
import random
from datetime import datetime, timedelta

from onwhen import VirtualClock
from onwhen.engine.store import Cell
from onwhen.errors import StoreError
from onwhen.storage.memory import MemoryStore

__all__ = ["Far", "World"]


class World:
    """A store, the clocks of those who use it, and chance.

    Args:
        seed: what chance is drawn from.
        start: the moment by the store's clock.
    """

    def __init__(self, seed: int, start: datetime) -> None:
        self.chance = random.Random(seed)
        self.store = MemoryStore()
        self.clock = VirtualClock(start)
        self.clocks = [self.clock]

    async def open(self) -> None:
        """Open the store."""
        await self.store.open(self.clock)

    def worker(self, *, ahead: timedelta = timedelta(0), faults: str = "") -> "Far":
        """Return what a worker has of the store; its own clock may be wrong.

        Args:
            ahead: by how much.
            faults: what may become of its calls, besides working; see `Far`.
        """
        clock = VirtualClock(self.clock.now() + ahead)
        self.clocks.append(clock)
        return Far(self, clock, faults)

    def advance(self, by: timedelta) -> None:
        """Let time pass, for everybody."""
        for clock in self.clocks:
            clock.advance(by)


class Far(MemoryStore):
    """A store that is used from afar.

    Args:
        world: where it is.
        clock: of the worker.
        faults: what may become of a call: "l", its answer is lost; "x", it is not executed; each may happen to every
            third call or so, never to two in a row.

    Attributes:
        calls: how many there were.
        is_down: no call is executed.
    """

    def __init__(self, world: World, clock: VirtualClock, faults: str = "") -> None:
        super().__init__()
        self.clock = clock
        self.calls = 0
        self.is_down = False
        self._world = world
        self._faults = faults
        self._spared = False

    async def exchange(self, key: str, expected: bytes | None, new: bytes | None, ttl: float) -> Cell:
        self.calls += 1
        chance = self._world.chance
        fate = "" if self._spared or not self._faults or chance.random() > 0.3 else chance.choice(self._faults)
        self._spared = bool(fate)
        await self._travel()
        if fate == "x" or self.is_down:
            raise StoreError("the connection was refused")
        cell = await self._world.store.exchange(key, expected, new, ttl)
        await self._travel()
        if fate == "l":
            raise StoreError("the connection was lost")
        return cell

    async def _travel(self) -> None:
        for _ in range(self._world.chance.randrange(4)):
            await asyncio.sleep(0)
