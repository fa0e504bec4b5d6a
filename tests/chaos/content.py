"""What a store under chaos holds, as plain values.

Belongs here: reading a store. It must not know what should be in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from onwhen.engine.store import DeadLetter, LogEntry, Retry, Store, StoreStats

__all__ = ["Content", "content_of"]

_State: TypeAlias = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a store holds."""

    items: Mapping[int, _State]
    accounts: Mapping[int, _State]
    pending: Sequence[LogEntry]
    retries: Sequence[Retry]
    dead: Sequence[DeadLetter]
    stats: StoreStats


async def content_of(store: Store) -> Content:
    """Return what an open store holds."""
    states: dict[str, dict[int, _State]] = {"item": {}, "account": {}}
    async for record in store.subjects():
        kind, _, number = record.name.partition(":")
        states[kind][int(number)] = {name: json.loads(text) for name, text in record.properties.items()}
    return Content(
        items=states["item"],
        accounts=states["account"],
        pending=[entry for n in range(store.partitions) for entry in await store.read(n, None, 1 << 20)],
        retries=[retry for n in range(store.partitions) async for retry in store.retries(n)],
        dead=[letter async for letter in store.dead_letters()],
        stats=await store.stats(),
    )
