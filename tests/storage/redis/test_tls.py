"""Over TLS: who is trusted, and what is told when nobody is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from onwhen import SystemClock
from onwhen.errors import StoreError
from onwhen.storage.redis import create_redis_storage
from onwhen.storage.redis._connection import Connection
from onwhen.testing.servers import Certificates, RedisServer


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(tls=True) as server:
        yield server


@pytest.fixture(scope="module")
def strict_server() -> Iterator[RedisServer]:
    with RedisServer(tls=True, client_certificates=True) as server:
        yield server


async def works(url: str) -> None:
    connection = Connection(url)
    await connection.open()
    assert await connection.ask("HLEN", "{onwhen}:none") == 0
    await connection.close()


async def test_a_server_of_a_known_authority_is_trusted(server: RedisServer) -> None:
    """Its certificate is in a file that the address names."""
    assert server.url.startswith("rediss://")
    assert "ssl_ca_certs=" in server.url
    await works(server.url)
    store = create_redis_storage(server.url, "tls", partitions=2)
    await store.open(SystemClock())
    assert await store.bookmark(0, "x") is None
    await store.close()


async def test_a_server_that_nobody_vouches_for_is_refused(server: RedisServer, tmp_path: Path) -> None:
    """The message says how to name its authority."""
    plain = server.url.partition("?")[0]
    with pytest.raises(StoreError, match=r"no trusted TLS connection: .*CERTIFICATE_VERIFY_FAILED.*ssl_ca_certs=FILE"):
        await works(plain)
    other = Certificates(tmp_path).make()
    with pytest.raises(StoreError, match=r"no trusted TLS connection"):
        await works(f"{plain}?ssl_ca_certs={quote(str(other.ca))}")


async def test_the_certificate_must_be_for_the_host(server: RedisServer) -> None:
    """Unless the address says that it need not be."""
    elsewhere = server.url.replace("127.0.0.1", "127.1")  # another name of the same host
    with pytest.raises(StoreError, match=r"no trusted TLS connection: .*ostname mismatch"):
        await works(elsewhere)
    await works(f"{elsewhere}&ssl_check_hostname=false")


async def test_a_server_may_ask_for_a_certificate_too(strict_server: RedisServer) -> None:
    """Without one it ends the conversation."""
    server = strict_server
    assert server.certificates is not None
    with pytest.raises(StoreError):
        await works(server.url)
    cert, key = quote(str(server.certificates.client_cert)), quote(str(server.certificates.client_key))
    await works(f"{server.url}&ssl_certfile={cert}&ssl_keyfile={key}")


async def test_a_plain_connection_to_a_server_with_tls_is_refused(server: RedisServer) -> None:
    """At once; there is no way round."""
    with pytest.raises(StoreError, match=r"connecting: not sent"):
        await works(server.url.partition("?")[0].replace("rediss", "redis"))
