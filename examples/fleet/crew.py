"""The crew: worker processes, started as `onwhen worker` is, killed, and replaced.

Belongs here: what is done to processes. It must not know what the workers do.
"""

import asyncio
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["Crew", "Member", "WorkerEnded"]

_LEAVES: Final = 20.0  # seconds for a worker that was told to end
_TOLD: Final = 2_000  # bytes of what a worker has said that are shown if it ends on its own


class WorkerEnded(Exception):
    """A worker has ended that nobody has told to."""


class Member:
    """One worker process.

    Attributes:
        name: what the worker calls itself.
        pid: number of the process.
        killed: when it was killed, on the monotonic clock; None as long as it was not.
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.pid = process.pid
        self.killed: float | None = None
        self._process = process

    @property
    def is_running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    def kill(self) -> None:
        """End it in the middle of whatever it does: SIGKILL leaves it no time for anything."""
        self.killed = time.monotonic()
        self._process.kill()

    async def wait(self) -> int:
        """Wait until it has ended, and return its exit code."""
        return await self._process.wait()

    async def leave(self) -> int:
        """Have it end in its own way: it finishes its turns and hands over its partitions."""
        if self.is_running:
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_LEAVES):
                return await self.wait()
        except TimeoutError:
            self._process.kill()
            return await self.wait()


class Crew:
    """Workers with the same rules on the same store.

    Args:
        command: what follows `onwhen worker` on the command line of each.
        folder: where they may be started, and keep what they say.

    Attributes:
        members: all that there ever were, oldest first.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self.members: list[Member] = []
        self._command = command
        self._folder = folder

    @property
    def killed(self) -> int:
        """How many were killed (a count)."""
        return sum(member.killed is not None for member in self.members)

    async def hire(self) -> Member:
        """Start one more."""
        name = f"worker-{len(self.members) + 1}"
        with self._said(name).open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "onwhen", "worker", *self._command, "--id", name),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,  # Ctrl-C is for us; they are told by us
            )
        member = Member(name, process)
        self.members.append(member)
        return member

    def check(self) -> None:
        """See that all are there that should be.

        Raises:
            WorkerEnded: one has ended that was not killed; what it said is in the message.
        """
        for member in self.members:
            if member.killed is None and not member.is_running:
                said = self._said(member.name).read_bytes()[-_TOLD:].decode(errors="replace")
                raise WorkerEnded(f"{member.name} has ended on its own:\n{said}")

    async def leave(self) -> None:
        """Have all of them end."""
        await asyncio.gather(*(member.leave() for member in self.members))

    def _said(self, name: str) -> Path:
        return self._folder / f"{name}.txt"
