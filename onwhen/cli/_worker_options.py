"""What `onwhen worker` was asked to do, checked before anything is done.

Belongs here: options, and those of each process if there are several. It must not know how a worker runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from onwhen.cli._options import UsageError

__all__ = ["WorkerOptions"]

_MAX_PROCESSES = 256
_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """The arguments of `onwhen worker`; see there.

    Raises:
        UsageError: they cannot be used.
    """

    app: str
    store: str | None = None
    partitions: int | None = None
    processes: int | None = None
    own: str | None = None
    id: str | None = None
    lease: float = 10.0
    grace: float = 30.0
    stall: float = 60.0
    max_age: float = 60.0
    health_port: int | None = None
    health_host: str = "127.0.0.1"

    def __post_init__(self) -> None:
        for option, seconds in (
            ("--lease", self.lease),
            ("--grace", self.grace),
            ("--stall", self.stall),
            ("--max-age", self.max_age),
        ):
            if not 0 < seconds < float("inf"):
                raise UsageError(f"{option} {seconds:g}: must be more than 0 seconds")
        if self.partitions is not None and self.partitions < 1:
            raise UsageError(f"--partitions {self.partitions}: must be at least 1")
        if self.processes is not None and not 1 <= self.processes <= _MAX_PROCESSES:
            raise UsageError(f"--processes {self.processes}: must be from 1 to {_MAX_PROCESSES}")
        if self.id is not None and not (self.id and self.id.isprintable()):
            raise UsageError("--id: needs a name without control characters")
        if self.health_port is not None:
            last = self.health_port + (self.processes or 1) - 1 if self.health_port else 0
            if not 0 <= self.health_port <= last <= _MAX_PORT:
                raise UsageError(f"--health-port {self.health_port}: ports up to {last} would be needed")
        if self.processes is not None and self.own is not None:
            raise UsageError("--own is for one process; leave out --processes, and start several with --own i/n")

    def each(self) -> Iterator[WorkerOptions]:
        """Go through the options of each process: with an id and a port of its own, and nobody to supervise."""
        for number in range(self.processes or 1):
            yield replace(
                self,
                processes=None,
                id=None if self.id is None else f"{self.id}-{number}",
                health_port=self.health_port and self.health_port + number,
            )

    def arguments(self) -> Sequence[str]:
        """Return what is to be typed for these options, after `onwhen`."""
        typed = ["worker", self.app]
        given = (
            ("--store", self.store),
            ("--partitions", self.partitions),
            ("--processes", self.processes),
            ("--own", self.own),
            ("--id", self.id),
            ("--lease", self.lease),
            ("--grace", self.grace),
            ("--stall", self.stall),
            ("--max-age", self.max_age),
            ("--health-port", self.health_port),
            ("--health-host", self.health_host),
        )
        return [*typed, *(f"{option}={value}" for option, value in given if value is not None)]
