"""A store in a file to look into: the rules of a depot, and what they leave behind there.

The rules are the APP of the commands as well: `tests.cli.stores:depot`.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from onwhen import Context, Event, EventBus, RetryPolicy, RuleSet, Subject, SystemClock, migrate, partition_of
from onwhen.engine.store import Commit, DeadLetter, Failure, key_of
from onwhen.storage import create_sqlite_storage

APP = "tests.cli.stores:depot"


class Parcel(Subject, prefix="parcel:"):
    """A parcel."""

    status: str = "new"
    weight: int = 0


depot = RuleSet("depot", subject=Parcel)


def needs(what: str) -> None:
    """Fail unless something is there: the test, or whoever starts the command, says so in the environment."""
    if not os.environ.get(what):
        raise ConnectionError(f"no {what.lower()}\n\x1b[31mcall the desk")


@depot.on("parcel.sent")
def send(ctx: Context[Parcel]) -> None:
    ctx.subject.status = "under way"
    ctx.emit("parcel.overdue", delay=timedelta(days=3), key="deadline")


@depot.on("parcel.labelled")
def print_label(ctx: Context[Parcel]) -> None:
    needs("PRINTER")
    ctx.subject.set_ext("label", ctx.payload)


@depot.on("parcel.weighed", retry=RetryPolicy(on_exhausted="park"))
def weigh(ctx: Context[Parcel]) -> None:
    needs("SCALES")
    ctx.subject.weight = ctx.payload


@depot.on("parcel.opened")
def announce(ctx: Context[Parcel]) -> None:
    ctx.emit("parcel.labelled", "again")


@depot.on("parcel.called", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1)))
def call(ctx: Context[Parcel]) -> None:
    needs("PHONE")


@depot.on("parcel.announced")
def announce_to_desk(ctx: Context[Parcel]) -> None:
    needs("DESK")
    ctx.emit("parcel.labelled", "after all")


@depot.on("parcel.lost")
def forget(ctx: Context[Parcel]) -> None:
    ctx.subject.flush()


@depot.on("parcel.turned")
def turn(ctx: Context[Parcel]) -> None:
    ctx.emit("parcel.turned")


@depot.on("parcel.stuck")
async def stick(ctx: Context[Parcel]) -> None:
    os.close(os.open("stuck", os.O_CREAT))
    await asyncio.Event().wait()


@depot.on("parcel.said")
def say(ctx: Context[Parcel]) -> None:
    ctx.subject.status = ctx.payload


class NewParcel(Subject, prefix="parcel:", version=2):
    """A parcel as a later version of the program declares it."""

    status: str = "new"
    grams: int = 0

    @migrate(from_version=1)
    def to_grams(properties: dict[str, Any]) -> dict[str, Any]:
        weight = properties.pop("weight", 0)
        if weight < 0:
            raise ValueError(f"{weight} kg\n\x1b[31m")
        return {**properties, "grams": weight * 1000}


newer = RuleSet("newer", subject=NewParcel)


@newer.on("parcel.weighed")
def weigh_again(ctx: Context[NewParcel]) -> None:
    ctx.subject.grams = ctx.payload * 1000


def fill(
    path: Path,
    *events: tuple[Any, ...],
    rules: RuleSet = depot,
    settings: Mapping[str, str] = {},
    **options: Any,
) -> None:
    """Handle events: each is type, subject and, if there is any, data.

    Args:
        path: file of the store.
        *events: what is handled.
        rules: what handles them.
        settings: what is in the environment meanwhile.
        **options: of the store.
    """

    async def emit() -> None:
        async with EventBus(rules, store=create_sqlite_storage(path, **options)) as bus:
            for event in events:
                await bus.emit(*event)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        asyncio.run(emit())


def accept(path: Path, *events: tuple[Any, ...], **options: Any) -> None:
    """Accept events, and leave them pending."""

    async def append() -> None:
        store = create_sqlite_storage(path, **options)
        await store.open(SystemClock())
        for partition, some in groupby(events, lambda event: partition_of(event[1], store.partitions)):
            await store.append(partition, [Event(*event) for event in some])
        await store.close()

    asyncio.run(append())


def make_due(path: Path) -> None:
    """Let all timers and retries have been due for long."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE timers SET due = 0")
        connection.execute("UPDATE retries SET due = 0 WHERE NOT parked")


def leave(path: Path, rule: str, *event: Any) -> None:
    """Leave a dead letter without running anything."""

    async def commit() -> None:
        store = create_sqlite_storage(path)
        await store.open(SystemClock())
        about, now = Event(*event), SystemClock().now()
        letter = DeadLetter(
            id=key_of(about, rule),
            subject=about.subject,
            event=about,
            rule=rule,
            failure=Failure(type="RuntimeError", message="it rained"),
            attempts=2,
            first_failed=now,
            time=now,
        )
        await store.commit(Commit(partition=0, subject=about.subject, dead=[letter], id=about.id))
        await store.close()

    asyncio.run(commit())
