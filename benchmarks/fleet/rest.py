"""Latency at rest: from `emit` in one process until the commit in another, one event at a time.

Belongs here: the producer's side, and what the machine takes for it at least. It must not know how figures are shown.

All processes read the same monotonic clock of the system, so moments of one can be compared with those of another.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from benchmarks.fleet.contenders.floor import LOG
from benchmarks.fleet.load import EVENT_TYPE, subject_of
from benchmarks.fleet.processes import Contender, Started
from benchmarks.fleet.throughput import onwhen
from onwhen import EventBus
from onwhen.storage.redis import create_redis_storage

__all__ = ["Latencies", "measure"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """What one event took; entry `i` of all was measured in the same turn (seconds).

    Attributes:
        accepted: from the call of `emit` until it has returned.
        committed: from the call of `emit` until the worker was told that its commit is stored.
        known: from the call of `emit` until `receipt.handled` has returned.
        floor: XADD in one process, until the EVAL that another one sends for it is answered.
        ping: one PING and its answer.
    """

    accepted: tuple[float, ...]
    committed: tuple[float, ...]
    known: tuple[float, ...]
    floor: tuple[float, ...]
    ping: tuple[float, ...]


async def measure(samples: int, pause: float, url: str, floor: Contender, settle: int = 100) -> Latencies:
    """Measure.

    Args:
        samples: of each (a count).
        pause: how long nothing happens before each (seconds).
        url: address of the server.
        floor: the hand-written loop.
        settle: of each before those that count (a count).

    Raises:
        BenchmarkError: a contender failed.
        StoreError: the store failed.
    """
    number = samples + settle
    sent: list[float] = []
    accepted: list[float] = []
    known: list[float] = []
    added: list[float] = []
    ping: list[float] = []
    async with Started.start(onwhen(), url) as worker, Started.start(floor, url) as beside:
        await asyncio.gather(worker.ask(do="arrive", events=number), beside.ask(do="arrive", events=number))
        client: Any = Redis.from_url(url)
        async with client, EventBus(store=create_redis_storage(url, "onwhen16")) as bus:
            for n in range(number):
                await asyncio.sleep(pause)
                sent.append(time.perf_counter())
                receipt = await bus.emit(EVENT_TYPE, subject_of(n), {"level": n})
                accepted.append(time.perf_counter())
                await receipt.handled(timeout=10)
                known.append(time.perf_counter())
                await asyncio.sleep(pause)
                added.append(time.perf_counter())
                await client.ping()
                ping.append(time.perf_counter() - added[-1])
                await asyncio.sleep(pause)
                added[-1] = time.perf_counter()
                await client.xadd(LOG, {"event": json.dumps({"subject": subject_of(n), "data": {"level": n}})})
        moments = (await worker.hear())["moments"]
        answered = (await beside.hear())["moments"]
    return Latencies(
        accepted=_since(sent, accepted)[settle:],
        committed=_since(sent, moments)[settle:],
        known=_since(sent, known)[settle:],
        floor=_since(added, answered)[settle:],
        ping=tuple(ping[settle:]),
    )


def _since(starts: list[float], ends: list[float]) -> tuple[float, ...]:
    return tuple(end - start for start, end in zip(starts, ends, strict=True))
