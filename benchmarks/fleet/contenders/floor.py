"""The floor: what asyncio, redis-py and hiredis take for it, with nothing around the commands.

Entries are read 500 at a time; each of them is one EVAL that sets two fields and removes the entry, and all of them
travel in one pipeline. It keeps what was read in memory, has one partition, and checks nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import redis
from redis.asyncio import Redis

from benchmarks.fleet.load import BATCH, SUBJECTS, Contents, subject_of
from benchmarks.fleet.serving import Progress, say, serve

LOG: Final = "floor:log"
_READ: Final = 500
_SCRIPT: Final = """\
redis.call('HSET', KEYS[1], 'level', ARGV[2], 'readings', ARGV[3])
return redis.call('XDEL', KEYS[2], ARGV[1])
"""


class Floor:
    name, version, warm = "floor", redis.__version__, 2 * SUBJECTS

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url, socket_timeout=30)
        self._readings = dict.fromkeys(map(subject_of, range(SUBJECTS)), 0)

    async def load(self, first: int, events: int) -> None:
        for start in range(first, first + events, BATCH):
            pipeline: Any = self._redis.pipeline(transaction=False)
            for number in range(start, min(start + BATCH, first + events)):
                event = {"type": "device.measured", "subject": subject_of(number), "data": {"level": number}}
                pipeline.xadd(LOG, {"event": json.dumps(event)})
            await pipeline.execute()

    async def drain(self, progress: Progress) -> None:
        client: Any = self._redis
        after, readings = "-", self._readings
        while entries := await client.xrange(LOG, after, "+", _READ):
            pipeline = client.pipeline(transaction=False)
            for position, fields in entries:
                event = json.loads(fields[b"event"])
                subject = event["subject"]
                readings[subject] += 1
                pipeline.eval(_SCRIPT, 2, f"floor:{subject}", LOG, position, event["data"]["level"], readings[subject])
            answers = await pipeline.execute()
            progress.add(sum(answers))
            after = f"({entries[-1][0].decode()}"

    async def arrive(self, command: Mapping[str, Any]) -> None:
        """Handle events one at a time; say when it is ready, and for each when its commit was answered."""
        client: Any = self._redis
        moments: list[float] = []
        say(ready=True)
        while len(moments) < command["events"]:
            for _, entries in await client.xread({LOG: "0"}, block=10_000):
                for position, fields in entries:
                    event = json.loads(fields[b"event"])
                    key = f"floor:{event['subject']}"
                    await client.eval(_SCRIPT, 2, key, LOG, position, event["data"]["level"], 1)
                    moments.append(time.perf_counter())
        say(moments=moments)

    async def contents(self) -> Contents:
        found: Contents = {}
        client: Any = self._redis
        for subject in self._readings:
            level, readings = await client.hmget(f"floor:{subject}", "level", "readings")
            if level is not None:
                found[subject] = (int(level), int(readings))
        return found


async def main() -> None:
    floor = Floor(sys.argv[1])
    await serve(floor, sys.argv[1], floor.arrive)


if __name__ == "__main__":
    asyncio.run(main())
