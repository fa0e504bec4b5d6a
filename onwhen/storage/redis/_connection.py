"""The way to Redis: scripts and commands, each sent to the server that has its key, and sent again where that is safe.

Belongs here: which server is asked, what is waited out, and what becomes an error. It must not know the keys of a
store, nor what its scripts do.

Nothing is sent again unless the server has said that it was not executed. A lost connection and a missing answer are
a `StoreError` at once: whoever has asked knows whether it may be asked again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha1
from typing import Any, Final, TypeAlias

from redis.exceptions import RedisError

from onwhen.errors import StoreError
from onwhen.storage.redis._address import Address, Kind
from onwhen.storage.redis._checks import check
from onwhen.storage.redis._cluster import Cluster
from onwhen.storage.redis._failures import DISPLACED, NOT_EXECUTED, REDIRECTED, code_of, failure
from onwhen.storage.redis._node import Mark, Node
from onwhen.storage.redis._sentinel import Sentinel
from onwhen.storage.redis._topology import Standalone, Topology
from onwhen.storage.redis._wires import pack

__all__ = ["Connection", "Mark", "Script", "Word"]

Word: TypeAlias = bytes | str | int
"""A word of a command; numbers are sent as their digits."""

_FIRST_WAIT: Final = 0.01  # seconds
_LONGEST_WAIT: Final = 0.5  # seconds
_FULL_PATIENCE: Final = 1.0  # seconds that a full server is asked again; then the caller should know
_PIPELINE: Final = 1_000  # commands sent at once


_KINDS: Final[Mapping[Kind, Callable[[Address], Topology]]] = {
    Kind.STANDALONE: Standalone,
    Kind.SENTINEL: Sentinel,
    Kind.CLUSTER: Cluster,
}


@dataclass(frozen=True)
class Script:
    """A Lua script.

    Attributes:
        name: for messages.
        text: the source.
    """

    name: str
    text: str

    @cached_property
    def sha(self) -> bytes:
        """What the server knows it by."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest().encode()


