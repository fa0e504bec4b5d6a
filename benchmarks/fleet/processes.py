"""The measuring side: contenders as processes that are asked for rounds, and what they took.

Belongs here: processes and their talk. It must not know what is measured, nor how the figures are shown.
"""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

from benchmarks.rounds import ROOT, BenchmarkError

__all__ = ["Contender", "Started", "Taken"]

_ANSWER_TIMEOUT: Final = 100.0  # seconds until a contender is ready, or has done what it was asked
_END_TIMEOUT: Final = 5.0  # seconds until it has ended, once it is told to


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to measure.

    Attributes:
        python: the interpreter that has it installed.
        module: name of its module in `benchmarks.fleet.contenders`.
        arguments: what it is called with, after the address of the server.
    """

    python: str
    module: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one round took.

    Attributes:
        events: handled while the time counted (a count).
        began: when that began, by the system's monotonic clock (seconds).
        ended: when the last one was handled.
        on_cpu: CPU time of the contender's process in it (seconds).
        server: CPU time of the Redis server in it (seconds).
    """

    events: int
    began: float
    ended: float
    on_cpu: float
    server: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds


class Started:
    """A contender's process; made with `Started.start`."""

    def __init__(self, process: Process, module: str) -> None:
        self._process, self._module = process, module
        self.pid = process.pid
        self.name, self.version = "", ""

    @classmethod
    @asynccontextmanager
    async def start(cls, contender: Contender, url: str) -> AsyncIterator[Self]:
        """Run a contender for as long as the block lasts.

        Raises:
            BenchmarkError: it could not get ready.
        """
        command = (contender.python, "-m", f"benchmarks.fleet.contenders.{contender.module}", url, *contender.arguments)
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT, limit=2**24)
        started = cls(process, contender.module)
        try:
            hello = await started._answer(_ANSWER_TIMEOUT)
            started.name, started.version = str(hello["contender"]), str(hello["version"])
            yield started
            await started._ended()
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def ask(self, timeout: float = _ANSWER_TIMEOUT, /, **command: Any) -> dict[str, Any]:
        """Have something done, and return the answer.

        Args:
            timeout: how long it may take (seconds).
            command: what; `do` names it.

        Raises:
            BenchmarkError: it failed, or took too long.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self._answer(timeout)

    async def hear(self) -> dict[str, Any]:
        """Return the second answer to what was asked last, for what has two."""
        return await self._answer(_ANSWER_TIMEOUT)

    async def round(self, events: int) -> Taken:
        """Let it make a backlog, untimed, and handle it."""
        answer = await self.ask(do="round", events=events)
        return Taken(**answer)

    async def calibrate(self, seconds: float) -> int:
        """Return how many events make a round of about `seconds`; finding out warms the contender up."""
        events = 1_000
        while True:
            taken = await self.round(events)
            if taken.seconds >= seconds / 3:
                return max(round(taken.rate * seconds), 1)
            events = round(min(taken.rate * seconds, events * 20))

    async def _ended(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(_END_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            raise BenchmarkError(f"{self._module} has not ended for {_END_TIMEOUT:.0f} s") from None

    async def _answer(self, timeout: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(timeout):
                line = await self._process.stdout.readline()
        except TimeoutError:
            raise BenchmarkError(f"{self._module} has not answered for {timeout:.0f} seconds") from None
        if not line:
            raise BenchmarkError(f"{self._module} failed; its own message is above")
        answer: dict[str, Any] = json.loads(line)
        return answer
