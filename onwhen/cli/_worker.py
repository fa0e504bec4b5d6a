"""`onwhen worker`, one process of it: from its options to its exit code.

Belongs here: what is around a `Worker`: its store, its health server, signals, the watchdog, and what is told. It must
not know how a worker handles events, nor that there may be other processes beside it; see `onwhen.cli._supervisor`.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import time
from collections.abc import Coroutine, Sequence
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NoReturn

from onwhen.cli._app import App, find_app, make_bus
from onwhen.cli._changes import Changes
from onwhen.cli._ending import RESTARTS, STALLED, Ending, LastMoments, begin_again, restarts
from onwhen.cli._logs import show_logs
from onwhen.cli._opening import store_named
from onwhen.cli._options import UsageError
from onwhen.cli._own import owned
from onwhen.cli._supervised import Supervised
from onwhen.cli._telling import tell, tell_as, tell_last
from onwhen.cli._watchdog import Stalled, Watchdog
from onwhen.cli._worker_options import WorkerOptions
from onwhen.engine.bus import EventBus
from onwhen.engine.clock import SystemClock
from onwhen.engine.shared import SharedStore, is_shared
from onwhen.engine.status import WorkerStatus
from onwhen.engine.worker import Worker
from onwhen.errors import StoreError, StoreFormatError, WorkerStalled
from onwhen.settings import Settings
from onwhen.storage._urls import without_password

if TYPE_CHECKING:
    from starlette.routing import BaseRoute

__all__ = ["run_worker"]

_GENERATIONS: Final = (10_000, 10, 10)
"""When this process, which is nobody else's, looks for garbage: turns make much that is soon let go of, and with what
Python sets by itself a fifth of a worker's time goes into looking (decision 0011)."""
_PAUSE: Final = 0.5  # seconds between two looks at what is told
_AGAIN: Final = 1.0  # seconds between two attempts to open a store that was there before


def run_worker(options: WorkerOptions) -> int:
    """Run a worker in this process until it is told to end.

    Returns:
        The exit code: 0 if it ended as it was told to, 128 and the number of the signal if it was cut short. One that
        makes no progress starts its process again, or ends with 75 if somebody supervises it.

    Raises:
        UsageError: it cannot be run as asked; nothing was done.
        StoreError: the store could not be opened.
        AppNotFound: APP names nothing that holds rules.
    """
    gc.set_threshold(*_GENERATIONS)
    app = find_app(options.app)
    form = Settings().log_format
    show_logs(form)
    tell_as(form)
    run = _Run(options, app, _shared(options), _listening(options))
    try:
        asyncio.run(run.run())
    except StoreFormatError as error:
        raise UsageError(str(error)) from error
    run.last.end(run.code)
    return run.code


def _shared(options: WorkerOptions) -> SharedStore:
    store = store_named(options.store, partitions=options.partitions or Settings().partitions)
    if not is_shared(store):
        raise UsageError(
            "workers share a store on a server, such as --store redis://localhost:6379/0; a store in a file, or in "
            "memory, is for one program, which handles its events by itself"
        )
    return store


def _listening(options: WorkerOptions) -> socket.socket | None:
    if options.health_port is None:
        return None
    try:
        from onwhen.gateway.health import listen
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError(
            f"--health-port needs {missing.name}, which is not installed; run: pip install 'onwhen[worker]'"
        ) from None
    try:
        return listen(options.health_host, options.health_port)
    except OSError as error:
        where = f"{options.health_host}:{options.health_port}"
        raise UsageError(f"--health-port: cannot listen on {where}: {error.strerror or error}") from error


def _metrics_of(worker: Worker) -> Sequence[BaseRoute]:
    """Return where metrics are told: those that the app uses, or else what is counted without it; if they can be had.

    To be told of every turn costs 2 microseconds, of the 80 and more that an event takes over a server.
    """
    try:
        from onwhen.middleware.metrics import Metrics
    except ModuleNotFoundError as missing:
        if missing.name != "prometheus_client":
            raise
        return ()
    from starlette.routing import Route

    return [Route("/metrics", Metrics.of(worker.bus).watch(worker).app())]


