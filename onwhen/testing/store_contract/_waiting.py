"""Retries that wait or are parked, dead letters, and the history of subjects."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from onwhen.engine.events import Event
from onwhen.engine.store import Answer, Failure, HistoryEntry, SubjectWrite, key_of
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, letter, listed, on_store, retry

__all__ = ["HistoryContract", "LetterContract", "RetryContract"]

_ODD = Failure(type="x.Y", message="é\0\u2028\U0001f600'\"", traceback="x" * 100_000)


class RetryContract(StoreCase):
    """Rules that failed and wait to be run again."""

    @on_store()
    async def test_retries_are_listed_earliest_due_first(self, at: Bench) -> None:
        """Equal ones in the order set, parked ones among them; each as it was set."""
        several = [
            retry(event("1"), due=at.after(2)),
            retry(event("1"), "r.g", due=at.after(1), parked=True, in_order=False, first_attempt=4, attempt=6),
            retry(event("1", source="/other"), due=at.after(2), parked=True),
            retry(event("2", "b"), "", due=at.after(1), starts=2),
            retry(Event("t", "a", {"n": 2**70}, id="3"), due=datetime.max.replace(tzinfo=UTC)),
        ]
        await at.ok(retries=several)
        for _ in range(2):
            assert await at.retries() == [several[1], several[3], several[0], several[2], several[4]]
            await at.reopen()

    @on_store()
    async def test_at_most_one_retry_waits_for_an_attempt(self, at: Bench) -> None:
        """A later one takes its place, and is the last of those that are due with it."""
        await at.ok(retries=[retry(event("1")), retry(event("2")), retry(event("3"))])
        later = retry(event("1"), parked=True)
        await at.ok(retries=[later])
        assert await at.retries() == [retry(event("2")), retry(event("3")), later]

    @on_store()
    async def test_a_retry_may_set_the_next_one(self, at: Bench) -> None:
        """The next attempt takes the place of the one that failed; a second time this is done already."""
        failed, again = retry(event("1")), retry(event("1"), due=at.after(1), attempt=3)
        await at.ok(retries=[failed, retry(event("2"))])
        await at.ok(retried=failed.key, retries=[again])
        assert await at.retries() == [retry(event("2")), again]
        assert (await at.commit(retried=failed.key, retries=[again])).answer is Answer.DONE
        await at.ok(retried=again.key)
        assert await at.retries() == [retry(event("2"))]

    @on_store()
    async def test_a_retry_may_be_set_again_by_the_commit_that_took_it_away(self, at: Bench) -> None:
        """One that was parked waits to be run now."""
        parked = retry(event("1"), parked=True)
        await at.ok(retries=[parked])
        await at.ok(retried=parked.key, retries=[retry(event("1"), due=at.after(1))])
        assert await at.retries() == [retry(event("1"), due=at.after(1))]

    @on_store()
    async def test_a_retry_is_run_by_its_key(self, at: Bench) -> None:
        """That of its event's source and id, of its rule and of its attempt, and no other."""
        several = [
            retry(event("1")),
            retry(event("1"), "r.g"),
            retry(event("1", source="/other")),
            retry(event("1"), attempt=3),
        ]
        await at.ok(retries=several)
        assert [waiting.key for waiting in await at.retries()] == [
            key_of(one.event, one.rule, one.attempt) for one in several
        ]
        await at.ok(retried=several[1].key)
        assert await at.retries() == [several[0], *several[2:]]

    @on_store(partitions=2)
    async def test_retries_belong_to_a_partition(self, at: Bench) -> None:
        """That of their subject."""
        other = next(name for name in "bcdefgh" if at.partition(name) != at.partition("a"))
        await at.ok("a", retries=[retry(event("1"))])
        await at.ok(other, retries=[retry(event("1", other, source="/other"))])
        assert [waiting.subject for waiting in await at.retries(at.partition("a"))] == ["a"]
        assert [waiting.subject for waiting in await at.retries(at.partition(other))] == [other]

    @on_store()
    async def test_errors_are_kept_as_they_are(self, at: Bench) -> None:
        """Whatever text is in them, and however long it is; a traceback as well."""
        first = datetime(1, 1, 1, tzinfo=UTC)
        waiting = retry(event("1"), "a rule's é%", first_failed=first, failure=_ODD)
        waiting = type(waiting)(
            **{name: getattr(waiting, name) for name in waiting.__struct_fields__} | {"failure": _ODD}
        )
        dead = letter("1", rule="", failure=_ODD, first_failed=first, time=datetime.max.replace(tzinfo=UTC))
        await at.ok(retries=[waiting], dead=[dead])
        await at.reopen()
        assert await at.retries() == [waiting]
        assert await at.store.dead_letter("1") == dead

    @on_store()
    async def test_retries_may_come_and_go_while_they_are_listed(self, at: Bench) -> None:
        """Those that are there all the time are listed once, in order."""
        await at.ok(retries=[retry(event(f"{n:04}"), due=at.after(1)) for n in range(600)])
        seen: list[str] = []
        async for waiting in at.store.retries(0):
            if len(seen) % 50 == 0:
                n = len(seen) // 50
                await at.ok(
                    retried=retry(event(f"{599 - n:04}")).key, retries=[retry(event(f"new{n}"), due=at.after(1))]
                )
            seen.append(waiting.event.id)
        old = [id for id in seen if not id.startswith("new")]
        assert old == sorted(set(old))
        assert {f"{n:04}" for n in range(588)} <= set(old)


