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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from onwhen.engine.shared import Delivered, Outgoing, SharedStore, Token
from onwhen.engine.store import Position
from onwhen.engine.tally import Tally
from onwhen.errors import StoreError

__all__ = ["Relay"]

_WINDOW: Final = 500  # messages that are read at once (a count)
_BATCH: Final = 100  # messages that are delivered at once (a count)
_KEPT: Final = 600.0  # seconds that messages stay in the outbox after they were delivered
_NOTED: Final = 30.0  # seconds between notes of what was delivered until then, and looks at what targets have
_AGAIN: Final = 1.0  # seconds until a target that has not answered is asked again
_SLOW: Final = 0.2  # seconds after which a target is not waited for any more: the others go on


class _Way(msgspec.Struct, eq=False):
    """What is known of a target.

    Attributes:
        target: its number.
        is_known: it has said what it has.
        watermark: what it will say that it has; to be named with the next delivery.
        sent: up to where in the outbox it has everything; None if nothing is certain.
        lacks: messages behind `sent` were read and not delivered, so they have to be read again.
        not_before: moment of the loop's clock until which it is left alone.
        failing_since: moment of the loop's clock since which it has not answered; None if it has.
        problem: what it said, or was said of it, last then.
        task: what asks it just now.
    """

    target: int
    is_known: bool = False
    watermark: Position | None = None
    sent: Position | None = None
    lacks: bool = False
    not_before: float = 0.0
    failing_since: float | None = None
    problem: StoreError | None = None
    task: asyncio.Task[None] | None = None