class _Run:
    """One worker on its way.

    Args:
        options: how it was asked for.
        app: whose rules it runs.
        store: what it shares with others.
        listening: where its health is told; None for nowhere.
    """

    def __init__(self, options: WorkerOptions, app: App, store: SharedStore, listening: socket.socket | None) -> None:
        self.code = 0
        self.last = LastMoments()
        self._options = options
        self._store = store
        self._bus = make_bus(app, store=store)
        self._listening = listening
        self._supervised = Supervised.of(os.environ)
        self._ending: Ending | None = None
        self._who = options.id or f"{socket.gethostname()}-{os.getpid()}-{token_hex(2)}"

    async def run(self) -> None:
        """Run it until it is told to end."""
        if RESTARTS in os.environ:
            await self._wait_for_store()
        worker = await self._worker()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def stop() -> None:
            tell(self._who, "finishes what is under way, and hands its partitions over; once more ends it at once")
            loop.call_soon_threadsafe(worker.stop)

        def cut() -> None:
            loop.call_soon_threadsafe(task.cancel)

        def look() -> None:
            ending.look()
            self._supervised.look()

        with Ending(stop, cut, self._options.grace) as ending:
            self._ending = ending
            try:
                with Watchdog(self._options.stall, self._hangs, look):
                    await self._with_company(worker)
            except WorkerStalled as error:
                self._begin_again(str(error), "")
            except asyncio.CancelledError:
                if not ending.signal:
                    raise
            self.code = ending.code
            self.last.begin(self.code)
        if self.code:
            tell(self._who, "was cut short; what was under way is handled again by whoever takes over")
        else:
            turns = worker.status().turns
            tell(self._who, f"ended, after {turns:,} {'turn' if turns == 1 else 'turns'}")

    async def _wait_for_store(self) -> None:
        """Wait until the store can be opened, in a process that has started itself again.

        It could be opened before, so options and address are right; and a server that is away for long is a reason to
        have been started again. To end now would mean that nobody runs the rules when it is back.
        """
        deadline, told = monotonic() + self._options.stall, ""
        while True:
            try:
                await self._store.open(SystemClock())
                return
            except StoreFormatError:
                raise
            except StoreError as error:
                if monotonic() > deadline:
                    self._begin_again(f"the store could not be opened for {self._options.stall:g} s: {error}", "")
                if str(error) != told:
                    told = str(error)
                    tell(self._who, f"the store cannot be opened, which is tried again: {told}")
            await asyncio.sleep(_AGAIN)

    async def _worker(self) -> Worker:
        """Return the worker; the store is opened before if it has to be asked how many partitions there are."""
        options, own = self._options, None
        if options.own is not None:
            await self._store.open(SystemClock())
            try:
                own = owned(options.own, self._store.partitions)
            except BaseException:
                await self._store.close()
                raise
        return Worker(
            self._bus,
            id=self._who,
            note=f"{options.app}, process {os.getpid()} on {socket.gethostname()}",
            lease=options.lease,
            own=own,
            grace=options.grace,
            max_age=options.max_age,
            stall=options.stall,
        )

    async def _with_company(self, worker: Worker) -> None:
        """Run the worker, and beside it what tells of it."""
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(work) for work in self._company(worker)]
                try:
                    await worker.run()
                finally:
                    for task in beside:
                        task.cancel()
        except BaseExceptionGroup as errors:  # one of them ends all
            raise errors.exceptions[0] from None

    def _company(self, worker: Worker) -> list[Coroutine[Any, Any, None]]:
        beside = [self._tell_changes(worker)]
        if self._listening is not None:
            from onwhen.gateway.health import Watched, health_app, serve

            def watched() -> Watched | str:
                assert self._ending is not None
                return "it ends" if self._ending.signal else worker

            beside.append(serve(health_app(watched, _metrics_of(worker)), self._listening))
        return beside

    # -- what is told

    async def _tell_changes(self, worker: Worker) -> None:
        """Tell how it starts, and from then on what has changed."""
        changes: Changes | None = None
        while True:
            status = worker.status()
            if changes is None and status.partitions:  # it has begun
                changes = Changes()
                self._tell_start(self._bus, status)
            if changes is not None and not (self._ending is not None and self._ending.signal):
                for change in changes.of(status, monotonic()):
                    tell(self._who, change)
            await asyncio.sleep(_PAUSE)

    def _tell_start(self, bus: EventBus, status: WorkerStatus) -> None:
        rules = sum(1 for _ in bus.rulebook.rules())
        parts = [
            f"runs {rules:,} {'rule' if rules == 1 else 'rules'} of {self._options.app}",
            f"{status.partitions} partitions on {without_password(self._options.store or Settings().store)}",
        ]
        if self._listening is not None:
            from onwhen.gateway.health import url_of

            parts.append(f"health at {url_of(self._listening)}")
        tell(self._who, ", ".join(parts))

    # -- what makes no progress

    def _hangs(self, stalled: Stalled) -> None:
        """See to it that the process is started again; called on the thread of the watchdog."""
        self._begin_again(str(stalled), stalled.stack)

    def _begin_again(self, why: str, story: str) -> NoReturn:
        """Start the process again, or end it if it was told to end, somebody else starts it, or it was too often."""
        if self._ending is not None and self._ending.signal:
            tell_last(self._who, f"{why}; it ends as it was told to, without that", story)
            os._exit(128 + self._ending.signal)
        handed_down = None if self._supervised else restarts(os.environ, time.time())
        if handed_down is not None:
            tell_last(self._who, f"{why}; this process starts again", story)
            begin_again(handed_down)
        if self._supervised:
            tell_last(self._who, f"{why}; this process ends, to be started again", story)
        else:
            tell_last(self._who, f"{why}; this process was started again too often for that, and ends", story)
        os._exit(STALLED)
