"""Whether each key that is left on a server has a cause: nothing else keeps a store from growing for ever.

Belongs here: what keys there may be, and which of them must agree with which. It must not know who has written them,
and does not use the store: what the store does not look at is what is looked for here.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from onwhen.storage.redis._keys import FIXED
from onwhen.testing.servers import RedisServer

__all__ = ["keys_of", "strays"]

_ONCE: Final = re.compile(r"\{(?P<prefix>[^{}]+)\}:(meta|workers)")
_PART: Final = re.compile(
    r"\{(?P<prefix>[^{}]+?):p\d+(?:\.\d+)?\}:(?:(?P<name>" + "|".join(FIXED) + r")|s:(?P<subject>.*))", re.DOTALL
)
_CELL: Final = re.compile(r"\{(?P<prefix>[^{}]+):cell:[0-9a-f]{8}\}/.*", re.DOTALL)
_PAGE: Final = 5_000
_ORDER: Final = 34  # characters of a due moment and an order number
_NUMBER: Final = 16  # characters of an order number


def keys_of(server: RedisServer, pattern: str = "*") -> list[str]:
    """Return all keys that a server has."""
    found: list[str] = []
    cursor: Any = 0
    with server.wire() as wire:
        while True:
            cursor, page = wire.ask("SCAN", cursor, "MATCH", pattern, "COUNT", _PAGE)
            found += page
            if cursor == "0":
                return sorted(set(found))


def strays(*servers: RedisServer, prefix: str | None = None) -> list[str]:
    """Return what is there without cause, a line each.

    Args:
        servers: all that hold keys.
        prefix: that all keys should have; None for any.
    """
    wrong: list[str] = []
    for server in servers:
        partitions: dict[str, dict[str, str]] = defaultdict(dict)
        for key in keys_of(server):
            # the second matches a partition's meta too
            found = _PART.fullmatch(key) or _ONCE.fullmatch(key) or _CELL.fullmatch(key)
            if found is None or prefix not in (None, found["prefix"]):
                wrong.append(f"{key!r} is no key of the store")
            elif found.re is _CELL:
                if server.ask("PTTL", key) == -1:
                    wrong.append(f"{key!r} is a cell that stays for ever")
            elif found.re is _PART:
                partitions[key[: key.index("}") + 1]][key[key.index("}") + 2 :]] = key
        for tag, keys in partitions.items():
            wrong += [f"{tag}: {line}" for line in _Partition(server, tag, keys).wrong()]
    return wrong


class _Partition:
    """One partition's keys: name without what they all start with -> key."""

    def __init__(self, server: RedisServer, tag: str, keys: dict[str, str]) -> None:
        self._server, self._tag, self._keys = server, tag, keys

    def wrong(self) -> Iterator[str]:
        """Return what does not agree."""
        subjects = {name[2:] for name in self._keys if name.startswith("s:")}
        yield from _differ("subjects and their names", subjects, self._ask("names", "ZRANGE", 0, -1))
        timers = self._hash("timers")
        yield from _differ("timers and their owners", timers, self._ask("own", "ZRANGE", 0, -1))
        due = {value[:_ORDER] + owner for owner, value in timers.items()}
        yield from _differ("timers and when they are due", due, self._ask("due", "ZRANGE", 0, -1))
        retries = self._hash("retries")
        waiting = {value[:_ORDER] + key for key, value in retries.items()}
        yield from _differ("retries and when they are due", waiting, self._ask("waiting", "ZRANGE", 0, -1))
        letters = {value[:_NUMBER] + id for id, value in self._hash("dead").items()}
        yield from _differ("dead letters and their order", letters, self._ask("aside", "ZRANGE", 0, -1))
        window = self._ask("window", "LRANGE", 0, -1)
        yield from _differ("the window and its order", self._hash("seen"), window)
        if len(window) != len(set(window)):
            yield "the window has something twice"
        log = {entry[0] for entry in self._ask("log", "XRANGE", "-", "+")}
        if stray := set(self._ask("fired", "ZRANGE", 0, -1)) - log:
            yield f"came from a timer, and is not pending: {sorted(stray)[:5]}"
        if stray := self._hash("starts").keys() - log - retries.keys():
            yield f"has begun, and is neither pending nor waits: {sorted(stray)[:5]}"
        parked = sum(value[_ORDER] == "1" for value in retries.values())
        if int(self._hash("meta").get("parked", 0)) != parked:
            yield f"{parked} retries are parked, but {self._hash('meta')['parked']} are counted"
        for name in sorted(subjects):
            if not self._server.ask("HEXISTS", self._keys[f"s:{name}"], "_v"):
                yield f"subject {name!r} has no version"

    def _ask(self, name: str, command: str, *words: str | int) -> Any:
        return self._server.ask(command, self._keys[name], *words) if name in self._keys else []

    def _hash(self, name: str) -> dict[str, str]:
        flat: Sequence[str] = self._ask(name, "HGETALL")
        return dict(zip(flat[::2], flat[1::2], strict=True))


def _differ(what: str, one: Any, other: Any) -> Iterator[str]:
    if difference := set(one) ^ set(other):
        yield f"{what} do not agree, in {len(difference)} places: {sorted(difference)[:5]}"
