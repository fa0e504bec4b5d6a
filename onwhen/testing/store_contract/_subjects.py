"""Subjects: what a write changes, what is loaded, how they are listed."""

from __future__ import annotations

import asyncio
from typing import Final

import pytest

from onwhen.engine.store import SubjectRecord, SubjectWrite
from onwhen.testing.store_contract._bench import Bench, StoreCase, listed, on_store

__all__ = ["SubjectContract"]

_VALUES: Final = {
    "null": b"null",
    "empty": b'""',
    "zero": b"0",
    "spaces": b' { "a" : [ 1 , 2 ] }\n',
    "keys twice": b'{"a":1,"a":2}',
    "big integer": b"9" * 4000,
    "just above 64 bits": b"18446744073709551617",
    "float": b"1.0",
    "exponent": b"-1E+2",
    "tiny": b"5e-324",
    "unicode": '"é\u2028\U0001f600"'.encode(),
    "escapes": rb'"\u00e9\ud83d\ude00\u0000\/"',
    "looks like a number": b'"007"',
    "empty list": b"[]",
    "empty object": b"{}",
    "deep": b"[" * 200 + b"]" * 200,
    "large": b'"' + b"x" * 1_000_000 + b'"',
}
_NAMES: Final = ("n", "N", "n ", "é", "e\u0301", "\U0001f600", "'", '"', "%", "_", "\\", "a.b", "$", "0", "x" * 255)
_PREFIXED: Final = (
    *("", "%", "_", "*", "T", "t", "ticket", "ticket:", "ticket:1", "x"),
    *("ticket:\ud7ff", "ticket:\uffff", "\ud7ff", "\U0010fffd", "\U0010ffff", "ticket:\U0010ffff"),
)
_SUBJECTS: Final = (
    *(
        "ticket:2",
        "ticket:10",
        "ticket:1",
        "ticket:",
        "ticket",
        "Ticket:1",
        "ticket;",
        "ticket9",
        "ticketé",
        "ticket:é",
    ),
    *("ticket:e\u0301", "ticket:\ud7ff", "ticket:\ue000", "ticket:\ufffd", "ticket:\U00010000", "ticket:\U0010fffd"),
    *("a%", "a_", "ab", "a*", "a?", "a[b]", "a\\", "'a'", '"a"', " a", "a ", "\U0010fffd", "\ud7ff\ud7ff", "ß", "ss"),
)


