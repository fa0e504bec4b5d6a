"""Where log records of a command go whose process is nobody else's: to standard error, as text or as JSON.

Belongs here: a handler, where the application has not set one up itself. It must not know what is logged.
"""

from __future__ import annotations

import logging
from typing import Final, Literal

__all__ = ["show_logs"]

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def show_logs(form: Literal["text", "json"]) -> None:
    """Write log records to standard error, those of onwhen from INFO on; an application that says where is obeyed.

    Args:
        form: "text" for people, "json" for one object a line.
    """
    root, own = logging.getLogger(), logging.getLogger("onwhen")
    if root.handlers or own.handlers:
        return
    from onwhen.middleware.logging import JsonFormatter

    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_TEXT))
    root.addHandler(handler)
    if own.level == logging.NOTSET:
        own.setLevel(logging.INFO)
