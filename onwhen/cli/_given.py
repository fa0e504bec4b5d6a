"""What is given on the command line: the text itself, what is in a file behind an @, or standard input for a hyphen.

Belongs here: reading it. It must not know what it is.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Final

from onwhen.cli._options import UsageError
from onwhen.engine.values import loads_strict

__all__ = ["given", "json_given"]

_STDIN: Final = "-"


def given(text: str, what: str) -> tuple[bytes | str, str]:
    """Return what is meant by a text, and where that is from, for messages.

    Args:
        text: as it was typed.
        what: name of the option or argument.

    Raises:
        UsageError: there is nothing to be read.
    """
    if text == _STDIN:
        if os.isatty(0):
            raise UsageError(f"{what} -: standard input is a terminal; pipe the data in")
        return sys.stdin.buffer.read(), "standard input"
    if not text.startswith("@"):
        return text, what
    try:
        with open(text[1:], "rb") as file:
            return file.read(), text[1:]
    except OSError as error:
        raise UsageError(f"{what} {text}: {error.strerror}") from error


def json_given(text: str, what: str) -> tuple[Any, str]:
    """Return what JSON says that is meant by a text, and where it is from; see `given` for the rest."""
    raw, where = given(text, what)
    try:
        return loads_strict(raw, where), where
    except ValueError as error:
        is_bare = raw is text and "not JSON" in str(error)
        hint = f"; text is JSON in double quotes: {what} '\"text\"'" if is_bare and what.startswith("-") else ""
        raise UsageError(f"{error}{hint}") from None
