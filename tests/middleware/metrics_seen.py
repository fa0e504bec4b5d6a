"""A scrape in which every metric is there, for those who look at names and labels."""

from __future__ import annotations

from typing import Any

from onwhen import Context, EventBus, RetryPolicy, RuleSet, VirtualClock, create_memory_storage
from onwhen.engine.status import WorkerStatus
from onwhen.middleware import CircuitBreaker, Metrics
from onwhen.middleware._circuit import State, Status

STATUS = WorkerStatus(
    id="desk-0",
    owned=frozenset({3, 1}),
    share=3,
    partitions=4,
    backlog=7,
    oldest_age=61.5,
    is_ready=False,
    reason="it owns 2 of its share of 3 partitions",
    turns=12,
    last_progress_age=0.25,
    backlogs={1: 7, 3: 0, 2: 5},
    oldest_ages={1: 61.5, 2: 300.0},
    unowned=frozenset({2}),
)


class Desk:
    """A worker that says of itself what it is told to."""

    def __init__(self, bus: EventBus, status: WorkerStatus = STATUS) -> None:
        self.bus = bus
        self._status = status

    def status(self) -> WorkerStatus:
        return self._status


class Breaker(CircuitBreaker):
    """One that says of its circuits what it is told to, and lets everything through.

    Args:
        states: key -> state.
    """

    def __init__(self, **states: Status) -> None:
        super().__init__()
        self._states = states

    def states(self) -> dict[str, State]:
        return {key: State(status=status) for key, status in self._states.items()}

    async def __call__(self, ctx: Any, next: Any, /) -> None:
        await next()


async def everything() -> tuple[Metrics, Desk]:
    """Return metrics with at least one series of each; the worker is to be held on to."""
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def take(ctx: Context) -> None: ...

    @rules.on("order.taken", retry=RetryPolicy(attempts=2))
    def charge(ctx: Context) -> None:
        raise ValueError("card refused")

    bus = EventBus(rules, store=create_memory_storage(), clock=VirtualClock())
    metrics, desk = Metrics(), Desk(bus)
    bus.use(metrics)
    bus.use(Breaker(api="open", mail="closed"))
    metrics.watch(desk)
    async with bus:
        await bus.emit("order.taken", "order:1")
    return metrics, desk
