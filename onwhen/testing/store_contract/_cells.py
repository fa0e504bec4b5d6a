"""Cells: compared and set by one of many, over when their time is, and refused when they are no small values."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from onwhen.engine.store import Answer, Cell
from onwhen.testing.store_contract._bench import Bench, StoreCase, on_store

__all__ = ["CellContract"]

_LONG = 864_000.0  # seconds; more than any test takes, by any clock
_KEYS = ["", "a", "A", "a ", "käse", "ka\u0308se", "a\0b", "a\nb", "{a}", "}a{", "{p0}:meta", "🧀" * 128, "x" * 512]


async def _set(at: Bench, expected: bytes | None, new: bytes | None, key: str = "k", ttl: float = _LONG) -> Cell:
    return await at.store.exchange(key, expected, new, ttl)


async def _there(at: Bench, key: str = "k") -> bytes | None:
    """Return what is there; as nobody has put this there, nothing is changed."""
    return (await at.store.exchange(key, b"never there", b"never there", _LONG)).value


class CellContract(StoreCase):
    """Small values that all who have the store open share."""

    @on_store()
    async def test_a_cell_has_what_was_put_there(self, at: Bench) -> None:
        """First in the place of nothing, then of what was there before, until it is removed."""
        for expected, new in [(None, b"1"), (b"1", b"2"), (b"2", b""), (b"", b"3"), (b"3", None), (None, b"4")]:
            assert (await _set(at, expected, new)).value == new
            assert await _there(at) == new

    @on_store()
    async def test_what_is_not_as_expected_stays(self, at: Bench) -> None:
        """The answer says what is there instead: something where nothing was expected, nothing, or something else."""
        assert (await _set(at, b"1", b"2")).value is None
        assert (await _set(at, b"1", None)).value is None
        await _set(at, None, b"")
        for expected in (None, b"1"):
            for new in (b"2", None):
                assert (await _set(at, expected, new)).value == b""
        assert await _there(at) == b""

    @on_store()
    async def test_removing_what_is_not_there_does_nothing(self, at: Bench) -> None:
        """It is asked again after a lost reply, for example."""
        await _set(at, None, b"1")
        for _ in range(2):
            assert (await _set(at, b"1", None)).value is None
        assert (await _set(at, None, None)).value is None
        assert await _there(at) is None

    @on_store()
    async def test_of_those_who_ask_at_the_same_time_one_wins(self, at: Bench) -> None:
        """Each puts something of its own there, and all hear whose it was."""
        was: bytes | None = None
        for turn in range(5):
            values = [b"%d of %d" % (number, turn) for number in range(20)]
            cells = await asyncio.gather(*(_set(at, was, value) for value in values))
            winners = [value for value, cell in zip(values, cells, strict=True) if cell.value == value]
            assert len(winners) == 1
            assert {cell.value for cell in cells} == {*winners}
            was = winners[0]

    @on_store()
    async def test_asked_again_after_a_lost_reply_it_has_won_all_the_same(self, at: Bench) -> None:
        """Or it has lost all the same: whoever has come in between is not put aside."""
        for _ in range(2):
            assert (await _set(at, None, b"mine")).value == b"mine"
        await _set(at, b"mine", b"theirs")
        assert (await _set(at, None, b"mine")).value == b"theirs"

    @on_store()
    async def test_adding_one_at_a_time_loses_nothing(self, at: Bench) -> None:
        """Many who add a mark each to what they have heard of, and try again, come to all marks together."""

        async def count(name: bytes) -> None:
            value: bytes | None = None
            for _ in range(5):
                while (found := (await _set(at, value, (value or b"") + name)).value) != (value or b"") + name:
                    value = found
                value = found

        await asyncio.gather(*(count(name) for name in (b"a", b"b", b"c", b"d")))
        value = await _there(at)
        assert value is not None
        assert sorted(value) == sorted(b"abcd" * 5)

    @on_store()
    async def test_what_is_over_its_time_is_not_there(self, at: Bench) -> None:
        """By the store's clock, and a moment before it still is."""
        step = self.step.total_seconds()
        await _set(at, None, b"1", ttl=2 * step)
        await at.step()
        assert await _there(at) == b"1"
        await at.step()
        assert await _there(at) is None
        assert (await _set(at, b"1", b"2")).value is None
        assert (await _set(at, None, b"3")).value == b"3"

    @on_store()
    async def test_others_are_left_alone(self, at: Bench) -> None:
        """A cell stays for all its time, whatever becomes of others meanwhile."""
        step = self.step.total_seconds()
        for key in "abc":
            await _set(at, None, key.encode(), key, 3 * step)
        await at.step(2)
        for number in range(20):
            await _set(at, None, b"1", f"{number}")
        await _set(at, b"b", None, "b")
        assert [await _there(at, key) for key in "abc"] == [b"a", None, b"c"]

    @on_store()
    async def test_whoever_sets_it_anew_sets_its_time_anew(self, at: Bench) -> None:
        """Longer or shorter, also if the value stays as it is; whoever fails to leaves it alone."""
        step = self.step.total_seconds()
        for key, ttl in (("longer", 5 * step), ("shorter", step), ("lost", 5 * step)):
            await _set(at, None, b"1", key, 3 * step if key != "lost" else step)
            await _set(at, b"1" if key != "lost" else b"2", b"1", key, ttl)
        await at.step(2)
        assert [await _there(at, key) for key in ("longer", "shorter", "lost")] == [b"1", None, None]
        await at.step(2)
        assert await _there(at, "longer") == b"1"

    @on_store()
    async def test_the_answer_says_what_time_it_is(self, at: Bench) -> None:
        """By the store's clock, aware, whether it was set or not."""
        for expected in (None, b"not there"):
            before = at.now()
            time = (await _set(at, expected, b"1")).time
            assert time.utcoffset() == timedelta(0)
            assert timedelta(0) <= time - before <= max(at.now() - before, timedelta(milliseconds=1))
            await at.step()

    @on_store(partitions=3)
    async def test_keys_may_be_any_text(self, at: Bench) -> None:
        """Two are the same only if all their characters are; none is that of a subject."""
        for number, key in enumerate(_KEYS):
            assert (await _set(at, None, b"%d" % number, key)).value == b"%d" % number
        assert [await _there(at, key) for key in _KEYS] == [b"%d" % number for number in range(len(_KEYS))]
        assert await at.names() == []
        await at.write("a", n=b"1")
        assert await _there(at, "a") == b"1"

    @on_store()
    async def test_values_are_kept_to_the_byte(self, at: Bench) -> None:
        """Whatever bytes they are, up to 64 KiB."""
        values = [bytes(range(256)) * 256, b"\0", b" 1 2", b"=", "🧀".encode(), b"\xff\xfe"]
        was = None
        for value in values:
            assert (await _set(at, was, value)).value == value
            assert await _there(at) == value
            was = value

    @pytest.mark.parametrize(
        ("key", "expected", "new", "ttl", "message"),
        [
            ("x" * 513, None, b"1", 1.0, "has 513 bytes, and 512 are allowed"),
            ("ä" * 257, None, b"1", 1.0, "has 514 bytes, and 512 are allowed"),
            ("\ud800", None, b"1", 1.0, "cannot be stored"),
            ("k", b"x" * 65_537, b"1", 1.0, "expected, of cell 'k', has 65,537 bytes, and 65,536 are allowed"),
            ("k", None, b"x" * 65_537, 1.0, "new, of cell 'k', has 65,537 bytes, and 65,536 are allowed"),
            ("k", None, "1", 1.0, "new='1', of cell 'k', must be bytes or None"),
            ("k", bytearray(b"0"), b"1", 1.0, "must be bytes or None"),
            *(("k", None, b"1", ttl, "must be more than 0 s") for ttl in (0, -1.0, math.nan, math.inf, 4e9)),
        ],
    )
    def test_what_is_no_small_value_is_refused(self, key: str, expected: Any, new: Any, ttl: Any, message: str) -> None:
        """Nothing is changed, and the message says what is allowed."""

        @on_store()
        async def run(case: CellContract, at: Bench) -> None:
            await _set(at, None, b"0")
            with pytest.raises(ValueError, match=message):
                await at.store.exchange(key, expected, new, ttl)
            assert await _there(at) == b"0"

        run(self)

    @on_store()
    async def test_the_longest_and_the_shortest_times_are_taken(self, at: Bench) -> None:
        """A hundred years, and less than any clock can tell."""
        await _set(at, None, b"1", "long", 3_155_760_000.0)
        await _set(at, None, b"1", "short", 1e-9)
        await at.step(2)
        assert await _there(at, "long") == b"1"
        assert await _there(at, "short") is None

    @on_store(partitions=2)
    async def test_cells_touch_nothing_else(self, at: Bench) -> None:
        """Not a subject, the log, nor what is counted."""
        await at.write("k", n=b"1")
        await at.accept("1")
        before = await at.dump()
        await _set(at, None, b"1", "k")
        await _set(at, None, b"1", "a")
        assert await at.dump() == before

    @on_store()
    async def test_cells_outlive_whoever_has_set_them(self, at: Bench) -> None:
        """Another store over the same data has them, and when they are over."""
        await _set(at, None, b"1", ttl=3 * self.step.total_seconds())
        await _set(at, None, b"2", "long")
        await at.reopen()
        assert [await _there(at), await _there(at, "long")] == [b"1", b"2"]
        await at.step(3)
        await at.reopen()
        assert [await _there(at), await _there(at, "long")] == [None, b"2"]

    @pytest.mark.parametrize("trips", [0, 1, 2, 3, 5, 8])
    def test_cancelled_in_the_middle_it_was_done_or_not(self, trips: int) -> None:
        """As a whole, and asked again it is done."""

        @on_store()
        async def run(case: CellContract, at: Bench) -> None:
            task = asyncio.ensure_future(_set(at, None, b"1"))
            for _ in range(trips):
                await asyncio.sleep(0)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert await _there(at) in (None, b"1")
            assert (await _set(at, None, b"1")).value == b"1"

        run(self)

    @on_store()
    async def test_many_that_are_over_do_not_hold_up_others(self, at: Bench) -> None:
        """Thousands of them, long gone: those that are set then are there, and commits are stored."""
        step = self.step.total_seconds()
        for start in range(0, 3000, 500):
            await asyncio.gather(*(_set(at, None, b"1", f"old {n}", step) for n in range(start, start + 500)))
        await at.step(2)
        for number in range(50):
            assert (await _set(at, None, b"2", f"new {number}")).value == b"2"
        assert (await at.commit(id="x")).answer is Answer.OK
        assert [await _there(at, f"new {number}") for number in range(50)] == [b"2"] * 50
        assert [await _there(at, f"old {number}") for number in range(0, 3000, 100)] == [None] * 30
