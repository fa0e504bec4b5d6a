"""What a store holds when it is opened, and how to go on if the process before was killed.

Belongs here: reading what is pending, and who of it is suspected of having killed the process. It must not know
how work is done; it returns plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final, TypeAlias

import msgspec

from onwhen.engine.resend import read_all
from onwhen.engine.store import LogEntry, Position, Retry, RetryKey, Store
from onwhen.errors import PoisonEvent

__all__ = ["MAX_STARTS", "Held", "poison", "read_held"]

MAX_STARTS: Final = 3  # after so many, an event that is still there has killed the process each time (a count)

Which: TypeAlias = "Position | RetryKey"


class Held(msgspec.Struct, kw_only=True):
    """What a store holds of one partition.

    Attributes:
        partition: its number.
        retries: waiting and parked ones, earliest due first.
        pending: events that are not handled yet, oldest first.
    """

    partition: int
    retries: list[Retry]
    pending: list[LogEntry]

    def suspects(self, now: datetime) -> Mapping[Which, int]:
        """Return what may have been handled when the process was killed, and how often that was noted so far.

        Only the first pending event of a subject can have been, and no event of one that waits for a retry; of the
        retries, those that are due.
        """
        found: dict[Which, int] = {retry.key: retry.starts for retry in self.retries if _may_run(retry, now)}
        passed = {retry.subject for retry in self.retries if retry.in_order}
        for entry in self.pending:
            if entry.event.subject not in passed:
                passed.add(entry.event.subject)
                found[entry.position] = entry.starts
        return found


def _may_run(retry: Retry, now: datetime) -> bool:
    return retry.due <= now and not retry.parked


def poison(what: str, starts: int) -> PoisonEvent:
    """Return the error of an event that is not to be handled again.

    Args:
        what: the event, for the message.
        starts: how often its handling has begun (a count).
    """
    return PoisonEvent(
        f"{what}: its handling has begun {starts} times, and each time the process ended before it was done; see "
        f"what its rules do (memory, native code, a signal), mend that, and replay this dead letter"
    )


async def read_held(store: Store) -> list[Held]:
    """Read what a store holds of each partition."""
    found = []
    for partition in range(store.partitions):
        retries = [retry async for retry in store.retries(partition)]
        pending = [entry async for entry in read_all(store, partition)]
        found.append(Held(partition=partition, retries=retries, pending=pending))
    return found
