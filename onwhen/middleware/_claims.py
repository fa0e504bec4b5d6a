"""Claims: one event at a time may have a key, and one has it in the end; agreed on in the store, by all workers.

Belongs here: who has a key, who waits and who is too late. It must not know of rules, nor how a key is made.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import msgspec

from onwhen.errors import Postponed, StoreError
from onwhen.middleware._shared import Shared, cell_key

if TYPE_CHECKING:
    from onwhen.engine.context import Context

__all__ = ["Claim", "Claims"]

_SOON: Final = timedelta(seconds=1)
_MARGIN: Final = 5.0  # seconds that a claim outlives the longest run


class Owned(msgspec.Struct, frozen=True):
    """What is stored of a claim.

    Attributes:
        owner: what the event is known by.
        kept: it is decided: the key is used up.
    """

    owner: str
    kept: bool = False


class Claims:
    """Hands out claims.

    Args:
        window: how long a key is used up (seconds).
    """

    def __init__(self, window: float) -> None:
        self._window = window

    async def make(self, ctx: Context[Any], key: str, owner: str) -> Claim | None:
        """Return a claim, or None if the key is used up.

        Args:
            ctx: of the run.
            key: what is claimed.
            owner: the same for all attempts of one event, and for no other event.

        Raises:
            Postponed: it is not decided yet what becomes of another event's claim, or the store has not answered.
        """
        shared = Shared(ctx.bus.store, ctx.bus.clock, cell_key("deduplication", key), Owned)

        def decide(known: Owned | None, _: int) -> Owned | None:
            # One's own is taken anew: it is to last for this run, and a run before it must not be able to give it up.
            return Owned(owner) if known is None or known == Owned(owner) else None

        try:
            await shared.change(decide, lambda _: _patience(ctx))
        except StoreError as error:
            raise Postponed(f"it is not known whether {key!r:.80} was seen before: {error}", delay=_SOON) from error
        found = shared.known
        if found is None or found.owner == owner:
            return Claim(shared, key, owner, self._window)
        if found.kept:
            return None
        raise Postponed(f"another event with the key {key!r:.80} is under way; this one waits for it", delay=_SOON)


class Claim:
    """A key that an event has.

    Args:
        shared: where that is stored.
        key: which key.
        owner: what the event is known by.
        window: how long the key is used up, once that is decided (seconds).
    """

    def __init__(self, shared: Shared[Owned], key: str, owner: str, window: float) -> None:
        self._shared = shared
        self._key = key
        self._owner = owner
        self._window = window

    async def keep(self) -> None:
        """Use the key up.

        Raises:
            Postponed: another event has it now, because this one took too long; or the store has not answered.
        """

        def decide(known: Owned | None, _: int) -> Owned | None:
            return Owned(self._owner, True) if known is None or known.owner == self._owner else None

        try:
            kept = await self._shared.change(decide, lambda _: self._window)
        except StoreError as error:
            raise Postponed(f"that {self._key!r:.80} was seen cannot be stored: {error}", delay=_SOON) from error
        if kept is None:
            raise Postponed(f"this took so long that another event with the key {self._key!r:.80} began", delay=_SOON)

    async def give_up(self) -> None:
        """Leave the key to others."""
        try:
            await self._shared.remove()
        except StoreError:
            return  # then it is over by itself, a little later


def _patience(ctx: Context[Any]) -> float:
    """Return how long a claim lasts that nobody decides (seconds): as long as a run may take."""
    limits = ctx.bus.limits
    allowed = (ctx.rule.timeout if ctx.rule is not None else None) or limits.rule_timeout or limits.turn_timeout
    return (allowed or 300.0) + _MARGIN
