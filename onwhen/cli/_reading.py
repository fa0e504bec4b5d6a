"""Reading lines: from files or a pipe, plain or gzip, a chunk at a time and never more of a line than is allowed.

Belongs here: bytes and lines. It must not know of events or buses.
"""

from __future__ import annotations

import asyncio
import io
import os
import zlib
from base64 import b64encode
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, Self

__all__ = ["Line", "Reject", "Source", "read_lines"]

_CHUNK: Final = 128 * 1024  # bytes; between two of them the event loop has its turn
_KEPT: Final = 64 * 1024  # bytes of a rejected line that are shown
_GZIP: Final = b"\x1f\x8b"  # RFC 1952 section 2.3.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Something to be read.

    Attributes:
        name: what to call it in messages.
        open: opens it; an unbuffered stream (`buffering=0`) is read as its data arrives.
        size: how much there is (bytes), None if that is not known.
    """

    name: str
    open: Callable[[], BinaryIO]
    size: int | None = None

    @classmethod
    def file(cls, path: str | Path) -> Self:
        """Return a file as a source; it is opened when its turn has come."""
        found = Path(path)
        regular = found.is_file()
        size = found.stat().st_size if regular else None
        return cls(
            name=os.fsencode(found).decode(errors="backslashreplace"),
            open=lambda: found.open("rb", buffering=0),
            size=size,
        )

    @classmethod
    def stdin(cls) -> Self:
        """Return the process's standard input as a source."""
        return cls(name="<stdin>", open=lambda: io.FileIO(0, closefd=False))

    @classmethod
    def data(cls, data: bytes, name: str = "<data>") -> Self:
        """Return bytes in memory as a source."""
        return cls(name=name, open=lambda: io.BytesIO(data), size=len(data))


class Line(NamedTuple):
    """One line without its end.

    Attributes:
        number: counted from 1.
        raw: its bytes; only the start of a line that is longer than allowed.
        size: how long it is (bytes).
        problem: why it could not be read to its end; "" if it could.
    """

    number: int
    raw: bytes
    size: int
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A line that could not be used.

    Attributes:
        file: name of the source.
        line: its number, from 1.
        reason: what is wrong with it.
        raw: its bytes, up to the first 64 KiB.
        size: how long it was (bytes).
    """

    file: str
    line: int
    reason: str
    raw: bytes
    size: int

    @classmethod
    def of(cls, source: Source, line: Line, reason: str) -> Self:
        """Return a line as a reject."""
        return cls(file=source.name, line=line.number, reason=reason, raw=line.raw[:_KEPT], size=line.size)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; `raw` is text, or `raw_base64` if that is not UTF-8; `size` if raw was cut."""
        told: dict[str, Any] = {"file": self.file, "line": self.line, "reason": self.reason}
        try:
            told["raw"] = self.raw.decode()
        except UnicodeDecodeError:
            told["raw_base64"] = b64encode(self.raw).decode()
        if self.size > len(self.raw):
            told["size"] = self.size
        return told


async def read_lines(
    source: Source, max_bytes: int, consumed: Callable[[int], None]
) -> AsyncGenerator[list[Line], None]:
    """Read a source line by line, in batches of what arrives together.

    Args:
        source: what to read. Gzip is told by its first bytes, not by a name.
        max_bytes: how long a line may be (bytes). A longer one is passed over; only its start is kept.
        consumed: called after each batch with what it took up (bytes, compressed if the source is).

    A source that cannot be read (further) ends with a line that says so in its `problem`.
    """
    splitter = _Splitter(max_bytes)
    try:
        with source.open() as stream:
            reader = _Reader(stream)
            chunk = await reader.read()
            unpack: _Plain | _Gunzip = _Gunzip() if _is_gzip(chunk) else _Plain()
            while chunk:
                for piece, size in unpack.feed(chunk):
                    yield list(splitter.feed(piece))
                    consumed(size)
                    await asyncio.sleep(0)  # rules that never suspend must not keep a Ctrl-C from being heard
                chunk = await reader.read()
            unpack.end()
    except (OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        yield [splitter.broken(f"cannot be read further: {reason}")]
    except zlib.error as error:
        yield [splitter.broken(f"cannot be read further: corrupt gzip data: {error}")]
    else:
        yield list(splitter.end())


def _is_gzip(start: bytes) -> bool:
    return start[:2] == _GZIP or start == _GZIP[:1]  # a pipe may bring a single byte; no JSON begins with it


class _Reader:
    """Reads what there is, and waits for a pipe without blocking the event loop."""

    def __init__(self, stream: BinaryIO) -> None:
        self._read: Callable[[int], bytes | None] = getattr(stream, "read1", stream.read)
        self._pipe: int | None = None
        if isinstance(stream, io.RawIOBase):  # in front of a buffered one, data may wait where no selector sees it
            self._pipe = stream.fileno()

    async def read(self) -> bytes:
        while True:
            if self._pipe is not None:
                await self._readable(self._pipe)
            chunk = self._read(_CHUNK)
            if chunk is not None:
                return chunk
            if self._pipe is None:
                await asyncio.sleep(0.01)  # non-blocking, and no selector for it: nothing better is left

    async def _readable(self, pipe: int) -> None:
        loop = asyncio.get_running_loop()
        ready = loop.create_future()
        try:
            loop.add_reader(pipe, _settle, ready)
        except (PermissionError, NotImplementedError):  # regular files are always ready; some loops know no pipes
            self._pipe = None
            return
        try:
            await ready
        finally:
            loop.remove_reader(pipe)


def _settle(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


class _Plain:
    """Passes on what comes, with its size."""

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        yield chunk, len(chunk)

    def end(self) -> None:
        """Nothing can be missing."""


class _Gunzip:
    """Unpacks gzip data of any number of members, a bounded piece at a time however well it was packed.

    With each piece comes how much it took up when packed (bytes).
    """

    def __init__(self) -> None:
        self._member: Any = None
        self._any = False

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, int]]:
        full = False
        while chunk or full:
            size = len(chunk)
            if self._member is None:
                chunk = chunk.lstrip(b"\0") if self._any else chunk  # padding, as tapes have it
                if not chunk:
                    yield b"", size
                    return
                self._member, self._any = zlib.decompressobj(wbits=31), True
            piece = self._member.decompress(chunk, _CHUNK)
            chunk, full = self._member.unconsumed_tail, len(piece) == _CHUNK
            if self._member.eof:
                chunk, full, self._member = self._member.unused_data, False, None
            yield piece, size - len(chunk)

    def end(self) -> None:
        if self._member is not None:
            raise EOFError("the gzip data is cut off")


class _Splitter:
    """Puts chunks together to lines."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._number = 1
        self._held = bytearray()
        self._size = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        *whole, rest = chunk.split(b"\n")
        for piece in whole:
            yield self._line(piece)
        self._hold(rest)

    def end(self) -> Iterator[Line]:
        if self._size:
            yield self._line(b"")

    def broken(self, problem: str) -> Line:
        return Line(self._number, bytes(self._held), self._size, problem)

    def _line(self, piece: bytes) -> Line:
        if self._size or len(piece) > self._max_bytes:
            self._hold(piece)
            line = Line(self._number, bytes(self._held), self._size)
            self._held.clear()
            self._size = 0
        else:
            line = Line(self._number, piece, len(piece))
        self._number += 1
        return line

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._max_bytes:
            self._held += piece
        else:
            if len(self._held) < _KEPT:
                self._held += piece[:_KEPT]
            del self._held[_KEPT:]
