"""Which server has a key: the only one, the one that the Sentinels call master, or the one that has its slot.

Belongs here: finding servers, and finding them again when they have changed places. It must not know what is asked
of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError

from onwhen.errors import StoreError
from onwhen.storage.redis._address import Address, Endpoint, Kind
from onwhen.storage.redis._failures import failure
from onwhen.storage.redis._node import Node, pack

__all__ = ["Topology", "create_topology"]

_BETWEEN: Final = 0.1  # seconds between two questions for the same, so that many callers do not ask all at once
_LONGEST_WAIT: Final = 0.5  # seconds


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


def create_topology(address: Address) -> Topology:
    """Return what finds the servers of a deployment; it asks nobody yet."""
    kinds: dict[Kind, Callable[[Address], Topology]] = {
        Kind.STANDALONE: _Standalone,
        Kind.SENTINEL: _Sentinel,
        Kind.CLUSTER: _Cluster,
    }
    return kinds[address.kind](address)


class _Known:
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
            self._refusal = None
            try:
                await self._look()
            except StoreError as error:
                self._refusal = error
                raise
            finally:
                self._looked = time.monotonic()

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


class _Standalone(_Known):
    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._node = self._at(address.endpoints[0])

    async def node(self, key: bytes | str) -> Node:
        return self._node

    async def nodes(self) -> Sequence[Node]:
        return [self._node]

    async def refused(self, node: Node) -> None:
        await node.drop()  # behind the same name may be another server now


class _Sentinel(_Known):
    """The master that the Sentinels name, asked again when it is not reached or is not master any more.

    Source: Redis documentation, "Guidelines for Sentinel clients".
    """

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._sentinels = [Node(endpoint, address, is_sentinel=True) for endpoint in address.endpoints]
        self._question = pack("SENTINEL", "GET-MASTER-ADDR-BY-NAME", address.master)
        self._master: Node | None = None

    async def node(self, key: bytes | str) -> Node:
        master = self._master
        if master is None or master.is_in_doubt:
            await self._look_once()
            master = self._master
        assert master is not None  # `_look` found one, or has raised
        return master

    async def nodes(self) -> Sequence[Node]:
        return [await self.node("")]

    async def refused(self, node: Node) -> None:
        await node.drop()
        node.is_in_doubt = True

    async def close(self) -> None:
        await super().close()
        for sentinel in self._sentinels:
            await sentinel.close()

    def abandon(self) -> None:
        super().abandon()
        for sentinel in self._sentinels:
            sentinel.abandon()

    async def _look(self) -> None:
        """Ask who is master until that one says so too: they learn of a fail-over one after the other."""
        deadline = time.monotonic() + self._address.patience
        wait = _BETWEEN
        while True:
            node = self._at(await self._named())
            await node.drop()
            try:
                await node.look()
            except StoreError:
                node.is_in_doubt, self._master = True, node
                raise
            if node.info is not None and node.info.is_master:
                break
            if time.monotonic() + wait > deadline:
                raise StoreError(
                    f"Redis {node.name}, connecting: the Sentinels call it the master {self._address.master!r}, but "
                    f"it is a replica; wait for the fail-over to end"
                )
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, _LONGEST_WAIT)
        if self._master is not None and self._master is not node:
            await self._master.drop()
        node.is_in_doubt, self._master = False, node

    async def _named(self) -> Endpoint:
        refusals: list[str] = []
        cause: StoreError | None = None
        for sentinel in tuple(self._sentinels):
            try:
                [answer] = await sentinel.call(self._question, 1, "asking for the master")
            except StoreError as error:
                refusals.append(str(error))
                cause = error
                continue
            if isinstance(answer, RedisError):
                cause = failure(answer, "asking for the master", sentinel.name)
                refusals.append(str(cause))
            elif answer is None:
                refusals.append(f"{sentinel.name} knows no master {self._address.master!r}")
            else:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)  # the next time first
                return answer[0].decode(), int(answer[1])
        raise StoreError(f"no Sentinel names a master of {self._address}: {'; '.join(refusals)}") from cause


class _Cluster(_Known):
    """The map from slots to servers, drawn anew when a server is lost or says that it is wrong.

    Source: Redis Cluster specification, "Redirection and resharding".
    """

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self._slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._is_wrong = True
        self._drawn = float("-inf")

    async def node(self, key: bytes | str) -> Node:
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        node = self._slots[slot]
        if self._is_wrong or node is None or node.is_in_doubt:
            await self._look_once()
            node = self._slots[slot] or await self._wait_for(slot)
        return node

    async def _wait_for(self, slot: int) -> Node:
        """Wait until somebody has a slot, after a fail-over perhaps."""
        deadline = time.monotonic() + self._address.patience
        while (node := self._slots[slot]) is None:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"no server of {self._address} has slot {slot}; see CLUSTER INFO and CLUSTER SLOTS on its nodes"
                )
            await asyncio.sleep(_BETWEEN * random.uniform(1.0, 2.0))
            await self._look_once()
        return node

    async def nodes(self) -> Sequence[Node]:
        if self._is_wrong:
            await self._look_once()
        return list(dict.fromkeys(node for node in self._slots if node is not None))

    async def refused(self, node: Node) -> None:
        self._is_wrong = True

    async def redirected(self, error: RedisError, node: Node) -> Node | None:
        if not isinstance(error, AskError):  # MOVED is one, too
            raise failure(error, "a command", node.name) from error
        other = self._at((error.host or node.endpoint[0], error.port))
        if not isinstance(error, MovedError):
            return other
        # Its slot may have gone to its own replica. What it has open then leads to a history that has ended.
        await node.drop()
        self._slots[error.slot_id] = other
        self._is_wrong = True
        return None

    async def _look(self) -> None:
        if time.monotonic() - self._drawn < _BETWEEN:
            return
        masters = [node for node in self._slots if node is not None]
        seeds = [self._at(endpoint) for endpoint in self._address.endpoints]
        asked = list(dict.fromkeys([*masters, *seeds, *self._known.values()]))
        asked.sort(key=lambda node: node.is_in_doubt)
        refusals: list[str] = []
        cause: StoreError | None = None
        for node in asked:
            try:
                [answer] = await node.call(_MAP, 1, "CLUSTER SLOTS")
                if isinstance(answer, RedisError):
                    raise failure(answer, "CLUSTER SLOTS", node.name) from answer
            except StoreError as error:
                refusals.append(str(error))
                cause = error
                continue
            self._slots = self._read(answer, node)
            break
        else:
            raise StoreError(f"no server of {self._address} tells which are its nodes: {refusals[0]}") from cause
        self._drawn = time.monotonic()
        self._is_wrong = False
        for node in self._known.values():
            node.is_in_doubt = False

    def _read(self, ranges: Sequence[Any], asked: Node) -> list[Node | None]:
        slots: list[Node | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, master, *_ in ranges:
            # A server that does not know its own name leaves it out: then it is the one that was asked.
            host = master[0].decode() if master[0] else asked.endpoint[0]
            slots[first : last + 1] = [self._at((host, master[1]))] * (last + 1 - first)
        return slots


_MAP: Final = pack("CLUSTER", "SLOTS")
