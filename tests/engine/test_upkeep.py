"""Upkeep: all subjects brought to the schema version that their classes declare."""

import asyncio
from typing import Any

import pytest

from onwhen import Context, EventBus, RuleSet, Subject, create_memory_storage, migrate
from onwhen.engine.store import Commit, CommitResult, Store
from onwhen.engine.upkeep import Migrated
from onwhen.errors import MigrationError
from tests.engine.stores import Flaky

pytestmark = pytest.mark.usefixtures("no_pauses")


class Old(Subject, prefix="thing:"):
    n: int = 0


class New(Subject, prefix="thing:", version=3):
    m: int = 0

    @migrate(1)
    def _rename(properties: dict[str, Any]) -> None:  # type: ignore[misc]
        if properties["n"] == 13:
            raise LookupError("bad luck")
        properties["m"] = properties.pop("n")

    @migrate(2)
    def _times(properties: dict[str, Any]) -> None:  # type: ignore[misc]
        properties["m"] *= 10


def of(cls: type[Subject], store: Store) -> EventBus:
    rules = RuleSet("rules", subject=cls)

    @rules.on("set")
    def set_it(ctx: Context[Any]) -> None:
        ctx.subject.set("n" if cls is Old else "m", ctx.payload)

    return EventBus(rules, store=store)


async def fill(store: Store, **numbers: int) -> None:
    """Store things, and something dynamic beside them, by old code."""
    async with of(Old, store) as bus:
        for name, number in numbers.items():
            await bus.emit("set", f"thing:{name}", number)
        async with bus.subject("other") as other:
            other.set("n", 1)


async def all_of(bus: EventBus, **options: Any) -> list[Migrated]:
    return [migrated async for migrated in bus.migrate_subjects(**options)]


async def test_all_subjects_are_brought_to_their_version(store: Store) -> None:
    """By all steps in between; those that have it, and those without a class, are left out."""
    await fill(store, a=1, b=2)
    async with asyncio.timeout(5), of(New, store) as bus:
        await bus.emit("set", "thing:new", 3)
        assert await all_of(bus) == [Migrated(subject=f"thing:{name}", stored=1, declared=3) for name in "ab"]
        records = [record async for record in store.subjects("thing:")]
        assert [(record.schema, dict(record.properties)) for record in records] == [
            (3, {"m": b"10"}),
            (3, {"m": b"20"}),
            (3, {"m": b"3"}),
        ]
        assert (await bus.read("other")).dict() == {"n": 1}
        assert await all_of(bus) == []


async def test_a_dry_run_stores_nothing(store: Store) -> None:
    """It says what would be done, and what would fail."""
    await fill(store, a=1, b=13)
    async with asyncio.timeout(5), of(New, store) as bus:
        found = await all_of(bus, dry_run=True)
        assert [(one.subject, one.error is None) for one in found] == [("thing:a", True), ("thing:b", False)]
        assert {record.schema async for record in store.subjects("thing:")} == {1}


async def test_state_that_cannot_be_migrated_is_named_and_left_as_it_is(store: Store) -> None:
    """The others are migrated all the same."""
    await fill(store, a=13, b=1)
    async with asyncio.timeout(5), of(New, store) as bus:
        first, second = await all_of(bus)
        assert isinstance(first.error, MigrationError)
        assert "bad luck" in str(first.error)
        assert second.error is None
        record = await store.load("thing:a")
        assert (record.schema, dict(record.properties)) == (1, {"n": b"13"})
        assert [one.subject for one in await all_of(bus)] == ["thing:a"]


async def test_state_of_newer_code_is_named(store: Store) -> None:
    """It is not brought back."""
    async with of(New, store) as bus:
        await bus.emit("set", "thing:a", 1)
    async with asyncio.timeout(5), of(Old, store) as bus:
        (found,) = await all_of(bus)
        assert (found.stored, found.declared) == (3, 1)
        assert "written by newer code" in str(found.error)


async def test_a_subject_without_changes_is_written_all_the_same(store: Store) -> None:
    """Its version is what has changed; it is not looked at again."""

    class Same(Subject, prefix="thing:", version=2):
        n: int = 0

        @migrate(1)
        def _nothing(properties: dict[str, Any]) -> None:  # type: ignore[misc]
            pass

    await fill(store, a=1)
    async with asyncio.timeout(5), of(Same, store) as bus:
        assert len(await all_of(bus)) == 1
        assert (await store.load("thing:a")).schema == 2
        assert await all_of(bus) == []


async def test_rules_see_the_new_state_and_no_event(store: Store) -> None:
    """Nothing is emitted for it."""
    await fill(store, a=1)
    async with asyncio.timeout(5), of(New, store) as bus:
        seen: list[Any] = []
        bus.observe(lambda outcome: seen.append(outcome.event.type))
        await all_of(bus)
        assert seen == []
        await bus.emit("set", "thing:a", 5)
        assert (await bus.read("thing:a")).dict() == {"m": 5}


async def test_somebody_who_writes_meanwhile_is_not_overwritten() -> None:
    """The newer state is migrated, or found to be of the new version already."""

    class Busy(Flaky):
        writes = 0

        async def commit(self, commit: Commit) -> CommitResult:
            if commit.handled is None and self.writes < 2:
                self.writes += 1
                writer = of(Old if self.writes == 1 else New, memory)
                await writer.emit("set", "thing:a", 7)
            return await super().commit(commit)

    memory = create_memory_storage()
    await fill(memory, a=1)
    async with asyncio.timeout(5), of(New, Busy(memory)) as bus:
        assert await all_of(bus) == []  # the second writer was of the new version
        assert (await bus.read("thing:a")).dict() == {"m": 7}


@pytest.mark.parametrize("outcome", ["before", "after"])
async def test_a_lost_answer_migrates_once(outcome: str) -> None:
    """The steps are not applied to what they have made."""
    store = Flaky(create_memory_storage())
    await fill(store, a=1)
    async with asyncio.timeout(5), of(New, store) as bus:
        store.fails["commit"] = [outcome] * 3
        assert [one.error for one in await all_of(bus)] == [None]
        assert (await bus.read("thing:a")).dict() == {"m": 10}


async def test_a_subject_that_was_parked_for_its_state_goes_on(store: Store) -> None:
    """Migrate, then resume: what has waited is handled."""
    await fill(store, a=1)

    class Stuck(Subject, prefix="thing:", version=3):
        m: int = 0

    async with of(Stuck, store) as bus:
        await bus.emit("set", "thing:a", 8)
        await bus.emit("set", "thing:a", 9)
    async with asyncio.timeout(5), of(New, store) as bus:
        assert len(await all_of(bus)) == 1
        assert len(await bus.resume("thing:a")) == 1
        await bus.idle()
        assert (await bus.read("thing:a")).dict() == {"m": 9}
        assert [retry async for retry in bus.parked()] == []