class Connection:
    """A deployment of Redis: one server, one behind Sentinels, or a Cluster.

    Args:
        url: see `Address.parse`, or an address.
        key_prefix: what the names of all keys start with; whether they may be used is checked by `open`.

    Raises:
        SettingError: there is no such address.
    """

    def __init__(self, url: str | Address, key_prefix: str = "onwhen") -> None:
        self.key_prefix = key_prefix
        self.address = url if isinstance(url, Address) else Address.parse(url)
        self._topology: Topology | None = None
        self._was_checked = False

    def __str__(self) -> str:
        """Return which deployment it is, without passwords."""
        return str(self.address)

    @property
    def is_cluster(self) -> bool:
        """Whether keys must be of one slot to be used together."""
        return self.address.kind is Kind.CLUSTER

    async def open(self) -> None:
        """Connect, and check that the servers are fit to keep a store; called again on each new event loop.

        Raises:
            StoreError: it is not reached, or is not fit; the message says what to set.
        """
        if self._topology is not None:
            if self._topology.is_on(asyncio.get_running_loop()):
                return
            self._topology.abandon()
        self._topology = topology = _KINDS[self.address.kind](self.address)
        try:
            await check(self.address, await topology.nodes(), self.key_prefix, is_silent=self._was_checked)
            self._was_checked = True
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all connections; calls under way raise `StoreError`."""
        topology, self._topology = self._topology, None
        if topology is None:
            return
        if topology.is_on(asyncio.get_running_loop()):
            await topology.close()
        else:
            topology.abandon()

    async def mark(self, key: bytes | str) -> Mark:
        """Return which run of which server answers for a key now.

        It is another one when that server was started again, or another one has taken over from it: then it may lack
        what was written last. Ask before a partition is acquired, and give it as `since` with all calls that carry its
        token, the one that acquires it first.
        """
        node = await self._opened().node(key)
        return await node.look()

    async def run(
        self, script: Script, keys: Sequence[bytes | str], args: Sequence[Word] = (), *, since: Mark | None = None
    ) -> Any:
        """Run a script on the server that has the first key, and return its answer as it is sent.

        Args:
            script: what to run. It is sent in full only where it is not known: at first, after SCRIPT FLUSH, or after
                another server has taken over.
            keys: its KEYS, one at least; all of one slot on a Cluster.
            args: its ARGV.
            since: what `mark` has said; another run of the server than that one is not asked. None for any.

        Returns:
            bytes, int, None, or lists of these. The answers of scripts are the same in RESP 2 and 3.

        Raises:
            StoreFull: there is no memory left; the script has written nothing.
            StoreError: it could not be run, or whether it was is not known.
        """
        tail = (len(keys), *keys, *args)
        return await self._answer(
            keys[0],
            pack("EVALSHA", script.sha, *tail),
            f"script {script.name}",
            since=since,
            in_full=lambda: pack("EVAL", script.text, *tail),
        )

    async def ask(self, *command: Word, key: bytes | str | None = None, since: Mark | None = None) -> Any:
        """Send a command and return its answer as it is sent.

        Args:
            command: the command, words apart: `"HGET", name, field`.
            key: the key that it is about, if that is not its second word.
            since: see `run`.

        Returns:
            bytes, int, None, or lists of these; dict, set, float and bool where RESP 3 says so and RESP 2 does not.

        Raises:
            StoreError: it could not be executed, or whether it was is not known.
        """
        return await self._answer(_key(command, key), pack(*command), _name(command), since=since)

    async def ask_many(self, commands: Sequence[Sequence[Word]]) -> list[Any]:
        """Send commands, all that go to one server at once, and return their answers in order.

        Args:
            commands: each has its key as second word.

        Raises:
            StoreError: one of them could not be executed; others may have been.
        """
        answers: list[Any] = [None] * len(commands)
        shares: dict[Node, list[int]] = {}
        topology = self._opened()
        for number, command in enumerate(commands):
            shares.setdefault(await topology.node(_key(command, None)), []).append(number)

        async def send(node: Node, numbers: Sequence[int]) -> None:
            what = " and ".join(sorted({_name(commands[number]) for number in numbers}))
            for first in range(0, len(numbers), _PIPELINE):
                some = numbers[first : first + _PIPELINE]
                found = await node.call(b"".join(pack(*commands[number]) for number in some), len(some), what)
                for number, answer in zip(some, found, strict=True):
                    if isinstance(answer, RedisError):  # alone, with all that is done about it there
                        answer = await self.ask(*commands[number])
                    answers[number] = answer

        for node, numbers in shares.items():
            await send(node, numbers)
        return answers

    async def block(self, *command: Word, key: bytes | str, timeout: float) -> Any:
        """Send a command that waits on the server, on a connection that no other call needs.

        Cancelling closes that connection.

        Args:
            command: the command, with its own BLOCK of the same length: `"XREAD", "BLOCK", 1000, ...`.
            key: a key that it is about; all of them on the same server.
            timeout: how long the server waits (seconds).
        """
        return await self._answer(key, pack(*command), _name(command), timeout=timeout)

    def _opened(self) -> Topology:
        if self._topology is None:
            raise StoreError(f"the store on Redis {self.address} is not open; open it, or a bus over it, first")
        return self._topology

    async def _answer(
        self,
        key: bytes | str,
        payload: bytes,
        what: str,
        *,
        since: Mark | None = None,
        timeout: float | None = None,
        in_full: Callable[[], bytes] | None = None,
    ) -> Any:
        """Send a command until a server has executed it, for as long as it is certain that none has.

        Args:
            key: decides which server is asked.
            payload: the packed command.
            what: what is asked, for messages.
            since: which run of the server must answer, if it matters.
            timeout: how long the server was told to wait, None for commands that do not.
            in_full: makes the same with the text of the script, for a server that does not know it.
        """
        topology = self._opened()
        started = time.monotonic()
        wait = _FIRST_WAIT
        asking: Node | None = None
        for attempt in itertools.count():  # ends with patience
            node = asking or await topology.node(key)
            send, replies = (_ASKING + payload, 2) if asking is not None else (payload, 1)
            if timeout is None:
                # What a slot's old server says of the new one is true of the same history: no mark is needed there.
                answer = (await node.call(send, replies, what, since=None if asking else since))[-1]
            else:
                answer = (await node.block(send, replies, what, timeout))[-1]
            if not isinstance(answer, RedisError):
                return answer
            asking = None
            code = code_of(answer)
            if code == "NOSCRIPT" and in_full is not None:
                payload, in_full = in_full(), None
                continue
            patience = min(self.address.patience, _FULL_PATIENCE) if code == "OOM" else self.address.patience
            if code not in NOT_EXECUTED or (code in REDIRECTED and not self.is_cluster):
                raise failure(answer, what, node.name) from answer
            if time.monotonic() - started + wait > patience:
                if code in REDIRECTED:
                    raise StoreError(f"Redis {self.address}, {what}: its nodes send us to each other") from answer
                raise failure(answer, what, node.name) from answer
            if code in REDIRECTED:
                asking = await topology.redirected(answer, node)
                if attempt < _REDIRECTIONS:
                    continue
            elif code in DISPLACED:
                await topology.refused(node)
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(2 * wait, _LONGEST_WAIT)
        raise AssertionError("unreachable")


_ASKING: Final = pack("ASKING")
_REDIRECTIONS: Final = 5  # that are followed at once; servers that contradict each other are given time


def _name(command: Sequence[Word]) -> str:
    word = command[0]
    return word.decode() if isinstance(word, bytes) else str(word)


def _key(command: Sequence[Word], key: bytes | str | None) -> bytes | str:
    if key is None:
        key = command[1] if len(command) > 1 and not isinstance(command[1], int) else ""
    return key
