"""What happens in one simulated world, drawn by its seed: who asks for what when, and what goes wrong.

Belongs here: plans as data. It must not know how they are carried out, nor what they should come to.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

from onwhen.engine.events import Event
from tests.simulation.loop import EPOCH
from tests.simulation.model import ALWAYS

__all__ = ["SOURCE", "Action", "Faults", "Plan", "Workload", "plan_of"]

SOURCE: Final = "outside"
_NAMES: Final = ("acc:1", "acc:2", "dyn:1", "dyn:2", "dyn:3")


@dataclass(frozen=True, slots=True)
class Action:
    """Something that somebody outside asks for.

    Attributes:
        time: when (seconds).
        what: "emit", "session", "append", "close", "replay", "resume", "skip", "discard" or "foreign".
        tag: what it is known by; unique.
        subject: which subject it is about, if any.
        event: what is emitted.
        amount: how much a session adds.
    """

    time: float
    what: str
    tag: str
    subject: str = ""
    event: Event | None = None
    amount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, as probabilities per call to the store unless said otherwise.

    Attributes:
        before: an error, and nothing is done.
        lost: it is done, and an error is the answer.
        late: an error is the answer, and it is done after that, but before what is asked later.
        killed: it is done, and the process is killed before it hears of it.
        latency: how long a call takes at most until it is done, and as long again until its answer (seconds).
        slow: from when to when all takes 30 times as long (seconds).
        full: from when to when every write fails (seconds).
        kills: of each process, after how many callbacks it is killed (a count); 0 for not at all.
    """

    before: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    killed: float = 0.0
    latency: float = 0.002
    slow: tuple[float, float] = (0.0, 0.0)
    full: tuple[float, float] = (0.0, 0.0)
    kills: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One world.

    Attributes:
        seed: what it was drawn from.
        partitions: how many the store has (a count).
        ahead: how much the store's clock is ahead of the processes' (seconds).
        concurrent: subjects that are worked on at the same time (a count).
        hot: subjects that a process keeps in memory (a count).
        faults: what goes wrong, until all actions are begun.
        on_file: it is the store in one file, not the one in memory.
        actions: what is asked for, earliest first.
    """

    seed: int
    partitions: int
    ahead: float
    concurrent: int
    hot: int
    faults: Faults
    on_file: bool
    actions: Sequence[Action] = field(repr=False)


def plan_of(seed: int) -> Plan:
    """Draw a world."""
    chance = random.Random(seed)
    actions = Workload(chance).actions()
    end = actions[-1].time
    return Plan(
        seed=seed,
        partitions=chance.choice((1, 1, 2, 3)),
        ahead=chance.choice((0.0, 0.0, 0.0, -0.2, 0.2)),
        concurrent=chance.choice((1, 2, 1000)),
        hot=chance.choice((1, 10_000, 10_000)),
        faults=_faults(chance, end),
        on_file=seed % 8 == 7,
        actions=actions,
    )


def _faults(chance: random.Random, end: float) -> Faults:
    """Draw what goes wrong: in some worlds nothing, in some one thing, in most of them everything."""
    kind = chance.randrange(8)
    latency = chance.choice((0.0, 0.001, 0.02, 0.2))
    if kind == 0:
        return Faults(latency=latency)
    errors = kind not in (1, 2)
    kills = kind not in (3, 4)
    slow = chance.uniform(0, end)
    full = chance.uniform(0, end)
    return Faults(
        before=chance.choice((0.0, 0.02, 0.1)) if errors else 0.0,
        lost=chance.choice((0.0, 0.02, 0.15)) if errors else 0.0,
        late=chance.choice((0.0, 0.02, 0.1)) if errors else 0.0,
        killed=chance.choice((0.0, 0.01, 0.03)) if kills else 0.0,
        latency=latency,
        slow=(slow, slow + chance.choice((0.0, 0.0, 3.0))),
        full=(full, full + chance.choice((0.0, 0.0, 0.0, 4.0, 20.0))) if errors else (0.0, 0.0),
        kills=[round(chance.expovariate(1 / 150)) + 1 for _ in range(chance.choice((0, 1, 3)))] if kills else (),
    )


class Workload:
    """Draws what is asked for.

    Args:
        chance: what it is drawn from.
        first: number of the last tag that others have used (a count).
    """

    def __init__(self, chance: random.Random, first: int = 0) -> None:
        self._chance = chance
        self._tags = first
        self._kills = 0.15 if chance.random() < 0.15 else 0.0
        self._names = _NAMES[: chance.choice((1, 2, 5, 5))]

    def actions(self) -> list[Action]:
        chance = self._chance
        time, drawn = 0.0, []
        spread = chance.choice((0.0, 0.05, 1.0))
        for _ in range(chance.choice((5, 8, 13))):
            if chance.random() < 0.5:
                time += chance.uniform(0, spread)
            drawn.append(self._action(time))
        return sorted(drawn, key=lambda action: action.time)

    def _action(self, time: float) -> Action:
        chance, tag, subject = self._chance, self._tag(), self._chance.choice(self._names)
        kind = chance.random()
        if kind < 0.74:
            what = "append" if chance.random() < 0.2 else "emit"
            return Action(time, what, tag, subject, self._event(tag, subject))
        if kind < 0.81:
            return Action(time, "session", tag, subject, amount=chance.randint(1, 3))
        if kind < 0.86:
            return Action(time, "foreign", tag, subject)
        what = chance.choice(("close", "replay", "discard", "resume", "skip"))
        return Action(time + chance.uniform(0, 10), what, tag)  # later, when there is something to look after

    def _tag(self) -> str:
        self._tags += 1
        return f"e{self._tags}"

    def _event(self, tag: str, subject: str) -> Event:
        data = self._data(tag, chance_of_more=0.8)
        return Event("do", subject, data, id=tag, source=SOURCE, time=EPOCH + timedelta(seconds=self._tags))

    def _data(self, tag: str, chance_of_more: float) -> dict[str, Any]:
        """Draw the data of an event: for each rule that is to run, its steps."""
        chance = self._chance
        wanted = [name for name in ("first", "again", "later", "slow") if chance.random() < 0.4] or ["first"]
        if chance.random() < 0.15:
            wanted.append("park")
        rules = {}
        for name in wanted:
            steps = [self._step(chance_of_more) for _ in range(chance.choice((1, 2, 3)))]
            if name in ("again", "slow"):
                steps = self._with_sleep(name, steps)
            if name == "again" and chance.random() < self._kills:
                steps.append(["kill", chance.choice((1, 2, ALWAYS))])
            if chance.random() < 0.25:
                steps.insert(chance.randint(0, len(steps)), ["fail", chance.choice((1, 1, 2, 5))])
            rules[name] = steps
        return {"tag": tag, "rules": rules}

    def _with_sleep(self, name: str, steps: list[Any]) -> list[Any]:
        chance = self._chance
        if chance.random() < 0.4:
            longest = 5.0 if name == "slow" or chance.random() < 0.1 else 0.2
            steps.insert(chance.randint(0, len(steps)), ["sleep", round(chance.uniform(0, longest), 3)])
        return steps

    def _step(self, chance_of_more: float) -> list[Any]:
        chance = self._chance
        kind = chance.random()
        if kind < 0.3:
            return ["add", chance.randint(1, 4)]
        if kind < 0.4:
            return ["note", self._tag()]
        if kind < 0.45:
            return ["bag", chance.choice("ab"), self._tags]
        if kind < 0.48:
            return ["del"]
        if kind < 0.5:
            return ["flush"]
        if kind < 0.55:
            return ["cancel", chance.choice("kl")]
        if chance.random() > chance_of_more:
            return ["add", 1]
        target = chance.choice(self._names)
        data = self._data(self._tag(), chance_of_more * 0.5)
        if kind < 0.7:
            delay = chance.choice((0.0, 0.5, 3.0, round(chance.uniform(0, 8), 3)))
            return ["timer", chance.choice("kl"), delay, target, data]
        return ["emit", target, data]
