"""What is read without being changed: subjects, counts, and all of something, page by page.

Belongs here: reading. A listing asks each partition for one page after the other, and puts them together in order, so
that nothing is held up for long and memory is bounded. What comes or goes meanwhile is listed or not.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from onwhen.engine.partitions import partition_of
from onwhen.engine.store import DeadLetter, Retry, StoreStats, SubjectRecord, Timer
from onwhen.errors import StoreError
from onwhen.storage._encoding import moment
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Word
from onwhen.storage.redis._deployment import Deployment
from onwhen.storage.redis._encoding import (
    dead_letter_of,
    owner_prefix,
    reading,
    record_of,
    retry_of,
    timer_of,
)
from onwhen.storage.redis._lanes import Job, Kind
from onwhen.storage.redis._log import as_dict
from onwhen.storage.redis._ownership import looks

__all__ = ["Listing", "Page", "merged", "read_as"]

_T = TypeVar("_T")

_Wanted: TypeAlias = deque[tuple[str, asyncio.Future[SubjectRecord]]]
Page: TypeAlias = Callable[[int, bytes], Coroutine[Any, Any, list[tuple[bytes, Any]]]]

_PAGE: Final = 200  # items that are read at once (a count)
_ROOM: Final = 8 << 20  # bytes that are read at once; it may be one item more
_TOGETHER: Final = 100  # subjects that are loaded at once (a count)
_DISCARD: Final = Kind(_scripts.DISCARD)


class Listing:
    """All that is read of a deployment.

    Args:
        deployment: whose it is.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._wanted: dict[int, _Wanted] = {}
        self._loading: dict[int, asyncio.Task[None]] = {}

    # -- subjects

    async def load(self, subject: str) -> SubjectRecord:
        """Return a subject; see `Store.load`. Those that are asked for meanwhile are loaded together."""
        partition, _ = self._deployment.key(subject)  # raises before others are concerned
        # Of several servers, one that does not answer must not hold up those who ask the others.
        line = partition if self._deployment.connection.is_cluster else 0
        loop = asyncio.get_running_loop()
        future: asyncio.Future[SubjectRecord] = loop.create_future()
        wanted = self._wanted.setdefault(line, deque())
        wanted.append((subject, future))
        if line not in self._loading:
            self._loading[line] = loop.create_task(self._load(line, wanted))
        return await future

    async def _load(self, line: int, wanted: _Wanted) -> None:
        taken: list[tuple[str, asyncio.Future[SubjectRecord]]] = []
        try:
            while wanted:
                taken = [wanted.popleft() for _ in range(min(_TOGETHER, len(wanted)))]
                commands: dict[int, list[Sequence[Word]]] = {}
                places: list[tuple[int, int]] = []
                for name, _ in taken:
                    partition, key = self._deployment.key(name)
                    some = commands.setdefault(partition, [])
                    places.append((partition, len(some)))
                    some.append(("HGETALL", key))
                try:
                    answers = await self._deployment.read(commands)
                except StoreError as error:
                    _fail(taken, error)
                    continue
                first, starts = 0, {}
                for partition, some in commands.items():
                    starts[partition], first = first, first + len(some)
                for (name, future), (partition, number) in zip(taken, places, strict=True):
                    if future.done():
                        continue  # whoever asked was cancelled
                    try:
                        record = read_as(record_of, name, as_dict(answers[starts[partition] + number]))
                    except StoreError as error:
                        future.set_exception(error)
                    else:
                        future.set_result(record)
        finally:
            if self._wanted.get(line) is wanted:  # else it is that of an event loop that has ended
                del self._wanted[line], self._loading[line]
            _fail([*taken, *wanted], StoreError("the store on Redis was closed"))

    def abandon(self) -> None:
        """Forget calls of an event loop that has ended."""
        self._wanted.clear()
        self._loading.clear()

    async def close(self) -> None:
        """Give up what is being loaded."""
        if tasks := list(self._loading.values()):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def subjects(self, prefix: str) -> AsyncIterator[SubjectRecord]:
        """Go through the stored subjects; see `Store.subjects`."""
        first = prefix.encode()

        async def page(partition: int, after: bytes) -> list[tuple[bytes, None]]:
            start = b"(" + after if after else b"[" + first
            command: Sequence[Word] = (
                *("ZRANGEBYLEX", self._deployment.parts[partition].names, start, b"(" + first + b"\xff"),
                *("LIMIT", 0, _PAGE),
            )
            (names,) = await self._deployment.read({partition: [command]})
            return [(name, None) for name in names]

        names: list[str] = []
        async for name, _ in merged(self._deployment, page):
            names.append(name.decode())
            if len(names) == _TOGETHER:
                for record in await asyncio.gather(*map(self.load, names)):
                    if record.version is not None:
                        yield record
                names = []
        for record in await asyncio.gather(*map(self.load, names)):
            if record.version is not None:
                yield record

    # -- timers, retries, dead letters

    def _page(self, kind: str) -> Page:
        async def page(partition: int, after: bytes) -> list[tuple[bytes, Any]]:
            since = self._deployment.owned_since(partition)
            words: list[Word] = [kind, b"(" + after if after else b"-", _PAGE, _ROOM]
            return [
                (member, (value, starts))
                for member, value, starts in await self._deployment.look(partition, _scripts.PAGE, words, since=since)
            ]

        return page

    async def timers(self, subject: str | None) -> AsyncIterator[Timer]:
        """Go through the timers; see `Store.timers`."""
        if subject is None:
            async for member, (value, _) in merged(self._deployment, self._page("timers")):
                yield read_as(timer_of, member[34:], value)
            return
        keys = self._deployment.parts
        partition, first = partition_of(subject, len(keys)), owner_prefix(subject)
        own = keys[partition]
        command = ("ZRANGEBYLEX", own.own, b"[" + first, b"(" + first + b"\xff")
        (owners,) = await self._deployment.read({partition: [command]})
        found: list[tuple[bytes, bytes]] = []
        for start in range(0, len(owners), _PAGE):
            some = owners[start : start + _PAGE]
            (values,) = await self._deployment.read({partition: [("HMGET", own.timers, *some)]})
            found += [(value, owner) for owner, value in zip(some, values, strict=True) if value is not None]
        for value, owner in sorted(found, key=lambda item: item[0][:34]):
            yield read_as(timer_of, owner, value)

    async def retries(self, partition: int) -> AsyncIterator[Retry]:
        """Go through the waiting retries; see `Store.retries`."""
        page, after = self._page("retries"), b""
        while items := await page(partition, after):
            for _, (value, starts) in items:
                yield read_as(retry_of, value, starts)
            after = items[-1][0]

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters; see `Store.dead_letters`."""
        async for _, (value, _starts) in merged(self._deployment, self._page("dead")):
            yield read_as(dead_letter_of, value)

    async def _find_dead(self, id: str) -> tuple[int, bytes] | None:
        try:
            key = id.encode()
        except UnicodeEncodeError:
            return None
        keys = self._deployment.parts
        commands: dict[int, Sequence[Sequence[Word]]] = {
            number: [("HGET", part.dead, key)] for number, part in enumerate(keys)
        }
        for number, value in enumerate(await self._deployment.read(commands)):
            if value is not None:
                return number, value
        return None

    async def dead_letter(self, id: str) -> DeadLetter | None:
        """Return a dead letter; see `Store.dead_letter`."""
        found = await self._find_dead(id)
        return None if found is None else read_as(dead_letter_of, found[1])

    async def discard(self, id: str) -> bool:
        """Remove a dead letter; see `Store.discard`."""
        found = await self._find_dead(id)
        if found is None:
            return False
        return bool(await self._deployment.do(found[0], Job(_DISCARD, (id,), lambda answer, low: bool(answer))))

    # -- counts

    async def stats(self) -> StoreStats:
        """Return how much is kept; see `Store.stats`."""
        found = await looks(self._deployment)
        waiting = sum(one[8] for one in found)
        parked = sum(one[9] for one in found)
        return StoreStats(
            subjects=sum(one[6] for one in found),
            pending=sum(one[2] for one in found),
            timers=sum(one[7] for one in found),
            retries=waiting - parked,
            parked=parked,
            dead=sum(one[10] for one in found),
            oldest=min((moment(int(one[3])) for one in found if one[3]), default=None),
        )


async def merged(
    deployment: Deployment, page: Page, partitions: Iterable[int] | None = None
) -> AsyncIterator[tuple[bytes, Any]]:
    """Go through the items of several partitions, in order.

    Args:
        deployment: whose they are.
        page: given a partition and an item, b"" at first, returns those after it, with what they go by.
        partitions: which; all of them if None.
    """
    asked = list(range(len(deployment.parts)) if partitions is None else partitions)
    first = await deployment.everywhere(lambda partition: page(partition, b""), asked)
    pages = dict(zip(asked, first, strict=True))
    heads = [(items[0][0], partition, 0) for partition, items in pages.items() if items]
    heapq.heapify(heads)
    while heads:
        _, partition, number = heads[0]
        yield pages[partition][number]
        number += 1
        if number == len(pages[partition]):
            pages[partition], number = await page(partition, pages[partition][-1][0]), 0
        if number < len(pages[partition]):
            heapq.heapreplace(heads, (pages[partition][number][0], partition, number))
        else:
            heapq.heappop(heads)


def read_as(read: Callable[..., _T], *values: Any) -> _T:
    with reading():
        return read(*values)


def _fail(wanted: Sequence[tuple[str, asyncio.Future[SubjectRecord]]], error: StoreError) -> None:
    for _, future in wanted:
        if not future.done():
            own = type(error)(*error.args)  # one for each: who catches it adds to its traceback
            own.__cause__ = error.__cause__
            future.set_exception(own)
