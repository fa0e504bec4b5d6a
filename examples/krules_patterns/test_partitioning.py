"""Four instances are sent every event; each event is handled by exactly one of them, always the same."""

import os
import subprocess
import sys
from contextlib import AsyncExitStack

import pytest

from examples.krules_patterns.partitioning import container, get_partition
from onwhen import create_memory_storage

DEVICES = [f"device-{i}" for i in range(40)]


async def test_each_event_is_handled_by_exactly_one_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others say that the middleware stopped it; the rule finds the partition among the metadata."""
    handled: dict[str, list[int]] = {device: [] for device in DEVICES}
    async with AsyncExitStack() as stack:
        for instance in range(4):
            twin = container.event_bus().twin(store=create_memory_storage())
            bus = await stack.enter_async_context(twin)
            monkeypatch.setenv("PARTITION_ID", str(instance))
            for device in DEVICES:
                (run,) = (await bus.emit("device.reading", device)).runs
                if run.status == "fired":
                    handled[device].append(instance)
                    assert (await bus.read(device)).get("partition") == instance
                else:
                    assert run.stopped_by == "partition_middleware"
    assert handled == {device: [get_partition(device, 4)] for device in DEVICES}
    assert len({instance for (instance,) in handled.values()}) == 4


def test_all_processes_agree() -> None:
    """A process with another hash seed finds the same partitions; with `hash()` it would not."""

    def partitions(expression: str, seed: int) -> str:
        code = (
            "from examples.krules_patterns.partitioning import get_partition\n"
            f"print([{expression} for name in {DEVICES!r}])"
        )
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True, timeout=60
        ).stdout

    assert partitions("get_partition(name, 4)", 1) == partitions("get_partition(name, 4)", 2)
    assert partitions("hash(name) % 4", 1) != partitions("hash(name) % 4", 2)
