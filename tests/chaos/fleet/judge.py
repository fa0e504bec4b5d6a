"""Whether a fleet keeps the promise, looked at from the store when all is at rest.

Belongs here: what has to be true of a shared store, on top of what has to be of any (`tests.chaos.judge`): messages
between partitions have arrived, no key is there without cause, and what a fail-over may cost. It must not know how
the processes were run.

Replication is asynchronous, so a fail-over may lose the latest that was written, and only that. Of the events of one
emitter, which come one after the other, those to one partition that are lost are therefore the last ones that were
accepted before; and they are lost as a whole, except for what partitions on other servers were sent by then.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from onwhen import SystemClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import SharedStore
from onwhen.storage.redis import create_redis_storage
from onwhen.testing.servers import RedisServer
from tests.chaos.content import Content, content_of
from tests.chaos.judge import Case, Ledger
from tests.chaos.plan import EMITTERS, ITEMS, chance, item_of, mix, next_of, numbers_of
from tests.redis_keys import strays

__all__ = ["FleetLedger", "Loss", "is_at_rest", "look"]

_PAGE = 1000
_MOST_LOST = 12  # messages of lost events of one emitter to one subject that are searched through (a count)


@dataclass(frozen=True, slots=True)
class Loss:
    """A fail-over that may have lost something.

    Attributes:
        begun: when what had been acknowledged until then may be lost at the earliest (seconds since the epoch).
        over: when the new master was the only one.
        how: what happened to the old one.
    """

    begun: float
    over: float
    how: str = "kill"


@dataclass(slots=True)
class FleetLedger(Ledger):
    """What the producers have noted.

    Attributes:
        times: for each emitter and number, when it was known to be accepted (seconds since the epoch).
        handled: events that the producers have seen handled (a count).
        refused: calls that have failed, and were made again (a count).
        late: events that were not handled in time.
        duplicates: events that were emitted once, and called duplicates: the bus has asked the store again.
        wrong: what producers have found wrong.
    """

    times: list[list[float]] = field(default_factory=lambda: [[] for _ in range(EMITTERS)])
    handled: int = 0
    refused: int = 0
    late: list[str] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def note(self, what: str, number: str, when: str = "") -> None:
        """Take in a line."""
        if what == "wrong":
            self.wrong.append(number)
        elif what == "late":
            self.late.append(number)
        elif what == "duplicate":
            self.duplicates.append(number)
        elif what == "handled":
            self.handled += 1
        elif what == "refused":
            self.refused += 1
        else:
            Ledger.note(self, what, number)
            if when:
                self.times[int(what)].append(float(when))

    def accepted(self) -> int:
        """Return how many events were accepted (a count)."""
        return sum(last + 1 for last in self.last)


async def is_at_rest(store: SharedStore) -> bool:
    """Tell whether nothing is left to be done: nothing is pending, waits, or is on its way to another partition."""
    for _ in range(2):  # what was on its way when it was counted has arrived when it is counted again
        stats = await store.stats()
        if stats.pending or stats.timers or stats.retries or not await _all_delivered(store):
            return False
    return True


async def _all_delivered(store: SharedStore) -> bool:
    for source in range(store.partitions):
        latest, after = dict[int, int](), None
        while page := await store.outgoing(source, after, _PAGE):
            latest.update((message.target, message.position) for message in page)
            after = page[-1].position
        for target, position in latest.items():
            watermark = (await store.deliver(source, target, None, ())).watermark
            if watermark is None or watermark < position:
                return False
    return True


async def look(
    url: str, prefix: str, servers: Sequence[RedisServer], ledger: FleetLedger, losses: Sequence[Loss], is_one: bool
) -> tuple[list[str], dict[str, int]]:
    """Look at a store that is at rest.

    Args:
        url: of the store.
        prefix: of its keys.
        servers: all servers that have keys of it.
        ledger: what was accepted.
        losses: fail-overs that there were.
        is_one: all partitions are on one server, and lose their latest together.

    Returns:
        What is wrong, and some figures (counts).
    """
    store = create_redis_storage(url, prefix)
    await store.open(SystemClock())
    try:
        content = await content_of(store)
        states = await store.partition_states()
        partitions = store.partitions
    finally:
        await store.close()
    case = FleetCase(content, ledger, losses, partitions, is_one)
    wrong = [*ledger.wrong, *case.found(), *case.left(), *case.lost(), *strays(*servers, prefix=prefix)]
    if ledger.late and not losses:
        wrong += [f"{name} was not handled in time" for name in ledger.late]
    return wrong, {
        **case.figures(),
        "all events": sum(state.appended for state in states),
        **{f"lost by {how}": count for how, count in sorted(case.lost_by.items())},
        "seen handled": ledger.handled,
        "calls made again": ledger.refused,
        "called duplicates": len(ledger.duplicates),
    }


class FleetCase(Case):
    """What a shared store holds, and what it should.

    Args:
        content: what it holds.
        ledger: what was accepted.
        losses: fail-overs, in order.
        partitions: how many there are (a count).
        is_one: they are on one server.

    Attributes:
        missing: emitter and number of accepted events that are nowhere.
        lost_by: how the fail-over went that explains them -> how many (a count).
    """

    def __init__(
        self, content: Content, ledger: FleetLedger, losses: Sequence[Loss], partitions: int, is_one: bool
    ) -> None:
        self.missing: set[tuple[int, int]] = set()
        self.lost_by: Counter[str] = Counter()
        super().__init__(content, ledger)
        self._losses, self._partitions, self._is_one = losses, partitions, is_one
        self._times = ledger.times
        if losses:
            self.missing = set(self._find_missing(content))

    def _find_missing(self, content: Content) -> Iterator[tuple[int, int]]:
        for item in range(ITEMS):
            for rule, emitter, number, known in content.items.get(item, {}).get("gaps", ()):
                if rule == "count":
                    first = known + ITEMS if known >= 0 else (item - 7 * emitter) % ITEMS
                    yield from ((emitter, n) for n in range(first, number, ITEMS) if self._is_gone(emitter, n))
            for emitter in range(EMITTERS):
                counted = self._counted(emitter, item)
                for number in numbers_of(emitter, item, self.last[emitter]):
                    if number > counted and self._is_gone(emitter, number):
                        yield emitter, number

    def _is_gone(self, emitter: int, number: int) -> bool:
        key = ("work", emitter, number)
        return key not in self._pending and key not in self._poisoned

    def _is_missing(self, emitter: int, number: int) -> bool:
        return (emitter, number) in self.missing

    # -- what a fail-over may cost

    def lost(self) -> Iterator[str]:
        """Return what is missing although no fail-over explains it."""
        lines: dict[tuple[int, int], list[int]] = defaultdict(list)  # emitter and partition -> its events, in order
        for emitter, last in enumerate(self._ledger.last):
            for number in range(last + 1):
                lines[emitter, self._partition(item_of(emitter, number))].append(number)
        for (emitter, partition), numbers in lines.items():
            gone = [number for number in numbers if self._is_missing(emitter, number)]
            for number in gone:
                explained = [loss.how for loss in self._losses if self._explains(loss, emitter, number, numbers)]
                if explained:
                    self.lost_by[explained[0]] += 1
                else:
                    yield (
                        f"{emitter}.{number} of partition {partition} was accepted at "
                        f"{self._times[emitter][number]:.3f} and is nowhere; fail-overs: {self._losses}"
                    )

    def _explains(self, loss: Loss, emitter: int, number: int, line: Sequence[int]) -> bool:
        """Tell whether an event is among the last ones that were accepted before a fail-over was over."""
        times = self._times[emitter]
        if times[number] > loss.over:
            return False
        return all(self._is_missing(emitter, later) for later in line if later > number and times[later] < loss.begun)

    def _partition(self, item: int) -> int:
        return partition_of(f"item:{item}", self._partitions)

    def _agrees(
        self, item: int, key: str, seen: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]]
    ) -> bool:
        """Tell whether an item has seen what it should; of lost events what was sent elsewhere may be there."""
        count, total = seen.get(key, (0, 0))
        least, sum_ = wanted.get(key, (0, 0))
        more, rest = count - least, total - sum_
        if (more, rest) == (0, 0):
            return True
        what, _, emitter = key.partition(" ")
        maybe = [mix(e, n) for e, n in self.missing if e == int(emitter) and self._may_see(item, what, e, n)]
        return 0 < more <= len(maybe) <= _MOST_LOST and any(sum(some) == rest for some in combinations(maybe, more))

    def _may_see(self, item: int, what: str, emitter: int, number: int) -> bool:
        if self._is_one or chance(emitter, number, "pass") >= 0.4:
            return False
        places = [item_of(emitter, number), next_of(emitter, number), next_of(emitter, number + 1)]
        if what == "ended" and chance(emitter, number, "on") >= 0.3:
            return False
        place = {"passed": 1, "ended": 2}.get(what)
        if place is None or places[place] != item:
            return False
        return any(self._partition(places[i]) != self._partition(places[0]) for i in range(1, place + 1))

    def _changes(self, account: int) -> Iterator[str]:
        if not self._losses:
            yield from super()._changes(account)
