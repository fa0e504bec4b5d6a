"""Which partitions a worker is told to own, as it is typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.cli._options import UsageError
from onwhen.cli._own import owned, ranges


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("0", {0}),
        ("0-3,7", {0, 1, 2, 3, 7}),
        (" 2 - 3 , 5 ", {2, 3, 5}),
        ("1,1,0-1", {0, 1}),
        ("0/1", {0, 1, 2, 3, 4, 5, 6, 7}),
        ("1/3", {1, 4, 7}),
        ("shop-worker-2/3", {2, 5}),
    ],
)
def test_what_a_text_means(text: str, numbers: set[int]) -> None:
    """Numbers, ranges, or a place among equals, with the name of a StatefulSet's pod before it."""
    assert owned(text, 8) == numbers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "give partitions"),
        ("a", "give partitions"),
        ("1,,2", "give partitions"),
        ("-1", "give partitions"),
        ("3-1", "ends before it begins"),
        ("5,8", "there is no partition 8; there are 8, from 0 on"),
        ("3/3", "counted from 0, so the last of 3 is 2"),
        ("8/9", "nothing is left"),
        ("٣", "give partitions"),
    ],
)
def test_what_means_nothing_is_refused(text: str, told: str) -> None:
    """With what could be meant."""
    with pytest.raises(UsageError, match=told):
        owned(text, 8)


@given(workers=st.integers(1, 20), partitions=st.integers(1, 64))
def test_equals_share_all_without_overlap(workers: int, partitions: int) -> None:
    """However many there are, each partition is owned by just one of them."""
    found = [number for place in range(min(workers, partitions)) for number in owned(f"{place}/{workers}", partitions)]
    assert sorted(found) == list(range(partitions))


@given(numbers=st.sets(st.integers(0, 200), min_size=1))
def test_what_is_written_is_read_again(numbers: set[int]) -> None:
    """Ranges are what a person would write."""
    assert owned(ranges(numbers), 201) == numbers


def test_nothing_has_a_name() -> None:
    """A worker may own none at all."""
    assert ranges(()) == "none"
