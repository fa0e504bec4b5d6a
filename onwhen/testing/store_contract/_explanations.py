"""Explanations: stored with their commit or not at all, the latest of each partition kept, and found again."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from onwhen.engine.store import Answer, Explanation, SubjectWrite
from onwhen.testing.store_contract._bench import NOON, Bench, StoreCase, event, explained, listed, on_store, retry

__all__ = ["ExplanationContract"]

_MINUTE = timedelta(minutes=1)


async def _kept(at: Bench, **asked: str) -> list[str]:
    """Return the events of what is listed."""
    return [explanation.event for explanation in await listed(at.store.explanations(**asked))]


async def _explain(at: Bench, *explanations: Explanation) -> None:
    for explanation in explanations:
        await at.ok(explanation.subject, explanation=explanation)


class ExplanationContract(StoreCase):
    """Why turns did what they did."""

    @on_store()
    async def test_an_explanation_is_kept_as_it_is(self, at: Bench) -> None:
        """All of it, also after the store was closed."""
        body = '{"käse": "🧀", "n": 9007199254740993, "none": null}'.encode()
        written = [
            explained("1", body=body, time=NOON, rule="r.f", failed=True),
            explained("käse\0", "späť {}", body=b"", time=NOON + timedelta(microseconds=1)),
            explained("3", body=b"x" * 300_000, time=NOON + timedelta(microseconds=2)),
        ]
        await _explain(at, *written)
        for _ in range(2):
            assert await listed(at.store.explanations()) == written
            await at.reopen()

    @on_store()
    async def test_nothing_is_kept_of_commits_that_do_not_explain(self, at: Bench) -> None:
        """Whatever else they do."""
        (accepted,) = await at.accept("1")
        await at.ok(handled=accepted.position, write=SubjectWrite(set={"n": b"1"}), retries=[retry(event("1"))])
        assert await _kept(at) == []

    @on_store()
    async def test_it_is_stored_with_its_commit(self, at: Bench) -> None:
        """With all that this does otherwise, be it nothing."""
        (accepted,) = await at.accept("1")
        await at.ok(
            handled=accepted.position,
            write=SubjectWrite(set={"n": b"1"}),
            messages=[event("sent")],
            retries=[retry(event("1"))],
            explanation=explained("1"),
        )
        await at.ok(retried=retry(event("1")).key, explanation=explained("2", time=NOON + _MINUTE))
        await at.ok("b", explanation=explained("3", subject="b", time=NOON + 2 * _MINUTE))
        await at.ok(write=SubjectWrite(remove=True), explanation=explained("4", time=NOON + 3 * _MINUTE))
        assert await _kept(at) == ["1", "2", "3", "4"]
        assert await at.pending() == ["sent"]
        assert (await at.store.load("a")).version is None

    @pytest.mark.parametrize("why", ["handled", "retried", "revived", "id", "version"])
    def test_what_was_refused_leaves_none(self, why: str) -> None:
        """DONE, for whatever reason, and CONFLICT: so a commit that is sent again has one explanation."""

        @on_store()
        async def run(case: ExplanationContract, at: Bench) -> None:
            (accepted,) = await at.accept("1")
            await at.ok(retries=[retry(event("1"))])
            commits: dict[str, dict[str, Any]] = {
                "handled": {"handled": accepted.position},
                "retried": {"retried": retry(event("1")).key},
                "revived": {"revived": ["nobody"]},
                "id": {"id": "x"},
                "version": {"version": "moved", "id": "y"},
            }
            if why in ("handled", "retried", "id"):
                await at.ok(**commits[why], explanation=explained("1"))
            refused = await at.commit(**commits[why], explanation=explained("2"))
            assert refused.answer is (Answer.CONFLICT if why == "version" else Answer.DONE)
            assert await _kept(at) == (["1"] if why in ("handled", "retried", "id") else [])

        run(self)

    @on_store(explanations=3)
    async def test_the_latest_are_kept(self, at: Bench) -> None:
        """As many as the store was made with, before and after it was closed."""
        for number in range(8):
            await _explain(at, explained(str(number), time=NOON + number * _MINUTE))
            assert await _kept(at) == [str(n) for n in range(max(0, number - 2), number + 1)]
            if number in (1, 5):
                await at.reopen()

    @on_store(explanations=1)
    async def test_one_is_enough(self, at: Bench) -> None:
        """The latest, of those that were stored at the same time too."""
        made = [explained(str(number), time=NOON + number * _MINUTE) for number in range(50)]
        await asyncio.gather(*(at.ok(id=one.event, explanation=one) for one in made))
        assert len(await _kept(at)) == 1

    @on_store(explanations=0)
    async def test_none_is_kept_if_none_is_asked_for(self, at: Bench) -> None:
        """What else the commit does is stored."""
        await at.ok(write=SubjectWrite(set={"n": b"1"}), explanation=explained("1"))
        assert await _kept(at) == []
        assert (await at.store.load("a")).properties == {"n": b"1"}

    @on_store(partitions=3, explanations=2)
    async def test_each_partition_keeps_as_many(self, at: Bench) -> None:
        """So one in which much happens does not push out what others have to tell; all are listed by their time."""
        names = [at.name_in(partition) for partition in range(3)]
        order = [0, 1, 2, 0, 0, 0, 1, 0]
        for number, partition in enumerate(order):
            await _explain(at, explained(str(number), subject=names[partition], time=NOON + number * _MINUTE))
        for _ in range(2):
            assert await _kept(at) == ["1", "2", "5", "6", "7"]
            await at.reopen()

    @on_store(partitions=3)
    async def test_some_of_them_are_asked_for(self, at: Bench) -> None:
        """Those of a cascade, wherever its turns were, or of a subject, or both."""
        names = [at.name_in(partition) for partition in range(3)]
        written = [
            explained(f"{number}", f"c{number % 2}", names[number % 3], time=NOON + number * _MINUTE)
            for number in range(12)
        ]
        await _explain(at, *written)
        assert await _kept(at, correlation="c1") == ["1", "3", "5", "7", "9", "11"]
        assert await _kept(at, subject=names[1]) == ["1", "4", "7", "10"]
        assert await _kept(at, subject=names[1], correlation="c1") == ["1", "7"]
        for asked in ({"correlation": "c"}, {"subject": "nobody"}, {"subject": "", "correlation": "c1"}):
            assert await _kept(at, **asked) == []

    @on_store(partitions=2)
    async def test_names_differ_if_any_character_does(self, at: Bench) -> None:
        """Of correlation ids and of subjects."""
        texts = ["a", "A", "a ", "", "käse", "ka\u0308se", "=a", "a\0b", "%", "*"]
        for number, text in enumerate(texts):
            await _explain(at, explained(str(number), text, text or "empty", time=NOON + number * _MINUTE))
        for number, text in enumerate(texts):
            assert await _kept(at, correlation=text) == [str(number)]
            assert await _kept(at, subject=text or "empty") == [str(number)]

    @on_store(partitions=2)
    async def test_many_are_listed_while_more_come(self, at: Bench) -> None:
        """Oldest first, each once, the large ones too; whoever lists them holds up nobody."""
        size = [300, 30_000]
        made = [
            explained(str(n), f"c{n % 7}", f"s{n % 5}", time=NOON + n * _MINUTE, body=b"x" * size[n % 50 == 0])
            for n in range(900)
        ]
        made.append(explained("900", "rare", "s0", time=NOON + 900 * _MINUTE))
        for start in range(0, 901, 100):
            await asyncio.gather(
                *(at.ok(one.subject, id=one.event, explanation=one) for one in made[start : start + 100])
            )
        seen: list[str] = []
        async for explanation in at.store.explanations():
            if len(seen) < 20:
                await at.ok(
                    "later", explanation=explained(f"late {len(seen)}", subject="later", time=NOON + 999 * _MINUTE)
                )
            if explanation.subject != "later":
                seen.append(explanation.event)
        assert seen == [str(n) for n in range(901)]
        assert await _kept(at, correlation="rare") == ["900"]
        assert await _kept(at, correlation="c3") == [str(n) for n in range(900) if n % 7 == 3]
        assert await _kept(at, subject="s3") == [str(n) for n in range(900) if n % 5 == 3]
        assert await _kept(at, subject="s3", correlation="c3") == [str(n) for n in range(900) if n % 35 == 3]

    @on_store(history=5)
    async def test_it_is_no_history(self, at: Bench) -> None:
        """Nor is it counted, and it outlives its subject."""
        before = await at.store.stats()
        await _explain(at, explained("1"))
        assert await at.store.stats() == before
        assert len(await listed(at.store.history("a"))) == 1
        await at.write(n=b"1")
        await at.remove()
        assert await _kept(at) == ["1"]
