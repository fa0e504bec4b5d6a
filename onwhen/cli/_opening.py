"""Opening the store that a command is about: to be looked at, or to be written to.

Belongs here: `--store` and the setting behind it, and what is told when a store cannot be opened. It must not
know what is done with the store.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from onwhen.cli._options import UsageError
from onwhen.engine.clock import SystemClock
from onwhen.engine.shared import is_shared
from onwhen.engine.store import Store
from onwhen.errors import StoreError, StoreInUse
from onwhen.storage import create_storage
from onwhen.storage._urls import is_redis

__all__ = ["file_of", "is_for_workers", "named", "open_to", "reading", "store_named", "to_write", "writing"]

T = TypeVar("T")

_MEMORY: Final = "memory://"


def file_of(store: Store) -> Path:
    """Return the file that a store is in."""
    return Path(store.path)  # type: ignore[attr-defined]  # a store that can be read only has one


def store_named(url: str | None, *, partitions: int | None = None, read_only: bool = False) -> Store:
    """Return the store that an address means, not open yet.

    Args:
        url: where it is; None for where the setting says.
        partitions: how many it has to have, or has if it is made; None for as many as it has.
        read_only: look only, and make nothing.

    Raises:
        UsageError: no store is named.
        SettingError: the address, or a setting in the environment, cannot be used.
    """
    address = named(url)
    options: dict[str, Any] = {}
    if is_redis(address):  # its settings say where on the server it is
        from onwhen.settings import Settings

        options = Settings().storage(address)
        del options["partitions"]
    return create_storage(address, partitions=partitions, read_only=read_only, **options)


def is_for_workers(url: str | None) -> bool:
    """Tell whether workers share the store, so that it is they who run rules on it."""
    return is_redis(named(url))


@asynccontextmanager
async def reading(url: str | None) -> AsyncIterator[Store]:
    """Open a store to look at it; whoever has it open for writing is not disturbed.

    Args:
        url: where it is; None for where the setting says.

    Raises:
        UsageError: no store is named, there is none at that place, or it cannot be opened. None is ever made.
        SettingError: the address, or a setting in the environment, cannot be used.
    """
    _be_quiet()
    store = store_named(url, read_only=True)
    if not (
        is_shared(store) or file_of(store).exists()
    ):  # the store would say how to have one made, which no command does
        raise UsageError(f"{file_of(store)}: there is no such file; look at --store, or the directory you are in")
    await open_to(store.open(SystemClock()))
    try:
        yield store
    finally:
        await store.close()


def to_write(url: str | None, partitions: int) -> Store:
    """Return a store that is there, to be opened for writing.

    Args:
        url: where it is; None for where the setting says.
        partitions: how many it has, as was found by `reading` it.
    """
    return store_named(url, partitions=partitions)


@asynccontextmanager
async def writing(url: str | None, or_look: str = "") -> AsyncIterator[Store]:
    """Open a store to change it, without any rules.

    Args:
        url: where it is; None for where the setting says.
        or_look: what else can be done while somebody else has it open.

    Raises:
        UsageError, SettingError: as `reading` does; also if somebody else has it open for writing.
    """
    if is_for_workers(url):
        async with reading(url) as shared:  # only one that is there; nobody has it for himself
            yield shared
        return
    async with reading(url) as found:
        partitions = found.partitions
    store = to_write(url, partitions)
    was_closed = await open_to(store.open(SystemClock()), or_look)
    try:
        yield store
    finally:
        if was_closed:
            await store.close()
        # Else the program that had it open before was killed. We leave it as we found it, not closed, so that the
        # next one knows that, and is careful with what the other was handling.


def _be_quiet() -> None:
    """Leave it to the workers to warn of how a server is set up, or each look at a store would tell it once more."""
    logging.getLogger("onwhen.storage").setLevel(logging.ERROR)


def named(url: str | None) -> str:
    """Return the address that is meant: `--store`, or else the setting.

    Raises:
        UsageError: neither says anything.
    """
    if url is None:
        from onwhen.settings import Settings

        url = Settings().store
        if url == _MEMORY:
            raise UsageError("no store is named; add --store sqlite:///FILE or redis://HOST, or set ONWHEN_STORE")
    return url


async def open_to(opening: Awaitable[T], or_look: str = "") -> T:
    """Wait until something is open, and say what can be done in the command's own words if it cannot be.

    Args:
        opening: what opens a store.
        or_look: what else can be done while somebody else has it open.

    Raises:
        UsageError: it cannot be opened.
    """
    try:
        return await opening
    except StoreInUse as error:
        who, it_is, _ = str(error).partition("has it open for writing")
        if not it_is:  # somebody else than a store has locked it
            raise UsageError(str(error)) from error
        raise UsageError(f"{who}{it_is}; stop it first{or_look}") from error
    except StoreError as error:
        raise UsageError(str(error)) from error
