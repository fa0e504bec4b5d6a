"""Which partition a subject belongs to: a pure function of its name, the same in every process and release.

It must not know who owns a partition, nor what is kept in one. Python's own `hash` differs from process to
process, so it is of no use here.
"""

from __future__ import annotations

import zlib

__all__ = ["partition_of"]


def partition_of(subject: str, partitions: int) -> int:
    """Return the partition of a subject.

    Args:
        subject: name of the subject.
        partitions: how many partitions there are (at least 1).

    Returns:
        A number from 0 to `partitions - 1`: CRC-32 (ISO 3309) of the name's UTF-8, modulo `partitions`.
    """
    return zlib.crc32(subject.encode()) % partitions
