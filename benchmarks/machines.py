"""Which machine figures were taken on, as it is said beside them."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.report import Machine

__all__ = ["this_machine"]


def this_machine() -> Machine:
    """Return what this process runs on, and the day."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(cpu=_cpu(), cores=cores, system=platform.system(), day=datetime.now(UTC).date())


def _cpu() -> str:
    """Return the CPU's model name; the standard library knows it on no system for certain."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        command = ("sysctl", "-n", "machdep.cpu.brand_string")
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout.strip()
    return platform.processor() or platform.machine()
