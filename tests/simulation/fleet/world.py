"""A simulated fleet: machines that come and go over one server, until all that was asked for is done.

Belongs here: chance, faults and time. It must not know what is right; see `checker`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any, Final

from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Commit, Retry, SubjectWrite
from onwhen.errors import UnknownDeadLetter
from tests.simulation.fleet.acts import Acts
from tests.simulation.fleet.connection import Call
from tests.simulation.fleet.history import Ending, Note, Quiet, Story
from tests.simulation.fleet.loop import FleetLoop
from tests.simulation.fleet.machine import Machine, ProducerMachine, WorkerMachine
from tests.simulation.fleet.plan import FailOver, FleetPlan
from tests.simulation.fleet.server import Server
from tests.simulation.history import Called
from tests.simulation.loop import SimClock
from tests.simulation.plan import Action
from tests.simulation.store import inline
from tests.simulation.world import chance_is_drawn_from, without_collections

__all__ = ["Fate", "FleetWorld"]

_MOST_STEPS: Final = 400_000  # callbacks in one world (a count); it needs some ten thousand
_PATIENCE: Final = 400.0  # seconds until all has to be at rest, once nothing goes wrong any more
_WAIT: Final = 15.0  # seconds until whoever is not done yet is helped by that
_LOOK: Final = 0.25  # seconds between looks at whether all is at rest


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one call to the store.

    Attributes:
        kind: "fine", or a fault: "before", "lost", "late", "stale" or "killed"; see `FleetFaults`.
        there: how long until it is done (seconds).
        back: how long until the answer after that (seconds); of one that is late, the share of the way there.
        error: which one it is, if it is one.
    """

    kind: str
    there: float
    back: float
    error: str = "not done"

    def instead(self, kind: str, error: str) -> Fate:
        """Return another fate that takes as long."""
        return replace(self, kind=kind, error=error)


