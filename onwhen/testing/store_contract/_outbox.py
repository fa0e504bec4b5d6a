"""Messages from one partition to another: kept by the source, delivered once and in order, and then let go."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from onwhen.engine.shared import Delivered, Outgoing
from onwhen.engine.store import Answer
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, on_store
from onwhen.testing.store_contract._shared import LONG, shared

__all__ = ["OutboxContract"]


def _out(*numbers: int, to: str = "a", target: int = 0, source: str = "/desk") -> Sequence[Outgoing]:
    """Return messages as they lie in an outbox, each at the position that is its id."""
    return [Outgoing(number, target, event(str(number), to, source)) for number in numbers]


class OutboxContract(StoreCase):
    """The outbox of a partition, and deliveries to another."""

    # -- the outbox

    @on_store(partitions=3)
    async def test_messages_to_other_partitions_wait_in_the_outbox(self, at: Bench) -> None:
        """Of the partition that sends them, in their order, with where they go; those of its own are in its log."""
        here = at.partition("a")
        sent = [event(f"m{number}", at.name_in((here + number) % 3)) for number in range(9)]
        result = await at.ok(messages=sent)
        own = [message for message in sent if at.partition(message.subject) == here]
        found = await shared(at).outgoing(here, None, 100)
        assert [(out.target, out.event) for out in found] == [
            (at.partition(message.subject), message) for message in sent if message not in own
        ]
        positions = [out.position for out in found]
        assert positions == sorted(set(positions))
        assert [entry.event for entry in await at.log(here)] == own
        assert [position is None for position in result.appended] == [message not in own for message in sent]
        for other in range(3):
            if other != here:
                assert await at.pending(other) == []
                assert list(await shared(at).outgoing(other, None, 100)) == []

    @on_store(partitions=2)
    async def test_an_outbox_is_read_in_pages(self, at: Bench) -> None:
        """Those after a position, and not more than are asked for; also after the store was closed."""
        here, to = at.partition("a"), at.name_in(1 - at.partition("a"))
        for first in range(0, 9, 3):
            await at.ok(messages=[event(str(number), to) for number in range(first, first + 3)])
        await at.reopen()
        found = list(await shared(at).outgoing(here, None, 4))
        assert len(found) == 4
        found += await shared(at).outgoing(here, found[-1].position, 100)
        assert [out.event.id for out in found] == [str(number) for number in range(9)]
        assert list(await shared(at).outgoing(here, found[-1].position, 100)) == []

    @on_store(partitions=2)
    async def test_a_commit_that_is_refused_sends_nothing(self, at: Bench) -> None:
        """Neither one that is fenced, nor a conflict, nor one that was done before."""
        here, to = at.partition("a"), at.name_in(1 - at.partition("a"))
        sent = [event("m", to)]
        await at.ok(id="x")
        for fields in ({"token": "t"}, {"version": "moved"}, {"id": "x"}):
            assert (await at.commit(messages=sent, **fields)).answer is not Answer.OK
        assert list(await shared(at).outgoing(here, None, 9)) == []

    @on_store(partitions=2)
    async def test_timers_for_another_partition_go_to_the_outbox(self, at: Bench) -> None:
        """When they are due, behind what was sent before; `elsewhere` says so."""
        here, to = at.partition("a"), at.name_in(1 - at.partition("a"))
        await at.ok(timers=[at.timer("late", at.after(2), "a", to), at.timer("soon", at.after(1), "a", to)])
        await at.ok(messages=[event("m", to)])
        await at.step(2)
        promoted = await at.promote(here)
        assert (list(promoted.entries), promoted.next_due, promoted.elsewhere) == ([], None, True)
        assert [out.event.id for out in await shared(at).outgoing(here, None, 9)] == ["m", "a/soon", "a/late"]
        assert await at.timers() == []

    # -- delivered

    @on_store(partitions=2)
    async def test_what_is_delivered_is_pending(self, at: Bench) -> None:
        """In order, behind what is there; the watermark says how far it has come."""
        await at.store.append(0, [event("before")])
        assert await shared(at).deliver(1, 0, None, _out(3, 5)) == Delivered(True, 5)
        assert await shared(at).deliver(1, 0, 5, _out(6)) == Delivered(True, 6)
        await at.store.append(0, [event("after")])
        await at.reopen()
        assert await at.pending(0) == ["before", "3", "5", "6", "after"]
        positions = [entry.position for entry in await at.log(0)]
        assert positions == sorted(set(positions))
        assert all(entry.accepted <= at.now() for entry in await at.log(0))
        assert (await shared(at).deliver(1, 0, 6, [])).watermark == 6

    @on_store(partitions=3)
    async def test_a_watermark_is_asked_for_with_nothing_to_deliver(self, at: Bench) -> None:
        """None if there is none; each target has one for each source."""
        assert (await shared(at).deliver(1, 0, None, [])).watermark is None
        await shared(at).deliver(1, 0, None, _out(3))
        await shared(at).deliver(2, 0, None, _out(7))
        await shared(at).deliver(0, 1, None, _out(9, target=1))
        for source, target, watermark in ((1, 0, 3), (2, 0, 7), (0, 1, 9), (2, 1, None), (0, 2, None)):
            for expected in (None, 3, 100):
                assert (await shared(at).deliver(source, target, expected, [])).watermark == watermark

    @on_store(partitions=2)
    async def test_something_else_than_the_watermark_is_a_gap(self, at: Bench) -> None:
        """Less or more: nothing is delivered, the watermark is told, and with that it goes on."""
        await shared(at).deliver(1, 0, None, _out(3, 5))
        for expected in (None, 3, 4, 6, 2**60):
            assert await shared(at).deliver(1, 0, expected, _out(7, 8)) == Delivered(False, 5)
            assert await at.pending(0) == ["3", "5"]
        assert await shared(at).deliver(1, 0, 5, _out(7, 8)) == Delivered(True, 8)
        assert await at.pending(0) == ["3", "5", "7", "8"]

    @on_store(partitions=2)
    async def test_a_first_delivery_has_no_watermark_to_expect(self, at: Bench) -> None:
        """Who expects one has to do with a target that has lost what it had."""
        assert await shared(at).deliver(1, 0, 2, _out(3)) == Delivered(False, None)
        assert await at.pending(0) == []

    @on_store(partitions=2)
    async def test_a_delivery_that_is_made_again_does_nothing(self, at: Bench) -> None:
        """Its answer was lost: the watermark tells that it has arrived."""
        await shared(at).deliver(1, 0, None, _out(3, 5))
        again = await shared(at).deliver(1, 0, None, _out(3, 5))
        assert again.watermark == 5
        assert await at.pending(0) == ["3", "5"]

    @on_store(partitions=2)
    async def test_one_of_many_relays_delivers(self, at: Bench) -> None:
        """Two owners who do not know of each other: each message arrives once."""
        answers = await asyncio.gather(*(shared(at).deliver(1, 0, None, _out(3, 5)) for _ in range(20)))
        assert {answer.watermark for answer in answers} == {5}
        assert await at.pending(0) == ["3", "5"]

    @on_store(partitions=3)
    async def test_what_was_delivered_is_left_out(self, at: Bench) -> None:
        """By source and id, handled or not: a partition that has lost its outbox sends again under new positions."""
        here = at.partition("a")
        source = (here + 1) % 3
        await shared(at).deliver(source, here, None, _out(1, 2, 3, target=here))
        await at.ok(handled=(await at.log(here))[0].position)
        moved = [Outgoing(10 + out.position, here, out.event) for out in _out(3, 1, 4, 2, target=here)]
        assert await shared(at).deliver(source, here, 3, moved) == Delivered(True, 12)
        assert await at.pending(here) == ["2", "3", "4"]
        other = _out(13, target=here, source="/other")[0]
        alike = Outgoing(13, here, event("4", "a", "/other"))
        assert other.position == alike.position
        assert (await shared(at).deliver(source, here, 12, [alike])).is_accepted
        assert await at.pending(here) == ["2", "3", "4", "4"]

    @on_store(partitions=2)
    async def test_what_comes_twice_in_one_delivery_is_left_out(self, at: Bench) -> None:
        """As if each message were delivered alone."""
        twice = [Outgoing(1, 0, event("m")), Outgoing(2, 0, event("m")), Outgoing(3, 0, event("n"))]
        assert await shared(at).deliver(1, 0, None, twice) == Delivered(True, 3)
        assert await at.pending(0) == ["m", "n"]

    @on_store(partitions=2)
    async def test_nothing_but_duplicates_moves_the_watermark_on(self, at: Bench) -> None:
        """The relay gets past them."""
        await shared(at).deliver(1, 0, None, _out(1))
        assert await shared(at).deliver(1, 0, 1, [Outgoing(8, 0, event("1"))]) == Delivered(True, 8)
        assert await at.pending(0) == ["1"]

    @on_store(partitions=2, dedup_window=2)
    async def test_deliveries_and_the_window_do_not_know_of_each_other(self, at: Bench) -> None:
        """One that was accepted from outside is delivered all the same, and the other way round."""
        await at.store.append(0, [event("1")])
        await shared(at).deliver(1, 0, None, _out(1, 2, 3, 4))
        answers = await at.store.append(0, [event("1"), event("2")])
        assert [answer.is_new for answer in answers] == [False, True]
        assert (await shared(at).deliver(1, 0, 4, [Outgoing(5, 0, event("1"))])).is_accepted
        assert await at.pending(0) == ["1", "1", "2", "3", "4", "2"]

    @on_store(partitions=2)
    async def test_what_is_delivered_is_no_timer(self, at: Bench) -> None:
        """Promoting tells of those that have moved to this log from this partition's timers, or have come as timers."""
        await shared(at).deliver(1, 0, None, _out(1))
        promoted = await at.promote(0)
        assert {entry.event.id for entry in promoted.entries} <= {"1"}
        assert promoted.next_due is None

    # -- let go

    @on_store(partitions=2)
    async def test_the_owner_trims_the_outbox(self, at: Bench) -> None:
        """Up to and with a position; what is sent later stands behind all that ever was."""
        here, to = at.partition("a"), at.name_in(1 - at.partition("a"))
        await shared(at).acquire(here, "t1", "w1", LONG)
        await at.ok(messages=[event(str(number), to) for number in range(4)])
        out = await shared(at).outgoing(here, None, 9)
        assert await shared(at).trim(here, "t1", out[1].position)
        assert list(await shared(at).outgoing(here, None, 9)) == list(out[2:])
        assert await shared(at).trim(here, "t1", out[0].position)
        assert list(await shared(at).outgoing(here, None, 9)) == list(out[2:])
        assert await shared(at).trim(here, "t1", out[3].position)
        await at.reopen()
        await at.ok(messages=[event("4", to)])
        (last,) = await shared(at).outgoing(here, None, 9)
        assert last.position > out[3].position
        assert list(await shared(at).outgoing(here, out[3].position, 9)) == [last]

    @on_store(partitions=2)
    async def test_nobody_else_trims_the_outbox(self, at: Bench) -> None:
        """Another relay may be in the middle of it."""
        here, to = at.partition("a"), at.name_in(1 - at.partition("a"))
        await at.ok(messages=[event("1", to)])
        (out,) = await shared(at).outgoing(here, None, 9)
        assert not await shared(at).trim(here, "t1", out.position)
        await shared(at).acquire(here, "t1", "w1", LONG)
        assert not await shared(at).trim(here, "t2", out.position)
        await shared(at).release(here, "t1")
        assert not await shared(at).trim(here, "t1", out.position)
        assert list(await shared(at).outgoing(here, None, 9)) == [out]

    @on_store(partitions=2)
    async def test_trimming_leaves_watermarks(self, at: Bench) -> None:
        """The target still knows how far it is."""
        here, to = at.partition("a"), at.name_in(1 - at.partition("a"))
        there = at.partition(to)
        await shared(at).acquire(here, "t1", "w1", LONG)
        await at.ok(messages=[event("1", to)])
        out = await shared(at).outgoing(here, None, 9)
        await shared(at).deliver(here, there, None, out)
        await shared(at).trim(here, "t1", out[0].position)
        assert (await shared(at).deliver(here, there, None, [])).watermark == out[0].position
        assert await at.pending(there) == ["1"]