class LetterContract(StoreCase):
    """Dead letters."""

    @on_store(partitions=3)
    async def test_dead_letters_are_listed_oldest_first(self, at: Bench) -> None:
        """In the order in which they were set aside, of all partitions; and found by id."""
        letters = [letter(id, event(id, subject)) for id, subject in zip("cabd", "abcd", strict=True)]
        for one in letters:
            await at.ok(one.subject, dead=[one])
        for _ in range(2):
            assert await listed(at.store.dead_letters()) == letters
            assert await at.store.dead_letter("b") == letters[2]
            assert await at.store.dead_letter("x") is None
            await at.reopen()

    @on_store()
    async def test_a_dead_letter_is_discarded_once(self, at: Bench) -> None:
        """It is gone for good; one that is not there is no error."""
        await at.ok(dead=[letter("1"), letter("2")])
        assert await at.store.discard("1") is True
        assert await at.store.discard("1") is False
        assert await at.store.dead_letter("1") is None
        await at.reopen()
        assert await at.letters() == ["2"]
        assert (await at.commit(revived=["1"])).answer.value == "done"

    @on_store()
    async def test_a_dead_letter_takes_the_place_of_the_one_of_its_id(self, at: Bench) -> None:
        """It is the youngest then; so is one that was revived and is set aside again, by the same commit too."""
        await at.ok(dead=[letter("1"), letter("2"), letter("3")])
        await at.ok(dead=[letter("1", attempts=4)])
        assert await listed(at.store.dead_letters()) == [letter("2"), letter("3"), letter("1", attempts=4)]
        await at.ok(revived=["2"], dead=[letter("2", attempts=5)])
        assert await at.letters() == ["3", "1", "2"]
        assert await at.store.dead_letter("2") == letter("2", attempts=5)

    @on_store()
    async def test_dead_letters_may_come_and_go_while_they_are_listed(self, at: Bench) -> None:
        """Those that are there all the time are listed once, in order."""
        await at.ok(dead=[letter(f"{n:04}") for n in range(600)])
        seen: list[str] = []
        async for dead in at.store.dead_letters():
            if len(seen) % 50 == 0:
                n = len(seen) // 50
                await at.store.discard(f"{599 - n:04}")
                await at.ok(dead=[letter(f"new{n}")])
            seen.append(dead.id)
        old = [id for id in seen if not id.startswith("new")]
        assert old == sorted(set(old))
        assert {f"{n:04}" for n in range(588)} <= set(old)


