"""The log: what is accepted, once, in order, and how it is read; bookmarks; starts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Final

import pytest

from onwhen.engine.events import Event
from onwhen.engine.store import Accepted, SubjectWrite
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, on_store, retry

__all__ = ["LogContract"]

_ROOT: Final = Event("ordered", "a", id="root", source="/shop")
_EVENTS: Final = {
    "plain": Event("opened", "a", id="1", source="/desk"),
    "derived": Event.caused_by(_ROOT, "r.f", 2, 5, "opened", "a", {"n": 1}, source="/desk"),
    "attributes": Event(
        "opened",
        "a",
        id="é\u2028 \U0001f600 '\"%_\\",
        source="/desk?a=1&b=ü",
        time=datetime(2026, 3, 29, 1, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=5, minutes=45))),
        datacontenttype="application/vnd.x+json",
        dataschema="urn:x",
        extensions={"tenant": "t'1", "count": -(2**31), "flag": True},
        correlation_id="other",
        causation_id="cause",
        depth=63,
    ),
    "early": Event("opened", "a", id="early", time=datetime(1, 1, 1, tzinfo=UTC)),
    "late": Event("opened", "a", id="late", time=datetime.max.replace(tzinfo=UTC)),
    "values": Event("opened", "a", [None, True, 2**63, -(10**400), 1.5, 5e-324, "é\0\U0001f600", {"": {}}], id="v"),
    "zero": Event("opened", "a", 0, id="zero"),
    "bytes": Event("opened", "a", bytes(range(256)), id="bytes"),
    "large": Event("opened", "a", "x" * 1_000_000, id="large"),
}


class LogContract(StoreCase):
    """The log of accepted events."""

    # -- accepted and read

    @on_store()
    async def test_accepted_events_are_pending_in_order(self, at: Bench) -> None:
        """In the order in which they were accepted, of whatever subject; each stands after those before it."""
        answers = await at.store.append(0, [event("1"), event("3", "b")])
        answers = [*answers, *await at.store.append(0, [event("2")]), *await at.store.append(0, [])]
        entries = await at.log()
        assert [entry.event for entry in entries] == [event("1"), event("3", "b"), event("2")]
        assert [Accepted(entry.position) for entry in entries] == answers
        positions = [entry.position for entry in entries]
        assert positions == sorted(set(positions))

    @on_store()
    async def test_pending_events_are_read_in_pages(self, at: Bench) -> None:
        """Those after a position, whether it is pending still or not, and not more than are asked for."""
        one, two, three = [answer.position for answer in await at.accept("1", "2", "3")]
        assert [entry.position for entry in await at.store.read(0, None, 2)] == [one, two]
        assert [entry.position for entry in await at.store.read(0, one, 1)] == [two]
        assert [entry.position for entry in await at.store.read(0, two, 9)] == [three]
        assert list(await at.store.read(0, three, 9)) == []
        await at.ok(handled=two)
        assert [entry.position for entry in await at.store.read(0, two, 9)] == [three]
        assert [entry.position for entry in await at.store.read(0, None, 9)] == [one, three]

    @on_store()
    async def test_a_long_log_is_read_to_its_end(self, at: Bench) -> None:
        """Page by page, however many were handled in between."""
        for first in range(0, 2000, 500):
            await at.accept(*(str(number) for number in range(first, first + 500)))
        await asyncio.gather(*(at.ok(handled=entry.position) for entry in (await at.log())[:1900]))
        found: list[str] = []
        position = None
        for _ in range(4):
            page = await at.store.read(0, position, 30)
            found += [entry.event.id for entry in page]
            position = page[-1].position
        assert list(await at.store.read(0, position, 30)) == []
        assert found == [str(number) for number in range(1900, 2000)]

    @on_store(partitions=3)
    async def test_each_partition_has_its_log(self, at: Bench) -> None:
        """What is accepted, handled or noted in one is not in another."""
        answers = [(await at.store.append(n, [event(str(n)), event(f"{n}+")]))[0] for n in range(3)]
        await at.ok("a", handled=answers[at.partition("a")].position)
        handled = at.partition("a")
        for n in range(3):
            assert await at.pending(n) == ([f"{n}+"] if n == handled else [str(n), f"{n}+"])

    @on_store()
    async def test_positions_are_never_used_again(self, at: Bench) -> None:
        """Also when all is handled, and the store was closed; messages and timers stand after what was there too."""
        seen: list[int] = []
        for number in range(3):
            (accepted,) = await at.accept(str(number))
            due = at.timer("t", at.now(), id=f"t{number}")
            (message,) = (await at.ok(messages=[event(f"m{number}")], timers=[due])).appended
            (fired,) = [entry.position for entry in (await at.promote()).entries]
            assert message is not None
            seen += [position for position in (accepted.position, message, fired) if position is not None]
            for entry in await at.log():
                await at.ok(handled=entry.position)
            await at.reopen()
        assert seen == sorted(set(seen))
        assert len(seen) == 9

    @pytest.mark.parametrize("kind", _EVENTS)
    @on_store()
    async def test_an_event_comes_back_as_it_was(self, at: Bench, kind: str) -> None:
        """All its attributes and its data, from the log, a message, a timer, a retry and a dead letter."""
        known = _EVENTS[kind]
        await at.store.append(0, [known])
        await at.ok(messages=[known], retries=[retry(known)])
        await at.reopen()
        found = [entry.event for entry in await at.log()] + [waiting.event for waiting in await at.retries()]
        assert found == [known] * 3
        assert [one.to_json() for one in found] == [known.to_json()] * 3

    @on_store()
    async def test_an_event_without_an_id_gets_one(self, at: Bench) -> None:
        """At the latest when it is accepted; it is the one that the caller's event has."""
        fresh = [Event("opened", "a"), Event("opened", "a")]
        answers = await at.store.append(0, fresh)
        await at.ok(messages=[child := Event.caused_by(fresh[0], "r.f", 1, 0, "sent", "a")])
        assert [answer.is_new for answer in answers] == [True, True]
        assert [entry.event for entry in await at.log()] == [*fresh, child]

    @on_store()
    async def test_entries_say_when_they_were_accepted(self, at: Bench) -> None:
        """By the store's clock, in aware UTC: those that were appended, sent, and set as a timer."""
        await at.ok(timers=[at.timer("t", at.after(1))])
        for act in (partial(at.accept, "1"), partial(at.ok, messages=[event("2")]), at.promote):
            earliest = at.now()
            await act()
            entry = (await at.log())[-1]
            assert earliest <= entry.accepted <= at.now()
            assert entry.accepted.utcoffset() == timedelta(0)
            await at.step()
        before = [entry.accepted for entry in await at.log()]
        await at.reopen()
        assert [entry.accepted for entry in await at.log()] == before

    # -- once

    @on_store()
    async def test_an_event_is_accepted_once(self, at: Bench) -> None:
        """A second one of the same source and id is told where the first one stands, within one call too."""
        (one,) = await at.accept("1")
        again, two, same = await at.accept("1", "2", "2")
        assert one.is_new
        assert again == Accepted(one.position, is_new=False)
        assert two.is_new
        assert same == Accepted(two.position, is_new=False)
        assert await at.pending() == ["1", "2"]
        await at.reopen()
        assert list(await at.accept("2", "1")) == [same, again]

    @on_store()
    async def test_an_event_that_is_handled_is_not_accepted_again(self, at: Bench) -> None:
        """It has no position any more."""
        (one,) = await at.accept("1")
        await at.ok(handled=one.position)
        assert list(await at.accept("1")) == [Accepted(None, is_new=False)]
        await at.reopen()
        assert list(await at.accept("1")) == [Accepted(None, is_new=False)]
        assert await at.pending() == []

    @on_store(partitions=2)
    async def test_an_event_of_another_partition_has_no_position(self, at: Bench) -> None:
        """Nobody here could handle it there; it is not accepted, unless each partition has a window of its own."""
        (one,) = await at.store.append(0, [event("1")])
        (other,) = await at.store.append(1, [event("1")])
        assert [entry.position for entry in await at.log(1)] == ([other.position] if other.is_new else [])
        assert other.is_new or other.position is None
        assert list(await at.store.append(0, [event("1")])) == [Accepted(one.position, is_new=False)]

    @on_store()
    async def test_source_and_id_together_name_an_event(self, at: Bench) -> None:
        """Two sources may use the same ids; nothing that merely looks alike is the same."""
        several = [("/desk", "1"), ("/desk", "01"), ("/desk1", ""), ("/Desk", "1"), ("1", "/desk"), ("/desk", "1 ")]
        events = [event(id or "x", source=source) for source, id in several]
        assert all(answer.is_new for answer in await at.store.append(0, events))
        assert not any(answer.is_new for answer in await at.store.append(0, events))

    @on_store(dedup_window=3)
    async def test_the_window_is_exact(self, at: Bench) -> None:
        """So many of the latest accepted ones are remembered; one that was not accepted does not count."""
        await at.accept("1", "2", "3")
        assert [answer.is_new for answer in await at.accept("1", "1", "2")] == [False, False, False]
        assert [answer.is_new for answer in await at.accept("4")] == [True]  # 1 is forgotten, though it is pending
        assert [answer.is_new for answer in await at.accept("2", "3", "4")] == [False, False, False]
        await at.reopen()
        assert [answer.is_new for answer in await at.accept("2", "3", "4")] == [False, False, False]
        assert [answer.is_new for answer in await at.accept("1", "2", "4", "3")] == [True, True, False, True]
        assert await at.pending() == ["1", "2", "3", "4", "1", "2", "3"]

    @on_store(dedup_window=2)
    async def test_the_window_moves_within_one_call(self, at: Bench) -> None:
        """As if each event were appended alone."""
        assert [answer.is_new for answer in await at.accept(*"12131")] == [True, True, False, True, True]

    @on_store(dedup_window=0)
    async def test_without_a_window_nothing_is_remembered(self, at: Bench) -> None:
        """Every event is accepted, and every commit with an id is stored."""
        assert [answer.is_new for answer in await at.accept("1", "1")] == [True, True]
        assert [answer.is_new for answer in await at.accept("1")] == [True]
        for _ in range(2):
            await at.ok(id="once")

    # -- bookmarks

    @on_store(partitions=2)
    async def test_bookmarks_are_stored_with_events(self, at: Bench) -> None:
        """Each under its name and in its partition, in place of the one before; others stay."""
        assert await at.store.bookmark(0, "file") is None
        await at.store.append(0, [event("1")], {"file": "10", "mail é\0": "x\n\U0001f600"})
        await at.store.append(0, [event("2")], {"file": "9"})
        await at.store.append(1, [event("3")], {"file": ""})
        await at.store.append(0, [event("4")])
        await at.reopen()
        assert await at.store.bookmark(0, "file") == "9"
        assert await at.store.bookmark(0, "mail é\0") == "x\n\U0001f600"
        assert await at.store.bookmark(1, "file") == ""
        assert await at.store.bookmark(1, "mail é\0") is None

    @on_store()
    async def test_bookmarks_move_on_past_what_was_accepted_before(self, at: Bench) -> None:
        """A source that is read again from an earlier place catches up, with duplicates or nothing at all."""
        await at.accept("1")
        assert [answer.is_new for answer in await at.store.append(0, [event("1")], {"file": "1"})] == [False]
        assert await at.store.bookmark(0, "file") == "1"
        assert list(await at.store.append(0, [], {"file": "2"})) == []
        assert await at.store.bookmark(0, "file") == "2"

    # -- starts

    @on_store(partitions=2)
    async def test_starts_are_noted(self, at: Bench) -> None:
        """On pending events and waiting retries; the count is the caller's, and noted twice is noted once."""
        partition = at.partition("a")
        one, two = [answer.position for answer in await at.accept("1", "2")]
        waiting = retry(event("3"))
        await at.ok(retries=[waiting, retry(event("4"))])
        assert one is not None
        for _ in range(2):
            await at.store.starting(partition, {one: 1, waiting.key: 2})
        await at.reopen()
        assert [(entry.position, entry.starts) for entry in await at.log(partition)] == [(one, 1), (two, 0)]
        assert [(held.event.id, held.starts) for held in await at.retries(partition)] == [("3", 2), ("4", 0)]
        await at.store.starting(partition, {one: 2})
        assert [entry.starts for entry in await at.log(partition)] == [2, 0]

    @on_store(partitions=2)
    async def test_starts_of_what_is_not_there_are_left_out(self, at: Bench) -> None:
        """Handled meanwhile, or in another partition; those that are there are noted."""
        partition = at.partition("a")
        gone, one = [answer.position for answer in await at.accept("0", "1")]
        await at.ok(handled=gone)
        await at.ok(retries=[retry(event("2"))])
        assert gone is not None
        assert one is not None
        await at.store.starting(partition, {gone: 1, one + 1000: 1, "0" * 32: 1, one: 1})
        await at.store.starting(1 - partition, {one: 7, retry(event("2")).key: 7})
        await at.store.starting(partition, {})
        assert [(entry.position, entry.starts) for entry in await at.log(partition)] == [(one, 1)]
        assert [held.starts for held in await at.retries(partition)] == [0]
        assert list(await at.log(1 - partition)) == []

    @on_store()
    async def test_starts_go_with_what_they_are_of(self, at: Bench) -> None:
        """A retry that is set again has those that it is set with; what is refused leaves them as they are."""
        (one,) = await at.accept("1")
        assert one.position is not None
        await at.ok(retries=[retry(event("2"))])
        await at.store.starting(0, {one.position: 2, retry(event("2")).key: 2})
        await at.commit(version="moved", handled=one.position, write=SubjectWrite(set={"n": b"1"}))
        assert [entry.starts for entry in await at.log()] == [2]
        await at.ok(retried=retry(event("2")).key, retries=[retry(event("2"), attempt=3), retry(event("3"), starts=1)])
        assert [(held.attempt, held.starts) for held in await at.retries()] == [(3, 0), (2, 1)]
