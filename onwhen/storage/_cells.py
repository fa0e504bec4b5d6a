"""Cells: what every store takes of a key, a value and a time, and how they are told apart.

Belongs here: the bounds of `Store.exchange`, the same for all stores. It must not know how a cell is kept.
"""

from __future__ import annotations

from typing import Final

__all__ = ["checked"]

_MOST_KEY: Final = 512  # bytes
_MOST_VALUE: Final = 64 * 1024  # bytes
_LONGEST: Final = 3_155_760_000.0  # seconds: 100 years; microseconds since the epoch stay exact as doubles
_MICROSECONDS: Final = 1_000_000


def checked(key: str, expected: bytes | None, new: bytes | None, ttl: float) -> tuple[bytes, int]:
    """Return the key of a cell as bytes, and its time in microseconds.

    Args:
        key: which cell.
        expected: what has to be there.
        new: what is to be there.
        ttl: for how long (seconds).

    Raises:
        ValueError: one of them is out of bounds, or a value is no bytes.
    """
    try:
        name = key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"key {key!a:.200} of a cell cannot be stored: {error.reason}") from None
    if len(name) > _MOST_KEY:
        raise ValueError(
            f"key {key!a:.40}... of a cell has {len(name):,} bytes, and {_MOST_KEY} are allowed: shorten it"
        )
    for what, value in (("expected", expected), ("new", new)):
        if value is not None and type(value) is not bytes:
            raise ValueError(f"{what}={value!a:.40}, of cell {key!a:.200}, must be bytes or None")
        if value is not None and len(value) > _MOST_VALUE:
            raise ValueError(
                f"{what}, of cell {key!a:.200}, has {len(value):,} bytes, and {_MOST_VALUE:,} are allowed; what is "
                f"larger belongs to a subject"
            )
    if not 0 < ttl <= _LONGEST:
        raise ValueError(f"ttl={ttl}, of cell {key!a:.200}, must be more than 0 s and at most {_LONGEST:,.0f} s")
    return name, max(1, int(ttl * _MICROSECONDS))
