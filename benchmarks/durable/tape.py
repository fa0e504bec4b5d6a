"""The bare loop: the SQL that the store has run, run again with nothing around it.

Belongs here: recording every statement of a connection with its parameters, transactions and checkpoints included, and
running it again on a copy of the file. It must not know what the statements mean, nor where they come from.

In the bare loop there is no engine, no other thread and no event loop, and nothing is built: statements and parameters
lie ready. What it does in a second is the most that anything could that stores the same in the same groups.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias
from unittest.mock import patch

__all__ = ["Entry", "contents", "played", "recording", "run", "transactions"]

Entry: TypeAlias = tuple[str, str, Any]
"""How it was run ("write", "read" or "many"), the statement, and its parameters: of "many", one tuple a row."""

_READS: Final = ("SELECT", "PRAGMA", "WITH")


class _Recorder(sqlite3.Connection):
    """A connection that notes what it is asked."""

    tape: list[Entry]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        self.tape.append(("read" if sql.startswith(_READS) else "write", sql, parameters))
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        rows = list(parameters)
        self.tape.append(("many", sql, rows))
        return super().executemany(sql, rows)


@contextmanager
def recording() -> Iterator[list[Entry]]:
    """Record every connection to SQLite that is made while the block lasts; yield what they have run so far."""
    tape: list[Entry] = []
    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, factory=_Recorder, **options)
        connection.tape = tape
        return connection

    with patch.object(sqlite3, "connect", connected):
        yield tape


@contextmanager
def played(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file as the store does, for as long as the block lasts; settings of the connection are on the tape."""
    with closing(sqlite3.connect(path, isolation_level=None, cached_statements=256)) as connection:
        yield connection


def run(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Run what is on a tape."""
    execute, executemany = connection.execute, connection.executemany
    for how, sql, parameters in entries:
        if how == "write":
            execute(sql, parameters)
        elif how == "read":
            execute(sql, parameters).fetchall()
        else:
            executemany(sql, parameters)


def transactions(entries: Sequence[Entry]) -> int:
    """Return how many transactions were committed."""
    return sum(sql == "COMMIT" for _, sql, _ in entries)


def contents(path: Path) -> dict[str, list[Any]]:
    """Return all rows of all tables of a file, to tell whether two files hold the same."""
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: connection.execute(f'SELECT * FROM "{name}" ORDER BY 1, 2').fetchall() for name in sorted(names)}
