"""How much may be under way at once.

Belongs here: counting. It must not know what is under way.
"""

from __future__ import annotations

import asyncio

__all__ = ["Window"]


class Window:
    """What is under way, bounded in number and size.

    Args:
        limit: how many events (a count).
        max_bytes: how much all their lines may be together (bytes); a single one may be more.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._count = 0
        self._bytes = 0
        self._room: asyncio.Future[None] | None = None

    async def room_for(self, size: int) -> None:
        """Wait until another event may be under way."""
        while self._count and (self._count >= self._limit or self._bytes + size > self._max_bytes):
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def enter(self, task: asyncio.Task[None], size: int) -> None:
        """Count an event in until its task ends."""
        self._count += 1
        self._bytes += size

        def leave(_: asyncio.Task[None]) -> None:
            self._count -= 1
            self._bytes -= size
            if self._room is not None and not self._room.done():
                self._room.set_result(None)

        task.add_done_callback(leave)
