"""What `onwhen replay` was asked to do, checked before anything is done.

Belongs here: options and the files they name. It must not know how a replay runs or what is shown of it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from onwhen.cli._reading import Source
from onwhen.errors import OnwhenError

__all__ = ["ReplayOptions", "UsageError", "check_wait"]


class UsageError(OnwhenError):
    """The command line asks for something that cannot be done; nothing was done."""


def check_wait(seconds: float) -> None:
    """Refuse a `--wait` that is no time.

    Raises:
        UsageError: it is less than 0, or endless.
    """
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"--wait {seconds:g}: must be 0 seconds or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """The arguments of `onwhen replay`; see there.

    Raises:
        UsageError: they contradict each other.
    """

    app: str
    files: Sequence[str] = ()
    store: str | None = None
    time: Literal["now", "event"] = "now"
    drain: bool = False
    dump: str | None = None
    rejects: str | None = None
    strict: bool = False
    window: int = 256
    max_line: int | None = None

    def __post_init__(self) -> None:
        for name in self.files:
            if name.startswith("-") and name != "-":
                raise UsageError(f"unknown option {name}; see 'onwhen replay --help', or write ./{name} for a file")
        for option, value in (("--dump", self.dump), ("--rejects", self.rejects)):
            if value is not None and (not value or (value.startswith("-") and value != "-")):
                raise UsageError(f"{option} needs a file name, or - for standard output; it was given {value!r}")
        if self.drain and self.time != "event":
            raise UsageError("--drain needs --time event: the machine's clock cannot be moved on to what is due")
        if self.window < 1:
            raise UsageError(f"--window {self.window}: must be at least 1")
        if self.max_line is not None and self.max_line < 1:
            raise UsageError(f"--max-line {self.max_line}: must be at least 1 byte")
        if self.files.count("-") > 1:
            raise UsageError("standard input (-) can be read only once")
        if self.dump == self.rejects == "-":
            raise UsageError("--dump and --rejects cannot both go to standard output")

    @property
    def writes_to_stdout(self) -> bool:
        """Whether standard output carries data, so that all else has to go elsewhere."""
        return "-" in (self.dump, self.rejects)

    def sources(self) -> list[Source]:
        """Return what is to be read.

        Raises:
            UsageError: a file cannot be opened, or standard input is meant but is a terminal.
        """
        if not self.files and os.isatty(0):
            raise UsageError("no FILE was given, and standard input is a terminal; name a file, or pipe events in")
        return [self._source(name) for name in self.files or ("-",)]

    def _source(self, name: str) -> Source:
        if name == "-":
            try:
                os.fstat(0)
            except OSError as error:
                raise UsageError("standard input is closed; name a file") from error
            return Source.stdin()
        try:
            if Path(name).is_file():  # a pipe may be opened only once
                Path(name).open("rb").close()
            elif Path(name).is_dir():
                raise UsageError(f"{name}: is a directory; name the files in it")
            else:
                os.stat(name)
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}") from error
        return Source.file(name)

    def check_outputs(self, store: str | None = None) -> None:
        """Refuse outputs that cannot be written, or that would overwrite what is read, the store or each other.

        Args:
            store: the file that the store is in.

        Raises:
            UsageError: so it is.
        """
        outputs = {
            option: Path(name)
            for option, name in (("--dump", self.dump), ("--rejects", self.rejects))
            if name not in (None, "-")
        }
        taken = {Path(name).resolve(): name for name in self.files if name != "-"}
        if store is not None:
            taken[Path(store)] = "the store"
        for option, path in outputs.items():
            if path.is_dir():
                raise UsageError(f"{option} {path}: is a directory; name a file")
            if not path.parent.is_dir():
                raise UsageError(f"{option} {path}: there is no directory {path.parent}; make it first")
            if not os.access(path if path.exists() else path.parent, os.W_OK):
                raise UsageError(f"{option} {path}: may not be written")
            where = path.resolve()
            if where in taken and (path.is_file() or not path.exists()):
                raise UsageError(f"{option} {path}: would overwrite {taken[where]}; choose another name")
            taken[where] = str(path)
