"""Placing boxes in columns and leading lines between them.

Belongs here: pure geometry on sizes and pairs of numbers. It must not know what the boxes stand for. The steps are
those of Sugiyama, Tagawa and Toda (1981): break cycles, find columns, order them with few crossings, give heights.
The order of the input decides wherever there is a choice, so the same input is always laid out alike.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from onwhen.analysis._columns import Pair, backward, columns_of
from onwhen.analysis._spacing import crossings_of, spread

__all__ = ["Box", "Layout", "Line", "lay_out"]

GAP: Final = 22.0  # between boxes of a column (pixels)
_LANE: Final = 14.0  # between a line that passes a column and what is beside it (pixels)
_BESIDE: Final = 3.0  # of a line there and its way back, each from the middle (pixels)
_CORRIDOR: Final = 64.0  # between columns (pixels)
_APART: Final = 44.0  # between parts that nothing connects (pixels)
_SWEEPS: Final = 24
_WIDEST: Final = 1500.0  # how wide parts may become that are put next to each other (pixels)


@dataclass(frozen=True, slots=True)
class Box:
    """Where a box is: its left upper corner and its size (pixels)."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        """Height of its middle (pixels, downwards)."""
        return self.y + self.height / 2


@dataclass(frozen=True, slots=True)
class Line:
    """A way between two boxes: points, of which each second stretch is level (pixels)."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is.

    Attributes:
        boxes: in the order of the sizes.
        lines: by pair; one that leads to its own box is not among them.
        width: of the whole (pixels).
        height: of the whole (pixels).
    """

    boxes: tuple[Box, ...]
    lines: Mapping[Pair, Line]
    width: float
    height: float


def lay_out(sizes: Sequence[tuple[float, float]], pairs: Sequence[Pair]) -> Layout:
    """Return where boxes and lines go.

    Args:
        sizes: width and height of each box (pixels).
        pairs: from which box to which, by number; of one pair only the first counts.
    """
    pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1]]
    boxes: dict[int, Box] = {}
    lines: dict[Pair, Line] = {}
    x = y = row = width = 0.0
    for nodes in _parts(len(sizes), pairs):
        inside = set(nodes)
        part = _Part({node: sizes[node] for node in nodes}, [pair for pair in pairs if pair[0] in inside])
        part_boxes, part_lines, part_width, part_height = part.laid_out()
        if x and x + part_width > _WIDEST:
            x, y, row = 0.0, y + row + _APART, 0.0
        for node, box in part_boxes.items():
            boxes[node] = Box(box.x + x, box.y + y, box.width, box.height)
        for pair, points in part_lines.items():
            lines[pair] = Line(tuple((px + x, py + y) for px, py in points))
        width, row = max(width, x + part_width), max(row, part_height)
        x += part_width + _APART * 1.6
    return Layout(tuple(boxes[node] for node in range(len(sizes))), lines, width, y + row)


def _parts(count: int, pairs: Sequence[Pair]) -> list[list[int]]:
    """Return the groups of boxes that lines connect: large ones first."""
    root = list(range(count))

    def find(node: int) -> int:
        while root[node] != node:
            node = root[node]
        return node

    for source, target in pairs:
        a, b = sorted((find(source), find(target)))
        root[b] = a
    groups: dict[int, list[int]] = defaultdict(list)
    for node in range(count):
        groups[find(node)].append(node)
    return sorted(groups.values(), key=lambda group: (-len(group), group[0]))


@dataclass(slots=True)
class _Part:
    """Boxes that lines connect, on the way to their places."""

    sizes: Mapping[int, tuple[float, float]]
    pairs: Sequence[Pair]
    columns: list[list[int]] = field(default_factory=list)
    heights: dict[int, float] = field(default_factory=dict)
    before: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    after: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    ways: dict[Pair, list[int]] = field(default_factory=dict)

    def laid_out(self) -> tuple[dict[int, Box], dict[Pair, list[tuple[float, float]]], float, float]:
        """Return boxes, lines, width and height."""
        reversed_pairs = backward(list(self.sizes), self.pairs)
        forward = [(b, a) if (a, b) in reversed_pairs else (a, b) for a, b in self.pairs]
        column = columns_of(list(self.sizes), forward)
        self._fill(column, forward)
        self._order()
        middle = self._place()
        top = min(middle[node] - self.heights[node] / 2 for node in middle)
        lefts, width = self._widths(forward)
        boxes = {}
        for at, nodes in enumerate(self.columns):
            broadest = self._broadest(nodes)
            for node in nodes:
                if node in self.sizes:
                    w, h = self.sizes[node]
                    boxes[node] = Box(lefts[at] + (broadest - w) / 2, middle[node] - h / 2 - top, w, h)
        lines = self._lines(boxes, middle, lefts, top, reversed_pairs)
        bottom = max(middle[node] + self.heights[node] / 2 for node in middle)
        return boxes, lines, width, bottom - top

    def _fill(self, column: Mapping[int, int], forward: Sequence[Pair]) -> None:
        """Put boxes into columns, and something thin where a line passes one."""
        self.columns = [[] for _ in range(max(column.values()) + 1)]
        for node, at in column.items():
            self.columns[at].append(node)
            self.heights[node] = self.sizes[node][1]
        thin = -1
        for source, target in dict.fromkeys(forward):
            way = [source]
            for at in range(column[source] + 1, column[target]):
                self.columns[at].append(thin)
                self.heights[thin] = 0.0
                way.append(thin)
                thin -= 1
            way.append(target)
            self.ways[source, target] = way
            for a, b in pairwise(way):
                self.after[a].append(b)
                self.before[b].append(a)

    # -- the order in each column

    def _order(self) -> None:
        best, fewest = [list(nodes) for nodes in self.columns], self._crossings()
        for sweep in range(_SWEEPS):
            is_forward = sweep % 2 == 0
            steps = range(1, len(self.columns)) if is_forward else range(len(self.columns) - 2, -1, -1)
            for at in steps:
                fixed = self.columns[at - 1] if is_forward else self.columns[at + 1]
                place = {node: number for number, node in enumerate(fixed)}
                near = self.before if is_forward else self.after
                now = {node: number for number, node in enumerate(self.columns[at])}
                self.columns[at].sort(key=lambda node: _mean([place[one] for one in near[node]], now[node]))
            self._swap()
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(nodes) for nodes in self.columns], crossings
        self.columns = best

    def _swap(self) -> None:
        """Swap neighbours as long as that saves crossings."""
        for at, nodes in enumerate(self.columns):
            left = {node: number for number, node in enumerate(self.columns[at - 1])} if at else {}
            right = {n: number for number, n in enumerate(self.columns[at + 1])} if at + 1 < len(self.columns) else {}
            ends = {
                node: ([left[one] for one in self.before[node]], [right[one] for one in self.after[node]])
                for node in nodes
            }
            improved = True
            while improved:
                improved = False
                for i in range(len(nodes) - 1):
                    first, second = ends[nodes[i]], ends[nodes[i + 1]]
                    if crossings_of(first, second) > crossings_of(second, first):
                        nodes[i], nodes[i + 1] = nodes[i + 1], nodes[i]
                        improved = True

    def _crossings(self) -> int:
        count = 0
        for at in range(len(self.columns) - 1):
            place = {node: number for number, node in enumerate(self.columns[at + 1])}
            ends = [place[b] for a in self.columns[at] for b in sorted(self.after[a], key=lambda one: place[one])]
            passed: list[int] = []
            for end in ends:
                count += len(passed) - bisect_right(passed, end)
                insort(passed, end)
        return count

    # -- heights

    def _place(self) -> dict[int, float]:
        """Give each box the height that its neighbours suggest, as far as the order and the gaps allow."""
        middle: dict[int, float] = {}
        for nodes in self.columns:
            y = 0.0
            for i, node in enumerate(nodes):
                y += self._apart(nodes[i - 1], node) if i else 0.0
                middle[node] = y
        last = len(self.columns) - 1
        for sweep in range(_SWEEPS * 2):
            order = range(last + 1) if sweep % 2 == 0 else range(last, -1, -1)
            for at in order:
                nodes = self.columns[at]
                wanted = [
                    _mean([middle[one] for one in (*self.before[node], *self.after[node])], middle[node])
                    for node in nodes
                ]
                apart = [self._apart(a, b) for a, b in pairwise(nodes)]
                weights = [3.0 if node < 0 else 1.0 for node in nodes]
                middle.update(zip(nodes, spread(wanted, apart, weights), strict=True))
        return middle

    def _apart(self, above: int, below: int) -> float:
        gap = GAP if above >= 0 and below >= 0 else _LANE
        return (self.heights[above] + self.heights[below]) / 2 + gap

    # -- lines

    def _broadest(self, nodes: Sequence[int]) -> float:
        return max((self.sizes[node][0] for node in nodes if node in self.sizes), default=0.0)

    def _widths(self, forward: Sequence[Pair]) -> tuple[list[float], float]:
        """Return where each column begins, and where the last one ends."""
        lefts, x = [], 0.0
        for at, nodes in enumerate(self.columns):
            lefts.append(x)
            x += self._broadest(nodes)
            lines = sum(len(self.after[node]) for node in nodes)
            x += _CORRIDOR + min(60.0, lines * 4.0) if at < len(self.columns) - 1 else 0.0
        return lefts, x

    def _lines(
        self,
        boxes: Mapping[int, Box],
        middle: Mapping[int, float],
        lefts: Sequence[float],
        top: float,
        reversed_pairs: set[Pair],
    ) -> dict[Pair, list[tuple[float, float]]]:
        column = {node: at for at, nodes in enumerate(self.columns) for node in nodes}
        rights = [left + self._broadest(nodes) for left, nodes in zip(lefts, self.columns, strict=True)]
        outs = {node: _ports(node, self.after[node], middle, boxes) for node in boxes}
        ins = {node: _ports(node, self.before[node], middle, boxes) for node in boxes}
        both = set(self.pairs)
        lines = {}
        for pair in self.pairs:
            is_back = pair in reversed_pairs
            way = self.ways[pair[::-1] if is_back else pair]
            first, last = way[0], way[-1]
            points = [(boxes[first].x + boxes[first].width, outs[first][way[1]])]
            points.append((rights[column[first]], points[0][1]))
            for node in way[1:-1]:
                y = middle[node] - top
                points += [(lefts[column[node]], y), (rights[column[node]], y)]
            end = ins[last][way[-2]]
            points += [(lefts[column[last]], end), (boxes[last].x, end)]
            if pair[::-1] in both:  # one beside the other
                points = [(x, y + (_BESIDE if is_back else -_BESIDE)) for x, y in points]
            lines[pair] = points[::-1] if is_back else points
        return lines


def _ports(node: int, others: Sequence[int], middle: Mapping[int, float], boxes: Mapping[int, Box]) -> dict[int, float]:
    """Return at which height of its side each line meets a box."""
    box = boxes[node]
    ordered = sorted(dict.fromkeys(others), key=lambda one: middle[one])
    room = min(box.height - 14.0, 9.0 * (len(ordered) - 1))
    step = room / (len(ordered) - 1) if len(ordered) > 1 else 0.0
    return {one: box.middle - room / 2 * (len(ordered) > 1) + step * at for at, one in enumerate(ordered)}


def _mean(numbers: Sequence[float], default: float) -> float:
    return sum(numbers) / len(numbers) if numbers else default
