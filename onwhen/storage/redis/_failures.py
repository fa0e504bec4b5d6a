"""What Redis, and the way to it, answer when they cannot: as errors of onwhen, with what to do next.

Belongs here: which answers mean that a command was certainly not executed, and the words for all of them. It must not
know of keys or of the engine.
"""

from __future__ import annotations

import ssl
from typing import Final

from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from onwhen.errors import StoreError, StoreFull

__all__ = ["DISPLACED", "NOT_EXECUTED", "REDIRECTED", "code_of", "failure", "server_changed"]

REDIRECTED: Final = frozenset({"MOVED", "ASK"})
"""Answers of a Cluster node that another one is to be asked."""

NOT_EXECUTED: Final = REDIRECTED | {
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
}
"""Answers that are given before a command or script writes anything, and that may be another one a moment later."""

DISPLACED: Final = frozenset({"CLUSTERDOWN", "MASTERDOWN", "READONLY"})
"""Those among them that another server may not give: it is time to look where the master is."""

_ADVICE: Final = {
    "ASK": "this server is a node of a Cluster: the address must start with redis+cluster://",
    "BUSY": "another client's script has run for longer than busy-reply-threshold; wait, or end it with SCRIPT KILL",
    "CLUSTERDOWN": "the Cluster does not serve all its slots; see CLUSTER INFO on its nodes",
    "CROSSSLOT": "keys of two slots were used at once; this is a fault of onwhen",
    "LOADING": "the server is reading its data from disk; wait until it has",
    "MASTERDOWN": "the server is a replica that has lost its master",
    "MISCONF": "the server cannot write to its disk, and therefore refuses to change anything; see its log",
    "MOVED": "this server is a node of a Cluster: the address must start with redis+cluster://",
    "NOAUTH": "the server asks for a password: redis://USER:PASSWORD@...",
    "NOPERM": "the user lacks a right; docs/operating.md names the rules that onwhen needs",
    "NOREPLICAS": "the server has fewer replicas in reach than min-replicas-to-write demands",
    "OOM": "the server has used all memory that maxmemory allows; raise it, or let workers drain the backlog",
    "READONLY": "this server is a replica; the address must lead to the master, e.g. with redis+sentinel://",
    "maxclients": "raise maxclients on the server, or lower ?max_connections=",
    "TRYAGAIN": "the keys are on their way to another node of the Cluster",
    "WRONGPASS": "user or password is not right",
}


_OTHERWISE: Final = {
    "max number of clients": "maxclients",
    "user executing the script can't run": "NOPERM",
}
"""Answers that start with no word of their own: part of their text -> what they mean."""


def code_of(error: BaseException) -> str:
    """Return the word that an error answer starts with, such as OOM; "" for what is no answer of a server."""
    if not isinstance(error, RedisError):
        return ""
    if error.status_code:
        return error.status_code
    if isinstance(error, ResponseError):
        word = str(error).split(" ", 1)[0]
        return word if word.isupper() and word.isascii() else "ERR"
    return ""


def failure(error: BaseException, what: str, where: str, *, was_sent: bool = True) -> StoreError:
    """Return what is raised instead of a driver's error.

    Args:
        error: what the driver has raised, or the server answered.
        what: what was asked, e.g. `script commit` or `HGETALL`; no argument of it, they may be private.
        where: the server, host and port.
        was_sent: it may have reached the server.
    """
    code = code_of(error)
    kind: type[StoreError] = StoreFull if code == "OOM" else StoreError
    if code:
        text = str(error) if str(error).startswith(code) or code == "ERR" else f"{code} {error}"
        text = text.partition(", with args beginning with")[0]
        advice = _ADVICE.get(next((name for words, name in _OTHERWISE.items() if words in text), code))
        return kind(f"Redis {where}, {what}: {text:.500}" + (f"; {advice}" if advice else ""))
    if isinstance(error, AuthenticationError):
        return kind(f"Redis {where}, {what}: {error}; {_ADVICE['WRONGPASS']}")
    cause = _tls(error)
    if cause is not None:
        return kind(
            f"Redis {where}, {what}: no trusted TLS connection: {cause}; name the certificate authority with "
            f"?ssl_ca_certs=FILE, a client certificate with ?ssl_certfile=FILE&ssl_keyfile=FILE"
        )
    is_late = isinstance(error, TimeoutError | RedisTimeout)
    reason = "no answer in time" if is_late else f"{str(error).rstrip('.') or type(error).__name__:.500}"
    if was_sent:
        return kind(f"Redis {where}, {what}: {reason}; whether it was executed is not known")
    return kind(f"Redis {where}, {what}: not sent: {reason}; is the server there, and is the address right?")


def server_changed(what: str, where: str) -> StoreError:
    """Return what is raised when the server is another one than before: it may not have all that the other had."""
    return StoreError(
        f"Redis {where}, {what}: not sent, for the server was started again, or another one has taken over, and it "
        f"may lack what was written last; acquire the partition anew"
    )


def _tls(error: BaseException | None) -> ssl.SSLError | None:
    """Return the TLS error that an error comes from, if any."""
    for _ in range(8):  # chains are short; bounded all the same
        if error is None or isinstance(error, ssl.SSLError):
            return error
        error = error.__cause__ or error.__context__
    return None
