"""The commit: all of it or nothing, its four answers, versions, messages, and what it takes away."""

from __future__ import annotations

from typing import Any, Final

import pytest

from onwhen.engine.store import Answer, CommitResult, StoreStats, SubjectWrite
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, letter, listed, on_store, retry

__all__ = ["CommitContract"]

_WRITE: Final = SubjectWrite(set={"n": b"2", "m": b"3"}, delete=["gone"], set_ext={"by": b'"me"'}, schema=3)


async def _filled(at: Bench) -> dict[str, Any]:
    """Fill a store, and return one commit's fields of which each takes something away or puts something in."""
    await at.ok(
        write=SubjectWrite(set={"n": b"1", "gone": b"1"}, set_ext={"old": b"1"}),
        timers=[at.timer("kept", at.after(1)), at.timer("cancelled", at.after(1))],
        retries=[retry(event("waiting"))],
        dead=[letter("old"), letter("older")],
    )
    (accepted,) = await at.accept("1")
    return {
        "handled": accepted.position,
        "retried": retry(event("waiting")).key,
        "write": _WRITE,
        "messages": [event("sent"), event("sent too", "b")],
        "timers": [at.timer("set", at.after(2))],
        "cancelled": ["cancelled"],
        "retries": [retry(event("again"))],
        "dead": [letter("new")],
        "revived": ["old"],
    }


async def _refused(at: Bench, **fields: Any) -> Answer:
    """Commit with everything in it that can be stored, and return an answer that stored nothing."""
    before = await at.dump()
    everything: dict[str, Any] = {
        "write": SubjectWrite(set={"bad": b"1"}),
        "messages": [event("bad")],
        "timers": [at.timer("bad", at.after(9))],
        "cancel_all": True,
        "retries": [retry(event("bad"))],
        "dead": [letter("bad")],
    }
    result = await at.commit(**(everything | fields))
    assert (result.version, list(result.appended)) == (None, [])
    assert await at.dump() == before
    return result.answer


