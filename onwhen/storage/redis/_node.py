"""One server: its open connections, each of which knows which run of the server it leads to.

Belongs here: opening, lending and dropping connections, and sending bytes and reading as many answers. It must not
know what is sent, which server serves a key, nor when something is sent again.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from redis.exceptions import RedisError, ResponseError

from onwhen.storage.redis._address import Address, Endpoint
from onwhen.storage.redis._failures import NOT_EXECUTED, code_of, failure, server_changed
from onwhen.storage.redis._wires import Wire, abandon, close, create_wire, pack

__all__ = ["Mark", "Node", "ServerInfo", "facts_of"]

Mark: TypeAlias = int
"""Which run of which server a connection leads to; a server that was started again, or promoted, has another one."""

_BLOCKING: Final = 1 << 14  # connections for blocking reads: one for each partition owned, however many there are
_FAREWELL: Final = 1.0  # seconds
_marks: Final = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server says of itself when a connection to it is opened.

    Attributes:
        run: identifies the process, and the history of data that it has: a promotion changes it.
        facts: the lines of INFO server and INFO replication.
    """

    run: str
    facts: dict[str, str]

    @property
    def is_master(self) -> bool:
        """Whether it takes writes."""
        return self.facts.get("role") == "master"


@dataclass(slots=True, eq=False)
class _Line:
    """A connection.

    Attributes:
        wire: the driver's.
        mark: which run of the server it leads to.
        age: how often all connections were dropped before it was opened (a count).
        is_clean: all that was asked on it was answered.
    """

    wire: Wire
    mark: Mark
    age: int
    is_clean: bool = True


