"""Environments of their own for peers, so that their dependencies and ours cannot get into each other's way.

Belongs here: making one, once, from a file with names and versions. It must not know what is measured.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.rounds import ROOT, BenchmarkError

__all__ = ["python_for"]

_INSTALL_TIMEOUT = 600.0  # seconds


def python_for(peer: str, cache: Path = ROOT / ".bench") -> str:
    """Return an interpreter that has a peer installed; make its environment if there is none yet.

    It is made again when the pins or our own Python have changed. pip takes its configuration from the user.

    Args:
        peer: name of the file with its pins in `benchmarks/peers`, without `.txt`.
        cache: where environments are kept; nothing in it is committed.

    Raises:
        BenchmarkError: it could not be made.
    """
    pins = Path(__file__).parent / "peers" / f"{peer}.txt"
    environment = cache / peer
    python = environment / ("Scripts" if os.name == "nt" else "bin") / "python"
    mark = environment / "made-from"
    wanted = f"{platform.python_version()} {hashlib.sha256(pins.read_bytes()).hexdigest()}"
    if mark.is_file() and mark.read_text() == wanted:
        return str(python)
    print(f"Installing {peer} into {environment.relative_to(cache.parent)} (once)", file=sys.stderr)
    cache.mkdir(exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    venv.create(environment, clear=True, with_pip=True)
    command = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", pins)
    try:
        subprocess.run(command, check=True, timeout=_INSTALL_TIMEOUT)
    except (subprocess.SubprocessError, OSError) as exc:
        reason = "pip's own message is above" if isinstance(exc, subprocess.CalledProcessError) else str(exc)
        raise BenchmarkError(
            f"{peer} could not be installed: {reason}; name an interpreter that has it with --peer, or measure "
            f"onwhen alone with --alone"
        ) from exc
    mark.write_text(wanted)
    return str(python)
