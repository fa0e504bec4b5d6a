"""The circuit opens after six errors in a row, lets nothing through, and closes again after five minutes."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from examples.krules_patterns.circuit_breaker import container, error_counts
from onwhen import EventBus, Receipt, VirtualClock, create_memory_storage


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    """The example's rules and middleware, on an empty store and a clock that is moved by hand."""
    error_counts.clear()
    async with container.event_bus().twin(store=create_memory_storage(), clock=VirtualClock()) as bus:
        yield bus


async def call(bus: EventBus, subject: str, reachable: bool) -> str:
    receipt: Receipt = await bus.emit("device.call", subject, {"reachable": reachable})
    return receipt.runs[0].status


async def test_it_opens_after_six_errors(bus: EventBus) -> None:
    """From then on the rule is not run, not even where it would succeed; the receipt says who stopped it."""
    assert [await call(bus, "device-1", False) for _ in range(8)] == ["failed"] * 6 + ["stopped"] * 2
    receipt = await bus.emit("device.call", "device-1", {"reachable": True})
    assert receipt.runs[0].stopped_by == "circuit_breaker"
    assert not (await bus.read("device-1")).has("calls")


async def test_it_closes_again_after_five_minutes(bus: EventBus) -> None:
    """By the engine's clock."""
    for _ in range(6):
        await call(bus, "device-1", False)
    await bus.advance(timedelta(minutes=5))
    assert await call(bus, "device-1", True) == "stopped"
    await bus.advance(timedelta(seconds=1))
    assert await call(bus, "device-1", True) == "fired"


async def test_a_success_resets_the_count(bus: EventBus) -> None:
    """Only errors in a row open it."""
    for reachable in (False,) * 5 + (True,) + (False,) * 5:
        await call(bus, "device-1", reachable)
    assert await call(bus, "device-1", True) == "fired"


async def test_each_subject_has_its_own(bus: EventBus) -> None:
    """One device that fails leaves the others alone."""
    for _ in range(7):
        await call(bus, "device-1", False)
    assert await call(bus, "device-2", True) == "fired"
