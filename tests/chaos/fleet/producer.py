"""Who emits under chaos: `python -m tests.chaos.fleet.producer URL PREFIX PARTITIONS LEDGER`.

Belongs here: emitting, each emitter one event after the other, and noting what was accepted, and when. It must not
know of faults, but that a call may fail: then the same event is emitted again, until it is accepted.

On the standard input `go` and `hold` come, or its end; on the standard output `held` is told once nothing is under
way.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from typing import Final

from onwhen import EventBus
from onwhen.engine.outcomes import Receipt
from onwhen.errors import StoreBusy, StoreError
from onwhen.storage.redis import create_redis_storage
from tests.chaos.fleet.workers import die_with_parent
from tests.chaos.plan import ACCOUNTS, EMITTERS, item_of
from tests.chaos.rules import rules

_BACKLOG: Final = 400  # events of a partition above which emitters have to wait (a count)
_PAUSE: Final = 0.02  # seconds until something is tried again
_ASKS: Final = 0.02  # of the events: whether they were handled is asked for
_HANDLED: Final = 60.0  # seconds in which an event has to be handled, whatever happens


class _Producer:
    def __init__(self, url: str, prefix: str, partitions: int, ledger: str) -> None:
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        store = create_redis_storage(url, prefix, partitions=partitions, max_backlog=_BACKLOG)
        self._bus = EventBus(*rules, store=store)
        self._may_go = asyncio.Event()
        self._at_work = 0
        self._held = asyncio.Event()
        self._asked: set[asyncio.Task[None]] = set()
        self._random = random.Random(1)

    async def run(self) -> None:
        lines = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
        await self._insist(self._bus.start)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._emit(number)) for number in range(EMITTERS)]
            tasks.append(group.create_task(self._change()))
            self._tell("ready")
            while line := await lines.readline():
                if line == b"go\n":
                    self._may_go.set()
                else:
                    self._may_go.clear()
                    while self._at_work or self._asked:
                        self._held.clear()
                        await self._held.wait()
                    self._tell("held")
            for task in (*tasks, *self._asked):
                task.cancel()
        await self._bus.close()

    def _tell(self, what: str) -> None:
        sys.stdout.write(f"{what}\n")
        sys.stdout.flush()

    def _note(self, line: str) -> None:
        os.write(self._ledger, f"{line}\n".encode())

    async def _turn(self) -> None:
        """Wait until there is something to be done."""
        while not self._may_go.is_set():  # it may be told to hold right after it was told to go
            await self._may_go.wait()
        self._at_work += 1

    def _done(self) -> None:
        self._at_work -= 1
        self._held.set()

    async def _insist(self, call: object) -> None:
        while True:
            try:
                await call()  # type: ignore[operator]
            except StoreError:
                await asyncio.sleep(_PAUSE)
            else:
                return

    async def _emit(self, emitter: int) -> None:
        number = 0
        while True:
            await self._turn()
            receipt = await self._until_accepted(emitter, number)
            self._note(f"{emitter} {number} {time.time():.6f}")
            if self._random.random() < _ASKS:
                task = asyncio.create_task(self._ask(receipt, f"{emitter}.{number}"))
                self._asked.add(task)
                task.add_done_callback(self._answered)
            self._done()
            number += 1

    async def _until_accepted(self, emitter: int, number: int) -> Receipt:
        data, tries = {"e": emitter, "n": number}, 0
        while True:
            tries += 1
            send = self._bus.append if emitter % 3 == 0 else self._bus.emit
            try:
                receipt = await send("work", f"item:{item_of(emitter, number)}", data, id=f"{emitter}.{number}")
            except StoreBusy as busy:
                if busy.backlog <= 0 or busy.limit != _BACKLOG:
                    self._note(f"wrong busy:{busy.backlog}/{busy.limit}")
                tries -= 1
            except StoreError:
                self._note("refused 1")
            else:
                if receipt.status == "duplicate" and tries == 1:
                    self._note(f"duplicate {emitter}.{number}")
                return receipt
            await asyncio.sleep(_PAUSE)

    async def _ask(self, receipt: Receipt, name: str) -> None:
        """Wait until it is handled, however long the store does not answer."""
        deadline = time.monotonic() + _HANDLED
        while True:
            try:
                await receipt.handled(timeout=max(0.0, deadline - time.monotonic()))
            except StoreError:
                await asyncio.sleep(_PAUSE)
            except TimeoutError:
                self._note(f"late {name}")
                return
            else:
                self._note("handled 1")
                return

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._asked.discard(task)
        self._held.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._note(f"wrong {type(error).__name__}")

    async def _change(self) -> None:
        """Change subjects from outside; after an error nobody knows whether it took effect."""
        number = 0
        while True:
            await self._turn()
            self._note(f"begin {number}")
            try:
                async with self._bus.subject(f"account:{number % ACCOUNTS}") as account:
                    account.set("n", lambda n: n + 1)
            except StoreError:
                self._note("refused 1")
            else:
                self._note(f"end {number}")
            self._done()
            number += 1
            await asyncio.sleep(_PAUSE)


if __name__ == "__main__":
    die_with_parent()
    url, prefix, partitions, ledger = sys.argv[1:]
    asyncio.run(_Producer(url, prefix, int(partitions), ledger).run())
