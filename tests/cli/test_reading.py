"""Lines out of files and pipes, plain and gzip, however they are cut up and however long they are."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.cli._reading import Line, Reject, Source, read_lines


async def read(source: Source, max_bytes: int = 1000) -> list[Line]:
    return [line async for batch in read_lines(source, max_bytes, lambda _: None) for line in batch]


class Dribble(io.BytesIO):
    """Gives a few bytes at a time, as a slow pipe does."""

    def __init__(self, data: bytes, size: int) -> None:
        super().__init__(data)
        self._size = size

    def read1(self, size: int | None = -1, /) -> bytes:
        return super().read1(self._size)


def dribbled(data: bytes, size: int = 1) -> Source:
    def open_it() -> BinaryIO:
        return Dribble(data, size)

    return Source(name="dribble", open=open_it)


async def test_lines_are_numbered_from_one_and_keep_no_line_end() -> None:
    """The last line needs no line feed."""
    assert await read(Source.data(b"a\nbc\n\nd")) == [
        Line(1, b"a", 1),
        Line(2, b"bc", 2),
        Line(3, b"", 0),
        Line(4, b"d", 1),
    ]


async def test_an_empty_source_has_no_lines() -> None:
    """Neither plain nor packed."""
    assert await read(Source.data(b"")) == []
    assert await read(Source.data(gzip.compress(b""))) == []


@given(st.binary(max_size=200) | st.text("ab\n", max_size=100).map(str.encode), st.integers(1, 20), st.integers(1, 30))
def test_how_data_arrives_makes_no_difference(data: bytes, size: int, limit: int) -> None:
    """Invariant: the lines are those of `split`, with the true size, whole if they are within the limit."""
    if data[:1] == b"\x1f":
        data = b"x" + data
    lines = asyncio.run(read(dribbled(data, size), limit))
    expected = data.removesuffix(b"\n").split(b"\n") if data else []
    assert [line.size for line in lines] == [len(line) for line in expected]
    for line, whole in zip(lines, expected, strict=True):
        assert line.raw == whole if len(whole) <= limit else whole.startswith(line.raw)


async def test_gzip_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    """A packed file may have any name, and a plain one may be called .gz."""
    (tmp_path / "packed.txt").write_bytes(gzip.compress(b"a\nb\n"))
    (tmp_path / "plain.gz").write_bytes(b"a\nb\n")
    assert [line.raw for line in await read(Source.file(tmp_path / "packed.txt"))] == [b"a", b"b"]
    assert [line.raw for line in await read(Source.file(tmp_path / "plain.gz"))] == [b"a", b"b"]


async def test_gzip_may_have_several_members_and_padding_and_come_byte_by_byte() -> None:
    """As `cat a.gz b.gz` makes it; a line may go from one member to the next."""
    data = gzip.compress(b"a\nb") + gzip.compress(b"c\n") + gzip.compress(b"") + b"\0" * 10
    assert [line.raw for line in await read(dribbled(data))] == [b"a", b"bc"]


async def test_gzip_that_is_cut_off_gives_its_whole_lines_and_then_a_problem() -> None:
    """The problem has the number of the line that is incomplete."""
    packed = gzip.compress(b"\n".join(os.urandom(20).hex().encode() for _ in range(2000)))
    *whole, broken = await read(Source.data(packed[:-4000]))
    assert len(whole) > 1000
    assert all(len(line.raw) == 40 and not line.problem for line in whole)
    assert broken.number == len(whole) + 1
    assert broken.problem == "cannot be read further: the gzip data is cut off"


async def test_gzip_that_is_corrupt_gives_a_problem() -> None:
    """A wrong checksum counts as well."""
    packed = bytearray(gzip.compress(b"a\nb\n"))
    packed[-6] ^= 1
    *_, broken = await read(Source.data(bytes(packed)))
    assert "corrupt gzip data" in broken.problem
    *_, broken = await read(Source.data(gzip.compress(b"a\n") + b"junk"))
    assert "corrupt gzip data" in broken.problem


async def test_a_bomb_is_unpacked_a_piece_at_a_time() -> None:
    """200 MB of one line in 200 KB: only the start of it is kept."""
    packed = gzip.compress(b"x" * 200_000_000, 1)
    (line,) = await read(Source.data(packed))
    assert line.size == 200_000_000
    assert len(line.raw) <= 64 * 1024


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_what_was_consumed_keeps_step_with_the_lines(pack: Callable[[bytes], bytes]) -> None:
    """Gzip as well, though one chunk of it may hold all of the lines; at the end it is the size of the source."""
    data = pack(b"".join(b"%060d\n" % number for number in range(40_000)))
    consumed: list[int] = []
    lines = 0
    async for batch in read_lines(Source.data(data), 1000, consumed.append):
        lines += len(batch)
        assert sum(consumed) / len(data) <= lines / 40_000 + 0.001
        assert lines / 40_000 - sum(consumed) / len(data) < 0.1
    assert sum(consumed) == len(data)


async def test_all_of_a_gzip_source_is_consumed() -> None:
    """Members that hold nothing and padding count as well."""
    data = gzip.compress(b"a\n") + gzip.compress(b"") + gzip.compress(b"b\n") + b"\0" * 10
    consumed: list[int] = []
    assert [line.raw async for batch in read_lines(Source.data(data), 9, consumed.append) for line in batch] == [
        b"a",
        b"b",
    ]
    assert sum(consumed) == len(data)


async def test_a_file_that_cannot_be_opened_is_a_problem_of_its_first_line(tmp_path: Path) -> None:
    """It may have been removed since the command began."""
    (line,) = await read(Source.file(tmp_path / "gone"))
    assert line == Line(1, b"", 0, "cannot be read further: No such file or directory")


async def test_waiting_for_a_pipe_does_not_block_the_event_loop() -> None:
    """Other tasks run until data arrives, and after that."""
    out, into = os.pipe()
    source = Source(name="pipe", open=lambda: io.FileIO(out))
    reading = asyncio.create_task(read(source))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not reading.done()
    os.write(into, b"a\nb")
    await asyncio.sleep(0)
    os.close(into)
    assert [line.raw for line in await reading] == [b"a", b"b"]


async def test_a_pipe_may_be_longer_than_its_buffer() -> None:
    """1 MB through a pipe that a thread fills."""
    out, into = os.pipe()

    def fill() -> None:
        with open(into, "wb") as pipe:
            pipe.write(b"0123456789\n" * 100_000)

    filler = threading.Thread(target=fill)
    filler.start()
    lines = await read(Source(name="pipe", open=lambda: io.FileIO(out)))
    filler.join()
    assert len(lines) == 100_000
    assert {line.raw for line in lines} == {b"0123456789"}


def test_a_reject_is_told_as_text_or_base64_and_bounded() -> None:
    """`size` is there when the raw line is not whole."""

    def told(raw: bytes) -> dict[str, Any]:
        return Reject.of(Source.data(b"", "f"), Line(7, raw, len(raw)), "bad").to_dict()

    assert told("ä".encode()) == {"file": "f", "line": 7, "reason": "bad", "raw": "ä"}
    assert told(b"\xff") == {"file": "f", "line": 7, "reason": "bad", "raw_base64": "/w=="}
    long = told(b"x" * 100_000)
    assert (len(long["raw"]), long["size"]) == (64 * 1024, 100_000)
