"""TLS for a server of a test: an authority that nobody else knows, and a front for servers that have no TLS.

Belongs here: certificates, and passing bytes on. It must not know what the bytes are.
"""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Self

from onwhen.testing.servers._failures import ServerFailed
from onwhen.testing.servers._processes import HOST
from onwhen.testing.servers._threads import Loop

__all__ = ["Certificates", "TlsFront"]


class Certificates:
    """An authority, and a certificate of it for each side: files in a folder.

    Attributes:
        ca: the certificate of the authority.
        server_cert: certificate of the server, for localhost.
        server_key: its key.
        client_cert: certificate of a client.
        client_key: its key.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = folder / "ca.pem"
        self.server_cert, self.server_key = folder / "server.pem", folder / "server-key.pem"
        self.client_cert, self.client_key = folder / "client.pem", folder / "client-key.pem"

    def make(self) -> Self:
        """Write the files, unless they are there.

        Raises:
            ServerFailed: what makes certificates is not installed.
        """
        if self.client_key.exists():
            return self
        try:
            import trustme
        except ImportError:
            raise ServerFailed("certificates for tests need trustme: pip install trustme") from None
        self._folder.mkdir(parents=True, exist_ok=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        for name, cert, key in (
            ("localhost", self.server_cert, self.server_key),
            ("client.invalid", self.client_cert, self.client_key),
        ):
            made = authority.issue_cert(name, *([HOST] if name == "localhost" else []))
            cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
            made.private_key_pem.write_to_path(key)
        return self


class TlsFront:
    """What takes connections with TLS, and passes them on to a port without; it runs in a thread.

    Args:
        port: where it listens.
        target: port that it passes all on to.
        certificates: of the server.
        asks_client: refuse clients without a certificate of the same authority.
    """

    def __init__(self, port: int, target: int, certificates: Certificates, asks_client: bool) -> None:
        self._port, self._target = port, target
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates.ca))
        self._context.load_cert_chain(certificates.server_cert, certificates.server_key)
        if asks_client:
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._loop = Loop("onwhen-tls")
        self._open: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Listen."""
        self._loop.start()
        self._server = self._loop.run(
            asyncio.start_server(self._serve, HOST, self._port, ssl=self._context, reuse_address=True)
        )
        return self

    def stop(self) -> None:
        """Cut all connections, and listen no more."""
        self._loop.run(self._close())
        self._loop.stop()

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            there, onwards = await asyncio.open_connection(HOST, self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pass(reader, onwards))
                    group.create_task(_pass(there, writer))
            finally:
                onwards.close()
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            return  # this task belongs to the server that is being closed, or to a connection that is cut
        finally:
            self._open.discard(task)
            writer.close()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(1 << 16):
        writer.write(chunk)
        await writer.drain()
    raise ConnectionResetError("the other side has closed")
