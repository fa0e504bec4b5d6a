"""The commands and their options, as they are typed.

Belongs here: names, help texts and exit codes. Whatever is slow to import is imported by the command that needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from onwhen.cli import (
    _explain_command,
    _fleet_commands,
    _graph_commands,
    _letter_commands,
    _repartition_command,
    _store_commands,
)
from onwhen.cli._terminal import prepare_streams
from onwhen.cli._usage import Flag, flowing, usage
from onwhen.errors import AppNotFound, OnwhenError, StoreError

__all__ = ["run"]

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130


def _version() -> str:
    import onwhen

    return f"onwhen {onwhen.__version__}"


app = App(
    name="onwhen",
    help="An event-driven rules engine.",
    help_format="plaintext",  # markdown would cost 80 ms of imports
    version=_version,
)

# "-" is a file; other names with a leading hyphen are refused by the options.
_File = Annotated[str | None, Parameter(metavar="FILE", allow_leading_hyphen=True)]


@app.command(usage=usage("replay [OPTIONS] APP [FILE...]"))
@flowing
def replay(
    app: Annotated[str, Parameter(name="APP")],
    /,
    *files: Annotated[str, Parameter(name="FILE", allow_leading_hyphen=True)],
    store: Annotated[str | None, Parameter(metavar="URL")] = None,
    time: Literal["now", "event"] = "now",
    drain: Flag = False,
    dump: _File = None,
    rejects: _File = None,
    strict: Flag = False,
    window: Annotated[int, Parameter(metavar="N")] = 256,
    max_line: Annotated[int | None, Parameter(metavar="BYTES")] = None,
) -> int:
    """Send recorded events through rules, over an empty store in memory, into a store in a file, or to workers.

    Reads CloudEvents, one JSON object a line, plain or gzip. The exit code is 0 if all went through, 1 if there were
    dead letters or rejects, 2 if the command cannot be run as given, 130 after Ctrl-C.

    Parameters
    ----------
    app
        Where the rules are: module:attribute, the attribute being a rule set, a list of them, an EventBus or a
        container; or a module, for its one bus or container, or else for all its rule sets. The current directory
        is importable.
    files
        What to read, in this order; - or none at all for standard input.
    store
        Where to keep what comes of it: sqlite:///FILE. Stopped anywhere, by Ctrl-C or worse, the same command goes on
        from there, and ends in the same state as if it had not been stopped. Or redis://HOST: the events are sent to
        the workers that share that store, and waited for until they have handled them.
    time
        now: the machine's clock, events of different subjects concurrently. event: the events' own time, one after
        the other, with timers and retries in between exactly when they are due; the same input gives the same result.
    drain
        After the last event, go on until no timer and no retry is left (with --time event).
    dump
        Write the final state of every subject to this file, or to standard output (-): one JSON object a line,
        sorted by subject. The file is replaced only when all is written.
    rejects
        Write lines that cannot be used to this file, or to standard output (-): one JSON object a line, with file,
        line, reason and the raw line.
    strict
        Stop at the first line that cannot be used.
    window
        How many events may be under way at once (with --time now).
    max_line
        How long a line may be, in bytes. By default four times ONWHEN_MAX_EVENT_BYTES and 64 KiB.
    """
    from onwhen.cli._command import run_replay
    from onwhen.cli._options import ReplayOptions

    return run_replay(
        ReplayOptions(
            app=app,
            files=files,
            store=store,
            time=time,
            drain=drain,
            dump=dump,
            rejects=rejects,
            strict=strict,
            window=window,
            max_line=max_line,
        )
    )


app.command(_fleet_commands.worker, usage=usage("worker [OPTIONS] APP"))
app.command(_fleet_commands.emit, usage=usage("emit [OPTIONS] TYPE SUBJECT"))
app.command(_fleet_commands.partitions, usage=usage("partitions [OPTIONS]"))
app.command(_repartition_command.repartition, usage=usage("repartition [OPTIONS]"))
for _group in (_store_commands.subjects, _letter_commands.deadletters, _letter_commands.parked):
    app.command(_group)
app.command(_store_commands.timers, usage=usage("timers [OPTIONS] [SUBJECT]"))
app.command(_store_commands.retries, usage=usage("retries [OPTIONS] [SUBJECT]"))
app.command(_store_commands.log, usage=usage("log [OPTIONS]"))
app.command(_store_commands.stats, usage=usage("stats [OPTIONS]"))
app.command(_store_commands.migrate, usage=usage("migrate [OPTIONS] APP"))
app.command(_explain_command.explain, usage=usage("explain [OPTIONS] [APP EVENT]"))
app.command(_graph_commands.graph, usage=usage("graph [OPTIONS] APP"))
app.command(_graph_commands.check, usage=usage("check [OPTIONS] APP"))


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Args:
        arguments: what was typed after `onwhen`.

    Returns:
        The exit code.
    """
    if not prepare_streams():
        return _FAILED
    try:
        result = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError as error:
        return _refuse(str(error))
    except AppNotFound as error:
        if error.__cause__ is not None:  # the module is there, and raised
            import traceback

            traceback.print_exception(error.__cause__)
        return _refuse(str(error))
    except StoreError as error:  # after it was opened
        return _refuse(str(error), _FAILED)
    except OnwhenError as error:
        return _refuse(str(error))
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain when it flushes at exit
        if not isinstance(error, BrokenPipeError):  # which says that whoever read our output has seen enough
            print(f"onwhen: cannot write {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    return result if isinstance(result, int) else 0


def _refuse(problem: str, code: int = _USAGE) -> int:
    print(f"onwhen: {_harmless(problem)}", file=sys.stderr)
    return code


def _harmless(problem: str) -> str:
    """Escape what could act on the terminal; a message may be of several lines."""
    from onwhen.cli._forms import clean

    return "\n".join(map(clean, problem.splitlines()))
