"""What is done to a fleet, part by part.

Belongs here: how many of which fault, on which servers. It must not know how a fault is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tests.chaos.fleet.world import Kind

__all__ = ["PARTS", "SHORT", "Fault", "Part"]

Fault: TypeAlias = Literal["kill", "stop", "leave", "crash", "drop", "fail over", "move", "flush"]
"""A worker is killed, stopped for longer than its lease, asked to leave; the server is killed; replies are dropped;
another master; a slot moves; scripts are forgotten."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One run.

    Attributes:
        kind: the servers.
        always: they bring each write to the disk before it is answered.
        faults: which, and how many (counts).
        events: how many have to be accepted in all (a count).
        workers: how many there are at a time (a count).
        partitions: how many there are (a count).
        rests: how often the fleet comes to rest and is looked at (a count).
        is_lossy: a fail-over may lose the latest.
    """

    kind: Kind
    faults: Mapping[Fault, int]
    events: int
    always: bool = False
    workers: int = 3
    partitions: int = 8
    rests: int = 4
    is_lossy: bool = False


PARTS: Final[Mapping[str, Part]] = {
    "kills": Part(kind="one", faults={"kill": 200, "leave": 20, "flush": 50}, events=75_000),
    "stops": Part(kind="one", faults={"stop": 100}, events=75_000),
    "crashes": Part(kind="one", always=True, faults={"crash": 50}, events=75_000),
    "replies": Part(kind="one", faults={"drop": 2_000}, events=75_000),
    "sentinel": Part(kind="sentinel", faults={"fail over": 20}, events=75_000, is_lossy=True),
    "cluster": Part(kind="replicas", faults={"fail over": 20}, events=75_000, is_lossy=True),
    "slots": Part(kind="cluster", faults={"move": 20}, events=50_000),
}
"""All of it, half a million events; each takes some minutes."""

SHORT: Final[Mapping[str, Part]] = {
    "one": Part(
        kind="one",
        always=True,
        faults={"kill": 6, "leave": 1, "stop": 2, "flush": 4, "crash": 3, "drop": 30},
        events=1_500,
        rests=1,
    ),
    "sentinel": Part(kind="sentinel", faults={"fail over": 1, "kill": 1}, events=500, rests=1, is_lossy=True),
    "cluster": Part(kind="replicas", faults={"fail over": 1, "move": 2}, events=500, rests=1, is_lossy=True),
}
"""A little of everything, for the tests."""
