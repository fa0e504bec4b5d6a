"""How much a store holds, and where it is.

Belongs here: counts, as they are shown to people and to scripts. It must not know what is counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from onwhen.cli._forms import ago, rfc3339, seconds_text
from onwhen.cli._listing import Output, show_facts, show_json
from onwhen.cli._opening import file_of, named, reading
from onwhen.engine.clock import SystemClock
from onwhen.engine.shared import is_shared
from onwhen.engine.store import Store
from onwhen.storage._urls import without_password

__all__ = ["show_stats"]


async def show_stats(url: str | None, output: Output) -> None:
    """Show how much a store holds, and how large its file is."""
    now = SystemClock().now()
    async with reading(url) as store:
        stats, partitions = await store.stats(), store.partitions
        facts_of_place, lines_of_place = _place(store, url)
    oldest = None if stats.oldest is None else ago(stats.oldest, now)
    if output.as_json:
        facts = {
            "subjects": stats.subjects,
            "pending": stats.pending,
            "oldest": None if stats.oldest is None else rfc3339(stats.oldest),
            "oldest_age_seconds": oldest,
            "timers": stats.timers,
            "retries": stats.retries,
            "parked": stats.parked,
            "dead_letters": stats.dead,
            "partitions": partitions,
            **facts_of_place,
        }
        show_json(facts)
        return
    show_facts(
        [
            ("subjects", f"{stats.subjects:,}"),
            ("pending events", f"{stats.pending:,}"),
            ("oldest pending", "-" if oldest is None else f"{seconds_text(oldest)} old"),
            ("timers", f"{stats.timers:,}"),
            ("waiting retries", f"{stats.retries:,}"),
            ("parked retries", f"{stats.parked:,}"),
            ("dead letters", f"{stats.dead:,}"),
            ("partitions", f"{partitions:,}"),
            *lines_of_place,
        ]
    )


def _place(store: Store, url: str | None) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return what there is to say of where a store is, for scripts and for people."""
    if is_shared(store):
        address = without_password(named(url))
        return {"store": address}, [("store", address)]
    path = file_of(store)
    size, wal = _size(path), _size(path.with_name(f"{path.name}-wal"))
    return (
        {"file": str(path), "file_bytes": size, "wal_bytes": wal},
        [("file", str(path)), ("size", f"{size:,} bytes"), ("size of -wal", f"{wal:,} bytes")],
    )


def _size(path: Path) -> int:
    """Return the size of a file (bytes), 0 if it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
