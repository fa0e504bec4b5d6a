"""What was done, and why: the history of subjects, and the explanations of turns.

Belongs here: reading what was kept to be looked at. It must not know what else is listed, nor what
explanations say.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Explanation, HistoryEntry
from onwhen.errors import StoreError
from onwhen.storage._encoding import micros
from onwhen.storage.redis import _scripts
from onwhen.storage.redis._connection import Word
from onwhen.storage.redis._deployment import Deployment
from onwhen.storage.redis._encoding import cell_word, due_text, explanation_of, history_of
from onwhen.storage.redis._listing import merged, read_as

__all__ = ["Past"]

_PAGE: Final = 200  # entries that are read, or looked at, at once (a count)
_ROOM: Final = 1 << 20  # bytes of explanations that are looked at at once: others of the server wait for it
_TIME: Final = 18  # bytes of what `due_text` makes


class Past:
    """What a deployment keeps of what was done.

    Args:
        deployment: whose it is.
    """

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def history(self, subject: str) -> AsyncIterator[HistoryEntry]:
        """Go through what was done to a subject; see `Store.history`."""
        keys = self._deployment.parts
        partition, name, end = partition_of(subject, len(keys)), subject.encode(), "+"
        while True:
            command = ("XREVRANGE", keys[partition].history, end, "-", "COUNT", _PAGE)
            (rows,) = await self._deployment.read({partition: [command]})
            for _, fields in rows:
                entry = read_as(history_of, fields) if fields[3] == name else None
                if entry is not None:
                    yield entry
            if len(rows) < _PAGE:
                return
            end = f"({rows[-1][0].decode()}"

    async def explanations(self, correlation: str | None, subject: str | None) -> AsyncIterator[Explanation]:
        """Go through the explanations; see `Store.explanations`. The server leaves out those not asked for."""
        some = None if subject is None else [self._deployment.key(subject)[0]]
        try:
            wanted = [cell_word(None if one is None else one.encode()) for one in (correlation, subject)]
        except UnicodeEncodeError as error:
            raise StoreError(f"correlation id {correlation!a:.200} cannot be stored: {error.reason}") from error

        async def page(partition: int, after: bytes) -> list[tuple[bytes, Explanation]]:
            start = b"(" + after[_TIME:] if after else b"-"
            while start:
                words: list[Word] = [start, _PAGE, _ROOM, *wanted]
                start, rows = await self._deployment.look(partition, _scripts.EXPLAINED, words)
                if rows:
                    found = [(id, read_as(explanation_of, *words)) for id, *words in rows]
                    return [(due_text(micros(one.time)).encode() + id, one) for id, one in found]
            return []

        async for _, explanation in merged(self._deployment, page, some):
            yield explanation
