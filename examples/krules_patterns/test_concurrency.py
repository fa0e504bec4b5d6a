"""Devices are worked on side by side; the readings of one device one after the other."""

import asyncio
from collections import Counter

import pytest

from examples.krules_patterns import concurrency
from examples.krules_patterns.concurrency import container, emit
from onwhen import Subject


async def test_devices_are_processed_concurrently(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of fifty handlers waits until all fifty have begun: one after the other, none would ever end."""
    barrier = asyncio.Barrier(50)

    async def heavy_computation(subject: Subject) -> None:
        await barrier.wait()

    monkeypatch.setattr(concurrency, "heavy_computation", heavy_computation)
    async with container.event_bus(), asyncio.timeout(10):
        receipts = await asyncio.gather(*(emit("device.reading", f"device-{i}") for i in range(50)))
    assert all(receipt.fired for receipt in receipts)


async def test_readings_of_one_device_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a counter needs no lock, however the readings arrive."""
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def heavy_computation(subject: Subject) -> None:
        running[subject.name] += 1
        most[subject.name] = max(most[subject.name], running[subject.name])
        await asyncio.sleep(0)
        running[subject.name] -= 1

    monkeypatch.setattr(concurrency, "heavy_computation", heavy_computation)
    async with container.event_bus() as bus:
        await asyncio.gather(*(emit("device.reading", f"gate-{i % 5}") for i in range(100)))
        assert set(most.values()) == {1}
        assert [(await bus.read(f"gate-{i}")).get("readings") for i in range(5)] == [20] * 5
