"""Partitions: a stable share of all subjects."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import onwhen
from onwhen.engine.partitions import owned, partition_of


def test_the_partition_of_a_subject_never_changes() -> None:
    """These are written into stored data: other numbers here would tear apart what belongs together."""
    assert partition_of("123456789", 2**32) == 0xCBF43926  # the check value of CRC-32 (ISO 3309)
    assert [partition_of(name, 16) for name in ("ticket:3608", "device:7", "a", "ü", "")] == [9, 10, 3, 5, 0]


def test_it_is_the_same_in_every_process() -> None:
    """Python's own hash of a text differs from process to process; this does not."""
    code = "from onwhen.engine.partitions import partition_of as p; print([p(f'ticket:{n}', 64) for n in range(50)])"
    root = str(Path(onwhen.__file__).parents[1])
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {f"{[partition_of(f'ticket:{n}', 64) for n in range(50)]}\n"}


@given(st.text(st.characters(exclude_categories=("Cs",))), st.integers(1, 10_000))
def test_it_is_a_number_below_the_count(subject: str, partitions: int) -> None:
    """Every subject has exactly one partition, from 0 up."""
    assert 0 <= partition_of(subject, partitions) < partitions


def test_subjects_are_spread_evenly() -> None:
    """Names that differ in a running number alone share out well."""
    counts = Counter(partition_of(f"ticket:{n}", 16) for n in range(16_000))
    assert len(counts) == 16
    assert max(counts.values()) < 1.2 * min(counts.values())


@pytest.mark.parametrize(("text", "numbers"), [("0-2,7", {0, 1, 2, 7}), ("1/3", {1, 4, 7}), ("worker-2/3", {2, 5})])
def test_a_text_may_say_which_are_meant(text: str, numbers: set[int]) -> None:
    """Numbers and ranges, or a place among equals; tests/cli/test_own.py has more of them."""
    assert owned(text, 8) == numbers


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "give partitions"),
        ("5,8", "there is no partition 8"),
        ("3-1", "ends before"),
        ("3/3", "the last of 3 is 2"),
        ("0/0", "give partitions"),
    ],
)
def test_a_text_that_means_nothing_is_refused(text: str, told: str) -> None:
    """With what could be meant."""
    with pytest.raises(ValueError, match=told):
        owned(text, 8)
