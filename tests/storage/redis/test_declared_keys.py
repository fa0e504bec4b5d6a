"""Scripts touch only keys that they were called with.

On a Cluster that moves a slot, another key would fail the script half-way, and half a commit would be there.
"""

from __future__ import annotations

import re

from onwhen.testing.servers import RedisServer
from tests.storage.redis.deployments import contents, fill, opened
from tests.storage.redis.stores import commit, event

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')
_KEYLESS = {"TIME"}


async def test_scripts_touch_only_keys_that_they_were_called_with(redis_server: RedisServer, key_prefix: str) -> None:
    """Seen from the server, for every script, with something of everything to do."""
    with redis_server.wire() as wire:
        wire.ask("MONITOR")
        async with opened(redis_server.url, key_prefix, partitions=2) as store:
            await fill(store)
            for partition in range(2):
                assert await store.acquire(partition, f"t{partition}", "w", 60.0) is not None
                assert await store.renew({partition: f"t{partition}"}, 60.0)
                (first, *_) = await store.read(partition, None, 1)
                await commit(store, first.event.subject, handled=first.position, token=f"t{partition}")
                for message in await store.outgoing(partition, None, 1):
                    assert await store.trim(partition, f"t{partition}", message.position)
                await store.fire(partition)
                await store.pending(partition, [first.position])
                await store.waiting(partition, ["0" * 32])
                assert await store.release(partition, f"t{partition}")
            await commit(store, "ticket:1", write=None, cancel_all=True, messages=[event("last", "ticket:1")])
            assert [each async for each in store.explanations(correlation="c1")]
            await store.discard("dead-1")
            await store.exchange("k", None, b"1", 60.0)
            await store.exchange("k", b"1", None, 60.0)
            await store.beat("w", "", 1.0)
            await store.partition_states()
            await contents(store)
        redis_server.ask("ECHO", "the end")
        called, touched = _read(wire)
    scripts = {"append", "commit", "promote", "deliver", "acquire", "renew", "release", "trim", "starting", "discard"}
    assert len(called) >= len(scripts)
    assert len(touched) > 1000
    assert {keys for keys in touched if not keys[1] <= keys[2]} == set()


def _read(wire: object) -> tuple[set[str], list[tuple[str, frozenset[str], frozenset[str]]]]:
    """Return the scripts that were called, and for each of their commands its keys and those that were declared."""
    called: set[str] = set()
    touched: list[tuple[str, frozenset[str], frozenset[str]]] = []
    declared: frozenset[str] = frozenset()
    while True:
        line = wire._file.readline().decode(errors="replace")  # type: ignore[attr-defined]
        words = _WORD.findall(line)
        if not words or words[0] == "MONITOR":
            continue
        if words[0] == "ECHO" and words[1] == "the end":
            return called, touched
        if words[0] in ("EVALSHA", "EVAL"):
            called.add(words[1])
            declared = frozenset(words[3 : 3 + int(words[2])])
        elif " lua]" in line and words[0] not in _KEYLESS:
            key = words[2] if words[0] == "XINFO" else words[1]
            touched.append((words[0], frozenset([key]), declared))
