"""What is read back is what was written: numbers, text, moments and errors at their limits."""

import json
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest

from onwhen import Event
from onwhen.engine.store import DeadLetter, Failure, Retry, SubjectWrite, Timer
from onwhen.storage._encoding import micros, moment
from onwhen.storage.sqlite import _listing
from onwhen.testing.store_contract._bench import explained
from tests.storage.sqlite.sqlites import NOON, commit, event, inside, opened, pending, write

BIG = 2**200
ODD = 'ß ✓ 𝄞 " \\ \0 \n \x7f \u202e'


async def test_values_are_kept_to_the_byte(tmp_path: Path) -> None:
    """As JSON text: big integers, numbers written in an unusual way, a megabyte."""
    values = {
        "big": str(BIG).encode(),
        "small": b"-1.0E-300",
        "odd": json.dumps(ODD, ensure_ascii=False).encode(),
        "spaced": b' {"a" : [1 , 2]} ',
        "long": b'"%s"' % (b"x" * 1_000_000),
        ODD: b"null",
        "": b"true",
    }
    async with opened(tmp_path / "a.db", history=5) as store:
        await commit(store, write=SubjectWrite(set=values, set_ext=values))
    async with opened(tmp_path / "a.db") as store:
        record = await store.load("a")
        assert (record.properties, record.ext) == (values, values)
        (entry,) = [entry async for entry in store.history("a")]
        assert entry.write is not None
        assert (entry.write.set, entry.write.set_ext) == (values, values)


@pytest.mark.parametrize("data", [BIG, ODD, b"\0\xff", "x" * 1_000_000, {"a": [None, True, 0.1, {}]}, None])
async def test_events_are_kept_as_they_are(tmp_path: Path, data: object) -> None:
    """All attributes, and data of any kind."""
    root = event("root", "größe:1")
    sent = [
        Event("opened", "größe:1", data, id="id ✓", source="/desk?a=b", time=NOON, extensions={"n": 1, "s": "x"}),
        Event.caused_by(root, "r.f", 1, 0, "closed", "a", data, time=NOON, dataschema="https://example.com/s"),
        Event("opened", "a", data),
    ]
    async with opened(tmp_path / "a.db") as store:
        await store.append(0, sent)
    async with opened(tmp_path / "a.db") as store:
        assert [entry.event for entry in await store.read(0, None, 9)] == sent


@pytest.mark.parametrize(
    "when",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC),
        datetime(2038, 1, 19, 3, 14, 8, 1, timezone(timedelta(hours=5, minutes=45))),
    ],
)
async def test_moments_are_kept_to_the_microsecond(tmp_path: Path, when: datetime) -> None:
    """From the first to the last that there is; read back, they are in UTC."""
    failure = Failure(type="E", message="m", traceback="t")
    of = event("1")
    retry = Retry(
        subject="a", event=of, rule="r", attempt=2, due=when, in_order=True, first_failed=when, failure=failure
    )
    letter = DeadLetter(
        id="d", subject="a", event=of, rule="r", failure=failure, attempts=1, first_failed=when, time=when
    )
    async with opened(tmp_path / "a.db") as store:
        await commit(store, timers=[Timer(subject="a", key="k", due=when, event=of)], retries=[retry], dead=[letter])
        found = [
            *[timer.due async for timer in store.timers()],
            *[at for retry in [r async for r in store.retries(0)] for at in (retry.due, retry.first_failed)],
            *[at for dead in [d async for d in store.dead_letters()] for at in (dead.first_failed, dead.time)],
        ]
    assert found == [when] * 5
    assert {at.tzinfo for at in found} == {UTC}


def test_a_moment_that_utc_does_not_have_is_the_nearest() -> None:
    """The first one of a time zone in the east lies before the first of UTC."""
    assert moment(micros(datetime.min.replace(tzinfo=timezone(timedelta(hours=5))))) == datetime.min.replace(tzinfo=UTC)
    assert moment(micros(datetime.max.replace(tzinfo=timezone(-timedelta(hours=5))))) == datetime.max.replace(
        tzinfo=UTC
    )


async def test_errors_may_say_anything(tmp_path: Path) -> None:
    """Also what is no text in UTF-8, as messages about odd file names hold."""
    failure = Failure(type="OSError", message=f"no such file: 'a\udcff.txt' {ODD}", traceback="\ud800 " * 3)
    letter = DeadLetter(
        id="d", subject="a", event=event("1"), rule="r", failure=failure, attempts=1, first_failed=NOON, time=NOON
    )
    async with opened(tmp_path / "a.db") as store:
        await commit(store, dead=[letter])
        assert await store.dead_letter("d") == letter


async def test_many_large_events_are_read_in_parts(tmp_path: Path) -> None:
    """Fewer than asked for are returned, so that memory is bounded; whoever goes on from the last finds them all."""
    async with opened(tmp_path / "a.db") as store:
        for n in range(50):
            await store.append(0, [event(f"{n}", data="x" * 1_000_000)])
        first = await store.read(0, None, 1000)
        assert 10 < len(first) < 50
        rest = await store.read(0, first[-1].position, 1000)
        assert [entry.event.id for entry in (*first, *rest)] == [f"{n}" for n in range(50)]


