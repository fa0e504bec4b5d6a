"""Which server has a key: the only one, the one that the Sentinels call master, or the one that has its slot.

Belongs here: finding servers, and finding them again when they have changed places. It must not know what is asked
of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, Protocol

from redis.exceptions import RedisError

from onwhen.errors import StoreError
from onwhen.storage.redis._address import Address, Endpoint
from onwhen.storage.redis._failures import failure
from onwhen.storage.redis._node import Node

__all__ = ["BETWEEN", "Known", "Standalone", "Topology"]

BETWEEN: Final = 0.1  # seconds between two questions for the same, so that many callers do not ask all at once


class Topology(Protocol):
    """What knows the servers of a deployment. It lives on one event loop."""

    async def node(self, key: bytes | str) -> Node:
        """Return the server that has a key."""
        ...

    async def nodes(self) -> Sequence[Node]:
        """Return all servers that keys are written to."""
        ...

    async def refused(self, node: Node) -> None:
        """Look again before the next call, for a server has answered that it cannot do what was asked now."""
        ...

    async def redirected(self, error: RedisError, node: Node) -> Node | None:
        """Follow a server's word that another one has the key; returns that one if it is to be asked just once."""
        ...

    def is_on(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether this lives on that event loop."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...

    def abandon(self) -> None:
        """Let go of all connections; their event loop has ended."""
        ...


class Known:
    """The servers that were heard of."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._known: dict[Endpoint, Node] = {}
        self._loop = asyncio.get_running_loop()
        self._looking = asyncio.Lock()
        self._looked = float("-inf")
        self._refusal: StoreError | None = None

    async def _look_once(self) -> None:
        """Look where the servers are; callers that wait for each other share what the first one finds, or does not."""
        asked = time.monotonic()
        async with self._looking:
            if self._looked >= asked:
                if self._refusal is not None:
                    raise StoreError(str(self._refusal)) from self._refusal
                return
            try:
                await self._look()
            except StoreError as error:
                self._refusal, self._looked = error, time.monotonic()
                raise
            self._refusal, self._looked = None, time.monotonic()

    async def _look(self) -> None:
        """Look where the servers are."""

    def _at(self, endpoint: Endpoint) -> Node:
        node = self._known.get(endpoint)
        if node is None:
            node = self._known[endpoint] = Node(endpoint, self._address)
        return node

    async def redirected(self, error: RedisError, node: Node) -> Node | None:
        raise failure(error, "a command", node.name) from error

    def is_on(self, loop: asyncio.AbstractEventLoop) -> bool:
        return self._loop is loop

    async def close(self) -> None:
        for node in tuple(self._known.values()):
            await node.close()

    def abandon(self) -> None:
        for node in self._known.values():
            node.abandon()


class Standalone(Known):
    """One server, always the same address."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._node = self._at(address.endpoints[0])

    async def node(self, key: bytes | str) -> Node:
        return self._node

    async def nodes(self) -> Sequence[Node]:
        return [self._node]

    async def refused(self, node: Node) -> None:
        await node.drop()  # behind the same name may be another server now
