"""`onwhen repartition`: a store that workers share, divided into another number of partitions."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import count
from typing import Any

import pytest

from onwhen.engine.partitions import partition_of
from onwhen.errors import StoreError
from onwhen.storage.redis._connection import Connection
from onwhen.testing.servers import RedisServer
from tests.cli.fleets import APP, Started, until
from tests.storage.redis.deployments import NAMES, contents, event, fill, opened

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]


@pytest.fixture
def filled(deployment: Mapping[str, str]) -> Mapping[str, str]:
    """A store of 4 partitions with something of everything."""

    async def make() -> None:
        async with opened(deployment["ONWHEN_STORE"], deployment["ONWHEN_KEY_PREFIX"], 4) as store:
            await fill(store)

    asyncio.run(make())
    return deployment


def held(deployment: Mapping[str, str]) -> tuple[int, Any]:
    """How many partitions a store has, and what is in it."""

    async def look() -> tuple[int, Any]:
        async with opened(deployment["ONWHEN_STORE"], deployment["ONWHEN_KEY_PREFIX"]) as store:
            return store.partitions, await contents(store)

    return asyncio.run(look())


def test_it_says_what_was_moved(filled: Mapping[str, str], onwhen: Onwhen) -> None:
    """In one line; what is not there is not mentioned."""
    _, before = held(filled)
    ended = onwhen("repartition", "--partitions", "8")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Moved from 4 to 8 partitions, and compared: 30 subjects, ")
    assert ", 60 timers, 30 retries, 30 dead letters, " in ended.out
    assert held(filled) == (8, before)


def test_programs_get_json(filled: Mapping[str, str], onwhen: Onwhen) -> None:
    """One object, with counts of every kind."""
    told = json.loads(onwhen("repartition", "--partitions", "2", "--json").out)
    assert (told["before"], told["after"]) == (4, 2)
    assert (told["counts"]["subjects"], told["counts"]["timers"]) == (30, 60)


def test_a_dry_run_only_looks(filled: Mapping[str, str], onwhen: Onwhen) -> None:
    """What would be moved, and what is in the way."""
    before = held(filled)
    ended = onwhen("repartition", "--partitions", "8", "--dry-run")
    assert ended.code == 0
    assert ended.out.splitlines()[0].startswith("Would move from 4 to 8 partitions: 30 subjects, ")
    assert "The largest partition would have " in ended.out
    assert "Messages between partitions that are on their way" in ended.out
    assert held(filled) == before
    told = json.loads(onwhen("repartition", "--partitions", "8", "--dry-run", "--json").out)
    assert (told["before"], told["workers"], told["is_moving"]) == (4, [], False)


def test_workers_have_to_be_stopped_first(launch: Launch, onwhen: Onwhen) -> None:
    """They are named, and go on."""
    worker = launch("worker", APP, "--id", "desk")
    worker.says("owns 4 of 4")
    looked = onwhen("repartition", "--partitions", "8", "--dry-run")
    assert "Workers live, and have to be stopped first: desk." in looked.out
    ended = onwhen("repartition", "--partitions", "8")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("onwhen: workers live: desk, who own partitions 0, 1, 2, 3; stop them first")
    assert onwhen("emit", "order.placed", "order:1", "--wait", "20").code == 0


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "say how many partitions there are to be: --partitions N; or --undo"),
        (["--undo", "--partitions", "8"], "--undo takes back what was begun"),
        (["--undo", "--dry-run"], "--undo takes back what was begun"),
        (["--partitions", "0"], "partitions=0 must be from 1 to 16,384"),
        (["--partitions", "4"], "there are 4 partitions already"),
        (["--partitions", "8", "--store", "sqlite:///desk.db"], "only a store that workers share is divided"),
    ],
)
def test_what_cannot_be_is_refused(made: None, onwhen: Onwhen, arguments: list[str], problem: str) -> None:
    """With the exit code for a wrong command line, and nothing is changed."""
    ended = onwhen("repartition", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"onwhen: {problem}")


def test_there_has_to_be_a_store(deployment: Mapping[str, str], onwhen: Onwhen) -> None:
    """None is made by a mistyped address."""
    ended = onwhen("repartition", "--partitions", "8")
    assert ended.code == 2
    assert "there is no store under" in ended.err


def test_places_that_differ_are_forgotten_only_if_told(deployment: Mapping[str, str], onwhen: Onwhen) -> None:
    """It is said which number keeps them."""

    async def make() -> None:
        async with opened(deployment["ONWHEN_STORE"], deployment["ONWHEN_KEY_PREFIX"], 4) as store:
            for partition in range(4):
                await store.append(partition, [], {"inbox": f"line {partition}"})

    asyncio.run(make())
    assert "see --forget-bookmarks: inbox." in onwhen("repartition", "--partitions", "6", "--dry-run").out
    ended = onwhen("repartition", "--partitions", "6")
    assert ended.code == 2
    assert "choose a multiple of 4 partitions" in ended.err
    assert onwhen("repartition", "--partitions", "6", "--forget-bookmarks").code == 0


def test_killed_in_the_middle_it_is_run_again(
    deployment: Mapping[str, str], launch: Launch, onwhen: Onwhen, redis_server: RedisServer
) -> None:
    """Until then nobody uses the store, and everybody is told why; or it is taken back."""

    async def make() -> None:
        async with opened(deployment["ONWHEN_STORE"], deployment["ONWHEN_KEY_PREFIX"], 4) as store:
            await fill(store)
            partition = partition_of(NAMES[0], 4)
            for n in range(20):
                await store.append(partition, [event(f"{n}-{m}", NAMES[0]) for m in range(1000)])

    asyncio.run(make())
    before = held(deployment)
    for take_back in (True, False):
        moving = launch("repartition", "--partitions", "6")
        copied = f"{{{deployment['ONWHEN_KEY_PREFIX']}:p*.{1 if take_back else 3}}}:log"
        until(lambda copied=copied: redis_server.ask("KEYS", copied))
        moving.end()
        refused = onwhen("stats")
        assert refused.code == 2
        assert "is being moved to another number of partitions, or that was cut short" in refused.err
        if take_back:
            assert onwhen("repartition", "--undo").out == "Taken back; all is as it was.\n"
            assert held(deployment) == before
    assert onwhen("repartition", "--partitions", "6").code == 0
    assert held(deployment) == (6, before[1])
    assert onwhen("repartition", "--undo").out == "There is nothing to take back.\n"


def test_a_server_that_fails_on_the_way(
    filled: Mapping[str, str], onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said what to do, and then it can be done; a dry run tells that there is something to go on with."""
    before = held(filled)
    ask_many, calls = Connection.ask_many, count()

    async def fails(self: Connection, commands: Any) -> Any:
        if commands and commands[0][0] == "XADD" and next(calls) == 0:
            raise StoreError("the server is gone")
        return await ask_many(self, commands)

    monkeypatch.setattr("onwhen.storage.redis._copying._BATCH", 1)
    monkeypatch.setattr(Connection, "ask_many", fails)
    ended = onwhen("repartition", "--partitions", "8")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.splitlines() == [
        "Cut short: run it again, and it does what is left; or give it up with --undo.",
        "onwhen: the server is gone",
    ]
    looked = onwhen("repartition", "--partitions", "8", "--dry-run")
    assert "A move was begun and has not ended: it would be begun anew." in looked.out
    assert json.loads(onwhen("repartition", "--undo", "--json").out) == {"undone": True}
    assert held(filled) == before


def test_on_a_terminal_it_shows_how_far_it_is(filled: Mapping[str, str], environment: Mapping[str, str]) -> None:
    """In one line, which is gone at the end."""
    ours, theirs = pty.openpty()
    started = subprocess.Popen(
        [sys.executable, "-m", "onwhen", "repartition", "--partitions", "8"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**environment, **filled, "TERM": "xterm", "COLUMNS": "200"},
    )
    os.close(theirs)
    told = b""
    with suppress(OSError):  # what Linux says when the other side is closed
        while some := os.read(ours, 4096):
            told += some
    os.close(ours)
    out, _ = started.communicate(timeout=30)
    assert started.returncode == 0
    assert b"Moved from 4 to 8 partitions" in out
    assert b" subjects" in told
