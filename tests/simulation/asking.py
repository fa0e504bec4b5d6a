"""What somebody asks of a bus in a simulated world, besides emitting; the same for one process and for many.

Belongs here: the calls, and what is noted of their answers. It must not know how the process lives that makes them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from onwhen import EventBus
from onwhen.engine.outcomes import Receipt
from onwhen.errors import BusClosed, StoreConflict, StoreError, UnknownDeadLetter
from tests.simulation.history import Returned
from tests.simulation.plan import Action

__all__ = ["Asking"]


class Asking:
    """A process that asks; each way returns True if the same need not be asked for again.

    Attributes:
        world: where it lives.
        number: which process it is.
        bus: whom it asks.
        is_alive: it was not killed.
    """

    world: Any  # `World` or `FleetWorld`
    number: int
    bus: EventBus
    is_alive: bool

    async def _session(self, action: Action) -> bool:
        """Add to a subject; who is told of an error does not know, and asks no more."""
        if self._call(action) > 1:
            return True  # whoever asked was killed: nobody knows
        try:
            async with self.bus.subject(action.subject) as subject:
                subject.set("n", lambda n: (n or 0) + action.amount)
                subject.set("note", f"{action.tag}+{action.amount}")
        except (StoreError, StoreConflict) as error:
            self._returned("session", action.tag, type(error).__name__)
        except BusClosed:
            return False
        else:
            self._returned("session", action.tag, "stored")
        return True

    async def _foreign(self, action: Action) -> bool:
        """Write to a subject past all engines."""
        self.world.write_past(action)
        return True

    async def _replay(self, action: Action) -> bool:
        """Replay the oldest dead letters, each twice at once, as two operators do who do not know of each other."""
        self._call(action)
        try:
            letters = [letter.id async for letter in self.bus.dead_letters()]
            replays = [self.bus.replay(letter) for letter in letters[:2] for _ in range(2)]
            for told in await asyncio.gather(*replays, return_exceptions=True):
                status = told.status if isinstance(told, Receipt) else type(told).__name__
                self._returned("replay", action.tag, status)
        except StoreError as error:
            self._returned("replay", action.tag, type(error).__name__)
        except BusClosed:
            return False
        return True

    async def _discard(self, action: Action) -> bool:
        self._call(action)
        try:
            async for letter in self.bus.dead_letters():
                await self.bus.discard(letter.id)
                self._returned("discard", letter.id, "gone")
                break
        except (StoreError, UnknownDeadLetter) as error:
            self._returned("discard", action.tag, type(error).__name__)
        except BusClosed:
            return False
        return True

    async def _resume(self, action: Action) -> bool:
        """Resume what is parked, twice at once, as two operators do who do not know of each other."""
        self._call(action)
        try:
            parked = {retry.subject: None async for retry in self.bus.parked()}
            for name in parked:
                await asyncio.gather(self.bus.resume(name), self.bus.resume(name))
                self._returned("resume", name, "resumed")
        except StoreError as error:
            self._returned("resume", action.tag, type(error).__name__)
        except BusClosed:
            return False
        return True

    async def _skip(self, action: Action) -> bool:
        self._call(action)
        try:
            parked = {retry.subject: None async for retry in self.bus.parked()}
            for name in parked:
                await self.bus.skip(name)
                self._returned("skip", name, "skipped")
        except StoreError as error:
            self._returned("skip", action.tag, type(error).__name__)
        except BusClosed:
            return False
        return True

    def _call(self, action: Action) -> int:
        return self.world.calls(action.what, action.tag, self.number)

    def _returned(self, what: str, tag: str, status: str) -> None:
        if self.is_alive:
            self.world.note(Returned(self.world.time, what, tag, status))
