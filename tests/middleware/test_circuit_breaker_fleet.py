"""Two workers over Redis, real processes: one circuit and one rate limit before a flaky service, and keys in common."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import onwhen
from onwhen import EventBus
from onwhen.engine.partitions import partition_of
from onwhen.storage.redis import create_redis_storage
from onwhen.testing.servers import RedisServer
from tests.cli.fleets import SECONDS, Started, until
from tests.middleware.flaky import APP, BURST, FAILURES, OPEN_FOR, PROBE_FOR, RATE, Service

ORDERS = 120
PARTITIONS = 4
LATENCY = 0.5  # seconds that a call may be under way to the service, on a busy machine


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as service:
        yield service


@pytest.fixture
def launch(
    redis_server: RedisServer, key_prefix: str, tmp_path: Path, service: Service
) -> Iterator[Callable[[str], Started]]:
    """Starts a worker that owns some partitions."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ONWHEN_")} | {
        "PYTHONPATH": str(Path(onwhen.__file__).parents[1]),
        "PYTHONWARNINGS": "error",
        "ONWHEN_STORE": redis_server.url,
        "ONWHEN_KEY_PREFIX": key_prefix,
        "ONWHEN_PARTITIONS": str(PARTITIONS),
        "FLAKY_PORT": str(service.port),
    }
    started: list[Started] = []

    def start(own: str) -> Started:
        started.append(Started(["worker", APP, "--own", own, "--lease", "1.5"], tmp_path, environment))
        started[-1].says("owns 2 of 4 partitions")
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_they_share_one_circuit_and_one_rate_limit(
    redis_server: RedisServer, key_prefix: str, launch: Callable[[str], Started], service: Service
) -> None:
    """The service is down at first: one probe at a time. Then it is up: no more than it takes, and nothing is lost."""
    workers = [launch("0-1"), launch("2-3")]
    service.is_down = True
    asyncio.run(emit(redis_server.url, key_prefix))
    until(lambda: len(probes(service)) == 3)
    service.is_down = False
    until(lambda: len(served(service)) == ORDERS, lambda: "\n".join(worker.told for worker in workers))

    for (_, went), (came, _) in pairwise(probes(service)):
        assert came >= went + OPEN_FOR * 0.9

    came = sorted(came for came, _, _, _ in service.calls)
    for first in range(len(came)):
        for last in range(first, len(came)):
            assert last - first + 1 <= BURST + RATE * (came[last] - came[first] + LATENCY)

    asyncio.run(look(redis_server.url, key_prefix))
    assert len({name for _, _, name, is_served in service.calls if is_served}) == ORDERS


def test_a_probe_whose_worker_is_killed_is_replaced(
    redis_server: RedisServer, key_prefix: str, launch: Callable[[str], Started], service: Service
) -> None:
    """By one of the other worker's, once it counts as lost; the dead one's event comes again when somebody owns it."""
    workers = [launch("0-1"), launch("2-3")]
    service.is_down = True
    asyncio.run(emit(redis_server.url, key_prefix))
    until(lambda: len(probes(service)) == 1)
    service.hold = 60.0
    until(lambda: service.under_way)
    (held,) = service.under_way
    place = partition_of(held, PARTITIONS) // 2
    workers[place].send(signal.SIGKILL)
    killed = time.monotonic()
    service.is_down = False
    until(lambda: served(service))
    assert served(service)[0] - killed > PROBE_FOR - OPEN_FOR - LATENCY
    workers[place] = launch(("0-1", "2-3")[place])
    until(lambda: len(served(service)) >= ORDERS, lambda: "\n".join(worker.told for worker in workers))
    asyncio.run(look(redis_server.url, key_prefix))


def test_of_what_is_sent_three_times_one_takes_effect(
    redis_server: RedisServer, key_prefix: str, launch: Callable[[str], Started]
) -> None:
    """Under three ids, to subjects of both workers, at the same time; also if one of them is killed meanwhile."""
    workers = [launch("0-1"), launch("2-3")]

    async def pay() -> None:
        async with EventBus(store=create_redis_storage(redis_server.url, key_prefix)) as bus:
            sends = (bus.append("order.paid", f"order:{n}-{time}", n) for time in range(3) for n in range(ORDERS))
            await asyncio.gather(*sends)
            workers[0].send(signal.SIGKILL)
            workers[0] = launch("0-1")
            async with asyncio.timeout(SECONDS):
                while (stats := await bus.store.stats()).pending or stats.retries:
                    await asyncio.sleep(0.1)
            paid = (await bus.read("ledger")).get("paid")
            assert sorted(paid) == list(range(ORDERS))

    asyncio.run(pay())


def failed(service: Service) -> list[tuple[float, float]]:
    """Return when calls came that have failed, and when they were answered."""
    return sorted((came, went) for came, went, _, is_served in service.calls if not is_served)


def probes(service: Service) -> list[tuple[float, float]]:
    """Return those of them that came when the circuit was due again; what was under way when it opened came before."""
    calls = failed(service)
    return [call for call in calls if len(calls) >= FAILURES and call[0] > calls[FAILURES - 1][1] + OPEN_FOR * 0.9]


def served(service: Service) -> list[float]:
    """Return when calls came that were served."""
    return [came for came, _, _, is_served in service.calls if is_served]


async def emit(url: str, prefix: str) -> None:
    async with EventBus(store=create_redis_storage(url, prefix)) as bus:
        for number in range(ORDERS):
            await bus.append("order.sent", f"order:{number}")


async def look(url: str, prefix: str) -> None:
    """See to it that each order was sent once, and that each change of the circuit was told once."""
    async with EventBus(store=create_redis_storage(url, prefix)) as bus:
        async with asyncio.timeout(20):
            while (await bus.store.stats()).pending:
                await asyncio.sleep(0.05)
        for number in range(ORDERS):
            assert (await bus.read(f"order:{number}")).dict() == {"sent": 1}
        assert [letter async for letter in bus.dead_letters()] == []
        changes = sorted((await bus.read("circuit:service")).get("changes"))
    statuses = [status for _, status in changes]
    counts = Counter(statuses)
    assert counts == {"open": counts["open"], "half_open": counts["open"], "closed": 1}
    assert statuses == ["open", "half_open"] * counts["open"] + ["closed"]
