"""Whether servers are fit to keep a store, asked once when it is opened.

Belongs here: versions, modes, limits and rights. It must not know what is stored, nor in which format.

All of it is in INFO, which managed services allow where they refuse CONFIG.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from redis.exceptions import RedisError

from onwhen.errors import StoreError
from onwhen.storage.redis._address import Address, Kind
from onwhen.storage.redis._failures import NOT_EXECUTED, code_of, failure
from onwhen.storage.redis._node import Node, facts_of
from onwhen.storage.redis._rights import ON_KEYS, rules
from onwhen.storage.redis._wires import pack

__all__ = ["check"]

_log: Final = logging.getLogger("onwhen.storage.redis")

_REDIS: Final = (7, 0)
_VALKEY: Final = (7, 2)
_SHOWN: Final = 5  # commands in a message; more are missing when it is the keys that are not allowed
_WAIT: Final = 0.2  # seconds between two questions to a server that cannot answer yet

# `redis.acl_check_cmd` looks at the command and at its keys, and does nothing.
_MAY: Final = """#!lua flags=no-writes
local refused = {}
local function may(command, key)
  local name, part = string.match(command, '^(%u+)|(%u+)$')
  if part then return redis.acl_check_cmd(name, part, key) end
  if command == 'XREAD' then return redis.acl_check_cmd(command, 'STREAMS', key, '0') end
  if command == 'DEL' or command == 'EXISTS' or command == 'UNLINK' then -- all their words are keys
    return redis.acl_check_cmd(command, key)
  end
  return redis.acl_check_cmd(command, key, '0', '0', '0')
end
for i = 3, #ARGV do
  if not (may(ARGV[i], ARGV[1]) and may(ARGV[i], ARGV[2])) then refused[#refused + 1] = ARGV[i] end
end
return refused"""


async def check(address: Address, nodes: Sequence[Node], key_prefix: str, *, is_silent: bool = False) -> None:
    """Refuse servers that cannot keep what they are given, and say which setting would mend it.

    Args:
        address: how they were found.
        nodes: all that are written to.
        key_prefix: what the names of all keys start with.
        is_silent: what does not need to be mended was said before.

    Raises:
        StoreError: a server is too old, of another kind than the address says, a replica, forgets keys when memory
            is short, or does not allow the user what is needed; or it is not reached.
    """
    unsaved: list[str] = []
    for node in nodes:
        more = await _ask(node, address, _MORE, 2, "connecting")
        facts = dict(node.info.facts) if node.info is not None else {}
        check_server(address, node.name, facts)
        facts |= facts_of(more)
        check_settings(node.name, facts)
        await _check_rights(node, address, key_prefix)
        if facts.get("aof_enabled") == "0":
            unsaved.append(node.name)
    if unsaved and not is_silent:
        _log.warning(
            "Redis %s keeps no append-only file: when a server ends, what was accepted since its last snapshot is "
            "lost, or all of it if it takes none. Set appendonly yes; with appendfsync always nothing that was "
            "accepted is lost, with everysec about a second's worth when the machine fails",
            ", ".join(unsaved),
        )


def check_server(address: Address, name: str, facts: Mapping[str, str]) -> None:
    """Check which server it is; see `check`.

    Args:
        address: how it was found.
        name: host and port.
        facts: what INFO server and INFO replication say.
    """
    mode = facts.get("redis_mode") or facts.get("server_mode", "standalone")  # the latter: Valkey 9
    if mode == "sentinel":
        raise _unfit(name, "is a Sentinel: the address must be redis+sentinel://HOST:PORT,.../NAME-OF-THE-MASTER")
    is_valkey = "valkey_version" in facts
    version = facts.get("valkey_version") or facts.get("redis_version", "")
    least = _VALKEY if is_valkey else _REDIS
    found = re.match(r"(\d+)\.(\d+)", version)
    if found is None or (int(found[1]), int(found[2])) < least:
        raise _unfit(name, f"has version {version or 'unknown'}: Redis 7.0 or later is needed, or Valkey 7.2 or later")
    if (mode == "cluster") != (address.kind is Kind.CLUSTER):
        scheme = "redis+cluster://" if mode == "cluster" else "redis://"
        is_one = "is a node of a Cluster" if mode == "cluster" else "is no node of a Cluster"
        raise _unfit(name, f"{is_one}: the address must start with {scheme}, or the same with rediss for TLS")
    if facts.get("role") == "slave":
        master = f"{facts.get('master_host', '?')}:{facts.get('master_port', '?')}"
        raise _unfit(name, f"is a replica of {master}: the address must lead to the master")


def check_settings(name: str, facts: Mapping[str, str]) -> None:
    """Check how it is set up; see `check`.

    Args:
        name: host and port.
        facts: what INFO memory says.
    """
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise _unfit(
            name,
            f"has maxmemory-policy {policy}: it would throw away accepted events and subjects when memory is short. "
            f"Set maxmemory-policy noeviction",
        )


async def _check_rights(node: Node, address: Address, key_prefix: str) -> None:
    keys = (f"{{{key_prefix}}}:meta", f"{{{key_prefix}:p0}}:log")
    needed = rules(key_prefix, is_cluster=address.kind is Kind.CLUSTER, has_database=bool(address.db))
    user = address.username or "default"
    try:
        [refused] = await _ask(node, address, pack("EVAL", _MAY, 0, *keys, *ON_KEYS), 1, "EVAL")
    except StoreError as error:
        if code_of(error.__cause__ or error) == "NOPERM":
            raise _unfit(node.name, f"refuses: {error.__cause__}; ACL SETUSER {user} {needed}") from error
        raise
    if refused:
        missing = ", ".join(word.decode() for word in refused[:_SHOWN]) + (", ..." if refused[_SHOWN:] else "")
        raise _unfit(
            node.name,
            f"does not allow user {user!r}, on keys that start with {{{key_prefix}: {missing}. "
            f"ACL SETUSER {user} {needed}",
        )


async def _ask(node: Node, address: Address, payload: bytes, replies: int, what: str) -> list[Any]:
    """Return the answers of a server; wait for one that still reads its data, or is busy."""
    deadline = time.monotonic() + address.patience
    while True:
        answers = await node.call(payload, replies, what)
        error = next((answer for answer in answers if isinstance(answer, RedisError)), None)
        if error is None:
            return answers
        if code_of(error) not in NOT_EXECUTED or time.monotonic() + _WAIT > deadline:
            raise failure(error, what, node.name) from error
        await asyncio.sleep(_WAIT)


def _unfit(name: str, reason: str) -> StoreError:
    return StoreError(f"Redis {name} {reason}")


_MORE: Final = pack("INFO", "memory") + pack("INFO", "persistence")
