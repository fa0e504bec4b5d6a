"""The address of a Redis deployment, read from one line of text.

Belongs here: which kinds of deployment there are, and what may be said of them in a URL. It must not open anything.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote

from onwhen.errors import SettingError
from onwhen.storage._urls import without_password

__all__ = ["OPTIONS", "SCHEMES", "Address", "Endpoint", "Kind"]

Endpoint: TypeAlias = tuple[str, int]
"""Host and port."""

SCHEMES: Final = ("redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
"""What a URL may start with; `rediss` is TLS."""

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379
_LONGEST: Final = 3600.0  # seconds; a longer time-out is a mistake in the unit
_MOST: Final = 10_000  # connections; more than a server admits
_URL: Final = re.compile(
    r"(?P<scheme>[a-z+]+)://(?:(?P<user>[^@/?#]*)@)?(?P<hosts>[^@/?#]*)(?P<path>/[^?#]*)?(?:\?(?P<query>[^#]*))?"
)


class Kind(enum.Enum):
    """How a deployment is found, and which of its servers is asked."""

    STANDALONE = "standalone"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a deployment is and how to get in.

    Attributes:
        kind: standalone, Sentinel or Cluster.
        endpoints: the server; or the Sentinels; or some nodes of the Cluster, the others are found through them.
        tls: whether all connections are encrypted.
        master: name under which the Sentinels know the master, "" without them.
        db: number of the database, 0 on a Cluster.
        username: ACL user, None for the default one.
        password: its password, None if none is needed.
        sentinel_username: ACL user on the Sentinels, None for their default one.
        sentinel_password: its password, None if none is needed.
        protocol: version of RESP: 2 or 3.
        timeout: how long an answer may take, and how long a free connection is waited for (seconds).
        connect_timeout: how long connecting may take (seconds).
        patience: how long a call is sent again that certainly was not executed, while a server loads its data or
            another one takes over (seconds).
        max_connections: how many are held to one server; blocking reads have their own (a count).
        ssl_ca_certs: file of the certificates that are trusted; None for those of the system.
        ssl_certfile: file of the client's own certificate, None for none.
        ssl_keyfile: file of its key, None if it is in the same file.
        ssl_check_hostname: whether the server's certificate must be for the host that was asked for.
    """

    kind: Kind
    endpoints: tuple[Endpoint, ...]
    tls: bool = False
    master: str = ""
    db: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    protocol: int = 3
    timeout: float = 5.0
    connect_timeout: float = 5.0
    patience: float = 5.0
    max_connections: int = 64
    ssl_ca_certs: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True

    def __str__(self) -> str:
        """Return what tells people which deployment is meant; it has no password."""
        scheme = "rediss" if self.tls else "redis"
        if self.kind is not Kind.STANDALONE:
            scheme += f"+{self.kind.value}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.endpoints)
        path = f"/{self.master}" if self.master else ""
        return f"{scheme}://{hosts}{path}" + (f"/{self.db}" if self.db else "")

    @classmethod
    def parse(cls, url: str) -> Address:
        """Return the address that a URL means.

        Args:
            url: `redis://[user:password@]host[:6379][/db]`; `redis+sentinel://[user:password@]host[:26379],...
                /master[/db]`; `redis+cluster://[user:password@]host[:6379],...`; `rediss` instead of `redis` for TLS.
                Special characters of names and passwords as in all URLs (`%40`). Options follow as in
                `?timeout=2&ssl_ca_certs=ca.pem`; they are the attributes of this class from `sentinel_username` on.

        Raises:
            SettingError: it is no such URL. The message does not repeat passwords.
        """
        found = _URL.fullmatch(url)
        if found is None or found["scheme"] not in SCHEMES:
            raise _error(url, f"no address of a Redis; those start with {', '.join(s + '://' for s in SCHEMES)}")
        if "@" in (found["path"] or ""):
            raise _error(url, "there is an @ behind the host; in a password, write / as %2F, and @ as %40")
        base, _, kind = found["scheme"].partition("+")
        given: dict[str, Any] = {"kind": Kind(kind or "standalone"), "tls": base == "rediss"}
        given |= _user(found["user"])
        given["endpoints"] = _endpoints(url, found["hosts"], given["kind"])
        given |= _path(url, (found["path"] or "").removeprefix("/"), given["kind"])
        given |= _options(url, found["query"] or "", given["kind"], tls=given["tls"])
        return cls(**given)


