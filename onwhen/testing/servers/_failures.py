"""What goes wrong with a server that a test has started.

Belongs here: errors. They are for whoever runs the tests, so the message says what to install or where to look.
"""

from __future__ import annotations

from onwhen.errors import OnwhenError

__all__ = ["ServerFailed", "ServerNotFound"]


class ServerNotFound(OnwhenError, LookupError):
    """There is no program to start as a server."""


class ServerFailed(OnwhenError, RuntimeError):
    """A server did not start, did not get where it should in time, or has refused a command."""
