"""Stores by address."""

import subprocess
import sys
from pathlib import Path

import pytest

from onwhen import SystemClock
from onwhen.engine.partitions import partition_of
from onwhen.errors import SettingError
from onwhen.storage import MemoryStore, SqliteStore, create_storage
from onwhen.storage.redis import RedisStore


def test_one_in_memory() -> None:
    """It needs no more than its kind."""
    store = create_storage("memory://", partitions=4, dedup_window=9)
    assert isinstance(store, MemoryStore)
    assert (store.partitions, store._dedup_window) == (4, 9)
    assert isinstance(create_storage("memory://?history=10"), MemoryStore)


@pytest.mark.parametrize(
    ("path", "name"),
    [("a.db", "a.db"), ("sub/a.db", "sub/a.db"), ("./a.db", "a.db"), ("50%25%20%3F.db", "50% ?.db"), ("ä.db", "ä.db")],
)
def test_three_slashes_are_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str) -> None:
    """To where the program runs."""
    monkeypatch.chdir(tmp_path)
    store = create_storage(f"sqlite:///{path}")
    assert isinstance(store, SqliteStore)
    assert store.path == str(tmp_path / name)


async def test_four_slashes_are_absolute(tmp_path: Path) -> None:
    """With everything that can be said about a file."""
    url = f"sqlite:///{tmp_path}/a.db"
    assert url.startswith("sqlite:////")
    store = create_storage(f"{url}?synchronous=normal&history=7", partitions=3, dedup_window=9)
    assert isinstance(store, SqliteStore)
    await store.open(SystemClock())

    def look(database):  # type: ignore[no-untyped-def]
        (synchronous,) = database.execute("PRAGMA synchronous").fetchone()
        return synchronous, database.history, database.window, database.partitions

    assert await store._ask(look) == (1, 7, 9, 3)
    assert partition_of("a", store.partitions) in range(3)
    await store.close()
    look_on = create_storage(url, read_only=True)
    await look_on.open(SystemClock())
    assert look_on.partitions == 3
    await look_on.close()


def test_one_in_redis() -> None:
    """What is said of the store goes before the arguments; the rest is for the connection."""
    url = "redis+cluster://ann:p%26ss@a,b:7?history=3&timeout=2&key_prefix=desk&partitions=8&max_backlog=9"
    store = create_storage(url, key_prefix="other", dedup_window=5)
    assert isinstance(store, RedisStore)
    address = store._deployment.connection.address
    assert (address.password, address.endpoints, address.timeout) == ("p&ss", (("a", 6379), ("b", 7)), 2.0)
    assert store._deployment.keys.prefix == "desk"
    assert store.partitions == 8
    assert isinstance(create_storage("rediss://host/3"), RedisStore)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "no kind of store; known are memory://, sqlite:///relative.db, sqlite:////absolute.db, redis://HOST"),
        ("a.db", "no kind of store"),
        ("valkey://host", "no kind of store"),
        ("sqlite:a.db", "no kind of store"),
        ("sqlite://a.db", "'a.db' has no meaning there"),
        ("sqlite:///", "the name of a file is missing"),
        ("sqlite:///a.db#x", "'x' has no meaning there"),
        ("sqlite:///a.db?cache=1", "cache is no option; there are history, explanations and synchronous"),
        ("sqlite:///a.db?synchronous=OFF", "synchronous=OFF must be FULL or NORMAL"),
        ("sqlite:///a.db?history=-1", "history=-1 must be a count"),
        ("memory://?history=" + "9" * 30, "history=99999999999999999999 must be a count, of 12 digits at most"),
        ("sqlite:///a.db?history=" + "9" * 5000, "must be a count, of 12 digits at most"),
        ("sqlite:///a.db?history=", "history= must be a count"),
        ("sqlite:///a.db?history=1&history=2", "history is given twice"),
        ("memory:///a.db", "'/a.db' has no meaning there"),
        ("memory://?synchronous=FULL", "synchronous is no option; there are history"),
        ("sqlite://[", "Invalid IPv6 URL"),
        ("redis://ann:secret@host?history=x", "store 'redis://ann:***@host?history=x': history=x must be a count"),
        ("redis://host?partitions=1&partitions=2", "partitions is given twice"),
        (
            "redis://host?synchronous=FULL",
            "synchronous is no option; there are key_prefix, partitions, max_backlog, his",
        ),
        ("redis://host?key_prefix=desk:p1", "key_prefix='desk:p1' must not end like the name of a partition"),
        ("redis://host?key_prefix=desk:p1.2", "key_prefix='desk:p1.2' must not end like the name of a partition"),
        ("redis+sentinel://host", "the name under which the Sentinels know the master is missing"),
    ],
)
def test_what_means_no_store_is_refused(url: str, message: str) -> None:
    """With what is wrong about it, and what there is."""
    with pytest.raises(SettingError) as caught:
        create_storage(url)
    assert message in str(caught.value)
    assert caught.value.settings in {("store",), ("key_prefix",)}


@pytest.mark.parametrize("url", ["memory://", "sqlite:///a.db"])
@pytest.mark.parametrize("options", [{"partitions": 0}, {"partitions": 10**9}, {"dedup_window": -1}])
def test_counts_out_of_range_are_refused(url: str, options: dict[str, int]) -> None:
    """In the same way, whichever kind it is."""
    with pytest.raises(SettingError, match=f"{next(iter(options))}="):
        create_storage(url, **options)  # type: ignore[arg-type]


def test_there_is_nothing_to_look_at_in_memory() -> None:
    """A store that is made to be looked at would be empty."""
    with pytest.raises(SettingError, match="a store in memory is empty when it is made"):
        create_storage("memory://", read_only=True)


@pytest.mark.parametrize("missing", ["redis", "hiredis"])
def test_that_the_client_of_redis_is_missing_is_told(missing: str) -> None:
    """With what to install."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from onwhen.errors import SettingError\n"
        "from onwhen.storage import create_storage\n"
        "try:\n    create_storage('redis://host')\n"
        "except SettingError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "a store in Redis needs the client of Redis: pip install 'onwhen[redis]'" in done.stdout
