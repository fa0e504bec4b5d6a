"""FastStream with a Redis list, one message a call: what a user writes who keeps state in a hash beside it.

The handler loads the subject's hash and writes two of its fields. The list is what costs least (BLPOP, no
acknowledgement: a message that was taken is lost with the process), logging is off, and the body is a plain dict.

To have several calls open at once gains it nothing here: it is its own CPU that it waits for, not Redis.
"""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import version
from typing import Any, Final

from faststream.redis import RedisBroker  # type: ignore[import-not-found]
from redis.asyncio import Redis

from benchmarks.fleet.load import BATCH, SUBJECTS, Contents, subject_of
from benchmarks.fleet.serving import Progress, serve

_LIST: Final = "faststream:readings"


class FastStream:
    name, version, warm = "FastStream", version("faststream"), 100

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)
        self._broker = RedisBroker(url, logger=None)
        self._progress: Progress | None = None
        client: Any = self._redis

        @self._broker.subscriber(list=_LIST)  # type: ignore[untyped-decorator]
        async def measure(body: dict[str, Any]) -> None:
            key = f"faststream:{body['subject']}"
            state = await client.hgetall(key)
            await client.hset(key, mapping={"level": body["level"], "readings": int(state.get(b"readings", 0)) + 1})
            assert self._progress is not None
            self._progress.add()

    async def load(self, first: int, events: int) -> None:
        await self._broker.connect()
        for start in range(first, first + events, BATCH):
            numbers = range(start, min(start + BATCH, first + events))
            bodies = [{"subject": subject_of(number), "level": number} for number in numbers]
            await self._broker.publish_batch(*bodies, list=_LIST)

    async def drain(self, progress: Progress) -> None:
        self._progress = progress
        await self._broker.start()
        await progress.finished()
        await self._broker.stop()

    async def contents(self) -> Contents:
        found: Contents = {}
        client: Any = self._redis
        for subject in map(subject_of, range(SUBJECTS)):
            level, readings = await client.hmget(f"faststream:{subject}", "level", "readings")
            if level is not None:
                found[subject] = (int(level), int(readings))
        return found


async def main() -> None:
    await serve(FastStream(sys.argv[1]), sys.argv[1])


if __name__ == "__main__":
    asyncio.run(main())
