"""A proxy that a client believes to be the server: it loses replies, cuts connections and is slow.

Belongs here: passing bytes on, and the faults. It must not know what the bytes mean: what comes from the server is an
answer to something that was executed, and that is all that counts.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, TypeAlias

from onwhen.testing.servers._processes import HOST, free_port
from onwhen.testing.servers._threads import Loop

__all__ = ["Fault", "FaultProxy"]

Fault: TypeAlias = Literal["drop", "swallow", "cut", "refuse", "delay"]

_CHUNK = 1 << 16


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    is_quiet: bool = False  # its replies are swallowed from now on
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class FaultProxy:
    """A TCP proxy with faults, in a thread; `with` or `async with` starts it, and ends it.

    Faults come from a seed, at the given rates, and from calls. Each is counted in `counts` when it happens:

    - drop: the server has executed what it was asked, part of the reply or none of it is passed on, and the
      connection is closed.
    - swallow: the same, but the connection stays open and nobody answers on it any more.
    - cut: the connection is closed before a request is passed on, so that nothing of it is executed.
    - refuse: a new connection is closed at once.
    - delay: a reply is late.

    A "reply" here is what the server sends at once: the answers to a whole pipeline may be one.

    Args:
        target: port of the server.
        seed: what the faults are drawn from.
        drop: how many of the replies are dropped (0 to 1).
        swallow: how many are swallowed (0 to 1).
        cut: how many of the requests meet a cut connection (0 to 1).
        delay: how long each reply is held back at most (seconds).

    Attributes:
        port: where it listens.
        counts: fault -> how often it has happened (a count).
    """

    def __init__(
        self,
        target: int,
        *,
        seed: int = 0,
        drop: float = 0.0,
        swallow: float = 0.0,
        cut: float = 0.0,
        delay: float = 0.0,
    ) -> None:
        self.port = free_port()
        self.counts: Counter[Fault] = Counter()
        self._target = target
        self._random = random.Random(seed)
        self._rates: dict[Fault, float] = {"drop": drop, "swallow": swallow, "cut": cut}
        self._delay = delay
        self._ordered: Counter[Fault] = Counter()
        self._lock = threading.Lock()
        self._loop = Loop("onwhen-proxy")
        self._open: set[_Connection] = set()

    @property
    def url(self) -> str:
        """Its address, as that of a server."""
        return f"redis://{HOST}:{self.port}/0"

    # -- orders, from any thread

    def drop_replies(self, count: int = 1) -> None:
        """Drop the next replies, each with its connection."""
        self._order("drop", count)

    def swallow_replies(self, count: int = 1) -> None:
        """Swallow the next replies: the client waits until it gives up."""
        self._order("swallow", count)

    def refuse(self, count: int = 1) -> None:
        """Refuse the next connections."""
        self._order("refuse", count)

    def cut_requests(self, count: int = 1) -> None:
        """Cut the connections on which the next requests come, before the server sees them."""
        self._order("cut", count)

    def cut(self) -> None:
        """Cut all connections that are open now."""
        self._loop.run(self._cut())

    def set_rates(self, *, drop: float = 0.0, swallow: float = 0.0, cut: float = 0.0, delay: float = 0.0) -> None:
        """Draw faults at these rates from now on; see the arguments of the class."""
        with self._lock:
            self._rates = {"drop": drop, "swallow": swallow, "cut": cut}
            self._delay = delay

    def _order(self, fault: Fault, count: int) -> None:
        with self._lock:
            self._ordered[fault] += count

    # -- its life

    def start(self) -> Self:
        """Listen."""
        self._loop.start()
        self._server = self._loop.run(asyncio.start_server(self._serve, HOST, self.port, reuse_address=True))
        return self

    def stop(self) -> None:
        """Cut all connections, and listen no more."""
        self._loop.run(self._close())
        self._loop.stop()

    async def _close(self) -> None:
        self._server.close()
        await self._cut()

    async def _cut(self) -> None:
        tasks = [task for connection in self._open for task in connection.tasks]
        self.counts["cut"] += len(self._open)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- the way of the bytes

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._draws("refuse"):
            writer.transport.abort()
            return
        try:
            there, onwards = await asyncio.open_connection(HOST, self._target, limit=_CHUNK)
        except OSError:
            writer.transport.abort()
            return
        connection = _Connection(writer, onwards)
        connection.tasks = [
            asyncio.create_task(self._requests(connection, reader)),
            asyncio.create_task(self._replies(connection, there)),
        ]
        self._open.add(connection)
        try:
            await asyncio.wait(connection.tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open.discard(connection)
            for task in connection.tasks:
                task.cancel()
            await asyncio.gather(*connection.tasks, return_exceptions=True)
            await _leave(writer)
            await _leave(onwards)

    async def _requests(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if self._draws("cut"):
                    return
                connection.server.write(chunk)
                await connection.server.drain()

    async def _replies(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if connection.is_quiet:
                    continue
                if self._draws("drop"):
                    connection.client.write(chunk[: self._random.choice((0, self._random.randrange(len(chunk))))])
                    return
                if self._draws("swallow"):
                    connection.is_quiet = True
                    continue
                if self._delay:
                    self.counts["delay"] += 1
                    await asyncio.sleep(self._random.uniform(0, self._delay))
                connection.client.write(chunk)
                await connection.client.drain()

    def _draws(self, fault: Fault) -> bool:
        """Tell whether a fault happens now."""
        with self._lock:
            happens = self._ordered[fault] > 0
            if happens:
                self._ordered[fault] -= 1
            else:
                rate = self._rates.get(fault, 0.0)
                happens = rate > 0 and self._random.random() < rate
            self.counts[fault] += happens
            return happens

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)


async def _leave(writer: asyncio.StreamWriter) -> None:
    """Send what is still to be sent, if that goes at once, and close."""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(1):
            await writer.drain()
    writer.transport.abort() if writer.transport.get_write_buffer_size() else writer.close()
