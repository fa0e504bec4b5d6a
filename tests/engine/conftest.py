"""Fixtures of the engine's tests."""

import pytest

from onwhen import create_memory_storage
from onwhen.engine import resend
from onwhen.engine.store import Store
from tests.engine.stores import Flaky


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine ask a store again at once."""
    monkeypatch.setattr(resend, "_PAUSES", (0.0,))


@pytest.fixture(params=["memory", "durable"])
def store(request: pytest.FixtureRequest) -> Store:
    """A store that answers at once, or one whose calls take time and which outlives its process."""
    memory = create_memory_storage()
    return Flaky(memory) if request.param == "durable" else memory
