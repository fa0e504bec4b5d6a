"""The names of all keys: what a deployment has once, what each partition has, and cells.

Belongs here: names only. It must not know what is kept under them. One partition is one hash tag, so one script may
touch all of it on a Cluster; a deployment that was repartitioned has another layout, whose names differ from those
before.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

from onwhen.errors import SettingError, StoreError

__all__ = ["FIXED", "DeploymentKeys", "PartitionKeys"]

FIXED: Final = (
    "meta",  # hash: format, order number, token, lease, watermarks of other partitions, fences of clients
    "log",  # stream: accepted events that are not handled yet
    "starts",  # hash: log entry or retry -> how often its handling has begun
    "fired",  # sorted set: pending events that were timers
    "seen",  # hash: event or commit of the window -> its log entry
    "window",  # list: the same, oldest first
    "bookmarks",  # hash
    "names",  # sorted set: subjects that are stored
    "due",  # sorted set: due moment, order number and owner of each timer
    "timers",  # hash: owner -> due moment, order number, target, event
    "own",  # sorted set: owners of timers, by subject
    "waiting",  # sorted set: due moment, order number and key of each retry
    "retries",  # hash: key -> due moment, order number, whether it is parked, the rest
    "aside",  # sorted set: order number and id of each dead letter
    "dead",  # hash: id -> order number, the rest
    "out",  # stream: messages for other partitions
    "history",  # stream
    "delivered",  # sorted set: messages of other partitions, by when they came
    "explained",  # stream: why turns did what they did
)
"""What each partition may have; scripts are given all of them, in this order. Besides, `s:NAME` for each subject."""


class PartitionKeys:
    """The keys of one partition.

    Args:
        tag: what they all start with.

    Attributes:
        fixed: those of `FIXED`.
    """

    __slots__ = (
        "_subject",
        "dead",
        "fixed",
        "history",
        "log",
        "marks",
        "meta",
        "names",
        "out",
        "own",
        "starts",
        "timers",
    )

    def __init__(self, tag: str) -> None:
        self.fixed = tuple(f"{tag}:{name}".encode() for name in FIXED)
        names = dict(zip(FIXED, self.fixed, strict=True))
        self.meta, self.log, self.starts = names["meta"], names["log"], names["starts"]
        self.marks, self.names, self.out = names["bookmarks"], names["names"], names["out"]
        self.history, self.own, self.timers, self.dead = names["history"], names["own"], names["timers"], names["dead"]
        self._subject = f"{tag}:s:".encode()

    def subject(self, name: str) -> bytes:
        """Return the key of a subject.

        Raises:
            StoreError: UTF-8 does not have its name.
        """
        try:
            return self._subject + name.encode()
        except UnicodeEncodeError as error:
            raise StoreError(f"the name of subject {name!a:.200} cannot be stored: {error.reason}") from None


class DeploymentKeys:
    """The keys that a deployment has once, and those of its partitions.

    Args:
        prefix: what all names start with.

    Raises:
        SettingError: it is empty, or has braces, which mean something to a Cluster.
    """

    def __init__(self, prefix: str) -> None:
        if not prefix or "{" in prefix or "}" in prefix or not prefix.isprintable():
            raise SettingError(
                f"key_prefix={prefix!r} must be printable text without braces, for example 'onwhen'",
                settings=("key_prefix",),
            )
        # Its keys would be those of a partition of the deployment that is named by what stands before.
        if re.search(r":p[0-9]+(\.[0-9]+)?$", prefix):
            raise SettingError(
                f"key_prefix={prefix!r} must not end like the name of a partition", settings=("key_prefix",)
            )
        self.prefix = prefix
        self.meta = f"{{{prefix}}}:meta".encode()
        self.workers = f"{{{prefix}}}:workers".encode()

    def cell(self, key: bytes) -> bytes:
        """Return the key of a cell; on a Cluster they are spread over all slots."""
        # No other key has anything but a colon behind the brace, whatever the prefix.
        return b"{%s:cell:%08x}/%s" % (self.prefix.encode(), zlib.crc32(key), key)

    def partition(self, number: int, layout: int) -> PartitionKeys:
        """Return the keys of a partition in a layout."""
        # Behind the number: before it, they would be those of the deployment that is named PREFIX:LAYOUT.
        return PartitionKeys(f"{{{self.prefix}:p{number}" + (f".{layout}}}" if layout else "}"))
