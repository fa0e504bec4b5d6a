"""Opened and closed, counted, used by many at once, and cancelled in the middle."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from onwhen.engine.shared import is_shared
from onwhen.engine.store import Accepted, Answer, Store, StoreStats, SubjectWrite
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, explained, letter, on_store, retry

__all__ = ["ConcurrencyContract", "LifeContract"]

_CALLS = ["append", "bookmark", "starting", "read", "load", "commit", "promote", "dead_letter", "discard", "stats"]


class LifeContract(StoreCase):
    """Opening, closing and counting."""

    @pytest.mark.parametrize("partitions", [1, 3])
    def test_it_has_as_many_partitions_as_it_was_made_with(self, partitions: int) -> None:
        """Fixed for the life of the data."""

        @on_store(partitions=partitions)
        async def run(case: LifeContract, at: Bench) -> None:
            assert at.store.partitions == partitions
            await at.reopen()
            assert at.store.partitions == partitions

        run(self)

    def test_it_says_whether_all_is_lost_with_it(self) -> None:
        """What can be made again from what it has kept is not volatile."""
        store = self.make_store()

        async def use() -> None:
            at = Bench(self, store)
            await store.open(at.clock)
            await store.close()

        asyncio.run(use())
        assert isinstance(store.volatile, bool)
        assert not (store.volatile and self.make_again(store) is not None)

    def test_opening_tells_whether_it_was_closed(self) -> None:
        """True for a new store and for one that was closed; False if the loop it was open on has ended without.

        One that is shared cannot tell, and says True always.
        """
        store = self.make_store()

        async def use(close: bool) -> bool:
            at = Bench(self, store)
            was_closed = await store.open(at.clock)
            await at.write(n=b"1")
            if close:
                await store.close()
            return was_closed

        closes = [True, False, False, True, True]
        expected = [True] * 5 if is_shared(store) else [True, True, False, False, True]
        assert [asyncio.run(use(close)) for close in closes] == expected

    @on_store()
    async def test_reopening_tells_that_it_was_closed(self, at: Bench) -> None:
        """Another store over the same data knows it too."""
        assert await at.reopen()
        assert await at.reopen()

    def test_what_is_stored_outlives_an_event_loop(self) -> None:
        """A store that was not closed is opened again on the next loop, and has all of it."""
        store = self.make_store()

        async def write() -> None:
            at = Bench(self, store)
            await store.open(at.clock)
            await at.accept("1")
            await at.write(n=b"1")

        async def read() -> None:
            at = Bench(self, store)
            await store.open(at.clock)
            assert await at.pending() == ["1"]
            assert (await store.load("a")).properties == {"n": b"1"}
            await store.close()

        asyncio.run(write())
        asyncio.run(read())

    def test_closing_twice_or_before_opening_is_no_error(self) -> None:
        """There is nothing to let go of then."""

        async def run(store: Store) -> None:
            await store.close()
            at = Bench(self, store)
            assert await store.open(at.clock)
            await at.write(n=b"1")
            await store.close()
            await store.close()
            assert await store.open(at.clock)
            assert await at.names() == ["a"]
            await store.close()

        asyncio.run(run(self.make_store()))

    @on_store(partitions=3)
    async def test_closing_keeps_everything(self, at: Bench) -> None:
        """Every list and every count is the same afterwards."""
        for number, name in enumerate("abcdef"):
            await at.store.append(at.partition(name), [event(str(number), name)])
            await at.ok(
                name,
                write=SubjectWrite(set={"n": b"1"}, set_ext={"x": b"2"}, schema=number + 1),
                timers=[at.timer("t", at.after(1), name)],
                retries=[retry(event(str(number), name)), retry(event(str(number), name), "r.g", parked=True)],
                dead=[letter(str(number))],
            )
        before = await at.dump()
        for _ in range(2):
            await at.reopen()
            assert await at.dump() == before

    @on_store(partitions=3)
    async def test_stats_count_what_there_is(self, at: Bench) -> None:
        """Of all partitions together; parked retries apart; and since when the oldest pending event waits."""
        nothing = StoreStats(subjects=0, pending=0, timers=0, retries=0, parked=0, dead=0, oldest=None)
        assert await at.store.stats() == nothing
        accepted: list[tuple[str, Accepted]] = []
        moments = []
        for name in "abcd":
            accepted += [(name, answer) for answer in await at.store.append(at.partition(name), [event(name, name)])]
            await at.write(name, n=b"1")
            moments.append((await at.log(at.partition(name)))[-1].accepted)
            await at.step()
        waiting = [retry(event(str(number)), parked=number < 2) for number in range(5)]
        await at.ok(timers=[at.timer("t", at.after(99))], retries=waiting, dead=[letter("1"), letter("2"), letter("3")])
        expected = StoreStats(subjects=4, pending=4, timers=1, retries=3, parked=2, dead=3, oldest=moments[0])
        assert await at.store.stats() == expected
        await at.reopen()
        assert await at.store.stats() == expected
        for (name, answer), oldest in zip(accepted, [*moments[1:], None], strict=True):
            await at.ok(name, handled=answer.position)
            assert (await at.store.stats()).oldest == oldest
            await at.remove(name)
        await at.ok(cancel_all=True, retried=waiting[0].key)
        await at.ok(retried=waiting[4].key, revived=["2"])
        await at.store.discard("1")
        assert await at.store.stats() == StoreStats(subjects=0, pending=0, timers=0, retries=2, parked=1, dead=1)


class ConcurrencyContract(StoreCase):
    """Many calls at a time, and calls that nobody waits for any more."""

    @on_store()
    async def test_one_of_many_commits_on_a_version_is_stored(self, at: Bench) -> None:
        """A hundred that have loaded the same state: the others are conflicts."""
        for _ in range(3):
            version = (await at.store.load("a")).version
            writes = [SubjectWrite(set={"n": b"%d" % number}) for number in range(100)]
            results = await asyncio.gather(*(at.commit(version=version, write=write) for write in writes))
            (winner,) = [number for number, result in enumerate(results) if result.answer is Answer.OK]
            assert Counter(result.answer for result in results) == {Answer.OK: 1, Answer.CONFLICT: 99}
            record = await at.store.load("a")
            assert record.properties == writes[winner].set
            assert record.version == results[winner].version

    @on_store()
    async def test_one_of_many_commits_handles_an_event(self, at: Bench) -> None:
        """The same for what was retried, revived, or has an id: the others are DONE, each without effect."""
        (accepted,) = await at.accept("1")
        await at.ok(retries=[retry(event("1"))], dead=[letter("d")])
        for once in (
            {"handled": accepted.position},
            {"retried": retry(event("1")).key},
            {"revived": ["d"]},
            {"id": "x"},
        ):
            sent = [[event(f"{next(iter(once))}{number}")] for number in range(50)]
            before = await at.pending()
            results = await asyncio.gather(*(at.commit(messages=messages, version=None, **once) for messages in sent))
            assert Counter(result.answer for result in results) == {Answer.OK: 1, Answer.DONE: 49}
            (winner,) = [number for number, result in enumerate(results) if result.answer is Answer.OK]
            left = [id for id in before if not (once.get("handled") and id == "1")]
            assert await at.pending() == [*left, sent[winner][0].id]

    @on_store()
    async def test_one_of_many_appends_accepts_an_event(self, at: Bench) -> None:
        """All of them are told where it stands."""
        answers = await asyncio.gather(*(at.accept("1") for _ in range(100)))
        assert sum(answer.is_new for (answer,) in answers) == 1
        assert len({answer.position for (answer,) in answers}) == 1
        assert await at.pending() == ["1"]

    @on_store()
    async def test_calls_take_effect_in_the_order_in_which_they_are_made(self, at: Bench) -> None:
        """Whoever appends to a log, with `append` or with messages of a commit, does not wait for those before."""
        calls: list[Awaitable[object]] = []
        for number in range(0, 200, 2):
            calls.append(at.accept(str(number)))
            calls.append(at.commit(f"s{number}", version=None, messages=[event(str(number + 1))]))
        await asyncio.gather(*calls)
        assert await at.pending() == [str(number) for number in range(200)]

    @on_store(partitions=4)
    async def test_many_subjects_are_committed_at_once(self, at: Bench) -> None:
        """Each commit has its own answer; refused ones do not hold up or spoil the others."""
        names = [f"s{number}" for number in range(400)]

        async def turn(number: int, name: str) -> Answer:
            (accepted,) = await at.store.append(at.partition(name), [event(str(number), name)])
            version = "moved" if number % 5 == 0 else None
            fields: dict[str, Any] = {"write": SubjectWrite(set={"n": b"%d" % number}), "version": version}
            result = await at.commit(name, handled=2**40 if number % 7 == 0 else accepted.position, **fields)
            record = await at.store.load(name)
            assert record.version == result.version
            return result.answer

        answers = await asyncio.gather(*(turn(number, name) for number, name in enumerate(names)))
        for number, answer in enumerate(answers):
            expected = Answer.DONE if number % 7 == 0 else Answer.CONFLICT if number % 5 == 0 else Answer.OK
            assert answer is expected
        stored = sorted(name for name, answer in zip(names, answers, strict=True) if answer is Answer.OK)
        assert await at.names() == stored
        assert (await at.store.stats()).pending == len(names) - len(stored)

    @pytest.mark.parametrize("trips", [0, 1, 2, 5])
    @pytest.mark.parametrize("call", _CALLS)
    @on_store()
    async def test_a_call_may_be_cancelled(self, at: Bench, call: str, trips: int) -> None:
        """It has taken effect as a whole or not at all, and the store goes on."""
        (accepted,) = await at.accept("0")
        await at.ok(dead=[letter("d")], timers=[at.timer("due", at.now())], retries=[retry(event("0"))])
        before = [*await at.dump(), await at.store.bookmark(0, "file")]
        makers: dict[str, Callable[[], Awaitable[Any]]] = {
            "append": lambda: at.store.append(0, [event("1"), event("2")], {"file": "2"}),
            "bookmark": lambda: at.store.bookmark(0, "file"),
            "starting": lambda: at.store.starting(0, {accepted.position or 0: 1, retry(event("0")).key: 1}),
            "read": lambda: at.store.read(0, None, 9),
            "load": lambda: at.store.load("a"),
            "commit": lambda: at.commit(
                version=None,
                id="x",
                write=SubjectWrite(set={"n": b"1"}),
                dead=[letter("e")],
                explanation=explained("x"),
            ),
            "promote": at.promote,
            "dead_letter": lambda: at.store.dead_letter("d"),
            "discard": lambda: at.store.discard("d"),
            "stats": at.store.stats,
        }
        task = asyncio.ensure_future(makers[call]())
        for _ in range(trips):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await at.write("other", n=b"1")  # what comes later stands behind what was cancelled
        await at.remove("other")
        found = [*await at.dump(), await at.store.bookmark(0, "file")]
        assert task.cancelled() or task.exception() is None
        await makers[call]()
        done = [*await at.dump(), await at.store.bookmark(0, "file")]
        assert found in (before, done)
        assert (done == before) is (call in {"bookmark", "read", "load", "dead_letter", "stats"})