class Relay:
    """Delivers what one partition sends to others.

    Args:
        store: where outbox and logs are.
        source: the partition that sends.
        token: its owner's token.
        loop: the event loop.
        tally: what is delivered is counted here.
    """

    def __init__(
        self, store: SharedStore, source: int, token: Token, loop: asyncio.AbstractEventLoop, tally: Tally
    ) -> None:
        self._store = store
        self._source = source
        self._token = token
        self._loop = loop
        self._tally = tally
        self._cursor: Position | None = None  # all up to here is delivered, but to targets that lack some
        self._trimmed: Position | None = None
        self._ways: dict[int, _Way] = {}
        self._notes: deque[tuple[float, Position]] = deque()  # when it was noted -> up to where all is delivered
        self._noted = loop.time()
        self._wake = asyncio.Event()
        self._wake.set()  # the owner before may have left something

    def wake(self) -> None:
        """Look into the outbox: there may be more in it."""
        self._wake.set()

    def trouble(self, longer_than: float) -> str:
        """Return which target has not taken its messages for too long, and why; "" if there is none.

        Args:
            longer_than: what is too long (seconds).
        """
        now = self._loop.time()
        for way in self._ways.values():
            if way.failing_since is not None and now - way.failing_since > longer_than:
                return (
                    f"partition {way.target} has taken no messages for {now - way.failing_since:.0f} s: {way.problem}"
                )
        return ""

    async def run(self) -> None:
        """Deliver what comes into the outbox, until cancelled.

        Raises:
            StoreError: the store does not answer for the source.
        """
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._wait(group)
                    while await self._pass(group):
                        pass
                    if self._loop.time() >= self._noted + _NOTED:
                        await self._look_after(group)
        except* StoreError as errors:
            first = errors.exceptions[0]  # the only one: what asks targets raises none
            raise first from first.__cause__

    async def _wait(self, group: asyncio.TaskGroup) -> None:
        """Wait until there may be something to deliver, and go back to what was read and not delivered.

        But not for a target that has not answered: all that is kept would be read again for each question.
        """
        due = [way.not_before for way in self._ways.values() if way.lacks and way.task is None]
        with suppress(TimeoutError):
            async with asyncio.timeout_at(min(due, default=self._noted + _NOTED)):
                await self._wake.wait()
        self._wake.clear()
        now = self._loop.time()
        for way in self._ways.values():
            if way.lacks and way.task is None and way.not_before <= now:
                if way.failing_since is not None:
                    self._begin(way, partial(self._check, way), group)
                else:
                    way.lacks = False
                    self._go_back(way.sent)

    async def _pass(self, group: asyncio.TaskGroup) -> bool:
        """Deliver one window of the outbox; tell whether there may be more."""
        window = await self._store.outgoing(self._source, self._cursor, _WINDOW)
        if not window:
            return False
        by_target: dict[int, list[Outgoing]] = {}
        for message in window:
            by_target.setdefault(message.target, []).append(message)
        self._cursor = window[-1].position
        begun = []
        for target, messages in by_target.items():
            # The first window is read from the start, so nothing stands before what comes for a new target.
            way = self._ways.setdefault(target, _Way(target))
            if way.task is not None or way.lacks:
                way.lacks = True  # one after the other, or they would overtake each other
            else:
                begun.append(self._begin(way, partial(self._deliver, way, messages), group))
        if begun:
            await asyncio.wait(begun, timeout=_SLOW)
        return True

    def _go_back(self, to: Position | None) -> None:
        """Read the outbox again from behind a position; targets that have something already are not sent it again."""
        if to is None or (self._cursor is not None and to < self._cursor):
            self._cursor = to

    def _begin(self, way: _Way, asking: Callable[[], Awaitable[None]], group: asyncio.TaskGroup) -> asyncio.Task[None]:
        """Ask a target for something; one that does not answer is left alone for a moment."""

        async def ask() -> None:
            try:
                await asking()
                way.failing_since = None
            except StoreError as error:
                self._tally.store_errors += 1
                now = self._loop.time()
                way.lacks, way.not_before, way.problem = True, now + _AGAIN, error
                if way.failing_since is None:
                    way.failing_since = now
            finally:
                way.task = None
            if way.lacks:
                self._wake.set()

        way.task = group.create_task(ask())
        return way.task

    async def _deliver(self, way: _Way, messages: Sequence[Outgoing]) -> None:
        """Send messages to a target."""
        if not way.is_known:
            await self._learn(way, await self._ask(way.target, None))
        lacking = [message for message in messages if way.sent is None or message.position > way.sent]
        for first in range(0, len(lacking), _BATCH):
            batch = lacking[first : first + _BATCH]
            answer = await self._ask(way.target, way.watermark, batch)
            if not answer.is_accepted:
                await self._learn(way, answer)
                way.lacks = True
                return
            way.watermark = way.sent = batch[-1].position
            self._tally.relayed += len(batch)

    async def _ask(self, target: int, expected: Position | None, messages: Sequence[Outgoing] = ()) -> Delivered:
        return await self._store.deliver(self._source, target, expected, messages)

    async def _learn(self, way: _Way, answer: Delivered) -> None:
        """Find out from where on a target lacks messages."""
        way.is_known = False
        way.watermark, way.sent = answer.watermark, None
        if answer.watermark is not None:
            at = await self._store.outgoing(self._source, answer.watermark - 1, 1)
            # If it is not there, all that is left may be new to the target: what it knows, it leaves out.
            if at and at[0].position == answer.watermark:
                way.sent = answer.watermark
        way.is_known = True

    # -- keeping, and letting go

    async def _look_after(self, group: asyncio.TaskGroup) -> None:
        """Let go of what targets have had for long enough, and see whether they still have the rest."""
        self._noted = self._loop.time()
        delivered = self._delivered()
        if delivered is not None and (not self._notes or self._notes[-1][1] < delivered):
            self._notes.append((self._noted, delivered))
        upto: Position | None = None
        while self._notes and self._notes[0][0] + _KEPT <= self._noted:
            upto = self._notes.popleft()[1]
        if upto is not None:
            await self._store.trim(self._source, self._token, upto)
            self._trimmed = upto
        for way in self._ways.values():
            is_kept = way.sent is not None and (self._trimmed is None or way.sent > self._trimmed)
            if is_kept and way.task is None and not way.lacks:
                self._begin(way, partial(self._check, way), group)

    async def _check(self, way: _Way) -> None:
        """See whether a target still has what it had."""
        answer = await self._ask(way.target, way.watermark)
        if not answer.is_accepted:
            await self._learn(way, answer)
            way.lacks = True

    def _delivered(self) -> Position | None:
        """Return up to where all is delivered; None if nothing is certain."""
        upto = self._cursor
        for way in self._ways.values():
            if way.lacks or way.task is not None:
                if upto is None or way.sent is None:
                    return None
                upto = min(upto, way.sent)
        return upto
