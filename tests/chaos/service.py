"""The service that is killed: a bus on a SQLite file, under load from many sides at once.

Belongs here: what the process does from its start until it is killed. It must not know why, or when.
"""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, TypeAlias

from onwhen import EventBus, Limits
from onwhen.storage import create_sqlite_storage
from onwhen.storage.sqlite import _database, _worker
from tests.chaos.plan import ACCOUNTS, EMITTERS, item_of
from tests.chaos.rules import rules

__all__ = ["Mode", "Orders", "serve"]

Mode: TypeAlias = Literal["load", "idle", "close", "finish"]

_PAUSE = 0.001  # seconds between two events of an emitter
_FEW = 10  # events of each emitter before it is idle, or closes (a count)


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a process is to do.

    Attributes:
        path: the store.
        ledger: file that is appended to, with a line for each thing that was accepted.
        told: file descriptor to which a letter is written when something begins.
        numbers: for each emitter, the number of its next event.
        session: number of the next session.
        mode: load: emit for ever. idle: emit a little, and wait. close: emit a little, and close. finish: emit
            nothing, wait until all is done, and close.
        partitions: of the store (a count).
        synchronous: of the store.
        busy: have a checkpoint every few commits.
    """

    path: str
    ledger: str
    told: int
    numbers: Sequence[int]
    session: int
    mode: Mode
    partitions: int
    synchronous: Literal["FULL", "NORMAL"]
    busy: bool


def serve(orders: Orders) -> NoReturn:
    """Do it, in a process that was forked for it; code 0 if that came to an end, 1 after an error."""
    code = 1
    try:
        _tell_of_checkpoints(orders)
        asyncio.run(_Service(orders).run())
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _tell_of_checkpoints(orders: Orders) -> None:
    if orders.busy:
        _database._IDLE_PAGES, _database._MOST_PAGES = 8, 40  # type: ignore[misc]
        _worker._MOMENT = 0.005  # type: ignore[misc]
    checkpoint = _database.Database.checkpoint

    def telling(self: _database.Database, mode: str = "PASSIVE") -> None:
        os.write(orders.told, b"c")
        checkpoint(self, mode)

    _database.Database.checkpoint = telling  # type: ignore[method-assign]


class _Service:
    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._ledger = os.open(orders.ledger, os.O_WRONLY | os.O_APPEND)
        self._bus = EventBus(
            *rules,
            store=create_sqlite_storage(
                orders.path, partitions=orders.partitions, synchronous=orders.synchronous, history=500
            ),
            limits=Limits(max_concurrent_turns=20 if orders.busy else 1000),
        )

    async def run(self) -> None:
        orders, bus = self._orders, self._bus
        self._tell("o")
        await bus.start()
        self._tell("r")
        if orders.mode == "finish":
            await self._rest()
        else:
            async with asyncio.TaskGroup() as group:
                for emitter in range(EMITTERS):
                    group.create_task(self._emit(emitter))
                group.create_task(self._change())
        if orders.mode == "idle":
            await bus.idle()
            self._tell("i")
            await asyncio.Event().wait()
        self._tell("x")
        await bus.close()
        self._tell("d")

    def _tell(self, letter: str) -> None:
        os.write(self._orders.told, letter.encode())

    def _note(self, line: str) -> None:
        os.write(self._ledger, f"{line}\n".encode())

    async def _emit(self, emitter: int) -> None:
        """Emit one event after the other; an event that was not noted yet may have been accepted all the same."""
        orders, bus = self._orders, self._bus
        first = number = orders.numbers[emitter]
        while orders.mode == "load" or number < first + _FEW:
            data = {"e": emitter, "n": number}
            send = bus.append if emitter % 3 == 0 else bus.emit
            receipt = await send("work", f"item:{item_of(emitter, number)}", data, id=f"{emitter}.{number}")
            if receipt.status == "duplicate" and number != first:
                raise AssertionError(f"{emitter}.{number} was emitted once, and is called a duplicate")
            self._note(f"{emitter} {number}")
            number += 1
            await asyncio.sleep(_PAUSE)

    async def _change(self) -> None:
        """Change subjects from outside; who is killed meanwhile does not know whether it took effect."""
        orders = self._orders
        first = number = orders.session
        while orders.mode == "load" or number < first + _FEW:
            self._note(f"begin {number}")
            async with self._bus.subject(f"account:{number % ACCOUNTS}") as account:
                account.set("n", lambda n: n + 1)
            self._note(f"end {number}")
            number += 1
            await asyncio.sleep(5 * _PAUSE)

    async def _rest(self) -> None:
        """Wait until nothing is left to be done."""
        async with asyncio.timeout(60):
            while True:
                await self._bus.idle()
                stats = await self._bus.store.stats()
                if not (stats.pending or stats.timers or stats.retries):
                    return
                await asyncio.sleep(0.01)