class HistoryContract(StoreCase):
    """What was done to subjects, for stores that are asked to keep it."""

    @on_store()
    async def test_no_history_is_kept_unless_it_is_asked_for(self, at: Bench) -> None:
        """The default is none."""
        await at.write(n=b"1")
        assert await listed(at.store.history("a")) == []

    @on_store(history=100)
    async def test_history_says_what_was_done(self, at: Bench) -> None:
        """When, for which event and rule, and what was changed; latest first, and of this subject only."""
        write = SubjectWrite(set={"n": b"1"}, delete=["m"], set_ext={"x": b"[]"}, delete_ext=["y"], schema=2)
        (accepted,) = await at.accept("1")
        await at.ok(handled=accepted.position, write=write, retries=[retry(event("2")), retry(event("3"), "")])
        await at.step()
        await at.ok(retried=retry(event("2")).key, write=SubjectWrite(set={"n": b"2"}))
        await at.ok(retried=retry(event("3"), "").key)
        await at.write("b", n=b"3")
        await at.step()
        await at.write(n=b"4")
        expected = [
            HistoryEntry(time=at.after(2), subject="a", write=SubjectWrite(set={"n": b"4"})),
            HistoryEntry(time=at.after(1), subject="a", event=event("3")),
            HistoryEntry(
                time=at.after(1), subject="a", event=event("2"), rule="r.f", write=SubjectWrite(set={"n": b"2"})
            ),
            HistoryEntry(time=at.after(0), subject="a", event=event("1"), write=write),
        ]
        for _ in range(2):
            found = await listed(at.store.history("a"))
            assert [_facts(entry) for entry in found] == [_facts(entry) for entry in expected]
            for entry, other in zip(found, expected, strict=True):
                assert timedelta(0) <= entry.time - other.time < at.case.step
            assert [_facts(entry) for entry in await listed(at.store.history("b"))] == [
                (None, "", {"set": {"n": b"3"}})
            ]
            assert await listed(at.store.history("c")) == []
            await at.reopen()

    @on_store(history=100)
    async def test_what_was_refused_is_not_history(self, at: Bench) -> None:
        """DONE and CONFLICT leave nothing."""
        await at.ok(id="x", write=SubjectWrite(set={"n": b"1"}))
        await at.commit(id="x", write=SubjectWrite(set={"n": b"2"}))
        await at.commit(version="moved", write=SubjectWrite(set={"n": b"3"}))
        assert [_facts(entry) for entry in await listed(at.store.history("a"))] == [(None, "", {"set": {"n": b"1"}})]

    @on_store(history=3)
    async def test_history_keeps_the_latest_of_all_subjects(self, at: Bench) -> None:
        """So many entries together, however they are spread, before and after the store was closed."""
        for number, name in enumerate("aabbab"):
            await at.write(name, n=b"%d" % number)
            if number == 4:
                await at.reopen()
        written = [entry.write for name in "ab" for entry in await listed(at.store.history(name))]
        assert [write.set["n"] for write in written if write is not None] == [b"4", b"5", b"3"]

    @on_store(history=10)
    async def test_history_outlives_its_subject(self, at: Bench) -> None:
        """Its removal is in it too."""
        await at.write(n=b"1")
        await at.remove()
        await at.write(n=b"2")
        removals = [entry.write.remove for entry in await listed(at.store.history("a")) if entry.write is not None]
        assert removals == [False, True, False]

    @on_store(history=700)
    async def test_a_long_history_is_listed_while_it_grows(self, at: Bench) -> None:
        """Latest first, each entry once."""
        accepted = await at.accept(*(str(number) for number in range(650)))
        await asyncio.gather(*(at.ok(handled=answer.position) for answer in accepted))
        seen: list[int] = []
        async for entry in at.store.history("a"):
            if len(seen) < 40:
                await at.write("b", n=b"0")
            assert entry.event is not None
            seen.append(int(entry.event.id))
        assert seen == list(range(649, -1, -1))


def _facts(entry: HistoryEntry) -> tuple[object, ...]:
    """Return what has to be the same, whatever sequence and mapping types a store makes."""
    if entry.write is None:
        return entry.event, entry.rule, None
    fields = {name: getattr(entry.write, name) for name in entry.write.__struct_fields__}
    kept = {name: list(value) if name.startswith("delete") else value for name, value in fields.items()}
    defaults = {"set": {}, "delete": [], "set_ext": {}, "delete_ext": [], "schema": 1, "remove": False}
    return entry.event, entry.rule, {name: value for name, value in kept.items() if value != defaults[name]}
