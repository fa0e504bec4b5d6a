"""Timers: set, replaced, cancelled, and moved to the log when they are due."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from onwhen.engine.shared import is_shared
from onwhen.engine.store import Position, Timer
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, listed, on_store

__all__ = ["TimerContract"]


class TimerContract(StoreCase):
    """Timers."""

    # -- set and taken back

    @on_store()
    async def test_timers_are_listed_earliest_first(self, at: Bench) -> None:
        """Equal ones in the order set, whosever they are; those of one subject if it is named."""
        await at.ok(timers=[at.timer("z", at.after(2)), at.timer("y", at.after(1)), at.timer("x", at.after(2))])
        await at.ok("b", timers=[at.timer("w", at.after(2), "b"), at.timer("v", at.after(1), "b")])
        await at.ok(timers=[at.timer("u", at.after(1))])
        for _ in range(2):
            assert await at.timers() == [("a", "y"), ("b", "v"), ("a", "u"), ("a", "z"), ("a", "x"), ("b", "w")]
            assert await at.timers("a") == [("a", "y"), ("a", "u"), ("a", "z"), ("a", "x")]
            assert await at.timers("c") == []
            await at.reopen()

    @on_store()
    async def test_a_timer_is_kept_as_it_was_set(self, at: Bench) -> None:
        """Its moment is aware and exact, in whatever time zone it was given; its key may be any text."""
        moments = [
            datetime.min.replace(tzinfo=UTC),
            datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(2026, 11, 5, 12, 0, 0, 1, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
            datetime.max.replace(tzinfo=UTC),
        ]
        keys = ["", "é\0\n%_'\"\\\U0001f600", "k", "k "]
        timers = [at.timer(key, due, id="1") for key, due in zip(keys, moments, strict=True)]
        await at.ok(timers=timers)
        await at.reopen()
        found = await listed(at.store.timers())
        assert found == timers
        assert {timer.due.utcoffset() for timer in found} <= {timedelta(0), moments[2].utcoffset()}

    @on_store()
    async def test_a_later_timer_replaces_the_one_of_its_key(self, at: Bench) -> None:
        """It has the later one's moment, event and place in the order; another subject's of that key stays."""
        await at.ok(timers=[at.timer("x", at.after(1)), at.timer("y", at.after(1))])
        await at.ok("b", timers=[at.timer("x", at.after(1), "b")])
        await at.ok(timers=[at.timer("x", at.after(1), id="later")])
        assert await at.timers() == [("a", "y"), ("b", "x"), ("a", "x")]
        await at.ok(timers=[at.timer("y", at.after(3)), at.timer("y", at.after(2), id="last")])
        assert await at.timers() == [("b", "x"), ("a", "x"), ("a", "y")]
        await at.step(2)
        assert [entry.event.id for entry in (await at.promote()).entries] == ["b/x", "later", "last"]

    @on_store()
    async def test_the_same_timer_may_be_set_twice(self, at: Bench) -> None:
        """By one commit, or one after the other: it is one timer, with the later one's place in the order."""
        same = at.timer("x", at.after(1))
        await at.ok(timers=[same, at.timer("y", at.after(1)), same])
        assert await at.timers() == [("a", "y"), ("a", "x")]
        await at.ok(timers=[same])
        assert await at.timers("a") == [("a", "y"), ("a", "x")]
        await at.step()
        assert [entry.event.id for entry in (await at.promote()).entries] == ["a/y", "a/x"]

    @on_store()
    async def test_timers_are_cancelled_by_key(self, at: Bench) -> None:
        """The subject's own, if they are there."""
        await at.ok(timers=[at.timer("x", at.after(1)), at.timer("y", at.after(1))])
        await at.ok("b", timers=[at.timer("x", at.after(1), "b")])
        await at.ok(cancelled=["x", "none"])
        assert await at.timers() == [("a", "y"), ("b", "x")]
        await at.step()
        assert [entry.event.id for entry in (await at.promote()).entries] == ["a/y", "b/x"]

    @on_store()
    async def test_all_timers_of_a_subject_are_cancelled(self, at: Bench) -> None:
        """Those of others stay."""
        await at.ok(timers=[at.timer("x", at.after(1)), at.timer("y", at.after(1))])
        await at.ok("b", timers=[at.timer("x", at.after(1), "b")])
        await at.ok(cancel_all=True)
        assert await at.timers() == [("b", "x")]
        await at.ok("never", cancel_all=True)
        assert await at.timers() == [("b", "x")]

    @on_store()
    async def test_timers_are_cancelled_before_new_ones_are_set(self, at: Bench) -> None:
        """In the same commit: what it sets is there after it."""
        await at.ok(timers=[at.timer("x", at.after(1)), at.timer("y", at.after(1))])
        await at.ok(cancelled=["x"], timers=[at.timer("x", at.after(2))])
        assert await at.timers() == [("a", "y"), ("a", "x")]
        await at.ok(cancel_all=True, timers=[at.timer("y", at.after(3))])
        assert [timer.due for timer in await listed(at.store.timers())] == [at.after(3)]

    # -- due

    @on_store()
    async def test_timers_that_are_due_move_to_the_log(self, at: Bench) -> None:
        """Earliest first, equal ones as they were set, behind what is there; the answer says when the next is due."""
        await at.accept("1")
        first = [at.timer("c", at.after(3)), at.timer("b", at.after(2)), at.timer("a", at.after(2))]
        await at.ok(timers=[*first, at.timer("z", at.after(1))])
        promoted = await at.promote()
        assert (list(promoted.entries), promoted.next_due) == ([], at.after(1))
        await at.step(2)
        promoted = await at.promote()
        assert [entry.event.id for entry in promoted.entries] == ["a/z", "a/b", "a/a"]
        assert promoted.next_due == at.after(3)
        assert list(promoted.entries) == list(await at.log())[1:]
        assert await at.pending() == ["1", "a/z", "a/b", "a/a"]
        assert await at.timers() == [("a", "c")]
        await at.step()
        assert (await at.promote()).next_due is None
        assert await at.timers() == []

    @on_store()
    async def test_a_timer_is_due_at_its_very_moment(self, at: Bench) -> None:
        """Not before, by the store's clock."""
        await at.ok(timers=[at.timer("x", at.after(1))])
        assert list((await at.promote()).entries) == []
        await at.step()
        assert [entry.event.id for entry in (await at.promote()).entries] == ["a/x"]

    @on_store()
    async def test_moved_timers_are_told_again_until_they_are_handled(self, at: Bench) -> None:
        """The answer of an earlier call may have been lost; those up to a position are known already."""
        await at.ok(timers=[at.timer("x", at.after(1)), at.timer("y", at.after(2))])
        await at.step()
        (one,) = (await at.promote()).entries
        await at.accept("1")
        await at.ok(messages=[event("2")])
        await at.step()
        both = (await at.promote()).entries
        assert [entry.event.id for entry in both] == ["a/x", "a/y"]
        assert both[0] == one
        await at.reopen()
        assert list((await at.promote()).entries) == list(both)
        assert list((await at.store.promote(0, one.position)).entries) == [both[1]]
        assert list((await at.store.promote(0, both[1].position)).entries) == []
        await at.ok(handled=one.position)
        assert list((await at.promote()).entries) == [both[1]]
        await at.ok(handled=both[1].position)
        assert list((await at.promote()).entries) == []
        assert await at.pending() == ["1", "2"]

    @on_store()
    async def test_a_timer_that_has_moved_is_set_no_more(self, at: Bench) -> None:
        """Cancelling it takes nothing back, and its key is free."""
        await at.ok(timers=[at.timer("x", at.after(1))])
        await at.step()
        await at.promote()
        await at.ok(cancelled=["x"], cancel_all=True)
        assert await at.pending() == ["a/x"]
        await at.ok(timers=[at.timer("x", at.after(2), id="again")])
        assert await at.timers() == [("a", "x")]
        await at.step()
        await at.promote()
        assert await at.pending() == ["a/x", "again"]

    @on_store(partitions=4)
    async def test_a_timer_belongs_to_the_partition_of_the_subject_that_set_it(self, at: Bench) -> None:
        """There it is promoted; its event goes to the log of the subject that it is addressed to."""
        setter, other = "a", next(name for name in "bcdefgh" if at.partition(name) != at.partition("a"))
        here, there = at.partition(setter), at.partition(other)
        across: Timer = at.timer("k", at.after(1), setter, other)
        await at.ok(setter, timers=[across, at.timer("own", at.after(2), setter)])
        assert (await at.promote(there)).next_due is None
        assert (await at.promote(here)).next_due == at.after(1)
        await at.step()
        assert list((await at.promote(there)).entries) == []
        promoted = await at.promote(here)
        assert (list(promoted.entries), promoted.next_due, promoted.elsewhere) == ([], at.after(2), True)
        assert not (await at.promote(here)).elsewhere
        await at.relay()
        (entry,) = await at.log(there)
        assert entry.event == across.event
        assert list((await at.promote(there)).entries) in ([entry], [] if is_shared(at.store) else [entry])
        promoted = await at.promote(there, entry.position)
        assert (list(promoted.entries), promoted.elsewhere) == ([], False)
        assert await at.timers(setter) == [(setter, "own")]
        assert await at.timers(other) == []

    @on_store()
    async def test_a_timer_that_is_put_off_again_and_again(self, at: Bench) -> None:
        """Is one timer, due when it was last said to be."""
        for number in range(100):
            await at.ok(timers=[at.timer("sla", at.after(number + 1)), at.timer("other", at.after(1000))])
        assert await at.timers() == [("a", "sla"), ("a", "other")]
        assert (await at.promote()).next_due == at.after(100)
        await at.ok(cancelled=["sla"])
        assert (await at.promote()).next_due == at.after(1000)

    @on_store()
    async def test_many_timers_become_due_at_once(self, at: Bench) -> None:
        """All of them move, in order; perhaps some at a time, then the next one is due already."""
        for first in range(0, 1500, 500):
            timers = [at.timer(f"{n:04}", at.after(1 + n % 2)) for n in range(first, first + 500)]
            await at.ok(timers=timers)
        await at.step(2)
        expected = [f"a/{n:04}" for n in (*range(0, 1500, 2), *range(1, 1500, 2))]
        found: list[str] = []
        after: Position | None = None
        while len(found) < len(expected):
            promoted = await at.promote(after=after)
            found += [entry.event.id for entry in promoted.entries]
            after = promoted.entries[-1].position
            assert (promoted.next_due is None) == (len(found) == len(expected))
            assert promoted.next_due is None or promoted.next_due <= at.after(2)
        assert found == await at.pending() == expected

    @on_store()
    async def test_timers_may_come_and_go_while_they_are_listed(self, at: Bench) -> None:
        """Those that are there all the time are listed once, in order."""
        await at.ok(timers=[at.timer(f"{n:04}", at.after(1)) for n in range(600)])
        seen: list[str] = []
        async for timer in at.store.timers():
            if len(seen) % 50 == 0:
                n = len(seen) // 50
                await at.ok(cancelled=[f"{599 - n:04}", f"{n:04}"], timers=[at.timer(f"new{n}", at.after(1 + n % 2))])
            seen.append(timer.key)
        old = [key for key in seen if not key.startswith("new")]
        assert old == sorted(set(old))
        assert {f"{n:04}" for n in range(12, 588)} <= set(old)
