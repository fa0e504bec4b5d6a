"""Stores in Redis whose scripts are told the time by a clock of the test, which may be moved."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from onwhen import Clock
from onwhen.storage._encoding import micros
from onwhen.storage.redis import RedisStore
from onwhen.storage.redis._connection import Connection, Mark, Script, Word

_TIME = "redis.call('TIME')"


@cache
def _at(script: Script, now: int) -> Script:
    seconds, rest = divmod(now, 1_000_000)
    text = script.text.replace(_TIME, "call('TIME')")
    return Script(script.name, text.replace("call('TIME')", f"{{ '{seconds}', '{rest}' }}"))


class _TimedConnection(Connection):
    """Sends scripts in which the time is written down; otherwise they are the same."""

    clock: Clock

    async def run(
        self, script: Script, keys: Sequence[bytes | str], args: Sequence[Word] = (), *, since: Mark | None = None
    ) -> Any:
        return await super().run(_at(script, micros(self.clock.now())), keys, args, since=since)


class TimedStore(RedisStore):
    """Takes the time from the clock that it is opened with."""

    def __init__(self, url: str, key_prefix: str, **options: Any) -> None:
        super().__init__(url, key_prefix, **options)
        self._connection = self._deployment.connection = _TimedConnection(url)

    async def open(self, clock: Clock) -> bool:
        self._connection.clock = clock
        return await super().open(clock)
