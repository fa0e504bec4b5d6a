"""The address of a deployment, as people write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from onwhen.errors import SettingError
from onwhen.storage.redis._address import Address, Kind


def test_one_server() -> None:
    """Host, port, database, and who asks."""
    found = Address.parse("redis://ann:p%40ss%3A@example.org:7000/3")
    assert found == Address(
        kind=Kind.STANDALONE, endpoints=(("example.org", 7000),), db=3, username="ann", password="p@ss:"
    )
    assert Address.parse("redis://:secret@h").password == "secret"
    assert Address.parse("redis://:secret@h").username is None
    assert Address.parse("redis://h/").endpoints == (("h", 6379),)
    assert Address.parse("rediss://[::1]:7000").endpoints == (("::1", 7000),)


def test_sentinels() -> None:
    """Any number of them, and the name of the master."""
    found = Address.parse("rediss+sentinel://ann:secret@a,b:1/main/2?sentinel_username=s&sentinel_password=%26")
    assert found == Address(
        kind=Kind.SENTINEL,
        endpoints=(("a", 26379), ("b", 1)),
        tls=True,
        master="main",
        db=2,
        username="ann",
        password="secret",
        sentinel_username="s",
        sentinel_password="&",
    )


def test_a_cluster() -> None:
    """Some of its nodes."""
    assert Address.parse("redis+cluster://a:1,b") == Address(kind=Kind.CLUSTER, endpoints=(("a", 1), ("b", 6379)))


def test_options(tmp_path: Path) -> None:
    """What a connection is set up with."""
    file = tmp_path / "a b.pem"
    file.touch()
    query = f"ssl_ca_certs={file}&ssl_certfile={file}&ssl_keyfile={file}&ssl_check_hostname=false"
    found = Address.parse(
        f"rediss://h?protocol=2&timeout=1.5&connect_timeout=2&patience=3&max_connections=7&{query.replace(' ', '%20')}"
    )
    assert (found.protocol, found.timeout, found.connect_timeout, found.patience) == (2, 1.5, 2.0, 3.0)
    assert (found.max_connections, found.ssl_check_hostname) == (7, False)
    assert found.ssl_ca_certs == found.ssl_certfile == found.ssl_keyfile == str(file)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://ann:secret@h/3?timeout=1", "redis://h:6379/3"),
        ("rediss+sentinel://:secret@a,b/main?sentinel_password=secret", "rediss+sentinel://a:26379,b:26379/main"),
        ("redis+cluster://[::1]:7,b", "redis+cluster://[::1]:7,b:6379"),
    ],
)
def test_it_is_shown_without_passwords(url: str, shown: str) -> None:
    """As text, and to developers."""
    found = Address.parse(url)
    assert str(found) == shown
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis:/h", "no address of a Redis; those start with redis://, rediss://"),
        ("http://h", "no address of a Redis"),
        ("redis://", "'' is no host"),
        ("redis://h:0", "'h:0' is no host, or no host with a port"),
        ("redis://h:65536", "is no host, or no host with a port"),
        ("redis://h:x", "is no host, or no host with a port"),
        ("redis://a,b", "several hosts are a redis+sentinel:// or a redis+cluster://"),
        ("redis://h/x", "/x is no number of a database"),
        ("redis://h/-1", "/-1 is no number of a database"),
        ("redis+cluster://h/1", "/1 has no meaning there; a Cluster has one database"),
        ("redis+sentinel://h", "the name under which the Sentinels know the master is missing"),
        ("redis://h?colour=red", "colour is no option; there are sentinel_username"),
        ("redis://h?timeout=1&timeout=2", "timeout is given twice"),
        ("redis://h?timeout=0", "timeout=0 must be seconds, up to 3600"),
        ("redis://h?timeout=nan", "timeout=nan must be seconds"),
        ("redis://h?patience=5s", "patience=5s must be seconds"),
        ("redis://h?protocol=4", "protocol=4 must be 2 or 3"),
        ("redis://h?max_connections=0", "max_connections=0 must be a count, up to 10,000"),
        ("redis://h?ssl_check_hostname=true", "ssl_check_hostname is for rediss://"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname=maybe must be true or false"),
        ("rediss://h?ssl_ca_certs=/no/such/file", "ssl_ca_certs=/no/such/file must be a file that is there"),
        ("redis://h?sentinel_password=x", "sentinel_password is for redis+sentinel://"),
    ],
)
def test_what_is_no_address_is_refused(url: str, message: str) -> None:
    """With what is wrong about it."""
    with pytest.raises(SettingError) as caught:
        Address.parse(url)
    assert message in str(caught.value)
    assert caught.value.settings == ("store",)


@pytest.mark.parametrize(
    "url",
    [
        "redis://ann:hush@h:x",
        "redis://:hush@h:x",
        "redis://ann:hu/sh@h",
        "redis://ann:h#u@s?h@h",
        "redis+sentinel://h?sentinel_password=hush",
        "redis://ann:hush@h?colour=1",
    ],
)
def test_a_refusal_has_no_password(url: str) -> None:
    """They end up in logs."""
    with pytest.raises(SettingError) as caught:
        Address.parse(url)
    assert "hu" not in str(caught.value)
    assert "sh@" not in str(caught.value)
