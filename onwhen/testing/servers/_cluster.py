"""A Cluster: masters that share the slots, replicas, fail-overs, and slots that move while they are used.

Belongs here: how a Cluster is made and changed. It must not know what is stored in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from onwhen.testing.servers._failures import ServerFailed
from onwhen.testing.servers._processes import HOST, free_port, until
from onwhen.testing.servers._redis import RedisServer

__all__ = ["SLOTS", "RedisCluster"]

SLOTS: Final = 16_384
_PATIENCE: Final = 30.0  # seconds


class RedisCluster:
    """A Cluster that belongs to a test; `with` or `async with` starts it, and ends it.

    Args:
        masters: how many (a count), at least 3, as a Cluster needs.
        replicas: of each master (a count).
        node_timeout: after how long a node that does not answer is taken for dead (seconds).
        appendonly: whether what is written is kept in files.
        options: other lines of the configuration of each node, name -> value.
        program: what to start; see `find_server`.

    Attributes:
        nodes: all servers; the first ones were the masters when it began.
    """

    def __init__(
        self,
        *,
        masters: int = 3,
        replicas: int = 0,
        node_timeout: float = 1.0,
        appendonly: bool = False,
        options: Mapping[str, str] | None = None,
        program: Path | None = None,
    ) -> None:
        self._masters, self._replicas = masters, replicas
        self.nodes: Sequence[RedisServer] = [
            RedisServer(
                appendonly=appendonly,
                program=program,
                options={
                    "cluster-enabled": "yes",
                    "cluster-config-file": "nodes.conf",
                    "cluster-node-timeout": str(int(node_timeout * 1000)),
                    "cluster-port": str(free_port()),
                    "cluster-replica-validity-factor": "0",
                    "cluster-allow-replica-migration": "no",
                    **(options or {}),
                },
            )
            for _ in range(masters * (1 + replicas))
        ]
        self._ids: dict[RedisServer, str] = {}

    # -- what it is

    @property
    def url(self) -> str:
        """Its address, as `create_redis_storage` takes it."""
        return f"redis+cluster://{','.join(f'{HOST}:{node.port}' for node in self.nodes)}"

    def masters(self) -> list[RedisServer]:
        """Return the servers that have slots, or could have some, in the order of `nodes`."""
        return [node for node in self.nodes if node.is_running and node.info("replication")["role"] == "master"]

    def shards(self) -> list[Sequence[RedisServer]]:
        """Return for each group of servers with the same slots its servers, the first of which was made a master."""
        n = self._masters
        return [self.nodes[shard::n] for shard in range(n)]

    def slot_of(self, key: str) -> int:
        """Return the slot of a key."""
        return int(str(self.nodes[0].ask("CLUSTER", "KEYSLOT", key)))

    def owner(self, slot: int) -> RedisServer:
        """Return the master that has a slot, as most masters see it."""
        votes: dict[int, int] = {}
        for node in self.masters():
            ranges = node.ask("CLUSTER", "SLOTS")
            for first, last, master, *_ in ranges:
                if int(first) <= slot <= int(last):
                    port = int(master[1])
                    votes[port] = votes.get(port, 0) + 1
        if not votes:
            raise ServerFailed(f"nobody has slot {slot}")
        return self._by_port(max(votes, key=lambda port: votes[port]))

    def _by_port(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)

    # -- what happens to it

    def fail_over(self, shard: int, how: Literal["kill", "ask"] = "kill") -> None:
        """Make a replica the master of a shard; returns when all servers of it are in step again.

        Args:
            shard: which, an index of `shards`.
            how: kill: SIGKILL to the master, which is started again when another one has its place; what had not
                reached a replica is lost. ask: the replica asks the master to hand over, and nothing is lost.

        Raises:
            ServerFailed: nobody takes the place in time.
        """
        servers = self.shards()[shard]
        old = next(server for server in servers if server in self.masters())
        others = [server for server in servers if server is not old and server.is_running]
        if not others:
            raise ServerFailed(f"shard {shard} has no replica")
        if how == "kill":
            old.kill()
        else:
            others[0].ask("CLUSTER", "FAILOVER")
        until(lambda: any(each.info("replication")["role"] == "master" for each in others), "a new master", _PATIENCE)
        old.start()
        self.until_ok()

    def migrate_slot(self, slot: int, to: RedisServer | None = None, *, bunch: int = 50, pause: float = 0.0) -> int:
        """Move a slot to another master, key by key, while clients go on using it; returns how many keys it had.

        Args:
            slot: which.
            to: master that gets it; the next one after its owner if None.
            bunch: how many keys are moved at once (a count).
            pause: wait so long between two bunches, so that more happens meanwhile (seconds).

        Raises:
            ServerFailed: one of the servers has refused, or is too slow.
        """
        source = self.owner(slot)
        masters = self.masters()
        target = to or masters[(masters.index(source) + 1) % len(masters)]
        if target is source:
            return 0
        ids = {node: self._id(node) for node in (source, target)}
        with target.wire() as there, source.wire() as here:
            there.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            here.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            moved, deadline = 0, time.monotonic() + _PATIENCE
            while keys := here.ask("CLUSTER", "GETKEYSINSLOT", slot, bunch):
                names = [key.encode(errors="surrogateescape") for key in keys if isinstance(key, str)]
                here.ask("MIGRATE", HOST, target.port, "", 0, 5000, "KEYS", *names)
                moved += len(names)
                if time.monotonic() > deadline:
                    raise ServerFailed(f"slot {slot} did not become empty; {moved} keys were moved")
                time.sleep(pause)
            # First who gets it, then who had it: in between nobody is without an owner that knows it is one.
            there.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
            here.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        for node in masters:
            if node not in (source, target):
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
        return moved

    def _id(self, node: RedisServer) -> str:
        return str(node.ask("CLUSTER", "MYID"))

    # -- its life

    def start(self) -> Self:
        """Start all servers and make them a Cluster; returns when it is one, for each of them.

        Raises:
            ServerFailed: it does not become one in time.
        """
        with ThreadPoolExecutor(len(self.nodes)) as threads:
            list(threads.map(RedisServer.start, self.nodes))
        first, *others = self.nodes
        masters = self.nodes[: self._masters]
        for number, node in enumerate(masters):
            begin, end = SLOTS * number // self._masters, SLOTS * (number + 1) // self._masters
            node.ask("CLUSTER", "ADDSLOTSRANGE", begin, end - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in others:
            first.ask("CLUSTER", "MEET", HOST, node.port, self._bus_port(node))
        until(self._know_each_other, "the nodes to know each other", _PATIENCE)
        for shard in self.shards():
            for replica in shard[1:]:
                replica.ask("CLUSTER", "REPLICATE", self._id(shard[0]))
        self.until_ok()
        return self

    @staticmethod
    def _bus_port(node: RedisServer) -> int:
        _, port = node.ask("CONFIG", "GET", "cluster-port")
        return int(port)

    def _know_each_other(self) -> bool:
        wanted = f"cluster_known_nodes:{len(self.nodes)}"
        return all(wanted in str(node.ask("CLUSTER", "INFO")) for node in self.nodes)

    def until_ok(self) -> None:
        """Wait until all slots are served, as each server sees it, and each replica is in step with its master.

        Raises:
            ServerFailed: it does not come to that in time.
        """
        until(self._is_ok, "a Cluster that is ok", _PATIENCE)

    def _is_ok(self) -> bool:
        for node in self.nodes:
            if "cluster_state:ok" not in str(node.ask("CLUSTER", "INFO")):
                return False
            if "fail" in str(node.ask("CLUSTER", "NODES")):  # `fail` and `fail?`: suspected
                return False
        return sum(master.followers() for master in self.masters()) == len(self.nodes) - self._masters

    def stop(self) -> None:
        """End all servers, and remove their folders."""
        for node in self.nodes:
            if node.is_running:
                node.kill()  # nothing of it is looked at any more, and a replica would wait for its master
            node.stop()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
