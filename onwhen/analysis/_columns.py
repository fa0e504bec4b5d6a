"""Which box goes into which column, so that lines lead from left to right.

Belongs here: pure functions on numbered boxes and pairs of them. It must not know of sizes or places.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Pair", "backward", "columns_of"]

Pair: TypeAlias = tuple[int, int]


def backward(nodes: Sequence[int], pairs: Sequence[Pair]) -> set[Pair]:
    """Return the pairs that have to be turned around so that no cycle is left; few, and by depth first search."""
    after: dict[int, list[int]] = defaultdict(list)
    has_before = {target for _, target in pairs}
    for source, target in pairs:
        after[source].append(target)
    state: dict[int, int] = {}
    found: set[Pair] = set()
    for root in sorted(nodes, key=lambda node: node in has_before):
        if root in state:
            continue
        state[root] = 1
        work = [(root, iter(after[root]))]
        while work:
            node, targets = work[-1]
            for target in targets:
                if state.get(target) == 1:
                    found.add((node, target))
                elif target not in state:
                    state[target] = 1
                    work.append((target, iter(after[target])))
                    break
            else:
                state[node] = 2
                work.pop()
    return found


def columns_of(nodes: Sequence[int], pairs: Sequence[Pair]) -> dict[int, int]:
    """Return the column of each box: right of all that lead to it, and near to what it leads to."""
    before: dict[int, list[int]] = defaultdict(list)
    after: dict[int, list[int]] = defaultdict(list)
    for source, target in pairs:
        after[source].append(target)
        before[target].append(source)
    left = {node: len(before[node]) for node in nodes}
    ready = [node for node in nodes if not left[node]]
    ordered: list[int] = []
    for node in ready:
        ordered.append(node)
        for target in after[node]:
            left[target] -= 1
            if not left[target]:
                ready.append(target)
    column: dict[int, int] = {}
    for node in ordered:
        column[node] = max((column[one] + 1 for one in before[node]), default=0)
    for node in reversed(ordered):
        if after[node] and len(after[node]) > len(before[node]):
            column[node] = max(column[node], min(column[one] for one in after[node]) - 1)
    return column
