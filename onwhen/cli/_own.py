"""Which partitions a worker is told to own: `0-15,20`, or its place among equals, `3/8`.

Belongs here: reading and writing such texts. It must not know what a worker does with them.
"""

from __future__ import annotations

from collections.abc import Collection

from onwhen.cli._options import UsageError
from onwhen.engine import partitions as engine

__all__ = ["owned", "ranges"]


def owned(text: str, partitions: int) -> frozenset[int]:
    """Return the partitions that the text of `--own` means; see `onwhen.engine.partitions.owned`.

    Raises:
        UsageError: the text means nothing, or nothing that is there.
    """
    try:
        return engine.owned(text, partitions)
    except ValueError as error:
        raise UsageError(f"--own {text}: {error}") from None


def ranges(numbers: Collection[int]) -> str:
    """Write numbers shortly, in order: `0-3,7`; none as `none`."""
    parts: list[str] = []
    start = end = -1
    for number in sorted(numbers):
        if parts and number == end + 1:
            end = number
            parts[-1] = f"{start}-{end}"
        else:
            start = end = number
            parts.append(str(number))
    return ",".join(parts) or "none"
