"""Writing the state of every subject, as NDJSON.

Belongs here: the form of a dump and how it gets into a file in one piece. It must not know where the state is from.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from onwhen.engine.bus import EventBus
from onwhen.engine.values import encode

__all__ = ["dump_subjects", "whole_file"]


async def dump_subjects(bus: EventBus, out: BinaryIO) -> int:
    """Write every subject as one line, sorted by name (code points), declared defaults included.

    Declared properties are in the order of declaration, all others sorted by name: stores keep no order of them.

    Args:
        bus: whose subjects they are.
        out: where to write `{"subject": ..., "properties": {...}, "ext": {...}}` and a line feed for each.

    Returns:
        How many there were (a count).
    """
    count = 0
    async for record in bus.store.subjects():
        subject = await bus.read(record.name)
        properties = subject.dict(mode="json")
        if not type(subject)._codec.declared:
            properties = dict(sorted(properties.items()))
        line = {"subject": subject.name, "properties": properties, "ext": dict(sorted(subject.ext.items()))}
        out.write(encode(line) + b"\n")
        count += 1
    return count


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to be written so that others see the old one until all of the new one is there.

    Args:
        path: where it belongs. Through a symbolic link its target is replaced; a device or a pipe is written to.
    """
    target = path.resolve()
    if target.exists() and not target.is_file():
        with target.open("wb") as device:
            yield device
        return
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with open(handle, "wb") as part:
            yield part
            part.flush()
            os.fchmod(part.fileno(), _mode(target))
            os.fsync(part.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _mode(target: Path) -> int:
    """Return the permissions that a file written in place would have."""
    if target.exists():
        return target.stat().st_mode & 0o777
    mask = os.umask(0)  # there is no way to only ask
    os.umask(mask)
    return 0o666 & ~mask
