"""The judge of the chaos on fleets: it finds nothing wrong where nothing is, and each thing that is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import pytest

from onwhen import EventBus
from onwhen.engine.partitions import partition_of
from onwhen.storage import create_memory_storage
from tests.chaos.content import Content, content_of
from tests.chaos.fleet.judge import FleetCase, FleetLedger, Loss
from tests.chaos.plan import EMITTERS, ITEMS, chance, item_of, mix, next_of
from tests.chaos.rules import rules

EVENTS = 120  # of each emitter (a count)
PARTITIONS = 4
GONE = (3, 57)  # emitter and number of an event that the store has lost, where one is


async def handled(gone: tuple[int, int] | None) -> Content:
    """What a store holds when all was handled, all but one perhaps."""
    async with EventBus(*rules, store=create_memory_storage()) as bus:
        for number in range(EVENTS):
            for emitter in range(EMITTERS):
                if (emitter, number) != gone:
                    data = {"e": emitter, "n": number}
                    await bus.append("work", f"item:{item_of(emitter, number)}", data, id=f"{emitter}.{number}")
        while True:
            await bus.idle()
            stats = await bus.store.stats()
            if not (stats.pending or stats.timers or stats.retries):
                return await content_of(bus.store)
            await asyncio.sleep(0.005)


@dataclass
class Found:
    """What a store holds, and what the producers have noted: event n of an emitter was accepted at second n."""

    content: Content
    losses: Sequence[Loss] = ()
    is_one: bool = False

    def __post_init__(self) -> None:
        self.content = replace(
            self.content,
            items=deepcopy(self.content.items),
            accounts=deepcopy(self.content.accounts),
        )
        self.ledger = FleetLedger(last=[EVENTS - 1] * EMITTERS)
        self.ledger.times = [[float(number) for number in range(EVENTS)] for _ in range(EMITTERS)]

    def item(self, number: int) -> dict[str, Any]:
        return self.content.items[number]  # type: ignore[return-value]

    def wrong(self) -> list[str]:
        case = FleetCase(self.content, self.ledger, self.losses, PARTITIONS, self.is_one)
        return [*case.found(), *case.left(), *case.lost()]


@pytest.fixture(scope="module")
def whole() -> Content:
    return asyncio.run(handled(None))


@pytest.fixture(scope="module")
def holed() -> Content:
    return asyncio.run(handled(GONE))


def test_where_all_was_done_once_nothing_is_wrong(whole: Content) -> None:
    """Whether there were fail-overs or not."""
    assert Found(whole).wrong() == []
    assert Found(whole, [Loss(50.5, 60.5)]).wrong() == []


@pytest.mark.parametrize(("more", "told"), [(1, "2, "), (-1, "0, ")])
def test_what_was_done_twice_or_never_is_found(whole: Content, more: int, told: str) -> None:
    """Also where a fail-over may have lost something: it loses, and never doubles."""
    for losses in ([], [Loss(50.5, 60.5)]):
        found = Found(whole, losses)
        item, key = next((i, key) for i in range(ITEMS) for key in found.item(i)["seen"] if key.startswith("passed"))
        count, total = found.item(item)["seen"][key]
        found.item(item)["seen"][key] = [count + more, total + more * 12345]
        assert [line for line in found.wrong() if f"item:{item}: {key}" in line]


def test_an_event_that_is_nowhere_is_found(holed: Content) -> None:
    """It was accepted, and no fail-over explains where it is."""
    wrong = Found(holed).wrong()
    assert any(f"{GONE[0]}.{GONE[1] + ITEMS} right after" in line for line in wrong), wrong


def test_a_fail_over_may_lose_what_was_accepted_last(holed: Content) -> None:
    """The event after it came when the new master was there."""
    assert Found(holed, [Loss(57.5, 57.9)]).wrong() == []
    assert Found(holed, [Loss(20.5, 21.5), Loss(56.5, 57.9)]).wrong() == []


def _later_in_line() -> int:
    line = [n for n in range(GONE[1] + 1, EVENTS) if _partition(GONE[0], n) == _partition(*GONE)]
    return line[0]


def _partition(emitter: int, number: int) -> int:
    return partition_of(f"item:{item_of(emitter, number)}", PARTITIONS)


def _losses() -> Iterator[tuple[Loss, bool]]:
    later = _later_in_line()
    yield Loss(40.0, 56.9), False  # over before it was accepted
    yield Loss(later - 0.5, later - 0.1), True  # the last one of its partition before
    yield Loss(later + 0.5, later + 0.9), False  # one that was accepted after it has survived
    yield Loss(GONE[1] - 0.5, later + 0.9), True  # the old master may have accepted it, the new one the other


@pytest.mark.parametrize(("loss", "is_explained"), list(_losses()))
def test_only_the_tail_of_a_partition_may_be_lost(holed: Content, loss: Loss, is_explained: bool) -> None:
    """A hole in the middle is none."""
    wrong = Found(holed, [loss]).wrong()
    assert (wrong == []) is is_explained, wrong
    assert is_explained or all("is nowhere" in line for line in wrong)


def test_what_a_lost_event_has_sent_to_another_server_may_be_there(holed: Content) -> None:
    """Of partitions on one server no message is ahead of what has sent it."""
    emitter, number = next(
        (e, n)
        for e in range(EMITTERS)
        for n in range(60, EVENTS)
        if chance(e, n, "pass") < 0.4
        and chance(e, n, "on") >= 0.3
        and _partition(e, n) != partition_of(f"item:{next_of(e, n)}", PARTITIONS)
    )
    content = asyncio.run(handled((emitter, number)))
    for is_one in (False, True):
        found = Found(content, [Loss(number + 0.5, number + 0.9)], is_one)
        assert found.wrong() == []
        seen, key = found.item(next_of(emitter, number))["seen"], f"passed {emitter}"
        count, total = seen.get(key, (0, 0))
        seen[key] = [count + 1, total + mix(emitter, number)]
        assert (found.wrong() == []) is not is_one


def test_what_is_left_over_or_early_or_out_of_order_is_found(whole: Content) -> None:
    """Rules note what is wrong where they see it; the judge only has to look."""
    found = Found(whole)
    found.item(1)["wrong"] = ["early: ..."]
    found.item(2)["overtaken"] = [[0, 2]]
    found.content = replace(found.content, stats=replace_stats(found.content.stats, timers=1))
    wrong = "\n".join(found.wrong())
    assert "item:1: early" in wrong
    assert "0.2 was overtaken" in wrong
    assert "timers=1" in wrong


def replace_stats(stats: Any, **changes: int) -> Any:
    return type(stats)(**{name: changes.get(name, getattr(stats, name)) for name in stats.__struct_fields__})


def test_dead_letters_too_many_or_too_few_are_found(whole: Content) -> None:
    """Each rule that fails for good has left one, and no other."""
    found = Found(whole)
    assert found.content.dead
    found.content = replace(found.content, dead=found.content.dead[1:])
    assert any("dead letters" in line for line in found.wrong())
