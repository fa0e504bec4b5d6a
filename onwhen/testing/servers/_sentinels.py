"""A master with replicas, and Sentinels that put another one in its place when it dies.

Belongs here: how they are made, and fail-overs. It must not know what is stored.
"""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from onwhen.testing.servers._failures import ServerFailed
from onwhen.testing.servers._processes import HOST, Process, free_port, until
from onwhen.testing.servers._programs import find_server
from onwhen.testing.servers._redis import RedisServer
from onwhen.testing.servers._wire import Reply, ask

__all__ = ["Sentinels"]

_PATIENCE: Final = 30.0  # seconds
# How often a Sentinel looks (milliseconds): more often than it does by itself, so that a test need not wait.
_PERIODS: Final = ("info-period", 1000, "ping-period", 400, "publish-period", 500)


class Sentinels:
    """Sentinels, a master and its replicas, that belong to a test; `with` or `async with` starts and ends them.

    Args:
        replicas: how many (a count).
        sentinels: how many (a count); most of them have to agree.
        name: what the Sentinels call the master.
        down_after: after how long a server that does not answer is taken for dead (seconds).
        appendonly: whether what is written is kept in files.
        options: other lines of the configuration of master and replicas, name -> value.
        program: what to start; see `find_server`.

    Attributes:
        servers: master and replicas; the first one was the master when it began.
        ports: where the Sentinels listen.
    """

    def __init__(
        self,
        *,
        replicas: int = 1,
        sentinels: int = 3,
        name: str = "mymaster",
        down_after: float = 1.0,
        appendonly: bool = False,
        options: Mapping[str, str] | None = None,
        program: Path | None = None,
    ) -> None:
        self._program = program or find_server()
        self.name = name
        self._down_after = int(down_after * 1000)
        self.servers: Sequence[RedisServer] = [
            RedisServer(
                appendonly=appendonly,
                options={"replica-serve-stale-data": "yes", **(options or {})},
                program=self._program,
            )
            for _ in range(1 + replicas)
        ]
        self.ports: Sequence[int] = [free_port() for _ in range(sentinels)]
        self._folder = Path(tempfile.gettempdir(), f"onwhen-sentinels-{secrets.token_hex(6)}")
        self._processes: list[Process] = []

    # -- what it is

    @property
    def url(self) -> str:
        """Its address, as `create_redis_storage` takes it."""
        return f"redis+sentinel://{','.join(f'{HOST}:{port}' for port in self.ports)}/{self.name}"

    def master(self) -> RedisServer:
        """Return the server that the Sentinels name, most of them at least.

        Raises:
            ServerFailed: they do not agree.
        """
        named = [self._named(port) for port in self.ports]
        for server in self.servers:
            if named.count(server.port) > len(self.ports) // 2:
                return server
        raise ServerFailed(f"the Sentinels do not agree: {named}")

    def _named(self, port: int) -> int:
        address = self._ask(port, "GET-MASTER-ADDR-BY-NAME", self.name)
        return int(str(address[1]))

    def _ask(self, port: int, *words: str | int) -> Reply:
        return ask(port, "SENTINEL", *words)

    # -- what happens to it

    def fail_over(self, how: Literal["kill", "pause", "ask"] = "kill") -> RedisServer:
        """Have the Sentinels put another server in the place of the master; returns the new one.

        Returns when all Sentinels name it and the old one follows it. What had not reached it is lost, as replication
        is asynchronous.

        Args:
            how: kill: SIGKILL to the master, which is started again as a replica. pause: SIGSTOP for as long as it
                takes, so that the old one believes for a while that it still is the master. ask: as an operator does.

        Raises:
            ServerFailed: nobody takes the place in time.
        """
        old = self.master()
        if how == "kill":
            old.kill()
        elif how == "pause":
            old.pause()
        else:
            self._request()
        others = [server for server in self.servers if server is not old]
        try:
            until(lambda: self.master() in others and self._is_master(self.master()), "a new master", _PATIENCE)
            until(lambda: len({self._named(port) for port in self.ports}) == 1, "all to name it", _PATIENCE)
        finally:
            if how == "pause":
                old.resume()
        new = self.master()
        if how == "kill":
            old.follow(new.port).start()
        self.until_in_step()
        return new

    def _request(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                self._ask(self.ports[0], "FAILOVER", self.name)
            except ServerFailed as refused:  # NOGOODSLAVE: it has not seen yet that the replica is in step
                if time.monotonic() > deadline or not any(why in str(refused) for why in ("NOGOOD", "INPROG")):
                    raise
                time.sleep(0.05)
            else:
                return

    @staticmethod
    def _is_master(server: RedisServer) -> bool:
        return server.is_running and server.info("replication")["role"] == "master"

    def until_in_step(self) -> None:
        """Wait until all servers but the master follow it, and the Sentinels know that.

        Raises:
            ServerFailed: it does not come to that in time.
        """
        until(self._is_in_step, "replicas in step with their master", _PATIENCE)

    def _is_in_step(self) -> bool:
        master = self.master()
        for server in self.servers:
            state = server.info("replication")
            if server is not master and (state["role"] != "slave" or state["master_link_status"] != "up"):
                return False
            if server is not master and int(state["master_port"]) != master.port:
                return False
        return master.followers() == len(self.servers) - 1 and all(self._knows(port) for port in self.ports)

    def _knows(self, port: int) -> bool:
        seen = self._ask(port, "REPLICAS", self.name)
        states = [dict(zip(each[::2], each[1::2], strict=True)) for each in seen if isinstance(each, list)]
        good = [state for state in states if state["flags"] == "slave" and state["master-link-status"] == "ok"]
        others = self._ask(port, "SENTINELS", self.name)
        return len(good) == len(self.servers) - 1 and len(others) == len(self.ports) - 1

    # -- its life

    def start(self) -> Self:
        """Start servers, then Sentinels; returns when they all know each other.

        Raises:
            ServerFailed: they do not in time.
        """
        first, *others = self.servers
        first.start()
        for server in others:
            server.follow(first.port).start()
        for port in self.ports:
            self._processes.append(self._sentinel(port, first.port))
            until(lambda port=port: self._ask(port, "DEBUG", *_PERIODS) == "OK", f"a Sentinel on port {port}")  # type: ignore[misc]
        self.until_in_step()
        return self

    def _sentinel(self, port: int, master: int) -> Process:
        folder = self._folder / str(port)
        folder.mkdir(mode=0o700, parents=True)
        path = folder / "sentinel.conf"
        lines = [
            f"port {port}",
            f"bind {HOST}",
            f'dir "{folder}"',
            f"sentinel monitor {self.name} {HOST} {master} {len(self.ports) // 2 + 1}",
            f"sentinel down-after-milliseconds {self.name} {self._down_after}",
            f"sentinel failover-timeout {self.name} {2 * self._down_after}",
            f"sentinel parallel-syncs {self.name} 1",
        ]
        path.write_text("".join(f"{line}\n" for line in lines))
        return Process([self._program, path, "--sentinel"], folder, folder / "log")

    def stop(self) -> None:
        """End all of them, and remove their folders."""
        for process in self._processes:
            process.kill()
        for server in self.servers:
            if server.is_running:
                server.kill()
            server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

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
