"""Stores in Redis for tests: opened and closed around a block, and short ways to use them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from onwhen import Event, SystemClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Commit, CommitResult, SubjectWrite
from onwhen.errors import StoreError
from onwhen.storage.redis import RedisStore, create_redis_storage
from onwhen.storage.redis._connection import Connection, Mark, Script, Word

__all__ = ["LosingConnection", "commit", "event", "opened", "set_to"]


@asynccontextmanager
async def opened(url: str, prefix: str, **options: Any) -> AsyncIterator[RedisStore]:
    store = create_redis_storage(url, prefix, **options)
    await store.open(SystemClock())
    try:
        yield store
    finally:
        await store.close()


def event(id: str, subject: str = "a", data: Any = None) -> Event:
    return Event("opened", subject, data, id=id, source="/desk")


def set_to(value: bytes) -> SubjectWrite:
    return SubjectWrite(set={"n": value})


async def commit(store: RedisStore, subject: str = "a", **fields: Any) -> CommitResult:
    """Commit on what is stored now, unless told otherwise."""
    if "version" not in fields:
        fields["version"] = (await store.load(subject)).version
    return await store.commit(Commit(partition=partition_of(subject, store.partitions), subject=subject, **fields))


class LosingConnection(Connection):
    """A connection that, when it is told to, loses calls on their way, and sends them when they are not expected.

    Attributes:
        loses: name of the script whose next call is lost.
    """

    loses = ""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._lost: list[tuple[Script, Sequence[bytes | str], Sequence[Word]]] = []

    async def run(
        self, script: Script, keys: Sequence[bytes | str], args: Sequence[Word] = (), *, since: Mark | None = None
    ) -> Any:
        if script.name == self.loses:
            self.loses = ""
            self._lost.append((script, keys, args))
            raise StoreError("the connection was lost")
        return await super().run(script, keys, args, since=since)

    async def send_late(self) -> list[Any]:
        """Send what was lost, and return the answers."""
        lost, self._lost = self._lost, []
        return [await super(LosingConnection, self).run(*call) for call in lost]
