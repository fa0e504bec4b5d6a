"""The log of a partition: what is appended, read, and moved there when it is due.

Belongs here: calls as words of scripts, and answers as records. It must not know of subjects.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from onwhen.engine.events import Event
from onwhen.engine.shared import Fired
from onwhen.engine.store import Accepted, LogEntry, Position, Promoted, RetryKey
from onwhen.errors import StoreBusy, StoreError
from onwhen.storage._encoding import moment
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Word
from onwhen.storage.redis._deployment import Deployment
from onwhen.storage.redis._encoding import BITS, accepted_key, due_of, entry_of, id_of, padded_id, position_of, reading
from onwhen.storage.redis._lanes import Job, Kind

__all__ = ["Log"]

_GONE: Final = Accepted(None, is_new=False)
_AT_ONCE: Final = 1000  # timers that are moved, or told, at once (a count): others of the server wait for it
_ROOM: Final = 8 << 20  # bytes of events that are read at once; it may be as much again
_PAGE: Final = 250  # entries that are read at once (a count): nobody knows how large they are
_FIRST_SIZE: Final = 4096.0  # bytes that an entry is taken to have, until some were seen
_NEWEST: Final = 0.25  # how much the entries of a page count among those before

_PROMOTE: Final = Kind(_scripts.PROMOTE)
_STARTING: Final = Kind(_scripts.STARTING)


class Log:
    """The logs of a deployment.

    Args:
        deployment: whose they are.
        most: pending events of a partition, above which nothing is appended (a count).
    """

    def __init__(self, deployment: Deployment, most: int) -> None:
        self._deployment = deployment
        self._most = most
        self._kind = Kind(_scripts.APPEND)
        self._size = _FIRST_SIZE

    def open(self) -> None:
        """Take over what the deployment has found."""
        self._kind = Kind(_scripts.APPEND, (self._deployment.window, self._most), is_many=True)

    async def append(
        self, partition: int, events: Sequence[Event], bookmarks: Mapping[str, str] | None
    ) -> Sequence[Accepted]:
        """Accept events; see `Store.append`."""
        words: list[Word] = [0, "1", 0]
        try:
            for event in events:
                text = event.to_json()  # it has an id from now on
                words += (accepted_key(event), text)
            if bookmarks:
                for name, value in bookmarks.items():
                    words += (name.encode(), value.encode())
        except UnicodeEncodeError as error:
            raise StoreError(f"an event or a bookmark has text that cannot be stored: {error}") from error
        count = words[0] = len(events)
        words[2] = len(bookmarks or ())
        if count > 1 and len(set(words[3 : 3 + 2 * count : 2])) < count:
            words[1] = "0"
        size = sum([len(word) for word in words if isinstance(word, bytes)])
        job = Job(self._kind, words, self._reader(partition, count), size=size)
        accepted: Sequence[Accepted] = await self._deployment.do(partition, job)
        return accepted

    def _reader(self, partition: int, count: int) -> Callable[[Any, int], Sequence[Accepted]]:
        def read(answer: Any, low: int) -> Sequence[Accepted]:
            if answer.__class__ is bytes:
                first = int(answer)
                return [Accepted(first + number << BITS | low) for number in range(count)]
            if answer.__class__ is int:
                raise StoreBusy(
                    f"partition {partition} has {answer:,} pending events, and takes no more above {self._most:,}; "
                    f"nothing was accepted: wait until workers have handled some, and send it again",
                    partition=partition,
                    backlog=answer,
                    limit=self._most,
                )
            return [_accepted(one, low) for one in answer]

        return read

    async def bookmark(self, partition: int, name: str) -> str | None:
        """Return how far a source was read; see `Store.bookmark`."""
        keys = self._deployment.part(partition)
        await self._deployment.lane(partition).settled()
        (found,) = await self._deployment.read({partition: [("HGET", keys.marks, name.encode())]})
        return None if found is None else found.decode()

    async def starting(self, partition: int, starts: Mapping[Position | RetryKey, int]) -> None:
        """Note how often handling has begun; see `Store.starting`."""
        words: list[Word] = []
        for which, number in starts.items():
            words += ("e", id_of(which), number) if isinstance(which, int) else ("r", which, number)
        if words:
            await self._deployment.do(partition, Job(_STARTING, words, _ignored))

    async def read(self, partition: int, after: Position | None, limit: int) -> Sequence[LogEntry]:
        """Return pending events; see `Store.read`. There may be fewer than asked for, if they are large."""
        deployment, keys = self._deployment, self._deployment.part(partition)
        await deployment.lane(partition).settled()
        entries: list[LogEntry] = []
        start, room = "-" if after is None else f"({id_of(after)}", float(_ROOM)
        starts: Mapping[bytes, bytes] | None = None
        while (count := min(limit - len(entries), self._page(room))) > 0:
            commands: list[Sequence[Word]] = [("XRANGE", keys.log, start, "+", "COUNT", count)]
            if starts is None:
                commands.append(("HGETALL", keys.starts))
            rows, *noted = await deployment.read({partition: commands})
            if noted:
                starts = as_dict(noted[0])
            with reading():
                entries += [entry_of(id, fields, (starts or {}).get(id)) for id, fields in rows]
            if len(rows) < count:
                break
            start = f"({rows[-1][0].decode()}"
            room -= self._measure(rows)
            if room <= 0:
                break
        return entries

    async def tail(self, partition: int, after: Position | None, limit: int, timeout: float) -> Sequence[LogEntry]:
        """Return pending events, as soon as there are any; see `SharedStore.tail`."""
        deployment, keys = self._deployment, self._deployment.part(partition)
        await deployment.lane(partition).settled()
        count = min(limit, self._page(_ROOM))
        if count < 1:
            return []
        milliseconds = max(1, int(timeout * 1000))  # 0 would be for ever
        start = "0-0" if after is None else id_of(after)
        answer = await deployment.connection.block(
            *("XREAD", "COUNT", count, "BLOCK", milliseconds, "STREAMS", keys.log, start),
            key=keys.log,
            timeout=timeout,
        )
        await deployment.check_run(partition)
        if answer is None:
            return []
        rows = answer[keys.log] if isinstance(answer, dict) else answer[0][1]
        (noted,) = await deployment.read({partition: [("HGETALL", keys.starts)]})
        self._measure(rows)
        starts = as_dict(noted)
        with reading():
            return [entry_of(id, fields, starts.get(id)) for id, fields in rows]

    def _page(self, room: float) -> int:
        """Return how many entries to read at once (a count)."""
        return max(1, min(_PAGE, int(room / self._size)))

    def _measure(self, rows: Sequence[Any]) -> int:
        size = sum([len(fields[3]) for _, fields in rows])
        each = size / len(rows)
        self._size = max(each, self._size + _NEWEST * (each - self._size))  # at once if they are larger now
        return size

    async def promote(self, partition: int, after: Position | None) -> Promoted:
        """Move due timers to the log; see `Store.promote`."""
        start = "-" if after is None else f"({padded_id(after)}"
        job = Job(_PROMOTE, (partition, _AT_ONCE, _ROOM, start), _promoted)
        promoted: Promoted = await self._deployment.do(partition, job)
        return promoted

    async def fire(self, partition: int) -> Fired:
        """Move due timers to the log; see `SharedStore.fire`."""
        job = Job(_PROMOTE, (partition, _AT_ONCE, _ROOM, ""), _fired)
        fired: Fired = await self._deployment.do(partition, job)
        return fired

    async def pending(self, partition: int, positions: Collection[Position]) -> Collection[Position]:
        """Return those that are pending; see `SharedStore.pending`."""
        asked = list(positions)
        if not asked:
            return []
        since = self._deployment.owned_since(partition)
        found = await self._deployment.look(partition, _scripts.PRESENT, ["log", *map(id_of, asked)], since=since)
        return [position for position, is_there in zip(asked, found, strict=True) if is_there]

    async def waiting(self, partition: int, keys: Collection[str]) -> Collection[str]:
        """Return those whose retries are there; see `SharedStore.waiting`."""
        asked = list(keys)
        if not asked:
            return []
        since = self._deployment.owned_since(partition)
        found = await self._deployment.look(partition, _scripts.PRESENT, ["retries", *asked], since=since)
        return [key for key, is_there in zip(asked, found, strict=True) if is_there]


def as_dict(answer: Any) -> dict[bytes, bytes]:
    """Return a hash: a dict already in RESP 3, a flat list in RESP 2."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _accepted(answer: bytes, low: int) -> Accepted:
    if not answer:
        return _GONE
    if answer.startswith(b"+"):
        return Accepted(int(answer[1:]) << BITS | low)
    return Accepted(position_of(answer), is_new=False)


def _promoted(answer: Any, low: int) -> Promoted:
    entries, next_due, is_elsewhere, _ = answer
    return Promoted(
        [entry_of(id, (b"a", accepted, b"e", event), starts) for id, accepted, event, starts in entries],
        moment(due_of(next_due)) if next_due else None,
        bool(is_elsewhere),
    )


def _fired(answer: Any, low: int) -> Fired:
    _, next_due, is_elsewhere, moved = answer
    return Fired(moved=moved, next_due=moment(due_of(next_due)) if next_due else None, elsewhere=bool(is_elsewhere))


def _ignored(answer: Any, low: int) -> None:
    return None
