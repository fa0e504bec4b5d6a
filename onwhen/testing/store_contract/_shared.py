"""Owning partitions: tokens, leases by the store's clock, what is fenced, and when an owner has to look."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, Final

import pytest

from onwhen.engine.shared import Acquired, SharedStore, is_shared
from onwhen.engine.store import Answer, Position, SubjectWrite
from onwhen.testing.store_contract._bench import Bench, StoreCase, event, explained, letter, on_store, retry

__all__ = ["LONG", "OwnershipContract", "shared"]

LONG: Final = 864_000.0
"""A lease that does not run out while a test is at work (seconds)."""


def shared(at: Bench) -> SharedStore:
    """Return the store, which several processes may share."""
    assert is_shared(at.store)
    return at.store


async def _take(at: Bench, token: str = "t1", partition: int = 0, lease: float = LONG) -> Acquired:
    acquired = await shared(at).acquire(partition, token, "w1", lease)
    assert acquired is not None
    return acquired


async def _touched(at: Bench, token: str = "t1", partition: int = 0) -> int:
    return (await shared(at).renew({partition: token}, LONG))[partition].touched


async def _everything(at: Bench) -> dict[str, Any]:
    """Return the fields of a commit that handles an event, and does everything else that a commit can do."""
    (accepted,) = await at.accept("handled")
    return {
        "handled": accepted.position,
        "write": SubjectWrite(set={"n": b"1"}),
        "messages": [event("sent")],
        "timers": [at.timer("t", at.after(9))],
        "retries": [retry(event("again"))],
        "dead": [letter("d")],
        "explanation": explained("handled"),
    }


class OwnershipContract(StoreCase):
    """Who owns a partition."""

    # -- taken and given back

    @on_store(partitions=2)
    async def test_a_partition_that_nobody_has_owned_is_taken(self, at: Bench) -> None:
        """There is nothing to be afraid of; each partition by itself."""
        assert (await _take(at, "t1", 0)).was_released
        assert (await _take(at, "t2", 1)).was_released

    @on_store()
    async def test_what_somebody_owns_is_not_taken(self, at: Bench) -> None:
        """Not by others, and not by its owner with another token; it stays as it was."""
        await _take(at)
        assert await shared(at).acquire(0, "t2", "w2", LONG) is None
        assert await shared(at).acquire(0, "t2", "w1", LONG) is None
        await at.ok(token="t1")

    @on_store()
    async def test_acquiring_is_done_once_per_token(self, at: Bench) -> None:
        """Who asks again after a lost reply is told what he would have been told."""
        for token, before in (("t1", True), ("t2", False), ("t3", True)):
            first = await _take(at, token, lease=_short(at))
            assert first.was_released is before
            assert await _take(at, token, lease=_short(at)) == first
            if before:
                await at.step(3)
            else:
                await shared(at).release(0, token)

    @on_store()
    async def test_one_of_many_takes_a_partition(self, at: Bench) -> None:
        """The others are told that somebody else has it."""
        answers = await asyncio.gather(*(shared(at).acquire(0, f"t{n}", f"w{n}", LONG) for n in range(50)))
        (winner,) = [number for number, answer in enumerate(answers) if answer is not None]
        for number in range(50):
            result = await at.commit(token=f"t{number}")
            assert (result.answer is Answer.OK) is (number == winner)

    @on_store(partitions=2)
    async def test_a_partition_that_is_released_is_free(self, at: Bench) -> None:
        """At once, and whoever takes it knows that it was handed over; only its token releases it, and once."""
        await _take(at, "t1", 0)
        await _take(at, "t1", 1)
        assert await shared(at).release(0, "t2") is False
        assert await shared(at).acquire(0, "t2", "w2", LONG) is None
        assert await shared(at).release(0, "t1") is True
        assert await shared(at).release(0, "t1") is False
        assert (await _take(at, "t2", 0)).was_released
        assert await shared(at).release(0, "t1") is False
        assert await shared(at).acquire(1, "t2", "w2", LONG) is None

    @on_store()
    async def test_releasing_what_nobody_owns_is_no_error(self, at: Bench) -> None:
        """It was not owned with this token."""
        assert await shared(at).release(0, "t1") is False

    # -- leases

    @on_store()
    async def test_a_lease_runs_out(self, at: Bench) -> None:
        """By the store's clock; whoever takes the partition then knows that it was not handed over."""
        await _take(at, lease=_short(at))
        await at.step(3)
        acquired = await _take(at, "t2")
        assert not acquired.was_released
        assert await shared(at).acquire(0, "t1", "w1", LONG) is None

    @on_store()
    async def test_whoever_released_before_is_forgotten(self, at: Bench) -> None:
        """Only the latest owner counts: one that was killed after an orderly one was not orderly."""
        await _take(at)
        await shared(at).release(0, "t1")
        await _take(at, "t2", lease=_short(at))
        await at.step(3)
        assert not (await _take(at, "t3")).was_released

    @on_store(partitions=3)
    async def test_a_lease_that_is_renewed_goes_on(self, at: Bench) -> None:
        """From the moment of the call on; the others run out."""
        await _take(at, "t0", 0, _short(at))
        await _take(at, "t1", 1, _short(at))
        assert set(await shared(at).renew({0: "t0"}, LONG)) == {0}
        await at.step(3)
        assert await shared(at).acquire(0, "t9", "w9", LONG) is None
        assert await shared(at).acquire(1, "t9", "w9", LONG) is not None

    @on_store(partitions=4)
    async def test_renewing_tells_what_is_lost(self, at: Bench) -> None:
        """Taken by others, released, or never owned: none of these is in the answer, and none of them comes back."""
        for partition in range(3):
            await _take(at, f"t{partition}", partition, _short(at))
        await at.step(3)
        await _take(at, "t9", 1)
        await shared(at).release(2, "t2")
        tokens = {partition: f"t{partition}" for partition in range(4)}
        assert set(await shared(at).renew(tokens, LONG)) == {0}
        assert await shared(at).acquire(2, "t9", "w9", LONG) is not None
        assert await shared(at).acquire(3, "t9", "w9", LONG) is not None
        assert dict(await shared(at).renew({}, LONG)) == {}

    @on_store()
    async def test_a_lease_that_has_run_out_is_renewed_if_nobody_came(self, at: Bench) -> None:
        """The token is the partition's still, so nothing has happened in between."""
        await _take(at, lease=_short(at))
        await at.step(3)
        assert set(await shared(at).renew({0: "t1"}, LONG)) == {0}
        assert await shared(at).acquire(0, "t2", "w2", LONG) is None

    @on_store()
    async def test_acquiring_again_makes_the_lease_run_again(self, at: Bench) -> None:
        """Who is told that he owns a partition has it for as long as he asked for."""
        await _take(at, lease=_short(at))
        await at.step(3)
        await _take(at)
        assert await shared(at).acquire(0, "t2", "w2", LONG) is None

    @on_store()
    async def test_owners_outlive_the_process_that_made_them(self, at: Bench) -> None:
        """Token and lease are in the store."""
        await _take(at)
        await at.reopen()
        assert await shared(at).acquire(0, "t2", "w2", LONG) is None
        await at.ok(token="t1")

    # -- the token, in a commit

    @on_store(partitions=2)
    async def test_a_commit_with_the_token_is_stored(self, at: Bench) -> None:
        """All of it."""
        await _take(at, partition=at.partition("a"))
        await at.ok(**await _everything(at), token="t1")
        stats = await at.store.stats()
        assert (stats.subjects, stats.timers, stats.retries, stats.dead) == (1, 1, 1, 1)
        assert await at.pending(at.partition("a")) == ["sent"]

    @on_store()
    async def test_a_lease_that_has_run_out_does_not_fence(self, at: Bench) -> None:
        """The token alone does: as long as nobody else has come, nobody is overtaken."""
        await _take(at, lease=_short(at))
        await at.step(3)
        await at.ok(**await _everything(at), token="t1")

    @pytest.mark.parametrize("how", ["never", "other", "released", "old", "expired", "again", "empty"])
    @on_store(partitions=2)
    async def test_a_commit_with_another_token_is_fenced(self, at: Bench, how: str) -> None:
        """Whatever became of the token that it has; nothing of it is stored."""
        partition = at.partition("a")
        await _take(at, "elsewhere", 1 - partition)
        if how != "never":
            await _take(at, "t1", partition, _short(at) if how == "expired" else LONG)
        if how in ("released", "old", "again"):
            await shared(at).release(partition, "t1")
        if how == "expired":
            await at.step(3)
        if how in ("old", "expired", "again"):
            await _take(at, "t2", partition)
        token = {"other": "elsewhere", "empty": ""}.get(how, "t1")
        fields = await _everything(at)
        before = await at.dump()
        for _ in range(2):
            result = await at.commit(**fields, token=token)
            assert (result.answer, result.version, list(result.appended)) == (Answer.FENCED, None, [])
        assert await at.dump() == before

    @on_store()
    async def test_fenced_is_checked_before_all_else(self, at: Bench) -> None:
        """Before what was handled, retried, revived or has an id, and before the version."""
        await at.ok(id="x")
        await at.write(n=b"1")
        await _take(at)
        for fields in ({"handled": 2**40}, {"retried": "0" * 32}, {"revived": ["no"]}, {"id": "x"}, {"version": "no"}):
            assert (await at.commit(**fields, token="t0")).answer is Answer.FENCED
            expected = Answer.CONFLICT if "version" in fields else Answer.DONE
            assert (await at.commit(**fields, token="t1")).answer is expected

    @on_store()
    async def test_a_commit_that_is_fenced_uses_nothing_up(self, at: Bench) -> None:
        """What it was about can be done by the owner."""
        await at.ok(retries=[retry(event("1"))], dead=[letter("d")])
        (accepted,) = await at.accept("1")
        await _take(at)
        once: dict[str, Any] = {"handled": accepted.position, "retried": retry(event("1")).key, "revived": ["d"]}
        assert (await at.commit(**once, id="x", token="t0")).answer is Answer.FENCED
        await at.ok(**once, id="x", token="t1")

    @on_store()
    async def test_who_owns_nothing_may_commit_without_a_token(self, at: Bench) -> None:
        """Whether somebody owns the partition or not; all else is checked as always."""
        for number in range(2):
            await at.ok(id=f"x{number}", write=SubjectWrite(set={"n": b"1"}))
            assert (await at.commit(id=f"x{number}")).answer is Answer.DONE
            assert (await at.commit(id="y", version="moved")).answer is Answer.CONFLICT
            await shared(at).acquire(0, "t1", "w1", LONG)
        await at.ok(token="t1")

    # -- whether the owner has to look

    @pytest.mark.parametrize("what", ["set", "taken", "parked", "replayed", "sent"])
    @on_store(partitions=2)
    async def test_what_others_do_to_retries_and_the_outbox_is_counted(self, at: Bench, what: str) -> None:
        """The owner learns of it when he renews, and a new one has the count from the beginning."""
        partition = at.partition("a")
        waiting = retry(event("1"))
        acquired = await _take(at, partition=partition)
        await at.ok(token="t1", retries=[waiting], dead=[letter("d")])
        assert await _touched(at, partition=partition) == acquired.touched
        elsewhere = next(name for name in "bcdefgh" if at.partition(name) != partition)
        fields: dict[str, dict[str, Any]] = {
            "set": {"id": "x", "retries": [retry(event("2"))]},
            "taken": {"retried": waiting.key},
            "parked": {"retried": waiting.key, "retries": [retry(event("1"), parked=True)]},
            "replayed": {"revived": ["d"], "retries": [retry(event("3"), attempt=4)]},
            "sent": {"id": "x", "messages": [event("far", elsewhere)]},
        }
        await at.ok(**fields[what])
        touched = await _touched(at, partition=partition)
        assert touched != acquired.touched
        assert await _touched(at, partition=partition) == touched
        await shared(at).release(partition, "t1")
        assert (await _take(at, "t2", partition)).touched == touched

    @on_store(partitions=2)
    async def test_timers_that_go_elsewhere_are_counted(self, at: Bench) -> None:
        """Whoever promotes them shows no token; so the owner finds them in the outbox, though an answer was lost."""
        partition = at.partition("a")
        elsewhere = next(name for name in "bcdefgh" if at.partition(name) != partition)
        acquired = await _take(at, partition=partition)
        await at.ok(token="t1", timers=[at.timer("k", at.after(1), "a", elsewhere)])
        await at.step(2)
        assert await _touched(at, partition=partition) == acquired.touched
        assert (await at.promote(partition)).elsewhere
        assert await _touched(at, partition=partition) != acquired.touched

    @on_store(partitions=2)
    async def test_the_owner_is_not_told_of_his_own_commits(self, at: Bench) -> None:
        """He knows them."""
        partition = at.partition("a")
        acquired = await _take(at, partition=partition)
        elsewhere = next(name for name in "bcdefgh" if at.partition(name) != partition)
        fields = await _everything(at)
        fields["messages"] = [event("near"), event("far", elsewhere)]
        await at.ok(**fields, token="t1")
        await at.ok(retried=retry(event("again")).key, token="t1")
        assert await _touched(at, partition=partition) == acquired.touched

    @on_store()
    async def test_what_is_refused_touches_nothing(self, at: Bench) -> None:
        """DONE, CONFLICT and FENCED store nothing, so there is nothing to look for."""
        acquired = await _take(at)
        again: dict[str, Any] = {"retries": [retry(event("1"))]}
        for refused in ({"handled": 2**40}, {"version": "moved"}, {"token": "t0"}):
            assert (await at.commit(**again, **refused)).answer is not Answer.OK
        assert await _touched(at) == acquired.touched

    @on_store()
    async def test_opening_tells_nothing_of_others(self, at: Bench) -> None:
        """Who died over what is asked for each partition: opening says True always, to several at a time."""
        await _take(at)
        other = self.make_again(at.store)
        assert other is not None
        assert await other.open(at.clock)
        try:
            (accepted,) = await other.append(0, [event("1")])
            position: Position | None = accepted.position
            assert [entry.position for entry in await at.log()] == [position]
            await at.ok(handled=position, token="t1")
            assert list(await other.read(0, None, 9)) == []
        finally:
            await other.close()


def _short(at: Bench) -> float:
    """Return a lease that has run out after three steps, and not before the next call is made (seconds)."""
    return 2 * at.case.step / timedelta(seconds=1)
