"""The way of messages from one partition to others: out of its outbox, into their logs, each once and in order.

Belongs here: what is sent to whom again, and when the outbox lets go of it. It must not know how messages came to be in
the outbox, nor who owns the targets.

A target says up to where it has the messages of a source: its watermark, which a delivery has to name. If it names
another one, source or target have lost their latest commits, and the outbox is gone through again from there; or from
its start, if the watermark is not in it. What a target has seen already, it leaves out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from onwhen.engine.shared import Delivered, Outgoing, SharedStore, Token
from onwhen.engine.store import Position
from onwhen.errors import StoreError

__all__ = ["Relay"]

_WINDOW: Final = 500  # messages that are read at once (a count)
_BATCH: Final = 100  # messages that are delivered at once (a count)
_KEPT: Final = 600.0  # seconds that messages stay in the outbox after they were delivered
_NOTED: Final = 30.0  # seconds between notes of what was delivered until then, and looks at what targets have
_AGAIN: Final = 1.0  # seconds until a target that has not answered is asked again


class _Way(msgspec.Struct, eq=False):
    """What is known of a target.

    Attributes:
        watermark: what it will say that it has; to be named with the next delivery.
        sent: up to where in the outbox it has everything; None if nothing is certain.
        is_behind: it did not answer, so it lacks what stands behind `sent`.
    """

    watermark: Position | None = None
    sent: Position | None = None
    is_behind: bool = False


class Relay:
    """Delivers what one partition sends to others.

    Args:
        store: where outbox and logs are.
        source: the partition that sends.
        token: its owner's token.
        loop: the event loop.
    """

    def __init__(self, store: SharedStore, source: int, token: Token, loop: asyncio.AbstractEventLoop) -> None:
        self._store = store
        self._source = source
        self._token = token
        self._loop = loop
        self._cursor: Position | None = None  # all up to here is delivered, but to targets that are behind
        self._trimmed: Position | None = None
        self._ways: dict[int, _Way] = {}
        self._notes: deque[tuple[float, Position]] = deque()  # when it was noted -> up to where all is delivered
        self._noted = loop.time()
        self._wake = asyncio.Event()
        self._wake.set()  # the owner before may have left something

    def wake(self) -> None:
        """Look into the outbox: there may be more in it."""
        self._wake.set()

    async def run(self) -> None:
        """Deliver what comes into the outbox, until cancelled.

        Raises:
            StoreError: the store does not answer for the source.
        """
        while True:
            behind = [way for way in self._ways.values() if way.is_behind]
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN if behind else _NOTED):
                    await self._wake.wait()
            self._wake.clear()
            for way in behind:
                way.is_behind = False
                self._go_back(way.sent)
            while await self._pass():
                pass
            if self._loop.time() >= self._noted + _NOTED:
                await self._look_after()

    async def _pass(self) -> bool:
        """Deliver one window of the outbox; tell whether there may be more."""
        window = await self._store.outgoing(self._source, self._cursor, _WINDOW)
        if not window:
            return False
        by_target: dict[int, list[Outgoing]] = {}
        for message in window:
            by_target.setdefault(message.target, []).append(message)
        self._cursor = window[-1].position
        lacking = await asyncio.gather(*(self._deliver(*item) for item in by_target.items()))
        for way in lacking:
            if way is not None:
                self._go_back(way.sent)
        return True

    def _go_back(self, to: Position | None) -> None:
        """Read the outbox again from behind a position; targets that have something already are not sent it again."""
        if to is None or (self._cursor is not None and to < self._cursor):
            self._cursor = to

    async def _deliver(self, target: int, messages: Sequence[Outgoing]) -> _Way | None:
        """Send messages to a target; return its way if it lacks some that stand before these."""
        try:
            way = self._ways.get(target)
            if way is None:
                way = _Way()
                await self._learn(way, await self._ask(target, None))
                self._ways[target] = way  # the first window is read from the start, so nothing stands before it
            if way.is_behind:
                return None
            lacking = [message for message in messages if way.sent is None or message.position > way.sent]
            for first in range(0, len(lacking), _BATCH):
                batch = lacking[first : first + _BATCH]
                answer = await self._ask(target, way.watermark, batch)
                if not answer.is_accepted:
                    await self._learn(way, answer)
                    return way
                way.watermark = way.sent = batch[-1].position
        except StoreError:
            # Only this target does not answer, perhaps; the others are not held up.
            self._ways.setdefault(target, _Way()).is_behind = True
        return None

    async def _ask(self, target: int, expected: Position | None, messages: Sequence[Outgoing] = ()) -> Delivered:
        return await self._store.deliver(self._source, target, expected, messages)

    async def _learn(self, way: _Way, answer: Delivered) -> None:
        """Find out from where on a target lacks messages."""
        way.watermark, way.sent = answer.watermark, None
        if answer.watermark is not None:
            at = await self._store.outgoing(self._source, answer.watermark - 1, 1)
            # If it is not there, all that is left may be new to the target: what it knows, it leaves out.
            if at and at[0].position == answer.watermark:
                way.sent = answer.watermark

    # -- keeping, and letting go

    async def _look_after(self) -> None:
        """See whether targets still have what they had, and let go of what they have had for long enough."""
        self._noted = self._loop.time()
        for target, way in self._ways.items():
            if not way.is_behind and way.sent is not None and (self._trimmed is None or way.sent > self._trimmed):
                try:
                    answer = await self._ask(target, way.watermark)
                    if not answer.is_accepted:
                        await self._learn(way, answer)
                        self._go_back(way.sent)
                        self._wake.set()
                except StoreError:
                    way.is_behind = True
        delivered = self._delivered()
        if delivered is not None and (not self._notes or self._notes[-1][1] < delivered):
            self._notes.append((self._noted, delivered))
        upto: Position | None = None
        while self._notes and self._notes[0][0] + _KEPT <= self._noted:
            upto = self._notes.popleft()[1]
        if upto is not None:
            await self._store.trim(self._source, self._token, upto)
            self._trimmed = upto

    def _delivered(self) -> Position | None:
        """Return up to where all is delivered; None if nothing is certain."""
        upto = self._cursor
        for way in self._ways.values():
            if way.is_behind:
                if upto is None or way.sent is None:
                    return None
                upto = min(upto, way.sent)
        return upto
