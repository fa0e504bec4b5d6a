"""What the tests of the command line share: recorded events, a small app, and the command as a process."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import onwhen
from onwhen.testing.servers import RedisServer
from tests.cli.fleets import Started, make

START = datetime(2024, 1, 1, tzinfo=UTC)

SHOP = """
import asyncio
import os
from datetime import timedelta
from onwhen import RuleSet, Subject, changed, when

class Order(Subject, prefix="order:"):
    status: str = "new"
    items: int = 0
    late: bool = False

orders = RuleSet("orders", subject=Order)
books = RuleSet("books")

@orders.on("order.placed")
def place(ctx):
    ctx.subject.status = "placed"
    ctx.emit("order.overdue", delay=timedelta(days=2), key="due")

@orders.on("order.item")
async def add(ctx):
    ctx.subject.items += ctx.payload["count"]
    await ctx.emit("book.entry", {"order": ctx.subject.name}, "book:1")

@orders.on("order.shipped")
@when(lambda ctx: ctx.subject.status == "placed")
def ship(ctx):
    ctx.subject.status = "shipped"
    ctx.cancel("due")

@orders.on("order.overdue")
def overdue(ctx):
    ctx.subject.late = True

@orders.on("order.broken")
def broken(ctx):
    raise RuntimeError("the \\x1b[31mprinter\\nis on fire")

@orders.on("order.print")
def say(ctx):
    print("a rule prints")

@orders.on("order.hang")
async def hang(ctx):
    open("hanging", "w").close()
    await asyncio.Event().wait()

@books.on("book.entry")
def enter(ctx):
    ctx.subject.set("entries", lambda n: (n or 0) + 1)
    ctx.subject.set_ext("by", "shop")
"""


class EventLines:
    """Writes events as lines; ids and times count up unless they are given."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def __call__(
        self, type: str = "order.placed", subject: str = "order:1", data: Any = None, **attributes: Any
    ) -> bytes:
        number = next(self._numbers)
        envelope = {
            "specversion": "1.0",
            "id": f"e{number}",
            "source": "/shop",
            "type": type,
            "subject": subject,
            "time": (START + timedelta(seconds=number)).isoformat(),
            "data": data,
            **attributes,
        }
        return json.dumps({name: value for name, value in envelope.items() if value is not None}).encode() + b"\n"


@pytest.fixture
def line() -> EventLines:
    """A writer of recorded events."""
    return EventLines()


@dataclass(frozen=True)
class Ended:
    """How the command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A folder with `shop.py`, an app with two rule sets."""
    (tmp_path / "shop.py").write_text(SHOP)
    return tmp_path


@pytest.fixture
def environment() -> Mapping[str, str]:
    """The environment in which the command is run: ours, with the package on the path, and nothing set."""
    root = str(Path(onwhen.__file__).parents[1])
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ONWHEN_")}
    return {**kept, "PYTHONPATH": root, "COLUMNS": "200", "PYTHONWARNINGS": "error"}


@pytest.fixture
def cli(tmp_path: Path, environment: Mapping[str, str]) -> Callable[..., Ended]:
    """The command as a process of its own, run in the test's folder."""

    def run(*arguments: str, stdin: bytes = b"", **settings: str) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "onwhen", *arguments],
            input=stdin,
            capture_output=True,
            cwd=tmp_path,
            env={**environment, **settings},
            timeout=60,
        )
        return Ended(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a store may be made; commands that name none mean this one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONWHEN_STORE", "sqlite:///depot.db")
    return tmp_path / "depot.db"


@pytest.fixture(name="onwhen")
def onwhen_here(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command, run in this process, with its output in a pipe."""
    from onwhen.cli._main import run

    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        code = run(arguments)
        told = capfd.readouterr()
        return Ended(code, told.out, told.err)

    return call


@pytest.fixture
def deployment(
    redis_server: RedisServer, key_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """A place for a store that workers share; commands that name none mean this one, in a folder of the test's own."""
    settings = {"ONWHEN_STORE": redis_server.url, "ONWHEN_KEY_PREFIX": key_prefix, "ONWHEN_PARTITIONS": "4"}
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return settings


@pytest.fixture
def made(deployment: Mapping[str, str]) -> None:
    """A store that workers share, and nobody who handles its events."""
    asyncio.run(make())


@pytest.fixture
def launch(
    deployment: Mapping[str, str], environment: Mapping[str, str], tmp_path: Path
) -> Iterator[Callable[..., Started]]:
    """The command, started and left running; what is left of it at the end of the test is killed."""
    started: list[Started] = []

    def run(*arguments: str, **settings: str) -> Started:
        started.append(Started(list(arguments), tmp_path, {**environment, **deployment, **settings}))
        return started[-1]

    yield run
    for one in started:
        one.end()
