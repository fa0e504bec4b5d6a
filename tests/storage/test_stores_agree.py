"""All stores, driven side by side by any sequence of calls, give the same answers and hold the same things.

Positions and versions are each store's own: they are compared by which of those that were seen before they are. What
goes from one partition to another is under way in Redis until it is delivered, so that is done after each call; then
all is as in the others. The scripts in Redis are told the time, so that it goes by there as fast as elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from onwhen import Event, VirtualClock, create_memory_storage, create_sqlite_storage
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import is_shared
from onwhen.engine.store import (
    Accepted,
    Commit,
    DeadLetter,
    Failure,
    HistoryEntry,
    LogEntry,
    Position,
    Retry,
    Store,
    SubjectRecord,
    SubjectWrite,
    Timer,
    Version,
)
from onwhen.testing.servers import RedisServer
from onwhen.testing.store_contract._bench import explained
from tests.storage.redis.clocks import TimedStore

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
NAMES = ("a", "b\ufb01", "b\U0001f600")  # the last two stand the other way round in UTF-16
RULES = ("r.f", "")
LETTERS = ("d0", "d1")
ERROR = Failure(type="LookupError", message="not there", traceback="é\0")

Make: TypeAlias = Callable[[Path, int, int, int], Store]
MAKERS: dict[str, tuple[Make, bool]] = {  # how a store is made, and whether another one has what it has kept
    "memory": (
        lambda _, n, window, kept: create_memory_storage(
            partitions=n, dedup_window=window, history=kept, explanations=kept
        ),
        False,
    ),
    "sqlite": (
        lambda folder, n, window, kept: create_sqlite_storage(
            folder / "one.db",
            partitions=n,
            dedup_window=window,
            history=kept,
            explanations=kept,
            synchronous="NORMAL",
        ),
        True,
    ),
    "redis": (
        lambda folder, n, window, kept: TimedStore(
            _URL[0], folder.name, partitions=n, dedup_window=window, history=kept, explanations=kept
        ),
        True,
    ),
}
_URL: list[str] = []


@pytest.fixture(scope="module", autouse=True)
def _server(redis_server: RedisServer) -> None:
    _URL[:] = [redis_server.url]


names = st.sampled_from(NAMES)
counts = st.integers(0, 3)
values = st.sampled_from([b"1", b"null", b'"\xc3\xa9"', b"[1, 2]", b"9" * 30])
properties = st.dictionaries(st.sampled_from("mn\u00e9"), values, max_size=2)
writes = st.builds(
    lambda set, delete, set_ext, delete_ext, schema: SubjectWrite(
        set=set, delete=sorted(delete - set.keys()), set_ext=set_ext, delete_ext=sorted(delete_ext - set_ext.keys()),
        schema=schema,
    ),
    properties,
    st.sets(st.sampled_from("mn\u00e9"), max_size=2),
    properties,
    st.sets(st.sampled_from("mn\u00e9"), max_size=1),
    st.integers(1, 3),
)  # fmt: skip
fields = {
    "version": st.sampled_from(["none", "other"]) | st.integers(0, 50),
    "handled": st.integers(0, 2),
    "any": st.integers(0, 50),
    "retried": st.tuples(st.integers(0, 1), st.sampled_from(RULES)),
    "first": st.just(True),
    "write": writes,
    "messages": st.lists(names, min_size=1, max_size=2),
    "timers": st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, 4), names), min_size=1, max_size=3),
    "cancelled": st.lists(st.sampled_from("xy"), min_size=1, max_size=2),
    "cancel_all": st.just(True),
    "retries": st.lists(
        st.tuples(st.integers(0, 1), st.sampled_from(RULES), st.integers(0, 1), st.booleans()), min_size=1, max_size=2
    ),
    "dead": st.lists(st.sampled_from(LETTERS), min_size=1, max_size=2),
    "revived": st.lists(st.sampled_from(LETTERS), min_size=1, max_size=2, unique=True),
    "id": st.sampled_from("12"),
    "explanation": st.sampled_from(["c1", "c2"]),
}
# A few at a time: of many, one is nearly always refused.
commits = st.lists(
    st.sampled_from(sorted(fields)).flatmap(lambda name: st.tuples(st.just(name), fields[name])), max_size=4
).map(dict)


class Side:
    """One of the stores, and the numbers that it has given so far."""

    def __init__(self, kind: str, folder: Path, partitions: int, window: int, history: int) -> None:
        self._make, self._is_kept = MAKERS[kind]
        self.clock = VirtualClock(NOON)
        self._options = (folder, partitions, window, history)
        self.store = self._make(*self._options)
        self.positions: list[list[Position]] = [[] for _ in range(partitions)]
        self.versions: list[Version] = []
        self.relayed: dict[int, Position] = {}
        self.watermarks: dict[tuple[int, int], Position | None] = {}

    async def reopen(self) -> bool:
        await self.store.close()
        if self._is_kept:
            self.store = self._make(*self._options)
        return await self.store.open(self.clock)

    async def relay(self) -> None:
        """Deliver what is under way between partitions."""
        store = self.store
        if not is_shared(store) or store.partitions == 1:
            return
        for source in range(store.partitions):
            for message in await store.outgoing(source, self.relayed.get(source), 100):
                way = (source, message.target)
                delivered = await store.deliver(*way, self.watermarks.get(way), [message])
                assert delivered.is_accepted
                self.watermarks[way], self.relayed[source] = delivered.watermark, message.position

    def position(self, partition: int, position: Position | None) -> int | None:
        """Return which of its partition's positions it is."""
        return None if position is None else _number(self.positions[partition], position)

    def version(self, version: Version | None) -> int | None:
        """Return which of all versions it is."""
        return None if version is None else _number(self.versions, version)

    def entries(self, partition: int, entries: Sequence[LogEntry]) -> list[Any]:
        assert [entry.position for entry in entries] == sorted({entry.position for entry in entries})
        return [(self.position(partition, e.position), e.event, e.accepted, e.starts) for e in entries]

    def accepted(self, partition: int, answers: Sequence[Accepted]) -> list[Any]:
        return [(self.position(partition, answer.position), answer.is_new) for answer in answers]

    def record(self, record: SubjectRecord) -> Any:
        return record.name, record.properties, record.ext, self.version(record.version), record.schema


