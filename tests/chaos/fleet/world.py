"""The servers under a fleet, and what happens to them.

Belongs here: which servers there are, how the fleet reaches them, and faults of theirs. It must not know of workers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Literal, Self, TypeAlias

from onwhen.testing.servers import FaultProxy, RedisCluster, RedisServer, Sentinels
from tests.chaos.fleet.judge import Loss

__all__ = ["Kind", "World"]

Kind: TypeAlias = Literal["one", "sentinel", "cluster", "replicas"]
"""One server with a proxy before it; watched by Sentinels; a Cluster; a Cluster with replicas."""


class World:
    """Servers.

    Args:
        kind: which.
        always: bring each write to the disk before it is answered.
        draw: what chance is drawn from.

    Attributes:
        url: where workers and producers find the store.
        direct: where it is found without faults.
        losses: fail-overs that may have lost something.
        moved: keys that were moved with their slots (a count).
    """

    def __init__(self, kind: Kind, draw: random.Random, *, always: bool = False) -> None:
        self.kind = kind
        self._draw = draw
        self._always = always
        self._stack = ExitStack()
        self.losses: list[Loss] = []
        self.moved = 0
        self.url = self.direct = ""
        self.proxy: FaultProxy | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self.kind == "one":
                self._one = stack.enter_context(RedisServer(appendonly=self._always, appendfsync="always"))
                self.proxy = stack.enter_context(FaultProxy(self._one.port, seed=self._draw.randrange(1 << 30)))
                self.direct, self.url = self._one.url, self.proxy.url
            elif self.kind == "sentinel":
                self._sentinels = stack.enter_context(Sentinels())
                self.direct = self.url = self._sentinels.url
            else:
                self._cluster = stack.enter_context(RedisCluster(replicas=self.kind == "replicas"))
                self.direct = self.url = self._cluster.url
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def is_one(self) -> bool:
        """Whether all partitions are on one server."""
        return self.kind in ("one", "sentinel")

    def masters(self) -> Sequence[RedisServer]:
        """Return all servers that have keys of their own."""
        if self.kind == "one":
            return [self._one]
        return [self._sentinels.master()] if self.kind == "sentinel" else self._cluster.masters()

    # -- faults

    def crash(self) -> None:
        """Kill the server, and start it again on what is on its disk."""
        self._one.kill()
        time.sleep(self._draw.uniform(0, 0.4))
        self._one.start()

    def forget_scripts(self) -> None:
        """Have the servers forget all scripts."""
        for server in self.masters():
            server.ask("SCRIPT", "FLUSH")

    def drop_replies(self, so_many: int) -> int:
        """Lose replies to what was executed: most with their connection, some so that nobody ever answers."""
        assert self.proxy is not None
        before = self._dropped()
        self.proxy.swallow_replies(self._draw.random() < 0.05)
        self.proxy.set_rates(drop=0.01)
        deadline = time.monotonic() + 60
        while self._dropped() - before < so_many and time.monotonic() < deadline:
            time.sleep(0.01)
        self.proxy.set_rates()
        return self._dropped() - before

    def _dropped(self) -> int:
        assert self.proxy is not None
        return self.proxy.counts["drop"] + self.proxy.counts["swallow"]

    def fail_over(self) -> str:
        """Have another server take the place of a master; returns how it went."""
        if self.kind == "sentinel":
            how = self._draw.choice(("kill", "kill", "pause", "ask"))
            self._losing(how, lambda: self._sentinels.fail_over(how))  # type: ignore[arg-type]
        else:
            how = self._draw.choice(("kill", "kill", "ask"))
            shard = self._draw.randrange(3)
            self._losing(how, lambda: self._cluster.fail_over(shard, how))  # type: ignore[arg-type]
        return how

    def _losing(self, how: str, fail_over: Callable[[], object]) -> None:
        begun = time.time()
        fail_over()
        self.losses.append(Loss(begun, time.time(), how))

    def move(self, key: str) -> None:
        """Move the slot of a key to another master, key by key."""
        self.moved += self._cluster.migrate_slot(
            self._cluster.slot_of(key), bunch=self._draw.choice((1, 3, 10)), pause=self._draw.choice((0, 0.01, 0.05))
        )