class FleetWorld:
    """Everything that outlives a machine.

    Args:
        plan: what happens.
    """

    def __init__(self, plan: FleetPlan) -> None:
        self.plan = plan
        self.chance = random.Random(f"world {plan.seed}")
        self.story = Story()
        self.done: set[str] = set()
        self.is_quiet = False
        self.loop = FleetLoop(0.0, self.chance)
        clocks = [SimClock(self.loop, ahead) for ahead in plan.ahead]
        self.clocks = clocks
        self.server = Server(
            plan.partitions,
            clocks=clocks,
            chance=self.chance,
            most=plan.most,
            keep=8 if plan.faults.fail_overs else 0,
        )
        self.acts = Acts(self.server, self)
        self.fail_overs = [0] * plan.partitions  # that everybody hears of
        self.runs = [0] * plan.partitions  # how many servers each partition has seen before
        self._down = [0.0] * plan.partitions
        self._under_way: dict[Call, None] = {}
        self._machines: dict[int, Machine] = {}
        self._number = 0
        self._upsets = [[*upsets] for upsets in plan.faults.upsets] or [[] for _ in range(plan.workers)]
        self._producer_upsets = [[*upsets] for upsets in plan.faults.producer_upsets] or [
            [] for _ in range(plan.producers)
        ]
        self._is_ending = False
        self._is_over = False
        self._error: BaseException | None = None
        self._called: Counter[str] = Counter()
        self._strikes: Counter[str] = Counter()
        self._replayed: set[str] = set()
        self._resumed: Counter[str] = Counter()

    @property
    def time(self) -> float:
        """How long the world has existed (seconds)."""
        return self.loop.time()

    def note(self, note: Note) -> None:
        """Write the story."""
        self.story.add(note)

    def later(self, seconds: float, call: Callable[..., object], *args: Any) -> None:
        """Have something happen that belongs to no machine."""
        self.loop.call_at(self.time + seconds, call, *args, context=_NOBODY)

    def fail(self, error: BaseException) -> None:
        """End the world with an error."""
        self._error = self._error or error

    def run(self) -> None:
        """Let machines live until all is done.

        Raises:
            RuntimeError: it never comes to rest, or the event loop was told of an error.
        """
        with chance_is_drawn_from(self.chance), without_collections():
            try:
                for place, joins in enumerate(self.plan.joins):
                    self.later(joins, self._start_worker, place)
                for place in range(self.plan.producers):
                    self.later(0.0, self._start_producer, place)
                for fail_over in self.plan.faults.fail_overs:
                    self.later(fail_over.time, self._fail_over, fail_over)
                self.later(0.0, self._look)
                has_more = self.loop.run(lambda: self._is_over or self._error is not None, _MOST_STEPS)
                if self._error is not None:
                    raise self._error
                if not has_more:
                    raise RuntimeError("nothing is left to run, and not all is done")
                for complaint in self.loop.complaints:
                    error = complaint.get("exception")
                    raise RuntimeError(f"the event loop was told: {complaint['message']}: {error!r}") from error
            finally:
                for machine in self._machines.values():
                    machine.is_alive = False
                self.loop.wipe()

    # -- machines

    def _start_worker(self, place: int) -> None:
        upset = self._upsets[place].pop(0) if self._upsets[place] else None
        self._start(WorkerMachine(self, self._next(), self._skew(), upset, place))

    def _start_producer(self, place: int) -> None:
        upset = self._producer_upsets[place].pop(0) if self._producer_upsets[place] else None
        mine = [action for n, action in enumerate(self.plan.actions) if n % self.plan.producers == place]
        still_open = [action for action in mine if action.tag not in self.done]
        self._start(ProducerMachine(self, self._next(), self._skew(), upset, place, still_open))

    def _start(self, machine: Machine) -> None:
        if self._is_ending:
            return
        self._machines[machine.number] = machine
        machine.start()

    def _next(self) -> int:
        self._number += 1
        if self._number > 80:
            raise RuntimeError("one machine after the other ends before all is done")
        return self._number

    def _skew(self) -> float:
        return self.chance.uniform(-self.plan.skew, self.plan.skew) if self.plan.skew else 0.0

    def ended(self, machine: Machine, back_after: float) -> None:
        """Have another machine come in the place of one that has ended."""
        del self._machines[machine.number]
        if self._is_ending:
            return
        if isinstance(machine, WorkerMachine):
            self.later(back_after, self._start_worker, machine.place)
        elif isinstance(machine, ProducerMachine) and machine.place >= 0:
            self.later(back_after, self._start_producer, machine.place)

    def _of(self, kind: type[Machine]) -> list[Any]:
        return [machine for machine in self._machines.values() if isinstance(machine, kind)]

    def roll(self) -> None:
        """Stop a worker in good order."""
        if workers := self._of(WorkerMachine):
            self.chance.choice(workers).stop()

    def strikes(self, what: str) -> int:
        """Count how often something has come so far as to kill its machine."""
        self._strikes[what] += 1
        return self._strikes[what]

    # -- faults

    def fate(self, what: str, writes: bool) -> Fate:
        """Draw what becomes of a call to the store."""
        faults, chance, time = self.plan.faults, self.chance, self.time
        longest = faults.latency * (30 if faults.slow[0] <= time < faults.slow[1] else 1)
        there, back = longest * chance.random(), longest * chance.random()
        if self.is_quiet or what == "close":
            return Fate("fine", there, back)
        if what == "append" and faults.full[0] <= time < faults.full[1]:
            return Fate("before", there, back, "full")
        drawn = chance.random()
        for kind in ("before", "lost", "late", "stale", "killed"):
            probability = getattr(faults, kind)
            if drawn < probability:
                if kind in ("late", "stale", "killed") and not writes:
                    return Fate("before", there, back)
                if kind == "late":
                    there, back = there + chance.random(), chance.random()
                if kind == "stale":
                    back = chance.random()
                return Fate(kind, there, back)
            drawn -= probability
        return Fate("fine", there, back)

    def under_way(self, call: Call) -> None:
        """Note a call that is under way."""
        self._under_way[call] = None

    def is_over(self, call: Call) -> None:
        """Note that it is not any more."""
        self._under_way.pop(call, None)

    def is_down(self, partition: int) -> bool:
        """Tell whether nobody answers for a partition."""
        return self.time < self._down[partition]

    def _fail_over(self, fail_over: FailOver) -> None:
        if self.is_quiet:
            return
        partition = fail_over.partition
        self.acts.fail_over(partition, fail_over.loses, fail_over.is_silent)
        self.clocks[partition]._ahead = fail_over.ahead
        self._down[partition] = self.time + fail_over.down
        self.runs[partition] += 1
        self.fail_overs[partition] += not fail_over.is_silent
        for call in list(self._under_way):
            if partition in call.partitions and not (call.is_waiting and fail_over.is_silent):
                call.cut()
        self.server.wake()

    # -- what is asked for

    def calls(self, what: str, tag: str, machine: int) -> int:
        """Note a call from outside, and count those about the same."""
        self.note(Called(self.time, what, tag, machine))
        self._called[tag] += 1
        return self._called[tag]

    def write_past(self, action: Action) -> None:
        """Write to a subject as somebody does who knows of no engine."""
        record = inline(self.acts.store.load(action.subject))
        self.acts.write_past(
            Commit(
                partition=partition_of(action.subject, self.plan.partitions),
                subject=action.subject,
                version=record.version,
                write=SubjectWrite(set={"alien": b"%d" % int(action.tag[1:])}, schema=record.schema),
                id=f"stranger {action.tag}",
            )
        )

    # -- the end

    def _open(self) -> list[str]:
        return [action.tag for action in self.plan.actions if action.tag not in self.done]

    def _look(self) -> None:
        """See whether all was asked for; then let nothing go wrong any more, and wait until all is at rest."""
        # What is parked may fill a log so far that no more is accepted, until somebody looks after it.
        if self.time < self.plan.until or (self._open() and self.time < self.plan.until + _WAIT):
            self.later(_LOOK, self._look)
            return
        self.is_quiet = True
        self.note(Quiet(self.time))
        for machine in list(self._machines.values()):
            machine.go_on()
        self._operator = ProducerMachine(self, self._next(), 0.0, None, -1, ())
        self._start(self._operator)
        self._operator.spawn(self._come_to_rest(self.time + _PATIENCE))

    async def _come_to_rest(self, until: float) -> None:
        """See to it that nothing waits any more: replay what is dead, resume what is parked, wait for the rest."""
        try:
            while not await self._is_at_rest():
                if self.time > until:
                    stats = inline(self.acts.store.stats())
                    owners = [part.look().owner for part in self.server.partitions]
                    raise RuntimeError(f"no rest after {_PATIENCE:g} s: {stats}; {owners}; open: {self._open()}")
                await self._operator.sleep(_LOOK)
            await self._operator.sleep(self.plan.idle)
            if self.plan.idle and (left := [out for part in self.server.partitions for out in part.state.outbox]):
                raise RuntimeError(f"{len(left)} messages still lie in outboxes, long after they were delivered")
            self._is_ending, until = True, self.time + _PATIENCE
            self.note(Ending(self.time))
            for machine in list(self._machines.values()):
                if machine is not self._operator:
                    machine.stop()
            while [machine for machine in self._machines.values() if machine is not self._operator]:
                if self.time > until:
                    raise RuntimeError("a machine that was stopped does not end")
                await self._operator.sleep(_LOOK)
            self._is_over = True
        except Exception as error:
            self.fail(error)

    async def _is_at_rest(self) -> bool:
        parts = self.server.partitions
        retries: list[Retry] = [retry for part in parts for retry in part.retries()]
        letters = [id for part in parts for id in part.state.dead if id not in self._replayed]
        parked = {retry.subject for retry in retries if retry.parked}
        waits = {entry.event.subject for part in parts for entry in part.state.log.values()}
        waits |= {retry.subject for retry in retries}
        if not waits <= parked or self._is_between() or any(part.state.timers for part in parts):
            return False
        workers = [machine.worker for machine in self._of(WorkerMachine)]
        owners = {number: worker.id for worker in workers for number in worker.status().owned}
        if any(part.look().owner != owners.get(number, "") for number, part in enumerate(parts)):
            return False
        if any(len(worker.status().owned) != worker.status().share for worker in workers):
            return False
        if letters:
            for id in letters:
                self._replayed.add(id)
                with suppress(UnknownDeadLetter):  # a process that had stood still has done it a moment ago
                    await self._operator.bus.replay(id)
            return False
        for name in sorted(parked):
            self._resumed[name] += 1
            is_patient = self._resumed[name] < 3
            await (self._operator.bus.resume(name) if is_patient else self._operator.bus.skip(name))
        return not parked and not self._open()

    def _is_between(self) -> bool:
        """Tell whether a message is on its way from one partition to another."""
        for source, part in enumerate(self.server.partitions):
            for out in part.state.outbox.values():
                if (self.server.partitions[out.target].state.watermarks.get(source) or 0) < out.position:
                    return True
        return False


_NOBODY: Final = Context()
