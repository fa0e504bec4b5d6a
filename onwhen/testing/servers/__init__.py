"""Real servers for tests: one, a Cluster, one that Sentinels watch, and a proxy that loses replies.

    with RedisServer() as server:
        store = create_redis_storage(server.url)

Each starts processes of its own on the loopback address and free ports, with a folder of its own, and ends them with
the block, or when the process that started them ends, however that happens. `find_server` says which program is
started, and which variable names another. None is there? Then this fails; a test that is skipped proves nothing.

Nothing is imported here before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onwhen.testing.servers._certificates import Certificates
    from onwhen.testing.servers._cluster import RedisCluster
    from onwhen.testing.servers._failures import ServerFailed, ServerNotFound
    from onwhen.testing.servers._programs import find_server
    from onwhen.testing.servers._proxy import FaultProxy
    from onwhen.testing.servers._redis import RedisServer
    from onwhen.testing.servers._sentinels import Sentinels

__all__ = [
    "Certificates",
    "FaultProxy",
    "RedisCluster",
    "RedisServer",
    "Sentinels",
    "ServerFailed",
    "ServerNotFound",
    "find_server",
]

_WHERE = {
    "Certificates": "_certificates",
    "FaultProxy": "_proxy",
    "RedisCluster": "_cluster",
    "RedisServer": "_redis",
    "Sentinels": "_sentinels",
    "ServerFailed": "_failures",
    "ServerNotFound": "_failures",
    "find_server": "_programs",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'onwhen.testing.servers' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"onwhen.testing.servers.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