class CommitContract(StoreCase):
    """The commit of one turn."""

    # -- all of it

    @on_store()
    async def test_all_of_a_commit_is_stored(self, at: Bench) -> None:
        """What it takes away is gone, what it puts in is there; also after the store was closed."""
        result = await at.ok(**await _filled(at))
        for _ in range(2):
            record = await at.store.load("a")
            assert (record.properties, record.ext) == ({"n": b"2", "m": b"3"}, {"old": b"1", "by": b'"me"'})
            assert (record.version, record.schema) == (result.version, 3)
            entries = await at.log()
            assert [entry.event for entry in entries] == [event("sent"), event("sent too", "b")]
            assert [entry.position for entry in entries] == list(result.appended)
            assert await at.timers() == [("a", "kept"), ("a", "set")]
            assert await at.retries() == [retry(event("again"))]
            assert await listed(at.store.dead_letters()) == [letter("older"), letter("new")]
            stats = await at.store.stats()
            expected = StoreStats(subjects=1, pending=2, timers=2, retries=1, parked=0, dead=2, oldest=stats.oldest)
            assert stats == expected
            await at.reopen()

    @pytest.mark.parametrize(
        "field", ["handled", "retried", "write", "messages", "timers", "cancelled", "retries", "dead", "revived"]
    )
    @on_store()
    async def test_each_part_of_a_commit_may_stand_alone(self, at: Bench, field: str) -> None:
        """It does what it says, and nothing besides."""
        fields = await _filled(at)
        before, record = await at.store.stats(), await at.store.load("a")
        result = await at.ok(**{field: fields[field]})
        stats = await at.store.stats()
        changes: dict[str, dict[str, Any]] = {
            "handled": {"pending": 0, "oldest": None},
            "retried": {"retries": 0},
            "messages": {"pending": 3},
            "timers": {"timers": 3},
            "cancelled": {"timers": 1},
            "retries": {"retries": 2},
            "dead": {"dead": 3},
            "revived": {"dead": 1},
        }
        assert _as_dict(stats) == _as_dict(before) | changes.get(field, {})
        after = await at.store.load("a")
        assert len(result.appended) == (2 if field == "messages" else 0)
        assert result.version == after.version
        assert (after.version == record.version) is (field != "write")
        assert (after == record) is (field != "write")

    @on_store()
    async def test_a_commit_of_nothing_is_stored(self, at: Bench) -> None:
        """It checks the version, and answers OK with it; a subject that is not stored is not made."""
        assert await at.commit() == CommitResult(Answer.OK, None)
        assert await at.names() == []
        written = await at.write(n=b"1")
        assert await at.commit() == CommitResult(Answer.OK, written.version)

    # -- the answers

    @on_store()
    async def test_a_version_that_has_moved_is_a_conflict(self, at: Bench) -> None:
        """Nothing is stored, and what was to be handled is pending still; the version that is stored is let through."""
        (accepted,) = await at.accept("1")
        first = await at.write(n=b"1")
        second = await at.write(n=b"2")
        for version in (None, first.version, "other", 0, -1):
            assert await _refused(at, version=version, handled=accepted.position) is Answer.CONFLICT
            assert (await at.commit(version=version)).answer is Answer.CONFLICT
        await at.ok(version=second.version, handled=accepted.position)

    @on_store()
    async def test_a_subject_that_is_not_stored_has_no_version(self, at: Bench) -> None:
        """A commit that has seen one is a conflict."""
        version = (await at.write(n=b"1")).version
        assert version is not None
        await at.remove()
        assert await _refused(at, version=version) is Answer.CONFLICT
        assert await _refused(at, version="other") is Answer.CONFLICT
        await at.ok(version=None, write=_WRITE)

    @on_store()
    async def test_versions_are_never_used_again(self, at: Bench) -> None:
        """Not by the same subject, nor after it was removed and made again, nor after the store was closed."""
        seen = []
        for number in range(6):
            seen += [(await at.write(n=b"1")).version for _ in range(3)]
            assert (await at.remove()).version is None
            if number > 2:
                await at.reopen()
        assert None not in seen
        assert len(set(seen)) == 18
        await at.write(n=b"1")
        for version in seen:
            assert (await at.commit(version=version)).answer is Answer.CONFLICT

    @on_store()
    async def test_what_is_done_is_not_done_again(self, at: Bench) -> None:
        """An event that was handled, a retry that was run, a dead letter that was revived, an id that was used."""
        (accepted,) = await at.accept("1")
        waiting = retry(event("1"))
        await at.ok(retries=[waiting], dead=[letter("d"), letter("kept")])
        await at.ok(handled=accepted.position)
        await at.ok(retried=waiting.key)
        await at.ok(revived=["d"])
        await at.ok(id="once")
        for _ in range(2):
            for done in ({"handled": accepted.position}, {"retried": waiting.key}, {"revived": ["d"]}, {"id": "once"}):
                assert await _refused(at, **done) is Answer.DONE
            await at.reopen()

    @on_store()
    async def test_what_never_was_is_done(self, at: Bench) -> None:
        """A position, a retry or a dead letter that the store knows nothing of."""
        for unknown in ({"handled": 2**40}, {"retried": "0" * 32}, {"revived": ["never"]}):
            assert await _refused(at, **unknown) is Answer.DONE

    @on_store()
    async def test_done_is_checked_before_the_version(self, at: Bench) -> None:
        """Somebody who asks again after a lost reply is told DONE, though the version has moved: by that very call."""
        (accepted,) = await at.accept("1")
        await at.ok(retries=[retry(event("1"))], dead=[letter("d")])
        for once in (
            {"handled": accepted.position},
            {"retried": retry(event("1")).key},
            {"revived": ["d"]},
            {"id": "x"},
        ):
            fields: dict[str, Any] = {"version": (await at.store.load("a")).version, "write": _WRITE, **once}
            assert (await at.commit(**fields)).answer is Answer.OK
            assert (await at.commit(**fields)).answer is Answer.DONE

    @on_store()
    async def test_all_that_is_taken_away_has_to_be_there(self, at: Bench) -> None:
        """If one thing is gone the commit is DONE, and the others stay."""
        one, two = await at.accept("1", "2")
        await at.ok(retries=[retry(event("1"))], dead=[letter("d"), letter("e")])
        await at.ok(handled=two.position, id="x")
        there: dict[str, Any] = {"handled": one.position, "retried": retry(event("1")).key, "revived": ["d", "e"]}
        for gone in ({"handled": two.position}, {"retried": "0" * 32}, {"revived": ["d", "gone"]}, {"id": "x"}):
            assert await _refused(at, **(there | gone)) is Answer.DONE
        await at.ok(**there)

    @on_store(dedup_window=3)
    async def test_ids_of_commits_are_remembered_within_the_window(self, at: Bench) -> None:
        """They and the accepted events share it; one does not stand for the other."""
        await at.ok(id="1")
        assert [answer.is_new for answer in await at.accept("1", "2")] == [True, True]
        assert (await at.commit(id="1")).answer is Answer.DONE
        await at.reopen()
        assert (await at.commit(id="1")).answer is Answer.DONE
        await at.ok(id="2")
        await at.ok(id="1")
        assert [answer.is_new for answer in await at.accept("2", "1")] == [False, True]
        assert (await at.commit(id="2")).answer is Answer.DONE

    @on_store()
    async def test_a_commit_that_is_refused_uses_no_id_up(self, at: Bench) -> None:
        """It may be sent again with another version; other ids are other commits."""
        await at.write(n=b"1")
        assert (await at.commit(version=None, id="x")).answer is Answer.CONFLICT
        await at.ok(id="x")
        await at.ok(id="y")
        await at.ok(id="X")

    # -- messages

    @on_store()
    async def test_messages_stand_behind_what_was_accepted(self, at: Bench) -> None:
        """In their order, each at the position that the answer names."""
        await at.accept("1")
        result = await at.ok(messages=[event("3"), event("2"), event("4", "b")])
        await at.accept("5")
        assert await at.pending() == ["1", "3", "2", "4", "5"]
        assert [entry.position for entry in (await at.log())[1:4]] == list(result.appended)

    @on_store(partitions=4)
    async def test_messages_go_to_the_partition_of_their_subject(self, at: Bench) -> None:
        """Each is found there, once; the answer names its position, unless it is under way."""
        names = [f"s{number}" for number in range(12)]
        result = await at.ok(messages=[event(f"to {name}", name) for name in names])
        await at.relay()
        assert len(result.appended) == len(names)
        for name, position in zip(names, result.appended, strict=True):
            (found,) = [entry for entry in await at.log(at.partition(name)) if entry.event.subject == name]
            assert found.event.id == f"to {name}"
            assert position in (None, found.position)
            assert position is not None or at.partition(name) != at.partition("a")
        assert (await at.store.stats()).pending == len(names)

    @on_store()
    async def test_many_things_in_one_commit(self, at: Bench) -> None:
        """A thousand of each, in order."""
        numbers = range(1000)
        result = await at.ok(
            write=SubjectWrite(set={f"p{number}": b"%d" % number for number in numbers}),
            messages=[event(f"m{number}") for number in numbers],
            timers=[at.timer(f"t{number}", at.after(1)) for number in numbers],
            retries=[retry(event(f"r{number}")) for number in numbers],
            dead=[letter(f"d{number}") for number in numbers],
        )
        assert await at.pending() == [f"m{number}" for number in numbers]
        assert [entry.position for entry in await at.log()] == list(result.appended)
        assert await at.timers() == [("a", f"t{number}") for number in numbers]
        assert [waiting.event.id for waiting in await at.retries()] == [f"r{number}" for number in numbers]
        assert await at.letters() == [f"d{number}" for number in numbers]
        await at.ok(
            write=SubjectWrite(delete=[f"p{number}" for number in numbers if number]),
            cancelled=[f"t{number}" for number in numbers if number],
            revived=[f"d{number}" for number in numbers if number],
        )
        assert (await at.store.load("a")).properties == {"p0": b"0"}
        assert (await at.timers(), await at.letters()) == ([("a", "t0")], ["d0"])


def _as_dict(stats: StoreStats) -> dict[str, Any]:
    return {name: getattr(stats, name) for name in stats.__struct_fields__}
