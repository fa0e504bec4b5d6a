"""Bringing stored subjects to the version that their class declares, and telling what came of it.

Belongs here: what is counted and shown. How a subject is migrated is the engine's; this must not know.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from onwhen.cli._app import App, make_bus
from onwhen.cli._listing import Column, Output, show_rows
from onwhen.cli._opening import reading, writing
from onwhen.engine.store import Store
from onwhen.engine.upkeep import Migrated, migrate_subjects

__all__ = ["migrate_store"]

_ERROR: Final = 1_000  # characters of an error that are shown (a count)


async def migrate_store(url: str | None, app: App, dry_run: bool) -> int:
    """Migrate all subjects of a store, without any rules; show those that cannot be, and how many there were.

    Args:
        url: where the store is; None for where the setting says.
        app: what APP names, whose rule sets name the classes.
        dry_run: only find out; then the store is opened for reading only.

    Returns:
        The exit code: 1 if a subject could not be migrated.
    """
    migrated = failed = 0

    async def failures(store: Store) -> AsyncGenerator[Migrated, None]:
        nonlocal migrated, failed
        rulebook = make_bus(app, store=store).rulebook
        async for found in migrate_subjects(store, rulebook, dry_run=dry_run):
            if found.error is None:
                migrated += 1
            else:
                failed += 1
                yield found

    columns = (
        Column[Migrated]("subject", lambda found: found.subject),
        Column[Migrated]("stored", lambda found: str(found.stored), number=True),
        Column[Migrated]("declared", lambda found: str(found.declared), number=True),
        Column[Migrated]("error", lambda found: str(found.error), most=_ERROR),
    )
    async with reading(url) if dry_run else writing(url, ", or look with --dry-run") as store:
        await show_rows(failures(store), columns, lambda found: {}, Output(all=True))
        current = (await store.stats()).subjects - migrated - failed
    would = "would be: " if dry_run else ""
    print(f"{would}migrated {migrated:,}, current {current:,}, failed {failed:,}")
    return 1 if failed else 0
