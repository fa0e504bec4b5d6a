"""A Cluster: which server has which slot.

Belongs here: the map, drawn anew when it proves wrong. It must not know what is asked of the servers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any, Final

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import AskError, MovedError, RedisError

from onwhen.errors import StoreError
from onwhen.storage.redis._address import Address
from onwhen.storage.redis._failures import failure
from onwhen.storage.redis._node import Node
from onwhen.storage.redis._topology import BETWEEN, Known
from onwhen.storage.redis._wires import pack

__all__ = ["Cluster"]

_MAP: Final = pack("CLUSTER", "SLOTS")


class Cluster(Known):
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
            await asyncio.sleep(BETWEEN * random.uniform(1.0, 2.0))
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
        if time.monotonic() - self._drawn < BETWEEN:
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
