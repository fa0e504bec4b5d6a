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

__all__ = ["Cycle", "Grade", "components", "cycles_of"]

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
    moving = _without_settled(steps, writes)
    found: dict[frozenset[tuple[str, str, str]], Cycle] = {}
    grades: tuple[tuple[Grade, Callable[[Step], bool]], ...] = (
        ("endless", lambda step: step.is_certain and not step.is_later),
        ("guarded", lambda step: not step.is_later),
        ("later", lambda step: True),
    )
    for grade, fits in grades:
        fitting = [step for step in moving if fits(step)]
        for steps_around in _unsettled(fitting, writes):
            key = frozenset(map(_name, steps_around))
            is_of_grade = grade != "later" or any(step.is_later for step in steps_around)
            if key not in found and is_of_grade:
                found[key] = Cycle(steps_around, grade)
    return list(found.values())


def _name(step: Step) -> tuple[str, str, str]:
    return step.source, step.via, step.target


def _without_settled(steps: Sequence[Step], writes: Mapping[str, Iterable[Write]]) -> list[Step]:
    """Return the steps that lie on cycles, without reactions to properties that come to rest."""
    moving = list(steps)
    while True:
        number = {node: at for at, nodes in enumerate(components(moving)) for node in nodes}
        values: dict[tuple[int, str], set[tuple[str, str]]] = defaultdict(set)
        for rule, group in number.items():
            for write in writes.get(rule, ()):
                values[group, str(write.property)].add((write.change, repr(write.value)))
        at_rest = {key for key, seen in values.items() if len(seen) == 1 and next(iter(seen))[0] == "constant"}
        kept = []
        for step in moving:
            group = number[step.source]
            if group == number[step.target] and (step.write is None or (group, step.via) not in at_rest):
                kept.append(step)
        if len(kept) == len(moving):
            return kept
        moving = kept


def _unsettled(steps: Sequence[Step], writes: Mapping[str, Iterable[Write]]) -> list[tuple[Step, ...]]:
    """Return through each rule its shortest cycle that does not come to rest by itself."""
    found: list[tuple[Step, ...]] = []
    left = list(steps)
    while True:
        around = _shortest(left)
        settled = [one for one in around if _settles(one, writes)]
        found += [one for one in around if one not in settled]
        if not settled:
            return found
        ends = {step for one in settled for step in one if step.write is not None}
        left = [step for step in left if step not in ends]


def _settles(steps: Sequence[Step], writes: Mapping[str, Iterable[Write]]) -> bool:
    """Tell whether the rules of a cycle alone set a property on the way to one and the same constant."""
    made = [write for step in steps for write in writes.get(step.source, ())]
    for step in steps:
        values = {(write.change, repr(write.value)) for write in made if str(write.property) == step.via}
        if step.write is not None and len(values) == 1 and next(iter(values))[0] == "constant":
            return True
    return False


def components(steps: Iterable[Step]) -> list[list[str]]:
    """Return the groups of rules each of which leads to all others of its group (Tarjan 1972), without recursion."""
    after: dict[str, list[str]] = defaultdict(list)
    nodes: dict[str, None] = {}
    for step in steps:
        after[step.source].append(step.target)
        nodes |= {step.source: None, step.target: None}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    held: set[str] = set()
    found: list[list[str]] = []
    for root in nodes:
        if root in index:
            continue
        work = [(root, iter(after[root]))]
        index[root] = low[root] = len(index)
        stack.append(root)
        held.add(root)
        while work:
            node, targets = work[-1]
            for target in targets:
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    held.add(target)
                    work.append((target, iter(after[target])))
                    break
                if target in held:
                    low[node] = min(low[node], index[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    at = stack.index(node)
                    found.append(stack[at:])
                    held.difference_update(stack[at:])
                    del stack[at:]
    return found


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
