"""What has failed, taken up again or given up: dead letters replayed, parked subjects resumed or made to skip.

Belongs here: how those who look after one subject keep out of each other's way, and what holds it no longer. It must
not know how rules are run, nor how a commit is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from onwhen.engine import upkeep
from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.partitions import partition_of
from onwhen.engine.resend import GoesOn, insist, pause
from onwhen.engine.store import Answer, Commit, DeadLetter, Retry, RetryKey
from onwhen.engine.work import Work
from onwhen.errors import StoreError, UnknownDeadLetter

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus
    from onwhen.engine.outcomes import Receipt

__all__ = ["Parking"]


class Parking:
    """Lets one caller at a time look after a subject.

    Args:
        bus: whose store, clock and commits are used.
        dispatcher: whose lanes are held.
        goes_on: whether to ask the store again what nobody waits for.
        context: context variables of what is done for nobody in particular.
    """

    def __init__(self, bus: EventBus, dispatcher: Dispatcher[Work], goes_on: GoesOn, context: Context) -> None:
        self._bus = bus
        self._store = bus.store
        self._dispatcher = dispatcher
        self._goes_on = goes_on
        self._context = context
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # -- dead letters

    async def replay(self, dead_letter: str) -> Receipt:
        """Run what failed again; see `EventBus.replay`."""
        letter = await self._store.dead_letter(dead_letter)
        if letter is None:
            raise UnknownDeadLetter(f"no dead letter {dead_letter!r}: replayed or discarded, or mistyped")
        receipt = await self._replay(letter)
        if receipt is None:
            raise UnknownDeadLetter(f"dead letter {dead_letter!r} was replayed or discarded meanwhile")
        return receipt

    async def replay_all(self, letters: Sequence[DeadLetter]) -> list[Receipt]:
        """Run one after the other again what failed; see `EventBus.replay_all`."""
        receipts = [await self._replay(letter) for letter in letters]
        return [receipt for receipt in receipts if receipt is not None]

    async def _replay(self, known: DeadLetter) -> Receipt | None:
        """Replay a letter as it is by now; None if it is gone."""
        async with self._lock(known.subject):
            # Somebody else may have replayed it meanwhile, and it may have failed again: as another attempt.
            letter = await self._store.dead_letter(known.id)
            if letter is None:
                return None
            again = upkeep.again(letter, self._bus.clock.now())
            # Another process may do the same, and it may fail again before we come: a number is given out once.
            return await self._run_again(again, revived=[letter.id], id=again.key)

    # -- parked subjects

    async def resume(self, subject: str) -> list[Receipt]:
        """Run what is parked of a subject again; see `EventBus.resume`."""
        async with self._tend(subject) as waiting:
            now = self._bus.clock.now()
            receipts = [await self._run_again(upkeep.resumed(retry, now), retried=retry.key) for retry in waiting]
        return [receipt for receipt in receipts if receipt is not None]

    async def skip(self, subject: str) -> list[DeadLetter]:
        """Give up what is parked of a subject; see `EventBus.skip`."""
        async with self._tend(subject) as waiting:
            return await upkeep.skip(self._store, waiting, self._bus.clock.now())

    async def _run_again(self, retry: Retry, **instead: Any) -> Receipt | None:
        """Let a retry take the place of what a commit takes away; None if that is not there any more."""
        receipts: Sequence[Receipt] = ()

        async def send(commit: Commit) -> Answer:
            nonlocal receipts
            result, _, receipts = await self._bus.commit_outside(commit)
            return result.answer

        commit = Commit(
            partition=partition_of(retry.subject, self._store.partitions),
            subject=retry.subject,
            retries=[retry],
            **instead,
        )
        return receipts[0] if await upkeep.commit_whatever_version(self._store, commit, send) else None

    # -- one at a time

    def _lock(self, subject: str) -> asyncio.Lock:
        return self._locks.setdefault(subject, asyncio.Lock())

    @asynccontextmanager
    async def _tend(self, subject: str) -> AsyncIterator[Sequence[Retry]]:
        """Hand out what is parked of a subject, to nobody else meanwhile; then let it go on without what is gone.

        Raises:
            StoreError: the store does not answer.
        """
        async with self._lock(subject):
            waiting = [retry async for retry in upkeep.parked(self._store, subject)]
            # The turn that has parked one of them may not know yet that it has, and so not hold the subject yet.
            active = self._dispatcher.active_on(subject)
            try:
                yield waiting
            finally:
                if waiting:
                    self._dispatcher.start(self._release(subject, waiting, active), self._context.copy())

    async def _release(self, subject: str, waiting: Sequence[Retry], active: Work | None) -> None:
        """Take back the holds of what is gone, once the turn that was active has set its own."""

        async def look() -> set[RetryKey]:
            partition = partition_of(subject, self._store.partitions)
            return {retry.key async for retry in self._store.retries(partition)}

        self._dispatcher.expect()
        try:
            while active is not None and self._dispatcher.active_on(subject) is active:
                await pause(1)  # nothing else of the subject can be done meanwhile, so nobody waits for this
            with suppress(StoreError):  # the bus is closing; who opens it again reads what is kept
                # Also after an error, which does not say whether something was stored: the store is asked.
                kept = await insist(look, self._goes_on)
                for retry in waiting:
                    if retry.key not in kept:
                        self._dispatcher.release(subject, retry.key)
                self._dispatcher.pump()
        finally:
            self._dispatcher.expected()
