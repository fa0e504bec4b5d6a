"""`onwhen worker --processes N`: a process that starts N workers, and starts those again that end.

Belongs here: processes, and what is done about their ends. It must not know rules, stores or partitions: the workers
find out by themselves who owns what.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from time import monotonic
from typing import Final

from onwhen.cli._ending import RESTARTS, STALLED
from onwhen.cli._silence import Silence
from onwhen.cli._supervised import WIRE
from onwhen.cli._telling import tell, tell_as
from onwhen.cli._worker_options import WorkerOptions
from onwhen.settings import Settings

__all__ = ["delay_before", "how", "supervise"]

_FAILED, _USAGE = 1, 2
_FIRST_DELAY: Final = 0.5  # seconds before a process is started again
_MAX_DELAY: Final = 30.0  # seconds; one that ends at once each time is started this often
_LIVED: Final = 60.0  # seconds after which a process counts as one that had run well
_LOOK: Final = 1.0  # seconds between two looks at the signs of life
_MORE_PATIENCE: Final = 3.0, 10.0  # seconds that the watchdog in the process has to act first, at least and at most
_LAST: Final = 5.0  # seconds for a process to end once it has to


def delay_before(deaths: int) -> float:
    """Return how long to wait before a process is started again (seconds).

    Args:
        deaths: how often in a row it has ended soon after its start, this time included (a count).
    """
    return min(_MAX_DELAY, _FIRST_DELAY * 2.0 ** min(max(deaths, 1) - 1, 16))


def supervise(options: WorkerOptions) -> int:
    """Run several workers, each in a process of its own, until this one is told to end.

    Returns:
        The exit code: 0 if all ended as they were told to; 2 if one cannot be run as asked; otherwise that of one that
        did not end well.
    """
    tell_as(Settings().log_format)
    return asyncio.run(_Supervisor(options).run())


class _Supervisor:
    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._who = f"supervisor-{os.getpid()}"
        self._processes: dict[int, Process] = {}
        self._codes: dict[int, int] = {}
        self._stopping = asyncio.Event()
        self._signals = 0
        self._signal = signal.SIGTERM

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._heard, number)
        each = list(self._options.each())
        workers = "1 worker" if len(each) == 1 else f"{len(each)} workers"
        tell(self._who, f"starts {workers} of {self._options.app}")
        async with asyncio.TaskGroup() as group:
            enforcing = group.create_task(self._enforce())
            async with asyncio.TaskGroup() as keeping:
                for place, options in enumerate(each):
                    keeping.create_task(self._keep(place, options))
            enforcing.cancel()
        return self._code()

    def _code(self) -> int:
        codes = self._codes.values()
        if _USAGE in codes:
            return _USAGE
        return next((code for code in codes if code), 0)

    # -- the end

    def _heard(self, number: signal.Signals) -> None:
        """Hand a signal on; the second one as well, which cuts short what is under way."""
        self._signals += 1
        if self._signals == 1:
            self._signal = number
            tell(self._who, "ends, once its workers have finished what is under way; once more ends them at once")
        self._stop()

    def _stop(self) -> None:
        self._stopping.set()
        for process in self._processes.values():
            _send(process, self._signal)

    async def _enforce(self) -> None:
        """Kill what has not ended when it has to."""
        await self._stopping.wait()
        deadline = monotonic() + self._options.grace + _LAST
        while monotonic() < deadline:
            await asyncio.sleep(_LOOK / 10)
            if self._signals > 1:
                deadline = min(deadline, monotonic() + _LAST)
        for place, process in self._processes.items():
            tell(self._who, f"worker {place} (process {process.pid}) does not end, and is killed")
            _send(process, signal.SIGKILL)

    # -- one worker

    async def _keep(self, place: int, options: WorkerOptions) -> None:
        """Run a worker, again and again."""
        deaths, is_first, code = 0, True, 0
        while not self._stopping.is_set():
            began = monotonic()
            try:
                code, process = await self._run_once(options, place)
            except OSError as error:  # the machine has no room for it
                tell(self._who, f"worker {place} cannot be started: {error}")
                code, process = _FAILED, 0
            if self._stopping.is_set():
                break
            if code == _USAGE and is_first:  # it has said why; it would do so each time
                self._stop()
                break
            is_first = False
            deaths = 1 if monotonic() - began >= _LIVED else deaths + 1
            delay = delay_before(deaths)
            tell(self._who, f"worker {place} (process {process}) {how(code)}; it is started again in {delay:g} s")
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._stopping.wait()
            code = 0
        if code == -self._signal and self._signals < 2:
            code = 0  # it had not begun yet to listen for signals
        self._codes[place] = 128 - code if code < 0 else code

    async def _run_once(self, options: WorkerOptions, place: int) -> tuple[int, int]:
        """Run a worker until its process ends; return its exit code, or the negative of a signal, and its id."""
        ours, wire = os.pipe()
        os.set_blocking(ours, False)
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "onwhen",
                *options.arguments(),
                stdin=asyncio.subprocess.DEVNULL,
                env={**_without(os.environ, RESTARTS), WIRE: str(wire), "PYTHONFAULTHANDLER": "1"},
                pass_fds=(wire,),
                process_group=0,  # Ctrl-C is for us, and we hand it on
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(wire)
        self._processes[place] = process
        if self._stopping.is_set():
            _send(process, self._signal)
        try:
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._listen(place, process, ours))
                code = await process.wait()
                listening.cancel()
        except BaseException:
            _send(process, signal.SIGKILL)
            raise
        finally:
            del self._processes[place]
            os.close(ours)
        return code, process.pid

    async def _listen(self, place: int, process: Process, wire: int) -> None:
        """Wait for signs of life, and kill a process that gives none any more.

        Its own watchdog is faster, but it is a thread of Python's: code in C that does not let go of the interpreter
        stops it too. A fatal signal makes the process write its stack all the same.
        """
        silence, signs = Silence(_LOOK), 0
        least, most = _MORE_PATIENCE
        patience = self._options.stall + max(least, min(most, self._options.stall))
        while True:
            await asyncio.sleep(_LOOK)
            with suppress(BlockingIOError):
                signs += len(os.read(wire, 65_536))
            seconds = silence.look(signs)
            if signs and seconds > patience:
                tell(self._who, f"worker {place} (process {process.pid}) has given no sign of life for {seconds:.0f} s")
                _send(process, signal.SIGABRT)
                await asyncio.sleep(_LAST)
                _send(process, signal.SIGKILL)


def _send(process: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _without(environment: os._Environ[str], name: str) -> dict[str, str]:
    return {key: value for key, value in environment.items() if key != name}


def how(code: int) -> str:
    """Say how a process has ended.

    Args:
        code: its exit code, or the negative number of the signal that has killed it.
    """
    if code < 0:
        try:
            return f"was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"was killed by signal {-code}"
    if code == STALLED:
        return "made no progress"
    return "ended" if code == 0 else f"ended with exit code {code}"
