"""Workers as processes, as `onwhen worker` starts them, and the rules that they run.

The rules are the APP: `tests.cli.fleets:shop`. Some of them fail until the file `mended` is there; some do what a rule
should never do.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from onwhen import Context, RetryPolicy, RuleSet, Settings, Subject, SystemClock
from onwhen.storage import create_storage

APP = "tests.cli.fleets:shop"
SECONDS = 30.0  # how long anything here may take on a busy machine


class Order(Subject, prefix="order:"):
    """An order."""

    count: int = 0
    by: int = 0


shop = RuleSet("shop", subject=Order)


def needs_mending() -> None:
    """Fail until it is mended."""
    if not is_there("mended"):
        raise ConnectionError("no printer\n\x1b[31mcall the desk")


def is_there(name: str) -> bool:
    """Whether the test, or a rule, has left a file."""
    return Path(name).exists()


def leave(name: str) -> None:
    """Let the test know that a rule has come to this."""
    Path(name).touch()


@shop.on("order.placed")
def place(ctx: Context[Order]) -> None:
    ctx.subject.count += 1
    ctx.subject.by = os.getpid()


@shop.on("order.printed")
def print_order(ctx: Context[Order]) -> None:
    needs_mending()


@shop.on("order.weighed", retry=RetryPolicy(on_exhausted="park"))
def weigh(ctx: Context[Order]) -> None:
    needs_mending()


@shop.on("order.called", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1)))
def call(ctx: Context[Order]) -> None:
    needs_mending()


@shop.on("order.slow")
async def take_long(ctx: Context[Order]) -> None:
    leave("slow")
    while not is_there("go on"):
        await asyncio.sleep(0.02)
    ctx.subject.count += 100


@shop.on("order.blocked")
def block(ctx: Context[Order]) -> None:
    leave("blocked")
    while not is_there("go on"):
        time.sleep(0.02)
    ctx.subject.count += 1000


@shop.on("order.threaded")
async def wait_in_thread(ctx: Context[Order]) -> None:
    leave("threaded")
    await asyncio.to_thread(threading.Event().wait)


@shop.on("order.locked")
def lock(ctx: Context[Order]) -> None:
    """Hold on to the interpreter in C, where no thread of Python's can get in."""
    if is_there("go on"):
        return
    leave("locked")
    re.fullmatch("(a|a)*b", "a" * 64)


async def make() -> None:
    """Make the store that the environment means."""
    settings = Settings()
    store = create_storage(settings.store, **settings.storage())
    await store.open(SystemClock())
    await store.close()


def until(what: Callable[[], Any], said: Callable[[], str] = str) -> Any:
    """Wait until something is true, and return it.

    Args:
        what: asked again and again.
        said: what to tell if it never is.
    """
    deadline = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, said()
        time.sleep(0.02)
    return found


class Started:
    """`onwhen` as a process, with what it says on standard error.

    Args:
        arguments: what is typed after `onwhen`.
        folder: where it runs.
        environment: what it finds there.
    """

    def __init__(self, arguments: list[str], folder: Path, environment: Mapping[str, str]) -> None:
        self._log = folder / f"log-{time.monotonic_ns()}"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "onwhen", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                cwd=folder,
                env=dict(environment),
            )

    @property
    def told(self) -> str:
        """All that it has said."""
        return self._log.read_text()

    def says(self, pattern: str, times: int = 1) -> re.Match[str]:
        """Wait until it has said something so many times, and return the last of them."""

        def look() -> re.Match[str] | None:
            found = list(re.finditer(pattern, self.told))
            assert len(found) >= times or self.process.poll() is None, self.told
            return found[times - 1] if len(found) >= times else None

        found: re.Match[str] = until(look, lambda: f"it has not said {pattern!r}, but:\n{self.told}")
        return found

    def ends(self) -> int:
        """Wait until it ends, and return its exit code."""
        try:
            return self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; it said:\n{self.told}") from None

    def end(self) -> None:
        """End it at once, and all that it has started."""
        children = [] if self.process.poll() is not None else psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)
