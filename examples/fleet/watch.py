"""What is to be seen of a fleet from outside: its partitions, their rates, and whether all is done.

Belongs here: asking the store, and working out what its answers mean. It must not know how that is shown.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from onwhen.engine.shared import Outgoing, PartitionState, SharedStore

__all__ = ["Seen", "Watch", "quiet"]

_SMOOTH: Final = 0.4  # how much of a rate the latest sample makes up
_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A fleet at one moment.

    Attributes:
        partitions: every partition, by number.
        rates: events that each of them handles in a second.
        handled: events that were handled so far, messages and timers among them (a count).
        workers: ids of the workers that have said lately that they live.
    """

    partitions: Sequence[PartitionState]
    rates: Sequence[float]
    handled: int
    workers: Sequence[str]

    @property
    def backlog(self) -> int:
        """Events that are pending (a count)."""
        return sum(state.backlog for state in self.partitions)

    @property
    def rate(self) -> float:
        """Events that are handled in a second."""
        return sum(self.rates)

    def owned(self) -> Mapping[str, int]:
        """How many partitions each worker owns; "" stands for nobody."""
        counts: dict[str, int] = {}
        for state in self.partitions:
            counts[state.owner or ""] = counts.get(state.owner or "", 0) + 1
        return counts


class Watch:
    """Looks at a fleet again and again.

    Args:
        store: the store that its workers share.
    """

    def __init__(self, store: SharedStore) -> None:
        self.store = store
        self._handled: list[int] = []
        self._rates: list[float] = []
        self._at = 0.0

    async def look(self) -> Seen:
        """Return what there is now; rates are measured since the look before."""
        states, workers = await asyncio.gather(self.store.partition_states(), self.store.workers())
        now, handled = time.monotonic(), [state.appended - state.backlog for state in states]
        if not self._handled:
            self._rates = [0.0] * len(handled)
        else:
            seconds = max(now - self._at, 1e-3)
            for partition, (old, new) in enumerate(zip(self._handled, handled, strict=True)):
                self._rates[partition] += _SMOOTH * ((new - old) / seconds - self._rates[partition])
        self._handled, self._at = handled, now
        return Seen(
            partitions=states,
            rates=tuple(self._rates),
            handled=sum(handled),
            workers=[worker.id for worker in workers],
        )


async def quiet(store: SharedStore) -> bool:
    """Tell whether nothing is left to be done: no event is pending, and no message is under way between partitions.

    Timers and retries that wait for their time do not count.
    """
    before = await store.partition_states()
    if any(state.backlog for state in before):
        return False
    # No turn runs now, so nothing is added to an outbox, unless a message is delivered; then a log grows.
    arrived = await asyncio.gather(*(_delivered(store, state.partition) for state in before if state.outgoing))
    if not all(arrived):
        return False
    after = await store.partition_states()
    return not any(state.backlog for state in after) and [s.appended for s in before] == [s.appended for s in after]


async def _delivered(store: SharedStore, source: int) -> bool:
    """Tell whether all that lies in an outbox has come to where it belongs; what was delivered is kept for a while."""
    latest: dict[int, Outgoing] = {}
    after = None
    while page := await store.outgoing(source, after, _PAGE):
        latest |= {message.target: message for message in page}
        after = page[-1].position
    for target, message in latest.items():
        answer = await store.deliver(source, target, None, ())
        if answer.watermark is None or answer.watermark < message.position:
            return False
    return True
