"""A small value that all workers share, and what is known of it here: compare and set, with bounded tries.

Belongs here: reading and changing one cell of a store, the store's clock, and what a lost answer means. It must not
know what the value is, nor what a middleware decides by it.

Source: optimistic concurrency by compare and set, with something unique in each new value, so that a call that is sent
again after a lost answer is known for the one that it is. M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015, for the pauses of those that others were faster than.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from hashlib import blake2b
from os import urandom
from random import random
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from onwhen.engine.clock import Clock
from onwhen.errors import StoreError
from onwhen.middleware._moments import micros
from onwhen.middleware._options import LONGEST

if TYPE_CHECKING:
    from onwhen.engine.store import Cell, Store

__all__ = ["Shared", "cell_key"]

_PATIENCE: Final = 2.0  # seconds for one answer; whoever asks is in the middle of a turn
_TRIES: Final = 64  # of changing a value that others change as well (a count); at each, one of them succeeds
_AT_ONCE: Final = 2  # of these without a pause (a count)
_PAUSES: Final = 0.004, 0.064  # seconds, at most: the first, and the longest
_LONGEST_KEY: Final = 400  # bytes; a store takes 512

T = TypeVar("T", bound=msgspec.Struct)


class Shared(Generic[T]):
    """A value in a store, with what was last seen of it.

    Args:
        store: where it is.
        clock: by which the store's time is carried on between two answers.
        key: which cell; see `cell_key`.
        kind: class of the value.

    Attributes:
        known: the value as it was last seen; None if there was none.
        looked: when that was, or was tried, by the store's clock (microseconds); None if it never was.
    """

    def __init__(self, store: Store, clock: Clock, key: str, kind: type[T]) -> None:
        self.known: T | None = None
        self.looked: int | None = None
        self._store = store
        self._clock = clock
        self._key = key
        self._decoder = msgspec.json.Decoder(tuple[str, kind])  # type: ignore[valid-type]
        self._raw: bytes | None = None
        self._ahead = 0  # microseconds that the store's clock is ahead of ours
        self._asked = self._taken = 0  # numbers of calls
        self._seen = 0

    def now(self) -> int:
        """Return the store's time, as far as it is known (microseconds since the epoch)."""
        return micros(self._clock.now()) + self._ahead

    async def look(self) -> T | None:
        """Return what is there now.

        Raises:
            StoreError: the store did not answer.
        """
        if self.looked is not None:
            self.looked = self.now()  # at once, so that not everybody looks who comes meanwhile, and knows something
        try:
            await self._exchange(None, None, 1.0)  # where something is, that changes nothing
        except StoreError:
            self.looked = self.now()
            raise
        return self.known

    async def change(self, decide: Callable[[T | None, int], T | None], ttl: Callable[[T], float]) -> T | None:
        """Put another value in the place of what is there; one call if nobody else has changed it.

        Args:
            decide: given the value, and the store's time (microseconds), it returns the new one; or None to leave it.
                It may be called several times, and must have no effects.
            ttl: how long a value is to be kept (seconds; what is more than a store takes is cut off).

        Returns:
            The new value, which nobody has changed before; None if `decide` left it.

        Raises:
            StoreError: the store did not answer, or others change the value all the time. The value may or may not
                have been changed.
        """
        for number in range(_TRIES):
            if number >= _AT_ONCE:  # where many want it at once, those that wait by chance are less in each other's way
                shortest, longest = _PAUSES
                await asyncio.sleep(random() * min(shortest * 2 ** (number - _AT_ONCE), longest))
            new = decide(self.known, self.now())
            if new is None:
                return None
            raw = msgspec.json.encode((urandom(16).hex(), new))
            if await self._exchange(self._raw, raw, min(ttl(new), LONGEST)) == raw:
                return new
        raise StoreError(f"{self._key} was changed by others {_TRIES} times in a row; it is asked again later")

    def assume(self, value: T) -> None:
        """Go on with a value that could not be stored; it is what the next change that the store takes begins with.

        Somebody else's value takes its place as soon as it is seen.
        """
        self.known = value

    async def remove(self) -> None:
        """Take away what was last seen, if it is still there.

        Raises:
            StoreError: the store did not answer.
        """
        if self._raw is not None:
            await self._exchange(self._raw, None, 1.0)

    async def _exchange(self, expected: bytes | None, new: bytes | None, ttl: float) -> bytes | None:
        self._asked = number = self._asked + 1
        try:
            async with asyncio.timeout(_PATIENCE):
                try:
                    cell = await self._store.exchange(self._key, expected, new, ttl)
                except StoreError:  # perhaps only the answer was lost; then this call finds what it was to put there
                    cell = await self._store.exchange(self._key, expected, new, ttl)
        except TimeoutError as error:
            raise StoreError(f"the store has not answered within {_PATIENCE:g} s, about {self._key}") from error
        self._take(number, cell)
        return cell.value

    def _take(self, number: int, cell: Cell) -> None:
        time = micros(cell.time)
        if number < self._taken and time < self._seen:
            return  # an older answer that was longer on its way
        self._taken, self._seen = max(number, self._taken), time
        self.looked, self._ahead = time, time - micros(self._clock.now())
        if cell.value == self._raw and self.known is not None:
            return
        self._raw = cell.value
        try:
            self.known = None if cell.value is None else self._decoder.decode(cell.value)[1]
        except msgspec.DecodeError:  # another version has written it; it is replaced like any other value
            self.known = None


def cell_key(kind: str, key: str) -> str:
    """Return the name of the cell of a key; one that is too long for a store, or no plain text, is there as its hash.

    Args:
        kind: what the cell is for.
        key: any text.
    """
    name = f"onwhen.{kind}/{key}"
    raw = name.encode(errors="surrogatepass")
    if len(raw) <= _LONGEST_KEY and name.isprintable():
        return name
    return f"onwhen.{kind}/#{blake2b(raw, digest_size=32).hexdigest()}"
