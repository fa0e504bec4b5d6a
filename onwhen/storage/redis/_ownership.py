"""Who owns which partition, which workers live, and what goes between partitions.

Belongs here: calls as words of scripts, and answers as records. It must not know when a worker asks for what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from onwhen.engine.events import Event
from onwhen.engine.shared import Acquired, Delivered, Outgoing, PartitionState, Renewed, Token, WorkerState
from onwhen.engine.store import Position
from onwhen.errors import StoreError
from onwhen.storage._encoding import moment
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Word
from onwhen.storage.redis._deployment import Deployment
from onwhen.storage.redis._encoding import BITS, accepted_key, id_of, position_of, reading
from onwhen.storage.redis._lanes import Job, Kind

__all__ = ["Outbox", "Ownership"]

_MICROSECONDS: Final = 1_000_000
_MEMORY: Final = 3600 * _MICROSECONDS  # how long what was delivered is remembered
_ROOM: Final = 8 << 20  # bytes of messages that are read at once; it may be one page more
_PAGE: Final = 100  # messages of a page (a count)

_DELIVER: Final = Kind(_scripts.DELIVER)
_TRIM: Final = Kind(_scripts.TRIM)


class Ownership:
    """Leases and workers of a deployment.

    Args:
        deployment: whose they are.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def acquire(self, partition: int, token: Token, worker: str, lease: float) -> Acquired | None:
        """Take a partition; see `SharedStore.acquire`."""
        deployment = self._deployment
        # Before anything of it is known: what comes from another run of the server does not go with that.
        mark = await deployment.connection.mark(deployment.part(partition).meta)
        words = (token, int(lease * _MICROSECONDS), worker)
        found = await deployment.at_once(partition, _scripts.ACQUIRE, words, since=mark)
        if found == 0:
            return None
        deployment.own(partition, token, mark)
        return Acquired(was_released=bool(found[0]), touched=found[1])

    async def renew(self, tokens: Mapping[int, Token], lease: float) -> Mapping[int, Renewed]:
        """Make leases run from now on; see `SharedStore.renew`."""
        found = await self._deployment.everywhere(lambda number: self._renew(number, tokens[number], lease), tokens)
        return {number: one for number, one in zip(tokens, found, strict=True) if one is not None}

    async def _renew(self, partition: int, token: Token, lease: float) -> Renewed | None:
        deployment = self._deployment
        words = (token, int(lease * _MICROSECONDS), _MEMORY)
        found = await deployment.at_once(partition, _scripts.RENEW, words, since=deployment.since(partition, token))
        if not found:
            deployment.disown(partition, token)
            return None
        return Renewed(found[0])

    async def release(self, partition: int, token: Token) -> bool:
        """Hand a partition over; see `SharedStore.release`."""
        await self._deployment.lane(partition).settled()
        try:
            return bool(await self._deployment.at_once(partition, _scripts.RELEASE, (token,)))
        finally:
            self._deployment.disown(partition, token)  # also if there is no answer: it is not worked on any more

    async def beat(self, worker: str, note: str, ttl: float) -> Sequence[str]:
        """Say that a worker lives; see `SharedStore.beat`."""
        return [state.id for state in await self._workers(worker, ttl, note)]

    async def workers(self) -> Sequence[WorkerState]:
        """Return the workers that live; see `SharedStore.workers`."""
        return await self._workers("", 0, "")

    async def _workers(self, worker: str, ttl: float, note: str) -> list[WorkerState]:
        deployment = self._deployment
        deployment.part(0)
        words: tuple[Word, ...] = (worker, f"{ttl:f}", note)
        found = await deployment.connection.run(_scripts.BEAT, [deployment.keys.workers], words)
        states = [
            WorkerState(id=id.decode(), note=text.decode(), expires=int(left) / _MICROSECONDS)
            for id, left, text in found
        ]
        return sorted(states, key=lambda state: state.id)

    async def states(self) -> Sequence[PartitionState]:
        """Return what each partition looks like; see `SharedStore.partition_states`."""
        return [
            PartitionState(
                partition=number,
                owner=worker.decode() if worker and left > 0 else None,
                expires=left / _MICROSECONDS,
                backlog=backlog,
                oldest=moment(int(oldest)) if oldest else None,
                appended=appended,
                outgoing=outgoing,
            )
            for number, (worker, left, backlog, oldest, appended, outgoing, *_) in enumerate(
                await looks(self._deployment)
            )
        ]


async def looks(deployment: Deployment) -> list[Any]:
    """Return what `LOOK` answers for each partition."""
    return await deployment.everywhere(lambda number: deployment.look(number, _scripts.LOOK))


class Outbox:
    """The messages of each partition for others.

    Args:
        deployment: whose they are.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def outgoing(self, partition: int, after: Position | None, limit: int) -> Sequence[Outgoing]:
        """Return messages; see `SharedStore.outgoing`. There may be fewer than asked for, if they are large."""
        deployment, keys = self._deployment, self._deployment.part(partition)
        found: list[Outgoing] = []
        start, room = "-" if after is None else f"({id_of(after)}", _ROOM
        while (count := min(_PAGE, limit - len(found))) > 0 and room > 0:
            (rows,) = await deployment.read({partition: [("XRANGE", keys.out, start, "+", "COUNT", count)]})
            with reading():
                for id, (_, target, _, event) in rows:
                    found.append(Outgoing(position_of(id), int(target), Event.restored(event)))
                    room -= len(event)
            if len(rows) < count:
                break
            start = f"({rows[-1][0].decode()}"
        return found

    async def deliver(
        self, source: int, target: int, expected: Position | None, messages: Sequence[Outgoing]
    ) -> Delivered:
        """Append messages to the log of another partition; see `SharedStore.deliver`."""
        for message in messages:
            if message.target != target:
                raise StoreError(f"a message to partition {message.target} was to be delivered to partition {target}")
        words: list[Word] = [source, "" if expected is None else id_of(expected), len(messages), _MEMORY]
        for message in messages:
            words += (accepted_key(message.event), id_of(message.position), message.event.to_json())
        delivered: Delivered = await self._deployment.do(target, Job(_DELIVER, words, _delivered))
        return delivered

    async def trim(self, partition: int, token: Token, upto: Position) -> bool:
        """Remove messages; see `SharedStore.trim`."""
        order = (upto >> BITS) + 1  # no two have the same
        job = Job(_TRIM, (token, f"{max(order, 0)}-0"), lambda answer, low: bool(answer), token=token)
        return bool(await self._deployment.do(partition, job))


def _delivered(answer: Any, low: int) -> Delivered:
    is_accepted, watermark = answer
    return Delivered(bool(is_accepted), position_of(watermark) if watermark else None)
