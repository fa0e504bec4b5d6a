"""A process that ends with the one that has started it, and ports for it to listen on.

Belongs here: starting, signals, waiting. It must not know what the process is for.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final

from onwhen.testing.servers._failures import ServerFailed

__all__ = ["HOST", "Process", "free_port", "until"]

HOST: Final = "127.0.0.1"
_PORTS: Final = range(20_000, 32_000)  # below what Linux gives to outgoing connections: a port is free after a restart
_PATIENCE: Final = 20.0  # seconds

# Runs in the new process: have the kernel kill it when its parent dies, unless that is so already, and become it.
_LAUNCH: Final = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""

_given: Final[set[int]] = set()
_lock: Final = threading.Lock()
_starters: dict[int, ThreadPoolExecutor] = {}


def free_port() -> int:
    """Return a port that nobody listens on, and that this process was not given before."""
    draw = random.Random()  # of the system: several test runs draw at the same time
    for _ in range(1000):
        port = draw.choice(_PORTS)
        with _lock, socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((HOST, port))
                if port not in _given:
                    _given.add(port)
                    return port
    raise ServerFailed(f"no free port on {HOST} from {_PORTS.start} to {_PORTS.stop - 1}")


def until(is_so: Callable[[], bool], what: str, patience: float = _PATIENCE) -> None:
    """Wait until something is so; connections that are refused meanwhile, and commands, mean that it is not yet.

    Args:
        is_so: asked again and again.
        what: what is waited for.
        patience: how long at most (seconds).

    Raises:
        ServerFailed: it is not so in time.
    """
    deadline, last = time.monotonic() + patience, "no"
    while time.monotonic() < deadline:
        try:
            if is_so():
                return
        except (OSError, ServerFailed) as error:
            last = str(error)
        time.sleep(0.01)
    raise ServerFailed(f"waited {patience:g} s for this: {what}; the last answer was: {last}")


def _starter() -> ThreadPoolExecutor:
    """Return the thread that starts all processes: to the kernel, its end is the end of the parent."""
    with _lock:
        return _starters.setdefault(os.getpid(), ThreadPoolExecutor(1, thread_name_prefix="onwhen-servers"))


class Process:
    """A process, started at once.

    Args:
        command: program and arguments.
        folder: where it runs.
        log: file that its output is appended to.
        environment: variables; those of this process if None.
    """

    def __init__(
        self, command: Sequence[str | Path], folder: Path, log: Path, environment: dict[str, str] | None = None
    ) -> None:
        self.log = log
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *map(str, command)]

        def start() -> subprocess.Popen[bytes]:
            with log.open("ab") as out:
                return subprocess.Popen(
                    launch, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment
                )

        self._popen = _starter().submit(start).result()

    @property
    def pid(self) -> int:
        """Its id."""
        return self._popen.pid

    @property
    def code(self) -> int | None:
        """Exit code, or minus a signal's number; None while it runs."""
        return self._popen.poll()

    def told(self, lines: int = 15) -> str:
        """Return the end of its log."""
        with suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def kill(self) -> None:
        """End it with SIGKILL, also while it is stopped."""
        self._popen.kill()
        self._popen.wait(_PATIENCE)

    def end(self, patience: float = _PATIENCE) -> None:
        """Ask it to end, and kill it if it does not in time (seconds)."""
        self._popen.send_signal(signal.SIGCONT)
        self._popen.terminate()
        try:
            self._popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()

    def pause(self) -> None:
        """Stop it with SIGSTOP; returns when it stands still."""
        self._popen.send_signal(signal.SIGSTOP)
        until(self._is_stopped, f"process {self.pid} to stop")

    def resume(self) -> None:
        """Let it go on."""
        self._popen.send_signal(signal.SIGCONT)

    def _is_stopped(self) -> bool:
        if self.code is not None:
            raise ServerFailed(f"process {self.pid} has ended with code {self.code}")
        return os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is not None
