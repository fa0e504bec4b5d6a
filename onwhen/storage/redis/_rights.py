"""What a user of the server must be allowed: commands, and names of keys. The docs and the tests take it from here.

Belongs here: the list. It must not know why a script uses what it uses.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["ON_KEYS", "rules"]

ON_KEYS: Final = (
    "DEL",
    "EXISTS",
    "GET",
    "HDEL",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HINCRBY",
    "HLEN",
    "HMGET",
    "HSET",
    "HSETNX",
    "LLEN",
    "LPOP",
    "LRANGE",
    "RPUSH",
    "SET",
    "TIME",
    "TYPE",
    "UNLINK",
    "XADD",
    "XDEL",
    "XINFO|STREAM",
    "XLEN",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "XTRIM",
    "ZADD",
    "ZCARD",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZREM",
    "ZSCORE",
)
"""Commands that scripts call, or that are sent as they are. Repartitioning needs LRANGE, UNLINK and ZRANGE."""

_ALWAYS: Final = ("EVAL", "EVALSHA", "INFO")
_CLUSTER: Final = ("CLUSTER|SLOTS", "ASKING")
_DATABASE: Final = ("SELECT",)


def rules(key_prefix: str, *, is_cluster: bool = False, has_database: bool = False) -> str:
    """Return the smallest rules of an ACL user, as `ACL SETUSER NAME` takes them after the password.

    Args:
        key_prefix: prefix of the deployment.
        is_cluster: the servers are a Cluster.
        has_database: another database than 0 is used.
    """
    name = re.sub(r"([\\*?\[\]])", r"\\\1", key_prefix)
    commands = [*_ALWAYS, *ON_KEYS]
    if is_cluster:
        commands += _CLUSTER
    if has_database:
        commands += _DATABASE
    allowed = " ".join(f"+{command.lower()}" for command in sorted(commands))
    return f"resetchannels ~{{{name}}}:* ~{{{name}:* -@all {allowed}"
