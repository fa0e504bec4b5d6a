"""A state to try things out on: what a dump says, or what a store holds, as far as it is asked for.

Belongs here: getting state into a store in memory. It must not know what is done with it there; where it comes from is
only read.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final
from uuid import uuid4

from onwhen.cli._options import UsageError
from onwhen.engine.bus import EventBus
from onwhen.engine.store import Commit, Store, SubjectRecord, SubjectWrite
from onwhen.engine.subjects import Subject
from onwhen.engine.values import encode, loads_strict
from onwhen.errors import PropertyError
from onwhen.storage.memory import MemoryStore

__all__ = ["CopyOfStore", "load_dump"]

_STDIN: Final = "-"


class CopyOfStore(MemoryStore):
    """A store in memory that reads each subject from another one, once, when it is first asked for.

    Args:
        origin: the other one, open; None for an empty store.
    """

    def __init__(self, origin: Store | None) -> None:
        super().__init__()
        self._origin = origin
        self._copied: set[str] = set()
        self._copying = asyncio.Lock()

    @property
    def volatile(self) -> bool:
        """Whether it answers at once; if it has to ask the other one it does not."""
        return self._origin is None

    async def load(self, subject: str) -> SubjectRecord:
        """Return a subject as it is here; see `Store.load`."""
        if self._origin is not None and subject not in self._copied:
            async with self._copying:
                if subject not in self._copied:
                    record = await self._origin.load(subject)
                    if record.version is not None:
                        await _put(self, subject, record.properties, record.ext, record.schema)
                    self._copied.add(subject)
        return await super().load(subject)


async def _put(
    store: Store, subject: str, properties: Mapping[str, bytes], ext: Mapping[str, bytes], schema: int
) -> None:
    write = SubjectWrite(set=properties, set_ext=ext, schema=schema)
    await store.commit(Commit(partition=0, subject=subject, write=write, id=str(uuid4())))


async def load_dump(name: str, bus: EventBus) -> None:
    """Put what a dump holds into the store of a bus.

    Args:
        name: the file, as 'onwhen replay --dump' writes it; - for standard input.
        bus: whose classes say what a subject's properties are.

    Raises:
        UsageError: it cannot be read, or is no dump, or holds what the classes do not take; the message says where.
    """
    known: dict[str, str] = {}
    for where, line in _lines(name):
        try:
            found: Any = loads_strict(line, where)
            subject, properties, ext = found["subject"], found["properties"], found.get("ext", {})
            if not (isinstance(subject, str) and isinstance(properties, dict) and isinstance(ext, dict)):
                raise TypeError
        except ValueError as error:
            raise UsageError(str(error)) from None
        except (TypeError, KeyError, AttributeError):
            raise UsageError(
                f"{where}: must be a line of a dump, with subject and properties, as 'onwhen replay --dump' writes it"
            ) from None
        if subject in known:
            raise UsageError(f"{where}: {subject} is there already, at {known[subject]}; leave one of them")
        known[subject] = where
        cls = bus.rulebook.subject_type(subject)
        texts = {key: encode(value) for key, value in properties.items()}
        exts = {key: encode(value) for key, value in ext.items()}
        _check(cls, subject, texts, where)
        await _put(bus.store, subject, texts, exts, cls._version)


def _lines(name: str) -> Iterator[tuple[str, bytes]]:
    """Go through the lines of a file that are not blank, each with where it is."""
    try:
        if name == _STDIN:
            whole, name = sys.stdin.buffer.read(), "standard input"
        else:
            with open(name, "rb") as file:
                whole = file.read()
    except OSError as error:
        raise UsageError(f"--state {name}: {error.strerror}") from error
    for number, line in enumerate(whole.splitlines(), 1):
        if line.strip():
            yield f"{name}:{number}", line


def _check(cls: type[Subject], subject: str, texts: dict[str, bytes], where: str) -> None:
    """Refuse what the class does not take, before any rule meets it."""
    record = SubjectRecord(name=subject, properties=texts, ext={}, version=1, schema=cls._version)
    state = cls._state_of(record)
    try:
        for name in texts:
            state.properties.read(name)
    except PropertyError as error:
        raise UsageError(f"{where}: {error}") from error
