"""Worker processes, forked from one that has imported everything: `python -m tests.chaos.fleet.workers FOLDER`.

Belongs here: what a worker process does, and the process that starts them. It must not know why they end.

Each line on the standard input is a JSON object, the orders of a worker; the answer is `started NAME PID`. When one
ends, `ended PID CODE` follows. When the input ends, all of them are killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import select
import signal
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NoReturn

from onwhen import EventBus, Limits
from onwhen.engine.worker import Worker
from onwhen.errors import StoreError, StoreFormatError, WorkerStalled
from onwhen.storage.redis import create_redis_storage
from tests.chaos.rules import rules

__all__ = ["LOST", "STALLED", "Orders", "die_with_parent", "main"]

STALLED: Final = 75  # exit code: it got nowhere, and should be started again
LOST: Final = 76  # exit code: there was no store, and it should be started again
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_DIE_WITH_PARENT: Final = 1  # PR_SET_PDEATHSIG
_LOOK: Final = 0.02  # seconds


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What a worker is to do.

    Attributes:
        name: its id.
        url: of the store.
        prefix: of its keys.
        lease: of its partitions (seconds).
        stall: see `Worker` (seconds).
        turns: how many at once (a count).
    """

    name: str
    url: str
    prefix: str
    lease: float
    stall: float = 15.0
    turns: int = 1000

    def line(self) -> str:
        """Return them as they are sent."""
        return json.dumps(asdict(self)) + "\n"


async def work(orders: Orders) -> None:
    """Be a worker until told to end."""
    store = create_redis_storage(orders.url, orders.prefix)
    worker = Worker(
        EventBus(*rules, store=store, limits=Limits(max_concurrent_turns=orders.turns)),
        id=orders.name,
        lease=orders.lease,
        grace=5.0,
        stall=orders.stall,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    await worker.run()


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that has started it dies."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)


def _be_worker(orders: Orders, folder: Path) -> NoReturn:
    code = 1
    try:
        die_with_parent()
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        log = os.open(folder / f"{orders.name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        asyncio.run(work(orders))
        code = 0
    except WorkerStalled:
        traceback.print_exc()
        code = STALLED
    except StoreFormatError:  # nothing of this changes what is stored: it is no reason to start again
        traceback.print_exc()
    except StoreError:
        traceback.print_exc()
        code = LOST
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main(folder: Path) -> None:
    """Start workers as they are asked for, and tell when they end."""
    living: set[int] = set()
    received = b""
    while True:
        ready, _, _ = select.select([0], [], [], _LOOK)
        if ready:
            got = os.read(0, 1 << 16)
            if not got:
                break
            *lines, received = (received + got).split(b"\n")
            for line in lines:
                orders = Orders(**json.loads(line))
                pid = os.fork()
                if not pid:
                    _be_worker(orders, folder)
                living.add(pid)
                os.write(1, f"started {orders.name} {pid}\n".encode())
        while living:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                break
            living.discard(pid)
            os.write(1, f"ended {pid} {os.waitstatus_to_exitcode(status)}\n".encode())
    for pid in living:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    die_with_parent()
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # who has started it ends it
    main(Path(sys.argv[1]))
