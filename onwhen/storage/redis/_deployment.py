"""A deployment in Redis that is open: how it was made, the way to it, and a lane for each of its partitions.

Belongs here: making and finding a deployment, and what all calls about it have in common. It must not know of records.
All of that is about the same few things, so this is longer than others.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Token
from onwhen.errors import StoreCorrupt, StoreError, StoreFormatError
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Connection, Mark, Script, Word
from onwhen.storage.redis._failures import server_changed
from onwhen.storage.redis._keys import DeploymentKeys, PartitionKeys
from onwhen.storage.redis._lanes import Job, Lane, refusal

__all__ = ["MOST_PARTITIONS", "Deployment"]

_T = TypeVar("_T")

FORMAT: Final = "1"
"""Which keys there are and what is in them; another one is not read."""

CLOSED: Final = "moving"
"""What a partition is marked with, instead of its format, while it is moved."""

MOST_PARTITIONS: Final = 1 << 14
_NEW_PARTITIONS: Final = 16  # of a new deployment, if nobody says how many
_NEW_WINDOW: Final = 10_000
_AT_A_TIME: Final = 32  # partitions that are asked something: each needs a connection meanwhile
_COMMITTING: Final = 4  # partitions whose commits are under way at once, on one server
_CLOSE_PATIENCE: Final = 5.0  # seconds that calls under way may take when a store is closed


class Deployment:
    """What is kept under one prefix.

    Args:
        url: where.
        prefix: what all names of keys start with.
        partitions: how many a new one has, and this one must have; None for as many as it has.
        window: of accepted events that are remembered in each partition; None for as before.
        read_only: do not make one that is not there.

    Attributes:
        connection: the way there.
        keys: names.
        partitions: how many there are, None while that is not known.
        window: see above.
        client: who this is; unique.
    """

    def __init__(
        self, url: str, prefix: str, partitions: int | None, window: int | None, *, read_only: bool = False
    ) -> None:
        self.connection = Connection(url, prefix)
        self.keys = DeploymentKeys(prefix)
        self.partitions = partitions
        self.window = window or 0
        self._asked = partitions, window
        self._read_only = read_only
        self._client = ""
        self._process = 0
        self._versions = 0
        self._epochs: dict[int, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lanes: dict[int, Lane] = {}
        self._turns = asyncio.Semaphore()
        self._parts: Sequence[PartitionKeys] = ()
        self._format = ""
        self._owned: dict[int, tuple[Token, Mark]] = {}

    # -- life

    async def open(self) -> bool:
        """Connect; find the deployment, or make it. Return whether this is another event loop than before."""
        loop = asyncio.get_running_loop()
        if self._process != os.getpid():  # a fork is somebody else, who must not be taken for this one
            self._process, self._client, self._versions = os.getpid(), secrets.token_urlsafe(9), 0
            self._epochs.clear()
        is_another = self._loop is not loop
        if is_another:
            self._abandon()
        await self.connection.open()
        try:
            await self._find()
        except BaseException:
            await self.connection.close()
            raise
        self._loop = loop
        if is_another:
            # One server runs one script at a time: more under way would be smaller ones. Of several, one that does not
            # answer must not hold up the others.
            self._turns = asyncio.Semaphore(len(self._parts) if self.connection.is_cluster else _COMMITTING)
        return is_another

    async def close(self) -> None:
        """Let the calls end that were made, and the connections go."""
        lanes = list(self._lanes.values())
        if self._loop is asyncio.get_running_loop():
            if lanes:
                await asyncio.gather(*(lane.close(_CLOSE_PATIENCE) for lane in lanes))
            self._remember_epochs(0)
        else:
            self._abandon()
        self._loop = None
        await self.connection.close()

    def _abandon(self) -> None:
        """Forget calls of an event loop that has ended; what they were about may yet come to pass."""
        self._remember_epochs(1)
        self._owned.clear()

    def _remember_epochs(self, more: int) -> None:
        for number, lane in self._lanes.items():
            self._epochs[number] = lane.epoch + more
        self._lanes.clear()

    async def _find(self) -> None:
        asked, window = self._asked
        where = f"{self.keys.prefix!r} on Redis {self.connection}"
        if self._read_only and await self.connection.ask("HGET", self.keys.meta, "format") is None:
            raise StoreError(f"there is nothing under {where}; a worker makes it when it starts")
        words: list[Word] = [FORMAT, "" if asked is None else asked, "" if window is None else window]
        found = await self.connection.run(_scripts.FOUND, [self.keys.meta], [*words, _NEW_PARTITIONS, _NEW_WINDOW])
        format, partitions, layout, kept, made = ("" if one is None else one.decode() for one in found)
        if format != FORMAT:
            raise StoreFormatError(
                f"what is stored under {where} has format {format!r:.40}, and this version of onwhen knows {FORMAT!r} "
                f"only; use the version that has written it, or another key_prefix"
            )
        if asked is not None and int(partitions) != asked:
            raise StoreFormatError(
                f"what is stored under {where} has {partitions} partitions, not {asked}; leave out partitions, or "
                f"change their number with onwhen repartition"
            )
        self.partitions, self.window = int(partitions), int(kept)
        self._format = f"{FORMAT} {layout} {partitions}"
        self._parts = [self.keys.partition(number, int(layout)) for number in range(self.partitions)]
        await self._mark(where, is_made=made != "")

    async def _mark(self, where: str, *, is_made: bool) -> None:
        """See that each partition is marked: no script touches one that is not."""
        marks = await self.connection.ask_many([("HGET", part.meta, "format") for part in self._parts])
        expected = self._format.encode()
        for number, (part, mark) in enumerate(zip(self._parts, marks, strict=True)):
            if mark is None and is_made:
                raise StoreCorrupt(
                    f"partition {number} under {where} is not there any more: the server that kept it has lost it; "
                    f"restore it from a copy, or use another key_prefix"
                )
            if mark is None:
                mark = await self.connection.run(_scripts.MARK, [part.meta], [self._format])
            if mark == CLOSED.encode():
                raise StoreFormatError(
                    f"what is stored under {where} is being moved to another number of partitions, or that was cut "
                    f"short; run onwhen repartition again, or give it up with onwhen repartition --undo"
                )
            if mark != expected:
                raise refusal(b"BADFMT", part)
        if not is_made:
            await self.connection.ask("HSET", self.keys.meta, "made", "1")

    # -- calls

    def part(self, number: int) -> PartitionKeys:
        """Return the keys of a partition.

        Raises:
            StoreError: there is none of this number, or the store is not open.
        """
        if self._loop is None:
            raise StoreError(f"the store on Redis {self.connection} is not open; open it, or a bus over it, first")
        if not 0 <= number < len(self._parts):
            raise StoreError(f"there is no partition {number}, only 0 to {len(self._parts) - 1}")
        return self._parts[number]

    def key(self, subject: str) -> tuple[int, bytes]:
        """Return the partition of a subject, and its key."""
        parts = self.parts
        try:
            partition = partition_of(subject, len(parts))
        except UnicodeEncodeError as error:
            raise StoreError(f"the name of subject {subject!a:.200} cannot be stored: {error.reason}") from error
        return partition, parts[partition].subject(subject)

    @property
    def parts(self) -> Sequence[PartitionKeys]:
        """The keys of all partitions."""
        self.part(0)
        return self._parts

    def lane(self, partition: int) -> Lane:
        """Return the lane of a partition."""
        lane = self._lanes.get(partition)
        if lane is None:
            keys, epoch = self.part(partition), self._epochs.get(partition, 0)
            since, disown = partial(self.since, partition), partial(self.disown, partition)
            lane = Lane(self.connection, keys, self._format, self._client, epoch, since, disown, self._turns)
            self._lanes[partition] = lane
        return lane

    async def do(self, partition: int, job: Job) -> Any:
        """Have a call made in its partition's lane."""
        return await self.lane(partition).do(job)

    async def at_once(self, partition: int, script: Script, words: Sequence[Word], *, since: Mark | None = None) -> Any:
        """Run a script that writes beside the lane: it names a token, so that it has no effect when it comes late."""
        keys = self.part(partition)
        head: tuple[Word, ...] = (self._format, self._client, "", 0, 1)
        return self.checked(partition, await self.connection.run(script, keys.fixed, (*head, *words), since=since))

    async def look(
        self, partition: int, script: Script, words: Sequence[Word] = (), *, since: Mark | None = None
    ) -> Any:
        """Run a script that only reads."""
        keys = self.part(partition)
        return self.checked(
            partition, await self.connection.run(script, keys.fixed, (self._format, *words), since=since)
        )

    async def everywhere(
        self, call: Callable[[int], Awaitable[_T]], partitions: Iterable[int] | None = None
    ) -> list[_T]:
        """Make a call about each partition, some at a time, and return the answers; the first error, if there is one.

        Args:
            call: makes it, given the number of a partition.
            partitions: which; all of them if None.
        """
        some = asyncio.Semaphore(_AT_A_TIME)

        async def one(partition: int) -> _T:
            async with some:
                return await call(partition)

        asked = range(len(self.parts)) if partitions is None else partitions
        found = await asyncio.gather(*map(one, asked), return_exceptions=True)
        answers: list[_T] = []
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
            answers.append(answer)
        return answers

    def checked(self, partition: int, answer: Any) -> Any:
        """Return an answer, unless it refuses."""
        if answer.__class__ is bytes:
            raise refusal(answer, self._parts[partition])
        return answer

    async def read(self, commands: Mapping[int, Sequence[Sequence[Word]]]) -> list[Any]:
        """Send commands about partitions, together where one server has them, and return all answers in order.

        Args:
            commands: partition -> commands that only read.
        """
        checks: list[Sequence[Word]] = [("HGET", self.part(number).meta, "format") for number in commands]
        asked = [command for some in commands.values() for command in some]
        answers = await self.connection.ask_many([*checks, *asked])
        for number, mark in zip(commands, answers, strict=False):
            if mark != self._format.encode():
                raise refusal(b"BADFMT", self._parts[number])
        return answers[len(checks) :]

    def version(self, schema: int) -> str:
        """Return a new version of a subject; its last part says the schema."""
        self._versions += 1
        return f"{self._versions:x}.{self._client}.{schema}"

    # -- which run of which server

    def own(self, partition: int, token: Token, mark: Mark) -> None:
        """Note that this process owns a partition, and which run of its server has said so."""
        self._owned[partition] = token, mark

    def disown(self, partition: int, token: Token) -> None:
        """Note that it does not any more."""
        if partition in self._owned and self._owned[partition][0] == token:
            del self._owned[partition]

    def since(self, partition: int, token: Token | None) -> Mark | None:
        """Return which run of the server must answer a call with this token; None for any."""
        owned = self._owned.get(partition)
        return owned[1] if owned is not None and owned[0] == token else None

    async def check_run(self, partition: int) -> None:
        """See that the server is still the one that has said that this process owns a partition, if it does.

        Raises:
            StoreError: it is not. What it has may be older than what is known here.
        """
        since = self.owned_since(partition)
        if since is not None and await self.connection.mark(self._parts[partition].meta) != since:
            raise server_changed(f"reading partition {partition}", str(self.connection))

    def owned_since(self, partition: int) -> Mark | None:
        """Return which run of the server must answer the owner of a partition; None if this process is not that."""
        owned = self._owned.get(partition)
        return None if owned is None else owned[1]
