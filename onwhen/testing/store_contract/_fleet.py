"""Several at work on one store: who lives, what there is to do, and what waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from onwhen.engine.shared import Fired, Outgoing, is_shared
from onwhen.engine.store import Position
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, on_store, retry
from onwhen.testing.store_contract._shared import LONG, shared

__all__ = ["FleetContract"]

_SOON: Final = 0.05  # seconds; for a wait that ends without anything
_PATIENCE: Final = 20.0  # seconds; a wait that something is to end


class FleetContract(StoreCase):
    """Waiting for work, looking at it, and workers that live."""

    # -- waiting for work

    @on_store(partitions=2)
    async def test_the_tail_of_a_log_is_read_at_once_if_it_is_there(self, at: Bench) -> None:
        """As `read` does: those after a position, of this partition, and not more than are asked for."""
        await at.store.append(0, [event(str(number)) for number in range(4)])
        await at.store.append(1, [event("other")])
        entries = await at.log(0)
        assert list(await shared(at).tail(0, None, 9, _PATIENCE)) == list(entries)
        assert list(await shared(at).tail(0, None, 2, _PATIENCE)) == list(entries[:2])
        assert list(await shared(at).tail(0, entries[1].position, 9, _PATIENCE)) == list(entries[2:])

    @on_store(partitions=2)
    async def test_waiting_for_the_tail_ends_after_its_time(self, at: Bench) -> None:
        """With nothing, if there is nothing that is not known, or it is handled, or in another partition."""
        await at.store.append(0, [event("1"), event("2", at.name_in(0))])
        await at.store.append(1, [event("3")])
        known, handled = await at.log(0)
        await at.ok(at.name_in(0), handled=handled.position)
        for after in (known.position, handled.position):
            async with asyncio.timeout(_PATIENCE):
                assert list(await shared(at).tail(0, after, 9, _SOON)) == []

    @pytest.mark.parametrize("what", ["append", "commit", "promote", "fire", "deliver"])
    @on_store(partitions=2)
    async def test_waiting_for_the_tail_ends_when_there_is_more(self, at: Bench, what: str) -> None:
        """All that comes to a log, whichever process has put it there, as `read` would return it."""
        here = at.partition("a")
        (known,) = await at.store.append(here, [event("known")])
        await at.ok(timers=[at.timer("t", at.after(1))])
        await at.step()
        other = self.make_again(at.store)
        assert other is not None
        assert is_shared(other)
        await other.open(at.clock)
        acts: dict[str, Callable[[], Awaitable[Any]]] = {
            "append": lambda: other.append(here, [event("1")]),
            "commit": lambda: at.ok(messages=[event("2")]),
            "promote": lambda: other.promote(here, None),
            "fire": lambda: other.fire(here),
            "deliver": lambda: shared(at).deliver(1 - here, here, None, [Outgoing(1, here, event("3"))]),
        }
        try:
            waits = [
                asyncio.ensure_future(shared(at).tail(number, after, 9, _PATIENCE))
                for number, after in ((here, known.position), (1 - here, None))
            ]
            await asyncio.wait(waits, timeout=_SOON)
            assert not any(wait.done() for wait in waits)
            await acts[what]()
            async with asyncio.timeout(_PATIENCE / 2):
                assert list(await waits[0]) == list(await at.store.read(here, known.position, 9)) != []
            assert not waits[1].done()
            waits[1].cancel()
            await asyncio.wait(waits)
        finally:
            await other.close()

    @on_store(partitions=2)
    async def test_waiting_for_the_tail_may_be_cancelled(self, at: Bench) -> None:
        """Others go on, also those who wait for the same log, and so does the store."""
        waits = [asyncio.ensure_future(shared(at).tail(1, None, 9, _PATIENCE)) for _ in range(2)]
        await asyncio.wait(waits, timeout=_SOON)
        waits[0].cancel()
        await at.store.append(1, [event("1")])
        async with asyncio.timeout(_PATIENCE / 2):
            assert [entry.event.id for entry in await waits[1]] == ["1"]
        await asyncio.wait([waits[0]])
        assert waits[0].cancelled()

    @on_store(partitions=2)
    async def test_timers_are_fired_without_telling_which(self, at: Bench) -> None:
        """How many, whether some went elsewhere, and when the next one is due; the log has them then."""
        here = at.partition("a")
        assert await shared(at).fire(here) == Fired(moved=0, next_due=None, elsewhere=False)
        far = at.timer("far", at.after(2), "a", at.name_in(1 - here))
        await at.ok(timers=[at.timer("x", at.after(1)), far, at.timer("z", at.after(9))])
        assert await shared(at).fire(here) == Fired(moved=0, next_due=at.after(1), elsewhere=False)
        await at.step()
        assert await shared(at).fire(here) == Fired(moved=1, next_due=at.after(2), elsewhere=False)
        assert await shared(at).fire(1 - here) == Fired(moved=0, next_due=None, elsewhere=False)
        await at.step()
        assert await shared(at).fire(here) == Fired(moved=1, next_due=at.after(9), elsewhere=True)
        assert await shared(at).fire(here) == Fired(moved=0, next_due=at.after(9), elsewhere=False)
        assert await at.pending(here) == ["a/x"]
        assert [out.event.id for out in await shared(at).outgoing(here, None, 9)] == ["a/far"]
        assert [entry.event.id for entry in (await at.promote(here)).entries] == ["a/x"]

    @on_store()
    async def test_many_timers_are_fired_some_at_a_time(self, at: Bench) -> None:
        """As long as the next one is due already, there are more."""
        for first in range(0, 1500, 500):
            await at.ok(timers=[at.timer(f"{n:04}", at.after(1)) for n in range(first, first + 500)])
        await at.step()
        moved = 0
        for _ in range(1500):
            fired = await shared(at).fire(0)
            moved += fired.moved
            assert fired.moved > 0
            if fired.next_due is None:
                break
            assert fired.next_due <= at.now()
        assert moved == 1500
        assert await at.pending() == [f"a/{n:04}" for n in range(1500)]

    # -- what is there still

    @on_store()
    async def test_positions_are_asked_whether_they_are_pending(self, at: Bench) -> None:
        """Those that are; what is handled, or never was, is left out."""
        one, two, three = [answer.position for answer in await at.accept("1", "2", "3")]
        assert one is not None
        assert two is not None
        assert three is not None
        asked: list[Position] = [three, one, two, 2**40]
        assert set(await shared(at).pending(0, asked)) == {one, two, three}
        await at.ok(handled=two)
        assert set(await shared(at).pending(0, asked)) == {one, three}
        assert set(await shared(at).pending(0, [one])) == {one}
        assert set(await shared(at).pending(0, [])) == set()

    @on_store(partitions=2)
    async def test_keys_are_asked_whether_their_retries_wait(self, at: Bench) -> None:
        """Parked ones too; those that were run, or never set, or are in another partition, are left out."""
        here = at.partition("a")
        several = [retry(event("1")), retry(event("2"), parked=True), retry(event("3"))]
        await at.ok(retries=several)
        keys = [one.key for one in several]
        await at.ok(retried=keys[2])
        assert set(await shared(at).waiting(here, [*keys, "0" * 32])) == {keys[0], keys[1]}
        assert set(await shared(at).waiting(here, [keys[1]])) == {keys[1]}
        assert set(await shared(at).waiting(1 - here, keys)) == set()
        assert set(await shared(at).waiting(here, [])) == set()

    # -- workers

    @on_store()
    async def test_workers_that_say_so_live(self, at: Bench) -> None:
        """Each knows of all, sorted, itself among them; what it says of itself last counts."""
        assert list(await shared(at).workers()) == []
        assert list(await shared(at).beat("w2", "two", LONG)) == ["w2"]
        assert list(await shared(at).beat("w1", "one é", LONG)) == ["w1", "w2"]
        assert list(await shared(at).beat("w2", "still two", LONG)) == ["w1", "w2"]
        found = await shared(at).workers()
        assert [(state.id, state.note) for state in found] == [("w1", "one é"), ("w2", "still two")]
        assert all(0 < state.expires <= LONG for state in found)

    @on_store()
    async def test_a_worker_that_says_nothing_more_is_dead(self, at: Bench) -> None:
        """After as long as it has said, by the store's clock."""
        await shared(at).beat("w1", "", 2 * at.case.step.total_seconds())
        await shared(at).beat("w2", "", LONG)
        await at.step(3)
        assert [state.id for state in await shared(at).workers()] == ["w2"]
        assert list(await shared(at).beat("w2", "", LONG)) == ["w2"]

    @on_store()
    async def test_a_worker_may_leave(self, at: Bench) -> None:
        """At once; leaving twice is no error, and it may come back."""
        await shared(at).beat("w1", "", LONG)
        await shared(at).beat("w2", "", LONG)
        for _ in range(2):
            assert list(await shared(at).beat("w1", "", 0)) == ["w2"]
        assert [state.id for state in await shared(at).workers()] == ["w2"]
        assert list(await shared(at).beat("w1", "", LONG)) == ["w1", "w2"]

    # -- from outside

    @on_store(partitions=3)
    async def test_partitions_tell_who_owns_them(self, at: Bench) -> None:
        """And for how long; nobody, if a lease has run out or the partition was released."""
        states = await shared(at).partition_states()
        assert [(state.partition, state.owner, state.expires) for state in states] == [(n, None, 0) for n in range(3)]
        short = 2 * at.case.step.total_seconds()
        for partition, lease in enumerate((LONG, short, LONG)):
            await shared(at).acquire(partition, f"t{partition}", f"w{partition}", lease)
        await shared(at).release(2, "t2")
        await at.step(3)
        states = await shared(at).partition_states()
        assert [state.owner for state in states] == ["w0", None, None]
        assert 0 < states[0].expires <= LONG
        assert [state.expires for state in states[1:]] == [0, 0]

    @on_store(partitions=3)
    async def test_partitions_tell_what_there_is_to_do(self, at: Bench) -> None:
        """What is pending and since when, what has ever come to the log, and what lies in the outbox."""
        here = at.partition("a")
        there, idle = (here + 1) % 3, (here + 2) % 3
        first, second = await at.accept("1", "2")
        oldest = (await at.log(here))[0].accepted
        await at.step()
        sent = [event("near"), event("far", at.name_in(there))]
        await at.ok(handled=first.position, messages=sent)
        states = {state.partition: state for state in await shared(at).partition_states()}
        assert (states[here].backlog, states[here].oldest) == (2, oldest)
        assert (states[here].appended, states[here].outgoing) == (3, 1)
        for other in (there, idle):
            assert (states[other].backlog, states[other].oldest) == (0, None)
            assert (states[other].appended, states[other].outgoing) == (0, 0)
        await at.relay()
        await at.ok(handled=second.position)
        states = {state.partition: state for state in await shared(at).partition_states()}
        near = (await at.log(here))[0]
        assert (states[here].backlog, states[here].oldest, states[here].appended) == (1, near.accepted, 3)
        assert (states[there].backlog, states[there].appended) == (1, 1)
        await at.store.append(here, [event("1")])  # a duplicate
        await at.reopen()
        states = {state.partition: state for state in await shared(at).partition_states()}
        assert (states[here].backlog, states[here].appended) == (1, 3)
