"""A deployment with something of everything in it, and all that the storage contract shows of it.

Belongs here: filling and reading, for tests that move a deployment. It must not know how it is moved.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from onwhen import Event, SystemClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Outgoing
from onwhen.engine.store import Answer, Commit, DeadLetter, Failure, Position, Retry, SubjectWrite, Timer
from onwhen.storage.redis import RedisStore, create_redis_storage
from onwhen.testing.store_contract._bench import explained

__all__ = ["NAMES", "contents", "event", "fill", "opened"]

NAMES = [f"ticket:{n}" for n in range(30)]
NOW = datetime(2026, 3, 2, 8, tzinfo=UTC)
FAILURE = Failure(type="ValueError", message="half a pair: \\ud800", traceback="line 1\nline 2")


def event(id: str, subject: str, data: Any = None) -> Event:
    return Event("ticket.taken", subject, data, id=id, source="/test", time=NOW)


@asynccontextmanager
async def opened(url: str, prefix: str, partitions: int | None = None) -> AsyncIterator[RedisStore]:
    store = create_redis_storage(url, prefix, partitions=partitions, dedup_window=100, history=50)
    await store.open(SystemClock())
    try:
        yield store
    finally:
        await store.close()


async def fill(store: RedisStore) -> None:
    """Leave subjects, events, timers, retries, dead letters, messages on their way, and what is kept besides.

    That is bookmarks, history, explanations, starts, and a cell.
    """
    for number, name in enumerate(NAMES):
        await _handled(store, number, name)
        await _waiting(store, number, name)
    await _on_its_way(store)
    for partition in range(store.partitions):
        await store.append(partition, [], {"inbox": "line 7"})
    await store.exchange("circuit/tickets.take", None, b"open", 3600.0)


async def _handled(store: RedisStore, number: int, name: str) -> None:
    """What is done: a subject with properties that not every store would keep to the byte."""
    partition = partition_of(name, store.partitions)
    (accepted,) = await store.append(partition, [event(f"done-{number}", name)])
    write = SubjectWrite(
        set={"big": b"9007199254740993", "none": b"[]", "käse": b'"\xc3\xa4"'}, set_ext={"by": b'"ops"'}, schema=3
    )
    why = explained(f"done-{number}", f"c{number % 3}", name, time=NOW + timedelta(microseconds=number), body=b"\xc3{}")
    commit = Commit(partition=partition, subject=name, handled=accepted.position, write=write, explanation=why)
    assert (await store.commit(commit)).answer is Answer.OK


async def _waiting(store: RedisStore, number: int, name: str) -> None:
    """What is not done: pending events, a timer to itself and one to another, a retry, a dead letter."""
    partition, other = partition_of(name, store.partitions), NAMES[(number + 7) % len(NAMES)]
    accepted = await store.append(partition, [event(f"{number}-{n}", name, {"n": n}) for n in range(3)])
    later = NOW + timedelta(days=4000, microseconds=number % 4)
    retry = Retry(
        subject=name,
        event=event(f"failed-{number}", name),
        rule="tickets.take",
        attempt=2,
        due=later,
        in_order=True,
        first_failed=NOW,
        failure=FAILURE,
        parked=number % 3 == 0,
    )
    letter = DeadLetter(
        id=f"dead-{number}",
        subject=name,
        event=event(f"lost-{number}", name),
        rule="tickets.close",
        failure=FAILURE,
        attempts=3,
        first_failed=NOW,
        time=NOW,
    )
    timers = [
        Timer(subject=name, key="sla", due=later, event=event(f"sla-{number}", name)),
        Timer(subject=name, key="other", due=later, event=event(f"other-{number}", other)),
        Timer(subject=name, key="now", due=NOW, event=event(f"fired-{number}", name)),
    ]
    record = await store.load(name)
    commit = Commit(
        partition=partition,
        subject=name,
        version=record.version,
        timers=timers,
        retries=[retry],
        dead=[letter],
        id=f"set-{number}",
    )
    assert (await store.commit(commit)).answer is Answer.OK
    first: Position | None = accepted[0].position
    assert first is not None
    await store.starting(partition, {first: 2, retry.key: 1} if number % 5 == 0 else {})
    await store.promote(partition, None)


async def _on_its_way(store: RedisStore) -> None:
    """Messages from each subject to the next: those of the first partition were delivered, the others were not."""
    for number, name in enumerate(NAMES):
        partition, other = partition_of(name, store.partitions), NAMES[(number + 1) % len(NAMES)]
        record = await store.load(name)
        messages = [event(f"sent-{number}-{n}", other, n) for n in range(2)]
        commit = Commit(
            partition=partition, subject=name, version=record.version, messages=messages, id=f"send-{number}"
        )
        assert (await store.commit(commit)).answer is Answer.OK
    outgoing = await store.outgoing(0, None, 1000)
    for target in {message.target for message in outgoing}:
        mine: list[Outgoing] = [message for message in outgoing if message.target == target]
        assert (await store.deliver(0, target, None, mine)).is_accepted


async def contents(store: RedisStore) -> dict[str, Any]:
    """Return all that a store holds, so that it is the same however subjects are divided.

    What each subject waits for is in its order; between subjects there is none. Positions are left out, as is whether
    a message is in an outbox, or in the log already: both are on their way.
    """
    pending: dict[str, list[Any]] = {}
    on_the_way: dict[str, list[Any]] = {}
    retries: list[Any] = []
    for partition in range(store.partitions):
        after: Position | None = None
        while entries := await store.read(partition, after, 100):
            for entry in entries:
                sent = entry.event.id.startswith("sent-")
                into = on_the_way if sent else pending
                into.setdefault(entry.event.subject, []).append((entry.event.id, entry.event.data, entry.starts))
                assert partition_of(entry.event.subject, store.partitions) == partition
                after = entry.position
        retries += [(retry, retry.starts) async for retry in store.retries(partition)]
        for message in await store.outgoing(partition, None, 1000):
            answer = await store.deliver(partition, message.target, None, [])
            if answer.watermark is None or answer.watermark < message.position:
                into = on_the_way.setdefault(message.event.subject, [])
                into.append((message.event.id, message.event.data, 0))
    return {
        "subjects": [record async for record in store.subjects()],
        "pending": dict(sorted(pending.items())),
        "on the way": dict(sorted(on_the_way.items())),
        "timers": [timer async for timer in store.timers()],
        "retries": sorted(retries, key=lambda pair: pair[0].key),
        "dead": [letter async for letter in store.dead_letters()],
        "history": [entry for name in NAMES async for entry in store.history(name)],
        "explanations": [explanation async for explanation in store.explanations()],
        "cell": (await store.exchange("circuit/tickets.take", b"", b"", 1.0)).value,
    }
