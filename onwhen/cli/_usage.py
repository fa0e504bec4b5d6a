"""How commands are declared: the options that several of them take, and help texts that flow.

Belongs here: what the parser is told. It must not know what any command does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeAlias, TypeVar

from cyclopts import Parameter

__all__ = [
    "AppName",
    "Flag",
    "Force",
    "Ids",
    "JsonLines",
    "JsonObject",
    "Limit",
    "Seconds",
    "SharedStoreUrl",
    "StoreUrl",
    "Subjects",
    "Wait",
    "flowing",
    "run_async",
    "usage",
]

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

_APP = "Where the rules are: module:attribute, or a module; see 'onwhen replay --help'."
_FORCE = "Go on even if APP has no rule for some of what is pending, which is gone then."
_LIMIT = "No more than so many. By default 100 on a terminal, and all of them in a pipe."
_STORE = "Where the store is: sqlite:///FILE, or redis://HOST. By default what ONWHEN_STORE says."
_SHARED_STORE = "Where the store is: redis://HOST:PORT/DB. By default what ONWHEN_STORE says."
_WAIT = "On a store that workers share: how long to wait until they have run it, in seconds."
_IDS = "Which ones; the beginning of an id is enough if no other one begins like that."

AppName: TypeAlias = Annotated[str, Parameter(name="APP", help=_APP)]
Flag: TypeAlias = Annotated[bool, Parameter(negative="", show_default=False)]
Force: TypeAlias = Annotated[bool, Parameter(negative="", show_default=False, help=_FORCE)]
Ids: TypeAlias = Annotated[str, Parameter(name="ID", help=_IDS)]
JsonLines: TypeAlias = Annotated[bool, Parameter(negative="", show_default=False, help="One JSON object a line.")]
JsonObject: TypeAlias = Annotated[bool, Parameter(negative="", show_default=False, help="As one JSON object.")]
Limit: TypeAlias = Annotated[int | None, Parameter(metavar="N", help=_LIMIT)]
StoreUrl: TypeAlias = Annotated[str | None, Parameter(name="--store", metavar="URL", help=_STORE)]
SharedStoreUrl: TypeAlias = Annotated[str | None, Parameter(name="--store", metavar="URL", help=_SHARED_STORE)]
Seconds: TypeAlias = Annotated[float, Parameter(metavar="SECONDS")]
Subjects: TypeAlias = Annotated[str, Parameter(name="SUBJECT", help="Which ones.")]
Wait: TypeAlias = Annotated[float, Parameter(metavar="SECONDS", help=_WAIT)]


def usage(command: str) -> str:
    """Return the line that says how a command is typed."""
    return f"Usage: onwhen {command}\n"


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run what a command does, on an event loop of its own."""
    import asyncio

    return asyncio.run(work)


def flowing(command: Command) -> Command:
    """Put each paragraph of a docstring on one line: cyclopts keeps line ends, and wraps between them again."""
    lines: list[str] = []
    for line in inspect.cleandoc(command.__doc__ or "").splitlines():
        last = lines[-1] if lines else ""
        if line and last and _indent(line) == _indent(last) and "---" not in (line[:3], last[:3]):
            lines[-1] = f"{last} {line.lstrip()}"
        else:
            lines.append(line)
    command.__doc__ = "\n".join(lines)
    return command


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