class SubjectContract(StoreCase):
    """Stored subjects."""

    @on_store()
    async def test_a_subject_that_is_not_stored_is_empty(self, at: Bench) -> None:
        """It has no version."""
        assert await at.store.load("a") == SubjectRecord(name="a", properties={}, ext={}, version=None)
        assert await at.names() == []

    @on_store()
    async def test_a_write_changes_what_it_names(self, at: Bench) -> None:
        """The rest stays; what is to be deleted goes, if it is there."""
        await at.ok(write=SubjectWrite(set={"a": b"1", "b": b"2"}, set_ext={"a": b"3", "b": b"4"}))
        await at.ok(write=SubjectWrite(set={"b": b"5", "c": b"6"}, delete=["a", "none"]))
        await at.ok(write=SubjectWrite(set_ext={"a": b"7", "c": b"8"}, delete_ext=["b", "none"]))
        record = await at.store.load("a")
        assert record.properties == {"b": b"5", "c": b"6"}
        assert record.ext == {"a": b"7", "c": b"8"}

    @on_store()
    async def test_the_schema_is_that_of_the_last_write(self, at: Bench) -> None:
        """A commit that writes nothing leaves it."""
        for schema in (3, 2, 7):
            await at.ok(write=SubjectWrite(schema=schema))
            assert (await at.store.load("a")).schema == schema
        await at.ok(id="x")
        assert (await at.store.load("a")).schema == 7

    @on_store()
    async def test_a_subject_without_properties_is_stored(self, at: Bench) -> None:
        """One that has lost them all, and one that never had any: they have a version, and are listed."""
        await at.write(n=b"1")
        emptied = await at.ok(write=SubjectWrite(delete=["n"]))
        made = await at.ok("b", write=SubjectWrite())
        await at.reopen()
        assert await listed(at.store.subjects()) == [
            SubjectRecord(name="a", properties={}, ext={}, version=emptied.version),
            SubjectRecord(name="b", properties={}, ext={}, version=made.version),
        ]
        assert None not in (emptied.version, made.version)

    @on_store()
    async def test_a_removed_subject_is_gone(self, at: Bench) -> None:
        """With all of it: one that is made again has nothing of the old one. Others stay; so do its timers."""
        fields = SubjectWrite(set={"n": b"1"}, set_ext={"by": b"2"}, schema=5)
        await at.ok(write=fields, timers=[at.timer("t", at.after(1))])
        await at.ok("b", write=fields)
        assert (await at.remove()).version is None
        assert (await at.remove("never")).version is None
        assert await at.store.load("a") == SubjectRecord(name="a", properties={}, ext={})
        assert (await at.store.load("b")).properties == {"n": b"1"}
        await at.ok(write=SubjectWrite(set={"m": b"3"}))
        record = await at.store.load("a")
        assert (record.properties, record.ext, record.schema) == ({"m": b"3"}, {}, 1)
        assert await at.timers() == [("a", "t")]

    @on_store()
    async def test_what_was_loaded_does_not_change(self, at: Bench) -> None:
        """A record is a copy; and what was written may be changed afterwards."""
        written = {"a": b"1"}
        await at.ok(write=SubjectWrite(set=written))
        written["a"] = b"0"
        record = await at.store.load("a")
        await at.write(a=b"2", b=b"3")
        assert record.properties == {"a": b"1"}

    @pytest.mark.parametrize("kind", _VALUES)
    @on_store()
    async def test_values_come_back_byte_for_byte(self, at: Bench, kind: str) -> None:
        """JSON text is kept as it is written, properties and extended ones; nothing reads it."""
        await at.ok(write=SubjectWrite(set={"n": b"1"}, set_ext={"n": b"1"}))
        await at.ok(write=SubjectWrite(set={"n": _VALUES[kind]}, set_ext={"n": _VALUES[kind]}))
        await at.reopen()
        for record in (await at.store.load("a"), *await listed(at.store.subjects())):
            for value in (record.properties["n"], record.ext["n"]):
                assert type(value) is bytes
                assert value == _VALUES[kind]

    @on_store()
    async def test_names_are_told_apart(self, at: Bench) -> None:
        """Of properties, extended ones and subjects: by case, by accent, by white space; any character is good."""
        values = {name: b"%d" % number for number, name in enumerate(_NAMES)}
        for name in _NAMES:
            await at.ok(name, write=SubjectWrite(set=values, set_ext={name: b"1"}))
        await at.reopen()
        for name in _NAMES:
            record = await at.store.load(name)
            assert (record.name, record.properties, record.ext) == (name, values, {name: b"1"})
        assert await at.names() == sorted(_NAMES)

    # -- listed

    @pytest.mark.parametrize("partitions", [1, 4])
    @pytest.mark.parametrize("prefix", _PREFIXED, ids=ascii)
    def test_subjects_are_listed_by_name(self, partitions: int, prefix: str) -> None:
        """In order of code points, of all partitions together, those whose name starts with a prefix."""

        @on_store(partitions=partitions)
        async def run(case: SubjectContract, at: Bench) -> None:
            await asyncio.gather(*(at.write(name, n=b"1") for name in (*_SUBJECTS, "ticket:gone")))
            await at.remove("ticket:gone")
            expected = sorted(name for name in _SUBJECTS if name.startswith(prefix))
            assert await at.names(prefix) == expected

        run(self)

    @on_store(partitions=2)
    async def test_listed_subjects_are_what_is_loaded(self, at: Bench) -> None:
        """Whole records, however many there are."""
        names = [f"s{number:04}" for number in range(1500)]
        fields = [{f"p{n}": b"%d" % number for n in range(number % 5)} for number in range(1500)]
        writes = [SubjectWrite(set=some, set_ext=some, schema=n + 1) for n, some in enumerate(fields)]
        await asyncio.gather(*(at.ok(name, write=write) for name, write in zip(names, writes, strict=True)))
        records = await listed(at.store.subjects())
        assert [record.name for record in records] == names
        assert records[::97] == [await at.store.load(name) for name in names[::97]]
        assert {len(record.properties) for record in records} == set(range(5))

    @on_store()
    async def test_subjects_may_come_and_go_while_they_are_listed(self, at: Bench) -> None:
        """Those that are there all the time are listed once, in order."""
        names = [f"s{number:04}" for number in range(700)]
        await asyncio.gather(*(at.ok(name, write=SubjectWrite()) for name in names))
        seen: list[str] = []
        async for record in at.store.subjects():
            if len(seen) % 50 == 0:
                await at.remove(names[-1 - len(seen) // 50])
                await at.write(f"{record.name}+", n=b"1")
                await at.write(f"r{len(seen)}", n=b"1")
                await at.write(record.name, n=b"1")
            seen.append(record.name)
        assert seen == sorted(set(seen))
        assert set(names[:-14]) <= set(seen)

    @on_store()
    async def test_listing_may_be_given_up(self, at: Bench) -> None:
        """The store goes on."""
        for name in "abc":
            await at.write(name, n=b"1")
        async for record in at.store.subjects():
            assert record.name == "a"
            break
        await at.write("d", n=b"1")
        assert await at.names() == ["a", "b", "c", "d"]
