"""What the simulation is worth: each check that is taken out of the engine or a store is missed in some world."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS, Mutant, hunt


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_missing_check_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    """Without the check, some world breaks the promise."""
    verdict = hunt(mutant, tmp_path)
    assert verdict.worlds is not None, verdict.said
