"""However many properties are set, the subject is written once; the store's commits are counted to show it."""

from collections.abc import AsyncIterator

import pytest

from examples.krules_patterns.batches import container, emit, import_user
from onwhen.engine.store import Commit, CommitResult


@pytest.fixture
async def writes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Commit]]:
    """The commits that write a subject, as the store is given them."""
    writes: list[Commit] = []
    async with container.event_bus() as bus:
        commit_for_real = bus.store.commit

        async def commit(commit: Commit) -> CommitResult:
            if commit.write is not None:
                writes.append(commit)
            return await commit_for_real(commit)

        monkeypatch.setattr(bus.store, "commit", commit)
        yield writes


async def test_a_hundred_properties_are_one_write(writes: list[Commit]) -> None:
    """And with it go the hundred property-changed events, in the same commit."""
    await import_user("user-123")
    (commit,) = writes
    assert commit.write is not None
    assert len(commit.write.set) == 100
    assert len(commit.messages) == 100
    assert (await container.event_bus().read("user-123")).get("field99") == 99


async def test_a_batch_that_fails_writes_nothing(writes: list[Commit]) -> None:
    """Half a batch is never seen."""

    async def half() -> None:
        async with container.subject("user-124") as user:
            user.set("field0", 0)
            raise ValueError("no field1 in the file")

    with pytest.raises(ValueError, match="no field1"):
        await half()
    assert writes == []
    assert (await container.event_bus().read("user-124")).dict() == {}


async def test_a_rule_that_sets_three_properties_is_one_write(writes: list[Commit]) -> None:
    """`store` inside a rule does nothing of its own."""
    profile = {"name": "Ada", "email": "ada@example.org", "address": "St James's Square 12"}
    await emit("user.profile_update", "user-125", profile)
    (commit,) = writes
    assert commit.write is not None
    assert set(commit.write.set) == {"name", "email", "address"}


async def test_a_stream_of_readings_is_one_write_each(writes: list[Commit]) -> None:
    """Each reading is stored by the time that `emit` returns."""
    for value in (20, 21, 21, 22):
        await emit("sensor.reading", "sensor-1", {"value": value})
    assert len(writes) == 3  # the second 21 changed nothing
