"""krules-framework with its Redis storage, as its documentation sets it up, in the way that costs it least.

An event goes through its bus to one rule. The rule sets two properties in the subject's cache and stores them at once,
which its documentation calls efficient: one HGETALL, one HSET. A subject that is kept for the next event would load
again all the same, because storing empties its cache. There is no queue: the events lie in a list of this process, each
is awaited before the next, and those that were not handled are lost with the process.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from dependency_injector import providers
from krules_core import __version__  # type: ignore[import-not-found]
from krules_core.container import KRulesContainer  # type: ignore[import-not-found]
from redis.asyncio import Redis
from redis_subjects_storage.storage_impl import create_redis_storage  # type: ignore[import-not-found]

from benchmarks.fleet.load import EVENT_TYPE, SUBJECTS, Contents, subject_of
from benchmarks.fleet.serving import Progress, serve


class KRules:
    name, version, warm = "krules-framework", __version__, 100

    def __init__(self, url: str) -> None:
        container = KRulesContainer()
        storage = create_redis_storage(redis_client=Redis.from_url(url), redis_prefix="krules:")
        container.subject_storage.override(providers.Object(storage))
        on, _, _, self._emit = container.handlers()
        self._subject: Any = container.subject
        self._events: list[tuple[str, dict[str, int]]] = []

        @on(EVENT_TYPE)  # type: ignore[untyped-decorator]
        async def measure(ctx: Any) -> None:
            await ctx.subject.set("level", ctx.payload["level"])
            await ctx.subject.set("readings", lambda readings: (readings or 0) + 1)
            await ctx.subject.store()

    async def load(self, first: int, events: int) -> None:
        self._events = [(subject_of(number), {"level": number}) for number in range(first, first + events)]

    async def drain(self, progress: Progress) -> None:
        emit, subject = self._emit, self._subject
        for name, payload in self._events:
            await emit(EVENT_TYPE, subject(name), payload)
            progress.add()

    async def contents(self) -> Contents:
        found: Contents = {}
        for name in map(subject_of, range(SUBJECTS)):
            subject = self._subject(name)
            if (level := await subject.get("level", None)) is not None:
                found[name] = (level, await subject.get("readings"))
        return found


async def main() -> None:
    await serve(KRules(sys.argv[1]), sys.argv[1])


if __name__ == "__main__":
    asyncio.run(main())
