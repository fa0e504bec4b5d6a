"""One command to a server, and its answer: what tests need to set servers up, on a plain blocking socket.

Belongs here: RESP2. Not the driver that the store uses: what watches a test should not share its faults, and no
command is ever sent twice.
"""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Any, Self, TypeAlias

from onwhen.testing.servers._failures import ServerFailed

__all__ = ["Reply", "Wire", "ask"]

Reply: TypeAlias = Any
"""int, str, None, or a list of such: it depends on the command."""


class Wire:
    """A connection.

    Args:
        host: name or address of the server.
        port: its port.
        user: who to be, and
        password: with what; nobody if None.
        timeout: for each answer (seconds).
    """

    def __init__(
        self, host: str, port: int, *, user: str = "default", password: str | None = None, timeout: float = 10.0
    ) -> None:
        self._name = f"{host}:{port}"
        self._socket = socket.create_connection((host, port), timeout)
        self._file = self._socket.makefile("rb")
        if password is not None:
            self.ask("AUTH", user, password)

    def ask(self, *words: str | int | bytes) -> Reply:
        """Send a command and return the answer.

        Raises:
            ServerFailed: the server has refused it.
            OSError: there was no answer.
        """
        parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p) for p in parts))
        reply = self._reply()
        if isinstance(reply, ServerFailed):
            raise ServerFailed(f"{self._name} has refused {words[0]!s}: {reply}")
        return reply

    def _reply(self) -> Reply:
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError(f"{self._name} has closed the connection")
        kind, rest = line[:1], line[1:-2].decode(errors="surrogateescape")
        if kind == b"+":
            return rest
        if kind == b"-":
            return ServerFailed(rest)
        if kind == b":":
            return int(rest)
        count = int(rest)
        if count < 0:
            return None
        if kind == b"$":
            return self._file.read(count + 2)[:-2].decode(errors="surrogateescape")
        return [str(each) if isinstance(each := self._reply(), ServerFailed) else each for _ in range(count)]

    def close(self) -> None:
        """Close it."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def ask(port: int, *words: str | int | bytes, host: str = "127.0.0.1", timeout: float = 10.0) -> Reply:
    """Send one command on a connection of its own and return the answer."""
    with Wire(host, port, timeout=timeout) as wire:
        return wire.ask(*words)