def _user(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    name, _, password = text.partition(":")
    given = {"username": unquote(name), "password": unquote(password)}
    return {key: value for key, value in given.items() if value}


def _endpoints(url: str, text: str, kind: Kind) -> tuple[Endpoint, ...]:
    default = _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT
    endpoints: list[Endpoint] = []
    for part in text.split(","):
        found = re.fullmatch(r"(?:\[([^\[\]]+)\]|([^\[\]:]+))(?::([0-9]{1,5}))?", part)
        if found is None or not 0 < (port := int(found[3] or default)) < 65_536:
            raise _error(url, f"{part!r} is no host, or no host with a port")
        endpoints.append((unquote(found[1] or found[2]), port))
    if len(endpoints) > 1 and kind is Kind.STANDALONE:
        raise _error(url, "several hosts are a redis+sentinel:// or a redis+cluster://")
    return tuple(endpoints)


def _path(url: str, text: str, kind: Kind) -> dict[str, Any]:
    given: dict[str, Any] = {}
    if kind is Kind.SENTINEL:
        master, _, text = text.partition("/")
        if not master:
            raise _error(url, "the name under which the Sentinels know the master is missing: ...:26379/NAME")
        given["master"] = unquote(master)
    if text:
        if kind is Kind.CLUSTER:
            raise _error(url, f"/{text} has no meaning there; a Cluster has one database")
        if not re.fullmatch("[0-9]{1,5}", text):
            raise _error(url, f"/{text} is no number of a database")
        given["db"] = int(text)
    return given


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 < seconds <= _LONGEST:
        raise ValueError
    return seconds


def _count(value: str) -> int:
    count = int(value)
    if not 0 < count <= _MOST:
        raise ValueError
    return count


def _version(value: str) -> int:
    return {"2": 2, "3": 3}[value]


def _flag(value: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[value.lower()]


def _file(value: str) -> str:
    if not Path(value).is_file():
        raise ValueError
    return value


_READ: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = {
    "sentinel_username": (str, "a name"),
    "sentinel_password": (str, "a password"),
    "protocol": (_version, "2 or 3"),
    "timeout": (_seconds, f"seconds, up to {_LONGEST:g}"),
    "connect_timeout": (_seconds, f"seconds, up to {_LONGEST:g}"),
    "patience": (_seconds, f"seconds, up to {_LONGEST:g}"),
    "max_connections": (_count, f"a count, up to {_MOST:,}"),
    "ssl_ca_certs": (_file, "a file that is there"),
    "ssl_certfile": (_file, "a file that is there"),
    "ssl_keyfile": (_file, "a file that is there"),
    "ssl_check_hostname": (_flag, "true or false"),
}
OPTIONS: Final = tuple(_READ)
"""Names of what may stand behind the `?` of an address, about the connection."""


def _options(url: str, query: str, kind: Kind, *, tls: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _READ:
            raise _error(url, f"{name} is no option; there are {', '.join(_READ)}")
        if name in given:
            raise _error(url, f"{name} is given twice")
        if name.startswith("ssl_") and not tls:
            raise _error(url, f"{name} is for rediss://, which is TLS")
        if name.startswith("sentinel_") and kind is not Kind.SENTINEL:
            raise _error(url, f"{name} is for redis+sentinel://")
        read, what = _READ[name]
        try:
            given[name] = read(value)
        except (ValueError, KeyError):
            raise _error(url, f"{name}={value[:80]} must be {what}") from None
    return given


def _error(url: str, reason: str) -> SettingError:
    return SettingError(f"store {without_password(url)!r}: {reason}", settings=("store",))
