"""Stores by address: one line of text that says which kind, where, and how it is set up."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from onwhen.engine.store import Store
from onwhen.errors import SettingError
from onwhen.storage.memory import create_memory_storage

__all__ = ["create_storage", "is_redis", "without_password"]

_DIGITS: Final = 12  # of a count; more than will ever be kept
_REDIS: Final = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_OF_REDIS_STORE: Final = ("key_prefix", "partitions", "max_backlog", "history", "explanations")
"""Options behind the address of a Redis that are about the store; all others are about the connection."""
_KNOWN: Final = (
    "known are memory://, sqlite:///relative.db, sqlite:////absolute.db, redis://HOST:PORT/DB, "
    "redis+sentinel://HOST:PORT,.../MASTER and redis+cluster://HOST:PORT,...; rediss in place of redis for TLS"
)


def create_storage(
    url: str,
    *,
    partitions: int | None = None,
    dedup_window: int | None = None,
    read_only: bool = False,
    key_prefix: str | None = None,
    max_backlog: int | None = None,
    explanations: int | None = None,
) -> Store:
    """Return the store that an address means; nothing is opened before a bus opens it.

    Args:
        url: `memory://`; `sqlite:///relative.db` or `sqlite:////absolute.db`, special characters of a file's name as
            in all URLs (`%20`); or that of a Redis (see `create_redis_storage`). All take `?history=1000` and
            `explanations` (counts), SQLite also `?synchronous=NORMAL`, Redis also `key_prefix`, `partitions` and
            `max_backlog`, which go before the arguments here, and what a connection is set up with, such as
            `ssl_ca_certs=FILE`.
        partitions: how many partitions there are (a count). None: as many as before; if there is nothing yet, 16 in
            Redis, else 1.
        dedup_window: how many accepted events are remembered by source and id (a count). None: as many as before, in
            a file or in Redis; in a new one, and in memory, 100,000, in Redis 10,000 in each partition.
        read_only: look at what is there, which other processes may be writing to; nothing is made.
        key_prefix: what all names of keys in Redis start with; None for `onwhen`.
        max_backlog: how many pending events a partition in Redis may have before it takes no more (a count); None for
            100,000.
        explanations: how many explanations each partition keeps of what turns did (a count); None for 1,000.

    Raises:
        SettingError: there is no such kind of store, or it has no such option.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise _error(url, str(exc)) from None
    if "://" not in url or parts.scheme not in ("memory", "sqlite", *_REDIS):
        raise _error(url, f"no kind of store; {_KNOWN}")
    if is_redis(url):
        given = {
            "partitions": partitions,
            "key_prefix": key_prefix,
            "max_backlog": max_backlog,
            "explanations": explanations,
        }
        return _redis(url, {name: value for name, value in given.items() if value is not None}, dedup_window, read_only)
    if parts.netloc or parts.fragment:
        raise _error(url, f"{parts.netloc or parts.fragment!r} has no meaning there; {_KNOWN}")
    options = ({} if explanations is None else {"explanations": explanations}) | _options(
        url, parts.query, parts.scheme
    )
    partitions = 1 if partitions is None else partitions
    if parts.scheme == "memory":
        if parts.path:
            raise _error(url, f"{parts.path!r} has no meaning there; {_KNOWN}")
        if read_only:
            raise _error(url, "a store in memory is empty when it is made; there is nothing to look at")
        if dedup_window is not None:
            options["dedup_window"] = dedup_window
        return create_memory_storage(partitions=partitions, **options)
    from onwhen.storage.sqlite import create_sqlite_storage

    path = unquote(parts.path.removeprefix("/"), errors="surrogateescape")
    if not path:
        raise _error(url, f"the name of a file is missing; {_KNOWN}")
    return create_sqlite_storage(path, partitions=partitions, dedup_window=dedup_window, read_only=read_only, **options)


def is_redis(url: str) -> bool:
    """Tell whether an address is that of a Redis, which many processes use at once."""
    return url.partition("://")[0] in _REDIS


def without_password(url: str) -> str:
    """Return an address with what may be a password left out, to be shown to people."""
    # To the last @, wherever it is: a password may have characters in it that it should not have.
    url = re.sub(r"(?<=://).*@", lambda found: found[0].partition(":")[0].rstrip("@") + ":***@", url)
    return re.sub(r"(?<=password=)[^&#]*", "***", url)


def _redis(url: str, given: dict[str, Any], dedup_window: int | None, read_only: bool) -> Store:
    """Take out of the query what is said of the store; what is left is for the connection."""
    try:
        from onwhen.storage.redis import (
            create_redis_storage,
        )  # and with it the driver, which only those load who use it
    except ModuleNotFoundError as error:
        raise _error(url, str(error)) from error

    from onwhen.storage.redis._address import OPTIONS

    base, _, query = url.partition("?")
    options: dict[str, Any] = {}
    rest: list[tuple[str, str]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in OPTIONS:
            rest.append((name, value))
        elif name not in _OF_REDIS_STORE:
            raise _error(url, f"{name} is no option; there are {', '.join((*_OF_REDIS_STORE, *OPTIONS))}")
        elif name in options:
            raise _error(url, f"{name} is given twice")
        else:
            options[name] = value if name == "key_prefix" else _count(url, name, value)
    if rest:
        base += "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in rest)
    return create_redis_storage(base, dedup_window=dedup_window, read_only=read_only, **given | options)


def _options(url: str, query: str, scheme: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise _error(url, f"{name} is given twice")
        if name in ("history", "explanations"):
            options[name] = _count(url, name, value)
        elif name == "synchronous" and scheme == "sqlite":
            if value.upper() not in ("FULL", "NORMAL"):
                raise _error(url, f"synchronous={value} must be FULL or NORMAL")
            options[name] = value.upper()
        else:
            known = "history and explanations" if scheme == "memory" else "history, explanations and synchronous"
            raise _error(url, f"{name} is no option; there are {known}")
    return options


def _count(url: str, name: str, value: str) -> int:
    if not value.isdecimal() or len(value) > _DIGITS:
        raise _error(url, f"{name}={value[:20]} must be a count, of {_DIGITS} digits at most")
    return int(value)


def _error(url: str, reason: str) -> SettingError:
    return SettingError(f"store {without_password(url)!r}: {reason}", settings=("store",))
