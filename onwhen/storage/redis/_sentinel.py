"""A server that Sentinels watch: whoever they call the master.

Belongs here: asking them, and not taking their word before the master says so too. It must not know what is asked of
the master.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final

from redis.exceptions import RedisError

from onwhen.errors import StoreError
from onwhen.storage.redis._address import Address, Endpoint
from onwhen.storage.redis._failures import failure
from onwhen.storage.redis._node import Node
from onwhen.storage.redis._topology import BETWEEN, Known
from onwhen.storage.redis._wires import pack

__all__ = ["Sentinel"]

_LONGEST_WAIT: Final = 0.5  # seconds


class Sentinel(Known):
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
        wait = BETWEEN
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
