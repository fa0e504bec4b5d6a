"""Cycles in a graph of steps: which of them may go on without end.

Belongs here: pure functions on steps. They must not know what rules are.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from onwhen.analysis._effects import Write
from onwhen.analysis._flow import Step

__all__ = ["Cycle", "Grade", "cycles_of"]

Grade: TypeAlias = Literal["endless", "guarded", "later"]
"""It never ends; it ends if a condition or a value says so; time passes on each way around."""


@dataclass(frozen=True, slots=True)
class Cycle:
    """A way from a rule back to itself.

    Attributes:
        steps: in order; the last one leads to where the first one starts.
        grade: whether it ends.
    """

    steps: tuple[Step, ...]
    grade: Grade


def cycles_of(steps: Sequence[Step], writes: Mapping[str, Iterable[Write]]) -> list[Cycle]:
    """Return cycles that may go on without end: through each rule the shortest one of each grade, the worst first.

    A property that all rules of a cycle set to the same constant changes once at most, so it ends there.

    Args:
        steps: all of them.
        writes: what each rule changes, by its id.
    """
    found: dict[frozenset[tuple[str, str, str]], Cycle] = {}
    grades: tuple[tuple[Grade, Callable[[Step], bool]], ...] = (
        ("endless", lambda step: step.is_certain and not step.is_later),
        ("guarded", lambda step: not step.is_later),
        ("later", lambda step: True),
    )
    for grade, fits in grades:
        fitting = [step for step in steps if fits(step)]
        for steps_around in _unsettled(fitting, writes):
            key = frozenset(map(_name, steps_around))
            is_of_grade = grade != "later" or any(step.is_later for step in steps_around)
            if key not in found and is_of_grade:
                found[key] = Cycle(steps_around, grade)
    return list(found.values())


def _name(step: Step) -> tuple[str, str, str]:
    return step.source, step.via, step.target


def _unsettled(steps: Sequence[Step], writes: Mapping[str, Iterable[Write]]) -> list[tuple[Step, ...]]:
    """Return through each rule its shortest cycle, without reactions to properties that come to rest."""
    left = list(steps)
    while True:
        found = _shortest(left)
        at_rest = {step for around in found for step in around if _is_at_rest(step, around, writes)}
        if not at_rest:
            return found
        left = [step for step in left if step not in at_rest]


def _is_at_rest(step: Step, around: Sequence[Step], writes: Mapping[str, Iterable[Write]]) -> bool:
    """Tell whether the rules of a cycle alone set the property of a step to one and the same constant."""
    made = [write for one in around for write in writes.get(one.source, ()) if str(write.property) == step.via]
    values = {(write.change, repr(write.value)) for write in made}
    return step.write is not None and len(values) == 1 and made[0].change == "constant"


def _shortest(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """Return through each node its shortest cycle."""
    after: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        after[step.source].append(step)
    found = []
    for start in dict.fromkeys(step.source for step in steps):
        came: dict[str, Step] = {}
        waiting = deque([start])
        while waiting and start not in came:
            for step in after[waiting.popleft()]:
                if step.target not in came:
                    came[step.target] = step
                    waiting.append(step.target)
        if start in came:
            back = [came[start]]
            while back[-1].source != start:
                back.append(came[back[-1].source])
            found.append(tuple(reversed(back)))
    return found
