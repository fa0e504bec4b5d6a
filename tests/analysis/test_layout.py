"""Where boxes and lines go: whatever the graph, it can be read."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen.analysis._columns import backward, columns_of
from onwhen.analysis._layout import GAP, lay_out

sizes = st.tuples(st.integers(30, 300).map(float), st.integers(20, 60).map(float))
graphs = st.integers(1, 14).flatmap(
    lambda count: st.tuples(
        st.lists(sizes, min_size=count, max_size=count),
        st.lists(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=24),
    )
)


@settings(deadline=None)
@given(graphs)
def test_boxes_do_not_overlap_and_are_inside(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    """They keep their sizes; above each other they are apart."""
    layout = lay_out(*graph)
    for (width, height), box in zip(graph[0], layout.boxes, strict=True):
        assert (box.width, box.height) == (width, height)
        assert box.x >= -0.001
        assert box.y >= -0.001
        assert box.x + width <= layout.width + 0.001
        assert box.y + height <= layout.height + 0.001
    for one, other in itertools.combinations(layout.boxes, 2):
        is_beside = one.x + one.width <= other.x or other.x + other.width <= one.x
        gap = max(other.y - one.y - one.height, one.y - other.y - other.height)
        assert is_beside or gap >= GAP - 0.001


@settings(deadline=None)
@given(graphs)
def test_lines_lead_from_box_to_box_and_through_none(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    """Level stretches pass boxes by; between them a line moves only from column to column."""
    layout = lay_out(*graph)
    assert set(layout.lines) == {pair for pair in graph[1] if pair[0] != pair[1]}
    for (source, target), line in layout.lines.items():
        for end, node in ((line.points[0], source), (line.points[-1], target)):
            box = layout.boxes[node]
            assert any(abs(end[0] - side) < 0.001 for side in (box.x, box.x + box.width))
            assert box.y <= end[1] <= box.y + box.height
        for (x, y), (to, level) in itertools.islice(itertools.pairwise(line.points), 0, None, 2):
            assert abs(y - level) < 0.001
            for at, box in enumerate(layout.boxes):
                if at not in (source, target):
                    is_above = box.y + box.height <= y or box.y >= y
                    assert is_above or max(x, to) <= box.x + 0.001 or min(x, to) >= box.x + box.width - 0.001


@given(graphs)
def test_the_same_graph_is_always_laid_out_alike(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    """So a drawing under version control changes only with the rules."""
    assert lay_out(*graph) == lay_out(*graph)


@given(graphs)
def test_lines_lead_to_the_right_once_cycles_are_broken(
    graph: tuple[list[tuple[float, float]], list[tuple[int, int]]],
) -> None:
    """All but those that are turned around."""
    nodes, pairs = list(range(len(graph[0]))), [pair for pair in graph[1] if pair[0] != pair[1]]
    turned = backward(nodes, pairs)
    forward = [pair[::-1] if pair in turned else pair for pair in pairs]
    column = columns_of(nodes, forward)
    assert all(column[source] < column[target] for source, target in forward)


def test_a_chain_is_a_straight_line() -> None:
    """From left to right, at one height."""
    layout = lay_out([(50.0, 30.0)] * 4, [(0, 1), (1, 2), (2, 3)])
    assert len({box.middle for box in layout.boxes}) == 1
    assert [box.x for box in layout.boxes] == sorted(box.x for box in layout.boxes)
