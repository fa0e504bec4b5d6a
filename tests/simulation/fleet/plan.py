"""What happens in one simulated fleet, drawn by its seed: who works, who asks for what when, and what goes wrong.

Belongs here: plans as data. It must not know how they are carried out, nor what they should come to.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.simulation.plan import Action, Workload

__all__ = ["IDLE", "FailOver", "FleetFaults", "FleetPlan", "Upset", "fleet_plan_of"]

IDLE: Final = 700.0
"""How long it takes, at most, until an outbox has let go of what was delivered (seconds)."""


@dataclass(frozen=True, slots=True)
class Upset:
    """Something that happens to a machine.

    Attributes:
        after: when its life has lasted for so many callbacks; of "hold", so many commits (a count).
        what: "kill", "pause" or "stop"; who is stopped may finish his turns. "hold" is a pause when a commit is about
            to be sent.
        seconds: how long a pause lasts, or how long it takes until another machine is in its place.
    """

    after: int
    what: str
    seconds: float


@dataclass(frozen=True, slots=True)
class FailOver:
    """A partition comes to another server, which lacks the latest changes.

    Attributes:
        time: when (seconds).
        partition: which one.
        loses: how many changes (a count).
        is_silent: only who is waiting for an answer at that time is told of an error; else everybody who has talked to
            the old server is, at his next call.
        down: for how long nobody answers (seconds).
        ahead: how much the new server's clock is ahead (seconds).
    """

    time: float
    partition: int
    loses: int
    is_silent: bool
    down: float
    ahead: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetFaults:
    """What goes wrong, as probabilities per call to the store unless said otherwise.

    Attributes:
        before: an error, and nothing is done.
        lost: it is done, and an error is the answer.
        late: an error is the answer, and it is done after that, but before what the machine asks later.
        stale: an error is the answer, and it is done some time after that, whatever was asked meanwhile.
        killed: it is done, and the machine is killed before it hears of it.
        latency: how long a call takes at most until it is done, and as long again until its answer (seconds).
        slow: from when to when all takes 30 times as long (seconds).
        full: from when to when no event is accepted (seconds).
        upsets: of each worker's place, what happens to the machines that are there, one after the other.
        producer_upsets: the same of producers.
        fail_overs: earliest first.
    """

    before: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    stale: float = 0.0
    killed: float = 0.0
    latency: float = 0.002
    slow: tuple[float, float] = (0.0, 0.0)
    full: tuple[float, float] = (0.0, 0.0)
    upsets: Sequence[Sequence[Upset]] = ()
    producer_upsets: Sequence[Sequence[Upset]] = ()
    fail_overs: Sequence[FailOver] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPlan:
    """One world.

    Attributes:
        seed: what it was drawn from.
        partitions: how many there are (a count).
        ahead: how much the clock of each partition's server is ahead (seconds).
        skew: how much the machines' clocks are ahead at most, or behind (seconds).
        workers: how many there should be (a count).
        joins: when each of them starts for the first time (seconds).
        producers: how many there are (a count).
        lease: of a partition (seconds).
        grace: how long a worker that is stopped may finish its turns (seconds).
        prefetch: events of a partition that are read ahead (a count).
        most: events that may be pending in a partition before no more are accepted (a count).
        concurrent: subjects that are worked on at the same time (a count).
        hot: subjects that a worker keeps in memory (a count).
        static: partitions are assigned, not shared out.
        faults: what goes wrong.
        until: when nothing goes wrong any more, if all was asked for by then (seconds).
        idle: how long the fleet goes on with nothing to do (seconds).
        actions: what is asked for, earliest first.
    """

    seed: int
    partitions: int
    ahead: Sequence[float]
    skew: float
    workers: int
    joins: Sequence[float]
    producers: int
    lease: float
    grace: float
    prefetch: int
    most: int
    concurrent: int
    hot: int
    static: bool
    faults: FleetFaults
    until: float
    idle: float
    actions: Sequence[Action] = field(repr=False)


def fleet_plan_of(seed: int) -> FleetPlan:
    """Draw a world."""
    chance = random.Random(f"fleet {seed}")
    actions = Workload(chance).actions()
    if chance.random() < 0.3:
        actions += Workload(chance, first=1000).actions()
    actions.sort(key=lambda action: action.time)
    partitions, workers = chance.choice((1, 2, 2, 3)), chance.choice((1, 2, 2, 3))
    producers, lease = chance.choice((1, 2)), chance.choice((2.5, 4.0, 6.0))
    skew = chance.choice((0.0, 0.0, 0.1))
    faults = _Faults(chance, partitions, workers, producers, lease, actions[-1].time).drawn()
    moments = [fail_over.time + fail_over.down for fail_over in faults.fail_overs]
    return FleetPlan(
        seed=seed,
        partitions=partitions,
        ahead=[chance.uniform(-skew, skew) for _ in range(partitions)],
        skew=skew,
        workers=workers,
        joins=[chance.choice((0.0, 0.0, chance.uniform(0, 6))) for _ in range(workers)],
        producers=producers,
        lease=lease,
        grace=chance.choice((0.5, 10.0)),
        prefetch=chance.choice((1, 4, 16, 16, 1000)),
        most=chance.choice((4, 1000, 1000)),
        concurrent=chance.choice((1, 2, 1000)),
        hot=chance.choice((1, 10_000, 10_000)),
        static=chance.random() < 0.15,
        faults=faults,
        until=max([actions[-1].time, *moments]) + chance.choice((0.0, 2.0, 8.0)),
        idle=IDLE if seed % 32 == 31 else 0.0,
        actions=actions,
    )


class _Faults:
    """Draws what goes wrong: in some worlds nothing, in some one thing, in most of them everything."""

    def __init__(
        self, chance: random.Random, partitions: int, workers: int, producers: int, lease: float, end: float
    ) -> None:
        self._chance = chance
        self._partitions = partitions
        self._workers = workers
        self._producers = producers
        self._lease = lease
        self._end = end

    def drawn(self) -> FleetFaults:
        """Return what goes wrong."""
        chance = self._chance
        latency = chance.choice((0.0, 0.001, 0.02, 0.2))
        kind = chance.randrange(10)
        if kind == 0:
            return FleetFaults(latency=latency)
        errors = kind not in (1, 2, 3)
        kills = kind not in (1, 4, 5)
        fails_over = kind not in (2, 4, 6) and chance.random() < 0.7
        slow, full = chance.uniform(0, self._end), chance.uniform(0, self._end)
        return FleetFaults(
            before=chance.choice((0.0, 0.01, 0.04)) if errors else 0.0,
            lost=chance.choice((0.0, 0.01, 0.06)) if errors else 0.0,
            late=chance.choice((0.0, 0.01, 0.04)) if errors else 0.0,
            stale=chance.choice((0.0, 0.01, 0.04)) if errors else 0.0,
            killed=chance.choice((0.0, 0.0, 0.01)) if kills else 0.0,
            latency=latency,
            slow=(slow, slow + chance.choice((0.0, 0.0, 3.0))),
            full=(full, full + chance.choice((0.0, 0.0, 4.0))) if errors else (0.0, 0.0),
            upsets=[self._upsets(500) for _ in range(self._workers)] if kills else (),
            producer_upsets=[self._upsets(150)[:1] for _ in range(self._producers)] if kills else (),
            fail_overs=self._fail_overs() if fails_over else (),
        )

    def _upsets(self, mean: float) -> Sequence[Upset]:
        chance, lease = self._chance, self._lease
        drawn = []
        for _ in range(chance.choice((0, 1, 2, 4))):
            what = chance.choice(("kill", "kill", "pause", "pause", "hold", "hold", "hold", "stop"))
            seconds = chance.choice((0.1, 0.7 * lease, 1.1 * lease, 1.1 * lease, 3 * lease)) * chance.uniform(0.8, 1.2)
            after = chance.expovariate(1 / 8 if what == "hold" else 1 / mean)
            drawn.append(Upset(round(after) + 1, what, seconds))
        return drawn

    def _fail_overs(self) -> Sequence[FailOver]:
        chance = self._chance
        drawn = [
            FailOver(
                chance.uniform(0, self._end + 8.0),
                chance.randrange(self._partitions),
                chance.choice((0, 1, 2, 4, 8)),
                chance.random() < 0.5,
                chance.choice((0.0, 0.1, 1.0, 1.0, 12.0)),
                chance.choice((0.0, 0.0, chance.uniform(-0.1, 0.1))),
            )
            for _ in range(chance.choice((1, 1, 2, 4)))
        ]
        return sorted(drawn, key=lambda fail_over: fail_over.time)