class _Refused(Exception):
    """The server admits nobody now: what was to be asked was not executed, and may be a moment later."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


_INFO: Final = pack("INFO", "server") + pack("INFO", "replication")


class Node:
    """A server of the deployment.

    Args:
        endpoint: host and port.
        address: how to get in.
        is_sentinel: it is a Sentinel: it has users of its own, and no data.

    Attributes:
        name: host and port, for messages.
        info: what it has said of itself, None before a connection is open.
        is_in_doubt: a connection to it was lost or refused; set here, and taken back by who has looked for another.
    """

    def __init__(self, endpoint: Endpoint, address: Address, *, is_sentinel: bool = False) -> None:
        self.endpoint = endpoint
        self.name = "{}:{}".format(*endpoint)
        self._address = address
        self._is_sentinel = is_sentinel
        self._slots = asyncio.Semaphore(address.max_connections)
        self._blocking_slots = asyncio.Semaphore(_BLOCKING)
        self._free: list[_Line] = []
        self._free_blocking: list[_Line] = []
        self._lent: set[_Line] = set()
        self._is_closed = False
        self.info: ServerInfo | None = None
        self.is_in_doubt = False
        self._mark: Mark = next(_marks)
        self._age = 0

    async def call(self, payload: bytes, replies: int, what: str, *, since: Mark | None = None) -> list[Any]:
        """Send commands and return their answers, errors of the server among them.

        Args:
            payload: packed commands, sent at once.
            replies: how many they are (a count).
            what: what is asked, for messages.
            since: which run of the server must answer; None for any.

        Raises:
            StoreError: the server is not reached, another run of it is, or it is unknown whether it has executed them.
        """
        try:
            async with self._line(what, blocking=False) as line:
                if since is not None and line.mark != since:
                    raise server_changed(what, self.name)
                return await self._exchange(line, payload, replies, what, self._address.timeout)
        except _Refused as refused:
            return [refused.error] * replies

    async def block(self, payload: bytes, replies: int, what: str, timeout: float) -> list[Any]:
        """Send a command that the server may take long to answer, on a connection that is kept for such.

        Args:
            payload: packed commands.
            replies: how many they are (a count).
            what: what is asked, for messages.
            timeout: how long the server was told to wait (seconds).
        """
        try:
            async with self._line(what, blocking=True) as line:
                return await self._exchange(line, payload, replies, what, timeout + self._address.timeout)
        except _Refused as refused:
            return [refused.error] * replies

    async def look(self) -> Mark:
        """Return which run of the server answers now; opens a connection if there is none."""
        try:
            async with self._line("connecting", blocking=False) as line:
                return line.mark
        except _Refused as refused:
            raise failure(refused.error, "connecting", self.name) from refused.error

    async def drop(self) -> None:
        """Close what is not in use now, and what is when it is given back, so that what follows is told who answers."""
        self._age += 1
        idle = self._free + self._free_blocking
        self._free, self._free_blocking = [], []
        for line in idle:
            await close(line.wire)

    async def close(self) -> None:
        """Close all connections, those in use as well; calls on them raise."""
        self._is_closed = True
        lines = [*self._free, *self._free_blocking, *self._lent]
        self._free, self._free_blocking = [], []
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL):
                for line in lines:
                    with suppress(RedisError, OSError):
                        await line.wire.disconnect()  # waits: over TLS both sides take leave of each other
        for line in lines:
            await close(line.wire)

    def abandon(self) -> None:
        """Let go of connections whose event loop has ended, where nothing can be awaited any more."""
        self._is_closed = True
        for line in (*self._free, *self._free_blocking, *self._lent):
            abandon(line.wire)
        self._free, self._free_blocking, self._lent = [], [], set()

    async def _exchange(self, line: _Line, payload: bytes, replies: int, what: str, timeout: float) -> list[Any]:
        answers: list[Any] = []
        wire, line.is_clean = line.wire, False
        try:
            async with asyncio.timeout(timeout):
                await wire.send_packed_command(payload, check_health=False)
                for _ in range(replies):
                    try:
                        answers.append(await wire.read_response())
                    except ResponseError as error:
                        answers.append(error)
        except RedisError as error:
            if error.status_code == "LOADING":  # the driver closes the connection then, and what follows is not read
                return [error] * replies
            self._doubt()
            raise failure(error, what, self.name) from error
        except (OSError, TimeoutError) as error:
            self._doubt()
            raise failure(error, what, self.name) from error
        line.is_clean = True
        return answers

    def _doubt(self) -> None:
        """Trust no connection that was opened before: of a host that has vanished each would be waited for in turn."""
        self.is_in_doubt = True
        self._age += 1

    @asynccontextmanager
    async def _line(self, what: str, *, blocking: bool) -> AsyncIterator[_Line]:
        """Lend a connection; one that was not read to its end, or is of an earlier run, is not lent again."""
        slots, free = (self._blocking_slots, "_free_blocking") if blocking else (self._slots, "_free")
        most = _BLOCKING if blocking else self._address.max_connections
        try:
            async with asyncio.timeout(self._address.timeout):
                await slots.acquire()
        except TimeoutError as error:
            raise failure(
                OSError(f"all {most:,} connections were in use for {self._address.timeout:g} s"),
                what,
                self.name,
                was_sent=False,
            ) from error
        try:
            line = await self._find(getattr(self, free), what)
            self._lent.add(line)
            try:
                yield line
            finally:
                self._lent.discard(line)
                if self._is_closed or line.age != self._age or not line.is_clean:
                    await close(line.wire)
                elif line.wire.is_connected:
                    getattr(self, free).append(line)
        finally:
            slots.release()

    async def _find(self, free: list[_Line], what: str) -> _Line:
        """Return a free connection that the server has not closed meanwhile, else a new one."""
        while free:
            line = free.pop()  # the one used last: the others may rest, and fall away
            try:
                # Readable though nothing was asked: closed by the server.
                is_usable = line.age == self._age and not await line.wire.can_read()
            except RedisError:
                is_usable = False
            if is_usable:
                return line
            await close(line.wire)
        return await self._open(what)

    async def _open(self, what: str) -> _Line:
        wire = create_wire(self.endpoint, self._address, is_sentinel=self._is_sentinel)
        try:
            async with asyncio.timeout(self._address.connect_timeout):
                await wire.connect()  # type: ignore[no-untyped-call]
                if self._is_sentinel:
                    return _Line(wire, self._mark, self._age)
                await wire.send_packed_command(_INFO, check_health=False)
                texts = [await wire.read_response(), await wire.read_response()]
        except BaseException as error:
            await close(wire)
            if code_of(error) in NOT_EXECUTED:
                raise _Refused(error) from error
            if isinstance(error, RedisError | OSError | TimeoutError):
                self.is_in_doubt = True
                raise failure(error, what, self.name, was_sent=False) from error
            raise
        if self._is_closed:
            await close(wire)
            raise failure(OSError("closed meanwhile"), what, self.name, was_sent=False)
        self._know(ServerInfo(run=_run(facts := facts_of(texts)), facts=facts))
        return _Line(wire, self._mark, self._age)

    def _know(self, info: ServerInfo) -> None:
        """Note which run of the server answers; from another one on, connections to the one before are of no use."""
        if self.info is not None and self.info.run != info.run:
            self._mark = next(_marks)
            self._age += 1
        self.info = info


def facts_of(texts: Sequence[bytes]) -> dict[str, str]:
    """Return the fields of answers to INFO."""
    lines = b"\r\n".join(texts).decode(errors="replace").splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _run(facts: dict[str, str]) -> str:
    # The process, and the history that it goes on with: a replica that is promoted keeps its process.
    return f"{facts.get('run_id', '')} {facts.get('master_replid', '')}"
