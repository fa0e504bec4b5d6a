"""Stores by address: one line of text that says which kind, where, and how it is set up."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from onwhen.engine.store import Store
from onwhen.errors import SettingError
from onwhen.storage.memory import create_memory_storage

__all__ = ["create_storage"]

_DIGITS: Final = 12  # of a count; more than will ever be kept
_KNOWN: Final = "known are memory://, sqlite:///relative.db and sqlite:////absolute.db"


def create_storage(url: str, *, partitions: int = 1, dedup_window: int | None = None, read_only: bool = False) -> Store:
    """Return the store that an address means; nothing is opened before a bus opens it.

    Args:
        url: `memory://`, `sqlite:///relative.db` or `sqlite:////absolute.db`; special characters of a file's name as
            in all URLs (`%20`). Both take `?history=1000` (a count), SQLite also `?synchronous=NORMAL`.
        partitions: how many partitions there are (a count).
        dedup_window: how many accepted events are remembered by source and id (a count). None: as many as before, in
            a file; 100,000 in a new one, and in memory.
        read_only: look at a file that another process may be writing to.

    Raises:
        SettingError: there is no such kind of store, or it has no such option.
    """
    try:
        parts = urlsplit(url)
    except ValueError as exc:
        raise _error(url, str(exc)) from None
    if "://" not in url or parts.scheme not in ("memory", "sqlite"):
        raise _error(url, f"no kind of store; {_KNOWN}")
    if parts.netloc or parts.fragment:
        raise _error(url, f"{parts.netloc or parts.fragment!r} has no meaning there; {_KNOWN}")
    options = _options(url, parts.query, parts.scheme)
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


def _options(url: str, query: str, scheme: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise _error(url, f"{name} is given twice")
        if name == "history":
            if not value.isdecimal() or len(value) > _DIGITS:
                raise _error(url, f"history={value[:20]} must be a count, of {_DIGITS} digits at most")
            options[name] = int(value)
        elif name == "synchronous" and scheme == "sqlite":
            if value.upper() not in ("FULL", "NORMAL"):
                raise _error(url, f"synchronous={value} must be FULL or NORMAL")
            options[name] = value.upper()
        else:
            known = "history" if scheme == "memory" else "history and synchronous"
            raise _error(url, f"{name} is no option; there are {known}")
    return options


def _error(url: str, reason: str) -> SettingError:
    return SettingError(f"store {url!r}: {reason}", settings=("store",))
