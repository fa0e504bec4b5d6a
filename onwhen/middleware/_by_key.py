"""What a middleware keeps for each key, apart for each bus; those not used for longest are forgotten.

Belongs here: keeping and forgetting. It must not know what is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["ByKey"]

_MOST: Final = 10_000  # keys of one bus (a count); they may come from outside, so the memory for them is bounded

T = TypeVar("T")


class ByKey(Generic[T]):
    """Things by bus and key.

    Args:
        make: makes the thing of a key of a bus, when it is asked for and not there.
    """

    def __init__(self, make: Callable[[EventBus, str], T]) -> None:
        self._make = make
        self._kept: WeakKeyDictionary[EventBus, OrderedDict[str, T]] = WeakKeyDictionary()

    def of(self, bus: EventBus, key: str) -> T:
        """Return the thing of a key."""
        kept = self._kept.get(bus)
        if kept is None:
            kept = self._kept[bus] = OrderedDict()
        found = kept.get(key)
        if found is None:
            found = kept[key] = self._make(bus, key)
            if len(kept) > _MOST:
                kept.popitem(last=False)
        else:
            kept.move_to_end(key)
        return found

    def items(self) -> Iterator[tuple[str, T]]:
        """Go through all that is kept, with its key."""
        for kept in tuple(self._kept.values()):
            yield from tuple(kept.items())
