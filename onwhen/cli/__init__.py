"""The command line: `onwhen replay` and what it is made of.

Belongs here: what a person types and reads. `replay` (see `onwhen.cli.replay`) is a function that programs may
call as well; the rest is the terminal's.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line on `sys.argv`, and end the process with its exit code."""
    try:
        code = _run()
    except KeyboardInterrupt:  # while it was being imported; from then on `run` sees to it
        code = 130
    sys.exit(code)


def _run() -> int:
    try:
        import cyclopts  # noqa: F401
        import rich  # noqa: F401
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("cyclopts", "rich"):
            raise
        print(
            f"onwhen: the command line needs {missing.name}, which is not installed; run: pip install 'onwhen[cli]'",
            file=sys.stderr,
        )
        return 2
    from onwhen.cli._main import run

    return run(sys.argv[1:])
