"""What the simulation of a fleet is worth: each check that is taken out of its protocol is missed in some world."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.simulation.fleet.mutants import FLEET_MUTANTS, MOST_SEEDS
from tests.simulation.mutants import Verdict, hunt


@pytest.fixture(scope="module")
def hunts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Future[Verdict]]]:
    """Begin all hunts, as many at a time as there are cores."""
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            yield {
                mutant.name: threads.submit(hunt, mutant, tmp_path_factory.mktemp("mutant"), MOST_SEEDS, "--fleet")
                for mutant in FLEET_MUTANTS
            }
        finally:
            threads.shutdown(cancel_futures=True)


def test_there_are_enough_of_them() -> None:
    """Every kind of check is among them, each one once."""
    assert len({mutant.name for mutant in FLEET_MUTANTS}) == len(FLEET_MUTANTS) >= 25


@pytest.mark.parametrize("name", [mutant.name for mutant in FLEET_MUTANTS])
def test_a_missing_check_is_noticed(name: str, hunts: Mapping[str, Future[Verdict]]) -> None:
    """Without the check, some world breaks the promise."""
    verdict = hunts[name].result()
    assert verdict.worlds is not None, verdict.said