def _number(known: list[Any], found: Any) -> int:
    if found not in known:
        known.append(found)
    return known.index(found)


def _history(entry: HistoryEntry) -> Any:
    write = entry.write
    if write is None:
        return entry.time, entry.subject, entry.event, entry.rule
    changes = (write.set, list(write.delete), write.set_ext, list(write.delete_ext), write.schema, write.remove)
    return entry.time, entry.subject, entry.event, entry.rule, *changes


class Stores(RuleBasedStateMachine):
    """Every call is made on all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix=f"onwhen-agree-{uuid4().hex[:8]}"))
        self.runner = asyncio.Runner()
        self.sides: list[Side] = []
        self.count = 0
        self.partitions = 1

    def all(self, call: Callable[[Side], Awaitable[Any]]) -> Any:
        """Make a call on every store, and return the answer that they agree on."""
        loop = self.runner.get_loop()
        first, *others = [loop.run_until_complete(asyncio.wait_for(call(side), 60)) for side in self.sides]
        for other in others:
            assert other == first
        return first

    def number(self) -> int:
        self.count += 1
        return self.count

    def partition(self, subject: str) -> int:
        return partition_of(subject, self.partitions)

    # Where there are several partitions, each of Redis has a window and a history of its own: there they are so long
    # that none has an end.
    @initialize(
        options=st.tuples(st.just(1), st.sampled_from([0, 2, 100]), st.sampled_from([0, 3, 50]))
        | st.tuples(st.just(3), st.sampled_from([0, 1000]), st.sampled_from([0, 1000]))
    )
    def make(self, options: tuple[int, int, int]) -> None:
        self.partitions = options[0]
        self.sides = [Side(kind, self.folder, *options) for kind in MAKERS]
        assert self.all(lambda side: side.store.open(side.clock)) is True

    # -- the log

    @rule(ids=st.lists(st.sampled_from("1234"), max_size=3), subject=names, bookmark=st.none() | counts)
    def append(self, ids: list[str], subject: str, bookmark: int | None) -> None:
        events = [Event("opened", subject, {"id": id}, id=id, source=subject) for id in ids]
        marks = None if bookmark is None else {f"file{bookmark % 2}": str(bookmark)}
        partition = self.partition(subject)

        async def call(side: Side) -> Any:
            return side.accepted(partition, await side.store.append(partition, events, marks))

        self.all(call)

    @rule(subject=names, which=st.none() | st.integers(0, 9), limit=st.integers(1, 4))
    def read(self, subject: str, which: int | None, limit: int) -> None:
        partition = self.partition(subject)

        async def call(side: Side) -> Any:
            after = _pick(side.positions[partition], which)
            return side.entries(partition, await side.store.read(partition, after, limit))

        self.all(call)

    @rule(subject=names, events=st.dictionaries(st.integers(0, 9), counts, max_size=3), retry=counts)
    def starting(self, subject: str, events: dict[int, int], retry: int) -> None:
        partition = self.partition(subject)

        async def call(side: Side) -> Any:
            known = side.positions[partition]
            starts: dict[int | str, int] = {known[-1 - n]: count for n, count in events.items() if n < len(known)}
            starts |= {self.retry(subject, retry % 2, name, 0, False).key: retry for name in RULES}
            await side.store.starting(partition, starts)

        self.all(call)

    # -- commits

    def retry(self, subject: str, number: int, rule: str, due: int, parked: bool, attempt: int = 2) -> Retry:
        return Retry(
            subject=subject,
            event=Event("opened", subject, id=f"r{number}", source=subject),
            rule=rule,
            attempt=attempt,
            due=NOON + due * MINUTE,
            in_order=number % 2 == 0,
            first_failed=NOON,
            failure=ERROR,
            parked=parked,
        )

    def letter_id(self, subject: str, id: str) -> str:
        return f"{id} {subject}"  # as real ones, which derive from the event: no two partitions have the same

    def letter(self, subject: str, id: str) -> DeadLetter:
        return DeadLetter(
            id=self.letter_id(subject, id),
            subject=subject,
            event=Event("opened", subject, id=id),
            rule="r.f",
            failure=ERROR,
            attempts=self.number(),
            first_failed=NOON,
            time=NOON,
        )

    def event(self, subject: str) -> Event:
        return Event("sent", subject, id=f"sent {self.number()}")

    @rule(subject=names, fields=commits, twice=st.booleans())
    def commit(self, subject: str, fields: dict[str, Any], twice: bool) -> None:
        self.do(subject, fields, 1 + twice)

    @rule(subject=names, write=writes)
    def write(self, subject: str, write: SubjectWrite) -> None:
        self.do(subject, {"write": write})

    @rule(subject=names)
    def remove(self, subject: str) -> None:
        self.do(subject, {"write": SubjectWrite(remove=True)})

    @rule(subject=names, timers=fields["timers"])
    def set_timers(self, subject: str, timers: Any) -> None:
        self.do(subject, {"timers": timers})

    @rule(subject=names, retries=fields["retries"])
    def fail(self, subject: str, retries: Any) -> None:
        self.do(subject, {"retries": retries})

    @rule(subject=names, dead=fields["dead"])
    def set_aside(self, subject: str, dead: Any) -> None:
        self.do(subject, {"dead": dead})

    @rule(subject=names, which=fields["handled"], messages=st.lists(names, max_size=2))
    def handle(self, subject: str, which: int, messages: list[str]) -> None:
        self.do(subject, {"handled": which, "messages": messages})

    def do(self, subject: str, fields: dict[str, Any], times: int = 1) -> None:
        """Commit, on what is stored unless the fields say otherwise, perhaps more than once."""
        fixed: dict[str, Any] = {
            name: fields[name] for name in ("write", "cancelled", "cancel_all", "revived", "id") if name in fields
        }
        fixed["messages"] = [self.event(name) for name in fields.get("messages", ())]
        fixed["timers"] = [
            Timer(subject=subject, key=key, due=NOON + due * MINUTE, event=self.event(target))
            for key, due, target in fields.get("timers", ())
        ]
        attempt = self.number()
        fixed["retries"] = [self.retry(subject, *args, attempt) for args in fields.get("retries", ())]
        fixed["dead"] = [self.letter(subject, id) for id in fields.get("dead", ())]
        if "retried" in fields:
            fixed["retried"] = self.retry(subject, *fields["retried"], 0, False).key
        if "revived" in fixed:
            fixed["revived"] = [self.letter_id(subject, id) for id in fixed["revived"]]
        if "explanation" in fields:
            number = self.number()
            time = NOON + number * timedelta(microseconds=1)
            fixed["explanation"] = explained(f"{number}", fields["explanation"], subject, time=time)
        if "id" in fixed:
            fixed["id"] += subject  # in Redis, other partitions do not know it
        partition = self.partition(subject)
        targets = [self.partition(event.subject) for event in fixed["messages"]]
        if any(target != partition for target in targets):
            times = 1  # what was sent twice is delivered once

        async def call(side: Side) -> Any:
            record = await side.store.load(subject)
            version = fields.get("version", record.version)
            if version == "none":
                version = None
            elif "version" in fields and version != "other":
                version = _pick(side.versions, version)
            handled = fixed.get("handled")
            if "any" in fields:
                handled = _pick(side.positions[partition], fields["any"]) or 2**40
            if "handled" in fields:
                pending = await side.store.read(partition, None, 10)
                side.entries(partition, pending)
                handled = _pick([entry.position for entry in pending], fields["handled"])
            retried = fixed.get("retried")
            if "first" in fields:
                retried = _pick([retry.key async for retry in side.store.retries(partition)], 0)
            taken = {"handled": handled, "retried": retried}
            made = Commit(partition=partition, subject=subject, version=version, **(fixed | taken))
            results = [await side.store.commit(made) for _ in range(times)]
            await side.relay()
            appended = [
                side.position(target, position)
                for result in results
                for target, position in zip(targets, result.appended, strict=False)
                if target == partition  # others may be under way
            ]
            return [(result.answer, side.version(result.version)) for result in results], appended

        self.all(call)

    @rule(subject=names)
    def load(self, subject: str) -> None:
        async def call(side: Side) -> Any:
            return side.record(await side.store.load(subject))

        self.all(call)

    @rule(subject=names, which=st.sampled_from(LETTERS))
    def discard(self, subject: str, which: str) -> None:
        id = self.letter_id(subject, which)

        async def call(side: Side) -> Any:
            return await side.store.dead_letter(id), await side.store.discard(id)

        self.all(call)

    # -- cells

    @rule(
        key=st.sampled_from("kl"),
        expected=st.sampled_from([None, b"", b"1", b"2"]),
        new=st.sampled_from([None, b"", b"1", b"2"]),
        minutes=st.sampled_from([0.5, 1, 2, 1000]),
    )
    def exchange(self, key: str, expected: bytes | None, new: bytes | None, minutes: float) -> None:
        async def call(side: Side) -> Any:
            return await side.store.exchange(key, expected, new, minutes * 60)

        self.all(call)

    # -- time

    @rule(minutes=st.integers(1, 2))
    def pass_time(self, minutes: int) -> None:
        for side in self.sides:
            side.clock.advance(minutes * MINUTE)

    @rule(subject=names, which=st.none() | st.integers(-3, 3))
    def promote(self, subject: str, which: int | None) -> None:
        partition = self.partition(subject)

        async def call(side: Side) -> Any:
            promoted = await side.store.promote(partition, _pick(side.positions[partition], which))
            await side.relay()
            return side.entries(partition, promoted.entries), promoted.next_due

        self.all(call)

    # -- life, and all that there is

    @rule()
    def go_on_another_loop(self) -> None:
        """End the event loop that they are open on."""
        self.runner.close()
        self.runner = asyncio.Runner()

        async def call(side: Side) -> Any:
            # Who shares a store cannot tell.
            return await side.store.open(side.clock) is is_shared(side.store)

        assert self.all(call) is True

    @rule()
    def reopen(self) -> None:
        assert self.all(Side.reopen) is True

    @rule(prefix=st.sampled_from(["", "a", "b", "é%", "x"]), subject=names)
    def list_some(self, prefix: str, subject: str) -> None:
        async def call(side: Side) -> Any:
            timers = [timer async for timer in side.store.timers(subject)]
            return [side.record(record) async for record in side.store.subjects(prefix)], timers

        self.all(call)

    @rule()
    def compare(self) -> None:
        async def call(side: Side) -> Any:
            store, found = side.store, [await side.store.stats()]
            for partition in range(self.partitions):
                found.append(side.entries(partition, await store.read(partition, None, 1000)))
                found.append([retry async for retry in store.retries(partition)])
                found.append([await store.bookmark(partition, name) for name in ("file0", "file1", "none")])
            found.append([side.record(record) async for record in store.subjects()])
            found.append(self.apart([timer async for timer in store.timers()]))
            found.append(self.apart([letter async for letter in store.dead_letters()]))
            found += [[_history(entry) async for entry in store.history(name)] for name in NAMES]
            found.append([explanation async for explanation in store.explanations()])
            found.append([explanation async for explanation in store.explanations(correlation="c1")])
            found.append([explanation async for explanation in store.explanations(subject=NAMES[1])])
            found.append([await store.exchange(key, b"none", b"none", 1.0) for key in "kl"])
            return found

        self.all(call)

    def apart(self, items: list[Any]) -> list[Any]:
        """Return timers or dead letters by partition: while the time stands still, only there one is the first."""
        return [[item for item in items if self.partition(item.subject) == n] for n in range(self.partitions)]

    def close(self, side: Side) -> None:
        self.runner.get_loop().run_until_complete(side.store.close())

    def teardown(self) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder)
            stack.callback(self.runner.close)
            for side in self.sides:
                stack.callback(self.close, side)
            if self.sides:
                self.compare()
                self.reopen()
                self.compare()


def _pick(known: Sequence[Any], which: int | None) -> Any:
    """Return one of what is known; None if there is none, or none is asked for."""
    return None if which is None or not known else known[which % len(known)]


TestStores = Stores.TestCase
TestStores.settings = settings(max_examples=40, stateful_step_count=50, suppress_health_check=[HealthCheck.too_slow])
