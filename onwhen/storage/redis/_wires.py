"""Connections of the driver: made as we need them, and let go of.

Belongs here: what the driver is told, and what it leaves undone. It must not know what goes over a connection.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

import hiredis
from redis.asyncio.connection import Connection as Wire
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from onwhen.storage.redis._address import Address, Endpoint

__all__ = ["Wire", "abandon", "close", "create_wire", "pack"]

_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def pack(*command: bytes | str | int) -> bytes:
    """Return a command in the form in which it is sent."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub means any number of words
    return packed


def create_wire(endpoint: Endpoint, address: Address, *, is_sentinel: bool) -> Wire:
    """Return a connection that is not connected yet.

    Args:
        endpoint: host and port.
        address: how to get in.
        is_sentinel: it leads to a Sentinel, which has users of its own, and no databases.
    """
    options: dict[str, Any] = {}
    if address.tls:
        options = {name: value for name in _TLS if (value := getattr(address, name)) is not None}
        options["ssl_check_hostname"] = address.ssl_check_hostname
    return (SSLConnection if address.tls else Wire)(
        host=endpoint[0],
        port=endpoint[1],
        db=0 if is_sentinel else address.db,
        username=address.sentinel_username if is_sentinel else address.username,
        password=address.sentinel_password if is_sentinel else address.password,
        protocol=address.protocol,
        socket_timeout=None,  # whoever uses it has one time-out for all of an exchange
        socket_connect_timeout=address.connect_timeout,
        retry=Retry(NoBackoff(), 0),  # what is sent again, and when, is decided where it is known what it is
        driver_info=None,  # would need the right to CLIENT SETINFO, for nothing that the engine needs
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        **options,
    )


async def close(wire: Wire) -> None:
    """Close a connection without waiting for the other side."""
    with suppress(RedisError, OSError):
        await wire.disconnect(nowait=True)


def abandon(wire: Wire) -> None:
    """Close a connection whose event loop is closed.

    A transport closes its socket in a callback of its loop, which will not come. Without this the socket stays open
    until the garbage collector finds it, and warns.
    """
    writer, wire._writer, wire._reader = wire._writer, None, None
    transport = getattr(writer, "transport", None)
    transport = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None) or transport
    with suppress(RuntimeError, OSError):
        if transport is not None:
            transport.abort()
    lost = getattr(transport, "_call_connection_lost", None)  # of asyncio's own transports
    if lost is not None and getattr(transport, "_sock", None) is not None:
        with suppress(RuntimeError, OSError):
            lost(None)
