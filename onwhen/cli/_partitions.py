"""`onwhen partitions`: who owns what, what waits there, and how fast it is handled.

Belongs here: samples of a store that workers share, and what is made of two of them. It must not know how workers find
out who owns what.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final

from onwhen.cli._forms import ago, rfc3339, seconds_text
from onwhen.cli._listing import Column, Output, say, show_json, show_rows
from onwhen.cli._opening import reading
from onwhen.cli._options import UsageError
from onwhen.cli._terminal import clear_screen
from onwhen.engine.clock import SystemClock
from onwhen.engine.shared import PartitionState, SharedStore, WorkerState, is_shared
from onwhen.errors import StoreError

__all__ = ["Sample", "show_partitions"]

_FIRST: Final = 1.0  # seconds between the two samples from which a rate is made, when there is no other


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What a store looked like at one moment.

    Attributes:
        at: when that was (seconds, monotonic).
        now: the same, by the machine's clock.
        partitions: each of them, by number.
        workers: those that live, by id.
    """

    at: float
    now: datetime
    partitions: Sequence[PartitionState]
    workers: Sequence[WorkerState]

    def rates(self, before: Sample) -> Mapping[int, float]:
        """Return how many events were handled per second, by partition, since another sample."""
        seconds = self.at - before.at
        then = {state.partition: state.appended - state.backlog for state in before.partitions}
        return {
            state.partition: max(0, state.appended - state.backlog - then[state.partition]) / seconds
            for state in self.partitions
            if state.partition in then and seconds > 0
        }


async def show_partitions(url: str | None, watch: bool, every: float, output: Output) -> None:
    """Show the partitions of a store, and its workers; again and again if they are watched.

    Args:
        url: where the store is; None for where the setting says.
        watch: go on until somebody presses Ctrl-C.
        every: time between two samples that are shown (seconds).
        output: how it was asked for.

    Raises:
        UsageError: the store is not one that workers share, or `every` is no time.
    """
    if not 0.1 <= every <= 3600:
        raise UsageError(f"--every {every:g}: must be from 0.1 to 3600 seconds")
    async with reading(url) as store:
        if not is_shared(store):
            raise UsageError("partitions with owners are there in a store that workers share; see 'onwhen stats'")
        before = await _sample(store)
        while True:
            await asyncio.sleep(every if watch else _FIRST)
            try:
                sample = await _sample(store)
            except StoreError as error:
                if not watch:
                    raise
                say(str(error))  # another server may take over in a moment
                continue
            if output.as_json:
                show_json(_facts(sample, sample.rates(before)))
            else:
                if watch:
                    clear_screen()
                await _show(sample, sample.rates(before))
            sys.stdout.flush()
            if not watch:
                return
            before = sample


async def _sample(store: SharedStore) -> Sample:
    partitions, workers = await store.partition_states(), await store.workers()
    return Sample(at=monotonic(), now=SystemClock().now(), partitions=partitions, workers=workers)


async def _each(rows: Sequence[Any]) -> AsyncGenerator[Any, None]:
    for row in rows:
        yield row


async def _show(sample: Sample, rates: Mapping[int, float]) -> None:
    states = sample.partitions
    columns = (
        Column[PartitionState]("partition", lambda state: str(state.partition), number=True),
        Column[PartitionState]("owner", lambda state: state.owner or "-"),
        Column[PartitionState]("lease", lambda state: f"{state.expires:.1f} s" if state.owner else "-", number=True),
        Column[PartitionState]("backlog", lambda state: f"{state.backlog:,}", number=True),
        Column[PartitionState]("oldest", lambda state: _age(state, sample.now), number=True),
        Column[PartitionState]("events/s", lambda state: f"{rates.get(state.partition, 0.0):,.1f}", number=True),
        Column[PartitionState]("outbox", lambda state: f"{state.outgoing:,}", number=True),
    )
    await show_rows(_each(states), columns, lambda state: {}, Output(all=True))
    owned = {worker.id: sum(state.owner == worker.id for state in states) for worker in sample.workers}
    print()
    workers = (
        Column[WorkerState]("worker", lambda worker: worker.id),
        Column[WorkerState]("partitions", lambda worker: str(owned[worker.id]), number=True),
        Column[WorkerState]("expires", lambda worker: f"{worker.expires:.1f} s", number=True),
        Column[WorkerState]("note", lambda worker: worker.note),
    )
    await show_rows(_each(sample.workers), workers, lambda worker: {}, Output(all=True))
    if sample.workers:
        print()
    backlog, rate = sum(state.backlog for state in states), sum(rates.values())
    nobody = sum(state.owner is None for state in states)
    workers_live = "1 worker" if len(sample.workers) == 1 else f"{len(sample.workers)} workers"
    parts = [workers_live, f"{len(states)} partitions", f"backlog {backlog:,}"]
    parts.append(f"{rate:,.1f} events/s")
    if nobody:
        parts.insert(2, f"{nobody} without an owner")
    print(", ".join(parts))


def _age(state: PartitionState, now: datetime) -> str:
    return "-" if state.oldest is None else seconds_text(ago(state.oldest, now))


def _facts(sample: Sample, rates: Mapping[int, float]) -> dict[str, Any]:
    return {
        "time": rfc3339(sample.now),
        "backlog": sum(state.backlog for state in sample.partitions),
        "rate": round(sum(rates.values()), 3),
        "partitions": [
            {
                "partition": state.partition,
                "owner": state.owner,
                "lease_seconds": round(state.expires, 3),
                "backlog": state.backlog,
                "oldest": None if state.oldest is None else rfc3339(state.oldest),
                "oldest_age_seconds": None if state.oldest is None else ago(state.oldest, sample.now),
                "appended": state.appended,
                "rate": round(rates.get(state.partition, 0.0), 3),
                "outbox": state.outgoing,
            }
            for state in sample.partitions
        ],
        "workers": [
            {
                "worker": worker.id,
                "note": worker.note,
                "expires_seconds": round(worker.expires, 3),
                "partitions": sum(state.owner == worker.id for state in sample.partitions),
            }
            for worker in sample.workers
        ],
    }