async def test_many_large_subjects_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each whole, and none twice, also one that is larger than a part."""
    monkeypatch.setattr(_listing, "_ROOM", 250_000)
    async with opened(tmp_path / "a.db") as store:
        for n in range(9):
            text = b'"%s"' % (b"x" * (400_000 if n == 5 else 50_000))
            await write(store, f"s{n}", a=text, b=text)
        await write(store, "t", a=b"1")
        parts: list[list[str]] = []
        last = None
        while rows := await inside(store, partial(_listing.subjects_page, prefix="s", after=last)):
            parts.append(sorted({row[0] for row in rows}))
            last = rows[-1]
        assert parts == [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6", "s7", "s8"]]
        found = [record async for record in store.subjects("s")]
        assert [record.name for record in found] == [f"s{n}" for n in range(9)]
        assert all(set(record.properties) == {"a", "b"} for record in found)


@pytest.mark.parametrize(
    "written",
    [
        SubjectWrite(),
        SubjectWrite(set={"n": b"1"}),
        SubjectWrite(set={"n": b"1"}, delete=["m", "o"], set_ext={"x": b"[]"}, delete_ext=["y"], schema=2),
        SubjectWrite(set={"n": b"1"}, delete=[], delete_ext=[]),
        SubjectWrite(remove=True),
    ],
)
async def test_a_history_has_what_was_written(tmp_path: Path, written: SubjectWrite) -> None:
    """Equal to it, also in what it does not mention."""
    async with opened(tmp_path / "a.db", history=5) as store:
        await commit(store, write=written)
        (entry,) = [found async for found in store.history("a")]
        assert entry.write == written


async def test_listings_go_on_where_a_page_has_ended(tmp_path: Path) -> None:
    """However much there is, and while it changes."""
    count = 1_050
    async with opened(tmp_path / "a.db", history=count) as store:
        names = sorted(f"s{n}" for n in range(count))
        for start in range(0, count, 350):
            for n in range(start, start + 350):
                timer = Timer(subject=f"s{n}", key="k", due=NOON + timedelta(seconds=n % 7), event=event(f"{n}"))
                await commit(store, f"s{n}", version=None, timers=[timer], write=SubjectWrite(set={"n": b"%d" % n}))
        seen = []
        async for record in store.subjects():
            seen.append(record.name)
            if len(seen) == 100:
                await write(store, "s0", n=b"-1")
                await write(store, "zzz", n=b"0")
        assert seen == [*names, "zzz"]
        assert [record.name async for record in store.subjects("s10")] == [n for n in names if n.startswith("s10")]
        due = [timer.due async for timer in store.timers()]
        assert (len(due), due) == (count, sorted(due))
        assert len([timer async for timer in store.timers("s5")]) == 1
        assert await inside(store, lambda at: at.execute("SELECT count(*) FROM history").fetchone()[0]) == count


async def test_a_window_that_is_smaller_than_before_counts_at_once(tmp_path: Path) -> None:
    """And one that is larger holds what is there."""
    async with opened(tmp_path / "a.db", dedup_window=100) as store:
        await store.append(0, [event(f"{n}") for n in range(100)])
    async with opened(tmp_path / "a.db", dedup_window=2) as store:
        new = await store.append(0, [event("97"), event("99")])
        assert [answer.is_new for answer in new] == [True, False]
        assert await inside(store, lambda at: at.execute("SELECT count(*) FROM accepted").fetchone()[0]) == 2
    async with opened(tmp_path / "a.db", dedup_window=100) as store:
        new = await store.append(0, [event("97"), event("99"), event("98")])
        assert [answer.is_new for answer in new] == [False, False, True]


async def test_a_history_stays_when_no_more_is_kept(tmp_path: Path) -> None:
    """A command that opens the file without asking for a history does not take it away."""
    async with opened(tmp_path / "a.db", history=3) as store:
        for n in range(5):
            await write(store, n=b"%d" % n)
    async with opened(tmp_path / "a.db") as store:
        await write(store, n=b"9")
        kept = [entry.write.set["n"] async for entry in store.history("a") if entry.write is not None]
        assert kept == [b"4", b"3", b"2"]
    async with opened(tmp_path / "a.db", history=2) as store:
        await write(store, n=b"10")
        kept = [entry.write.set["n"] async for entry in store.history("a") if entry.write is not None]
        assert kept == [b"10", b"4"]
        assert await pending(store) == []


async def test_explanations_stay_when_no_more_are_kept(tmp_path: Path) -> None:
    """Those of whoever has kept some; with fewer from now on, the latest ones are left when the next one comes."""

    async def explain(number: int) -> None:
        explanation = explained(f"{number}", time=NOON + timedelta(seconds=number))
        await commit(store, version=None, id=f"{number}", explanation=explanation)

    async def kept() -> list[str]:
        return [found.event async for found in store.explanations()]

    async with opened(tmp_path / "a.db", explanations=3) as store:
        for number in range(5):
            await explain(number)
    async with opened(tmp_path / "a.db", explanations=0) as store:
        await explain(5)
        assert await kept() == ["2", "3", "4"]
    async with opened(tmp_path / "a.db", explanations=2) as store:
        assert await kept() == ["2", "3", "4"]
        await explain(6)
        assert await kept() == ["4", "6"]
