"""Group commit: what one partition is asked to change goes there in order, all that is there at once.

Belongs here: which calls share a script, that one is under way at a time, and that one which was given up never takes
effect after a later one. It must not know what the calls mean.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onwhen.engine.promise import Promise
from onwhen.errors import StoreError, StoreFormatError
from onwhen.storage.redis._connection import Connection, Mark, Script, Word
from onwhen.storage.redis._encoding import damaged
from onwhen.storage.redis._keys import PartitionKeys

__all__ = ["Job", "Kind", "Lane", "refusal"]

_TOGETHER: Final = 128  # calls in one script (a count): others of the server wait for it
_ROOM: Final = 1 << 20  # bytes in one script; it may be one call more
_DICE: Final = 23  # bits of an id that tell it from the same one of a server that had lost this


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """A kind of call.

    Attributes:
        script: does it.
        head: what its ARGV begins with, after what all have in common and the token.
        is_many: several calls share a script, which is told how many there are.
        has_token: it is told the token, or that there is none.
    """

    script: Script
    head: tuple[Word, ...] = ()
    is_many: bool = False
    has_token: bool = False


class Job:
    """A call.

    Args:
        kind: None for one that only waits until those before have ended.
        words: its part of ARGV.
        read: makes the result of its answer and the low part of new ids.
        keys: its own part of KEYS.
        token: of the owner, who makes it; None for others.
        fenced: the result if the token is not the partition's any more.
        size: of its words, about (bytes).
    """

    __slots__ = ("answer", "fenced", "keys", "kind", "read", "size", "token", "words")

    def __init__(
        self,
        kind: Kind | None,
        words: Sequence[Word],
        read: Callable[[Any, int], Any],
        keys: tuple[bytes, ...] = (),
        token: str | None = None,
        fenced: Any = None,
        size: int = 0,
    ) -> None:
        self.kind = kind
        self.words = words
        self.read = read
        self.keys = keys
        self.token = token
        self.fenced = fenced
        self.size = size
        self.answer: Promise[Any] = Promise()


class Lane:
    """The calls that change one partition.

    Args:
        connection: the way there.
        keys: of the partition.
        format: how it has to be marked.
        client: who makes them; unique.
        epoch: more than in any lane before of the same client.
        since: tells which run of the server must answer a call with this token.
        disown: called with a token that is not the partition's any more.
        turns: how many lanes may have commits under way at once.
    """

    def __init__(
        self,
        connection: Connection,
        keys: PartitionKeys,
        format: str,
        client: str,
        epoch: int,
        since: Callable[[str | None], Mark | None],
        disown: Callable[[str], None],
        turns: asyncio.Semaphore,
    ) -> None:
        self.epoch = epoch
        self._turns = turns
        self._connection = connection
        self._keys = keys
        self._format = format
        self._client = client
        self._since = since
        self._disown = disown
        self._queue: deque[Job] = deque()
        self._task: asyncio.Task[None] | None = None

    async def do(self, job: Job) -> Any:
        """Have a call made after those before, and return its result; it is made also if whoever waits is cancelled.

        Raises:
            StoreError: it could not be made, or whether it was is not known.
        """
        return await self.begin(job)

    def begin(self, job: Job) -> Promise[Any]:
        """Have a call made after those before; what is returned has its result, or raises as `do` does."""
        self._queue.append(job)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._work())
        return job.answer

    async def settled(self) -> None:
        """Wait until all calls up to now have ended."""
        if self._task is not None:
            await self.do(Job(None, (), _nothing))

    async def close(self, patience: float) -> None:
        """Let the calls end that were made; after `patience` (seconds) they are given up."""
        task = self._task
        if task is not None:
            await asyncio.wait([task], timeout=patience)
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        try:
            while self._queue:
                kind = self._queue[0].kind
                if kind is None or not kind.has_token:
                    await self._serve(self._take())
                else:
                    async with self._turns:  # while it waits, more come, and share its script
                        await self._serve(self._take())
        finally:
            self._task = None
            left = StoreError("the store on Redis was closed; whether this was stored is not known")
            _fail(self._queue, left)
            self._queue.clear()

    def _take(self) -> list[Job]:
        queue = self._queue
        first = queue.popleft()
        jobs, kind, token, room = [first], first.kind, first.token, _ROOM - first.size
        if kind is not None and kind.is_many:
            while queue and len(jobs) < _TOGETHER and room > 0:
                job = queue[0]
                if job.kind is not kind or job.token != token:
                    break
                jobs.append(queue.popleft())
                room -= job.size
        return jobs

    async def _serve(self, jobs: list[Job]) -> None:
        kind = jobs[0].kind
        if kind is None:
            _tell(jobs[0], None)
            return
        low = random.getrandbits(_DICE) << 1
        try:
            answer = await self._send(jobs, kind, low)
        except StoreError as error:
            self.epoch += 1  # it may be under way: from now on it is too late
            _fail(jobs, error)
            return
        except Exception as error:
            self.epoch += 1
            failure = StoreError(f"script {kind.script.name} for Redis was not sent, or its answer not read: {error}")
            failure.__cause__ = error
            _fail(jobs, failure)
            return
        except BaseException:  # closed
            self.epoch += 1
            _fail(jobs, StoreError("the store on Redis was closed; whether this was stored is not known"))
            raise
        answers = answer if kind.is_many else [answer]
        if answer.__class__ is bytes:
            if answer == b"FENCED":
                if jobs[0].token is not None:  # they all have the same
                    self._disown(jobs[0].token)
                for job in jobs:
                    _tell(job, job.fenced)
            else:
                _fail(jobs, refusal(answer, self._keys))
            return
        for job, one in zip(jobs, answers, strict=True):
            try:
                result = job.read(one, low)
            except StoreError as error:
                job.answer.fail(error)
            except Exception as error:
                job.answer.fail(damaged(error))
            else:
                job.answer.keep(result)

    async def _send(self, jobs: list[Job], kind: Kind, low: int) -> Any:
        token = jobs[0].token
        args: list[Word] = [self._format, self._client, self.epoch, low, low + 1]
        if kind.has_token:
            args.append("" if token is None else f"={token}")
        args += kind.head
        keys = list(self._keys.fixed)
        if kind.is_many:
            args.append(len(jobs))
            for job in jobs:
                keys += job.keys
                args += job.words
        else:
            args += jobs[0].words
        return await self._connection.run(kind.script, keys, args, since=self._since(token))


def refusal(answer: bytes, keys: PartitionKeys) -> StoreError:
    """Return the error for an answer that refuses a call as a whole."""
    where = keys.meta.decode().removesuffix(":meta")
    if answer == b"BADFMT":
        return StoreFormatError(
            f"partition {where} in Redis is not what this process has opened: it was repartitioned, or another version "
            f"of onwhen has written it, or its data was lost; start this process again"
        )
    if answer == b"STALE":
        return StoreError(f"partition {where} in Redis: not done, because a later call has come before; send it again")
    kind, _, key = answer.partition(b" ")
    if kind == b"BADKEY":
        return StoreFormatError(
            f"key {key.decode(errors='replace')} in Redis holds something that onwhen did not write; "
            f"give the store a key_prefix of its own"
        )
    return StoreError(f"partition {where} in Redis: {answer.decode(errors='replace')}; this is a fault of onwhen")


def _nothing(answer: Any, low: int) -> None:
    return None


def _tell(job: Job, result: Any) -> None:
    if not job.answer.is_kept:
        job.answer.keep(result)


def _fail(jobs: Iterable[Job], error: StoreError) -> None:
    for job in jobs:
        if not job.answer.is_kept:
            own = type(error)(*error.args)  # one for each: who catches it adds to its traceback
            own.__cause__ = error.__cause__
            job.answer.fail(own)
