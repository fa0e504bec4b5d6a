"""`onwhen` as it is typed: what it writes where, its exit codes, and how much memory it takes."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from onwhen.cli._dump import whole_file

Line = Callable[..., bytes]
Cli = Callable[..., Any]

SECONDS = 30.0  # how long anything here may take on a busy machine


def wait_until(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS
    while not what():
        assert time.monotonic() < deadline, "it did not come to that in time"
        assert process.poll() is None, "the command has ended"
        time.sleep(0.01)


@pytest.fixture
def start(shop: Path, environment: Mapping[str, str]) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """The command, started and left running; killed at the end of the test if need be."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", "onwhen", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=shop,
            env={**environment, **settings},
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def rows(text: str) -> dict[str, str]:
    """The two columns of the last table."""
    cells = [[cell.strip() for cell in row.strip("│ ").split("│")] for row in text.splitlines() if row.startswith("│")]
    return {row[0]: row[1] for row in cells if len(row) == 2}


# -- what it does


def test_it_replays_files_and_shows_figures(shop: Path, cli: Cli, line: Line) -> None:
    """Plain and gzip, in the order in which they are named; tables on standard output, nothing else anywhere."""
    (shop / "a.ndjson").write_bytes(line("order.placed") + line("order.item", data={"count": 2}))
    (shop / "b.gz").write_bytes(gzip.compress(line("order.item", data={"count": 3}) + line("order.shipped")))
    ended = cli("replay", "shop", "a.ndjson", "b.gz")
    assert (ended.code, ended.err) == (0, "")
    figures = rows(ended.out)
    assert (figures["events"], figures["messages"], figures["rejects"], figures["subjects"]) == ("4", "2", "0", "2")
    assert "orders.place" in ended.out
    assert float(figures["events/s"].replace(",", "")) > 0


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_it_reads_standard_input(shop: Path, cli: Cli, line: Line, arguments: tuple[str, ...]) -> None:
    """Without FILE, or as -; gzip as well."""
    for data in (line(), gzip.compress(line())):
        ended = cli("replay", "shop:orders", *arguments, stdin=data)
        assert (ended.code, rows(ended.out)["events"]) == (0, "1")


def test_the_dump_has_every_subject_with_defaults_sorted_by_name(shop: Path, cli: Cli, line: Line) -> None:
    """On standard output the figures, and what rules print, go to standard error instead."""
    data = (
        line("order.placed", "order:10") + line("order.item", "order:9", {"count": 1}) + line("order.print", "order:9")
    )
    ended = cli("replay", "shop", "--dump", "-", stdin=data)
    assert [json.loads(row) for row in ended.out.splitlines()] == [
        {"subject": "book:1", "properties": {"entries": 1}, "ext": {"by": "shop"}},
        {"subject": "order:10", "properties": {"status": "placed", "items": 0, "late": False}, "ext": {}},
        {"subject": "order:9", "properties": {"status": "new", "items": 1, "late": False}, "ext": {}},
    ]
    assert "a rule prints" in ended.err
    assert rows(ended.err)["events"] == "3"


def test_the_dump_replaces_a_file_in_one_piece(shop: Path, cli: Cli, line: Line) -> None:
    """Through a symbolic link, with the permissions that it had, and with nothing left beside it."""
    (shop / "state.ndjson").write_text("old")
    (shop / "state.ndjson").chmod(0o640)
    (shop / "link").symlink_to("state.ndjson")
    ended = cli("replay", "shop", "--dump", "link", stdin=line())
    assert ended.code == 0
    assert json.loads((shop / "state.ndjson").read_text())["subject"] == "order:1"
    assert (shop / "state.ndjson").stat().st_mode & 0o777 == 0o640
    assert (shop / "link").is_symlink()
    assert sorted(path.name for path in shop.iterdir() if path.name != "__pycache__") == [
        "link",
        "shop.py",
        "state.ndjson",
    ]


def test_a_dump_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    """And nothing beside it."""
    path = tmp_path / "state"
    path.write_text("old")

    def fail_midway() -> None:
        with whole_file(path) as out:
            out.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_midway()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_dump_may_go_to_a_device(shop: Path, cli: Cli, line: Line) -> None:
    """Which is written to, not replaced."""
    assert cli("replay", "shop", "--dump", "/dev/null", stdin=line()).code == 0
    assert not Path("/dev/null").is_file()


def test_event_time_fires_timers_and_drain_the_rest(shop: Path, cli: Cli, line: Line) -> None:
    """With --time now, neither."""
    data = line(time="2010-01-01T00:00:00Z") + line(subject="order:2", time="2010-01-03T00:00:00+00:00")

    def late(*options: str) -> tuple[str, list[bool]]:
        ended = cli("replay", "shop", "--dump", "-", *options, stdin=data)
        assert ended.code == 0
        return rows(ended.err)["timers pending"], [json.loads(r)["properties"]["late"] for r in ended.out.splitlines()]

    assert late("--time", "event") == ("1", [True, False])
    assert late("--time", "event", "--drain") == ("0", [True, True])
    assert late() == ("2", [False, False])


def test_event_time_may_be_before_1970(shop: Path, cli: Cli, line: Line) -> None:
    """An old register is no reason to fail, nor are the ends of the calendar."""
    data = line(time="0001-01-01T00:00:00Z") + line(time="1869-03-01T00:00:00Z") + line(time="1869-03-09T00:00:00Z")
    ended = cli("replay", "shop", "--time", "event", stdin=data)
    assert (ended.code, rows(ended.out)["timers fired"]) == (0, "2")
    assert "late" not in rows(ended.out)


# -- what goes wrong


def test_bad_lines_are_told_kept_and_passed_over(shop: Path, cli: Cli, line: Line) -> None:
    """File, line and reason on standard error; the raw line in the rejects."""
    (shop / "in.ndjson").write_bytes(line() + b'{"bad\n' + b"\xff\n" + b'{"a":1,"a":2}\n' + line())
    ended = cli("replay", "shop", "in.ndjson", "--rejects", "rejects.ndjson")
    assert ended.code == 1
    assert [message.split(": ")[0] for message in ended.err.splitlines()] == [f"in.ndjson:{n}" for n in (2, 3, 4)]
    first, second, third = [json.loads(row) for row in (shop / "rejects.ndjson").read_text().splitlines()]
    assert first["file"] == "in.ndjson"
    assert first["line"] == 2
    assert "not JSON" in first["reason"]
    assert first["raw"] == '{"bad'
    assert base64.b64decode(second["raw_base64"]) == b"\xff"
    assert "duplicate key" in third["reason"]
    assert (rows(ended.out)["events"], rows(ended.out)["rejects"]) == ("2", "3")


def test_rejects_may_go_to_standard_output(shop: Path, cli: Cli, line: Line) -> None:
    """So that they can be piped on."""
    ended = cli("replay", "shop", "--rejects", "-", stdin=b"{\n" + line())
    (reject,) = [json.loads(row) for row in ended.out.splitlines()]
    assert (reject["file"], reject["line"]) == ("<stdin>", 1)
    assert rows(ended.err)["rejects"] == "1"


def test_strict_stops_at_the_first_bad_line(shop: Path, cli: Cli, line: Line) -> None:
    """With exit code 1, and figures up to there."""
    ended = cli("replay", "shop", "--strict", stdin=line() + b"{\n" + line() + b"{\n")
    assert ended.code == 1
    assert ended.err.count("<stdin>:") == 1
    assert "Stopped: <stdin>:2 was rejected." in ended.out
    assert rows(ended.out)["rejects"] == "1"


@pytest.mark.parametrize("broken", ["strict", "cut off", "corrupt"])
def test_no_dump_is_written_of_a_part_of_the_input(shop: Path, cli: Cli, line: Line, broken: str) -> None:
    """It would look like the state after all of it; what was there before stays, and so it says."""
    data = {"strict": line() + b"{\n" + line(), "cut off": gzip.compress(line())[:-5]}
    (shop / "in").write_bytes(data.get(broken, gzip.compress(line()) + b"junk"))
    (shop / "state").write_text("old")
    ended = cli("replay", "shop", "in", "--dump", "state", *(["--strict"] if broken == "strict" else []))
    assert (ended.code, rows(ended.out)["events"]) == (1, "1")
    assert ended.out.endswith("\nNo dump was written.\n")
    assert (shop / "state").read_text() == "old"
    assert "No dump" not in cli("replay", "shop", "in").out


def test_lines_that_are_passed_over_do_not_end_the_dump(shop: Path, cli: Cli, line: Line) -> None:
    """The input was read to its end."""
    ended = cli("replay", "shop", "--dump", "-", stdin=line() + b"{\n")
    assert (ended.code, len(ended.out.splitlines())) == (1, 1)
    assert "No dump" not in ended.err


@pytest.mark.parametrize("options", [(), ("--rejects", "r")])
def test_the_first_20_rejects_of_a_file_are_told(shop: Path, cli: Cli, line: Line, options: tuple[str, ...]) -> None:
    """The others are counted, and kept where that was asked for; why a file is broken is told in any case."""
    (shop / "a.gz").write_bytes(gzip.compress(b"{\n" * 1500)[:-5])
    (shop / "b").write_bytes(b"{\n" * 20)
    ended = cli("replay", "shop", "a.gz", "b", *options)
    told = ended.err.splitlines()
    assert [row.split(": ")[0] for row in told[:40]] == [f"{name}:{n}" for name in ("a.gz", "b") for n in range(1, 21)]
    assert told[40:] == [f"a.gz: … and 1,481 more; --rejects {'r' if options else 'FILE'} keeps them all"]
    assert "a.gz:1501: cannot be read further: the gzip data is cut off." in ended.out
    assert rows(ended.out)["rejects"] == "1,521"
    if options:
        assert len((shop / "r").read_text().splitlines()) == 1521


def test_dead_letters_end_with_code_1_and_their_errors(shop: Path, cli: Cli, line: Line) -> None:
    """In the table, and harmless to a terminal."""
    ended = cli("replay", "shop", stdin=line("order.broken") + line("order.broken") + line())
    assert (ended.code, ended.err) == (1, "")
    assert rows(ended.out)["dead letters"] == "2"
    assert "orders.broken" in ended.out
    assert "RuntimeError: the \\x1b[31mprinter\\nis on fire" in ended.out


def test_a_broken_file_is_a_reject_and_the_next_one_is_read(shop: Path, cli: Cli, line: Line) -> None:
    """Cut off gzip, for example."""
    (shop / "a.gz").write_bytes(gzip.compress(line())[:-5])
    (shop / "b").write_bytes(line())
    ended = cli("replay", "shop", "a.gz", "b")
    assert (ended.code, rows(ended.out)["events"]) == (1, "2")
    assert ended.err == "a.gz:2: cannot be read further: the gzip data is cut off\n"


def test_output_that_cannot_be_written_ends_with_code_1(shop: Path, cli: Cli, line: Line) -> None:
    """A full disk, for example; what was there before stays."""
    full = Path("/dev/full")
    (shop / "state").symlink_to(full if full.exists() else shop / "nowhere" / "state")
    ended = cli("replay", "shop", "--dump", "state", stdin=line())
    assert ended.code == 1
    assert "onwhen: cannot write" in ended.err
    assert rows(ended.out)["events"] == "1"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", ["replay shop in", "replay shop in --dump -", "--help"])
def test_standard_output_that_is_full_is_told(
    shop: Path, environment: Mapping[str, str], line: Line, arguments: str
) -> None:
    """With code 1 and one sentence."""
    (shop / "in").write_bytes(line())
    command = f"exec {sys.executable} -m onwhen {arguments} > /dev/full"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, cwd=shop, env=environment, timeout=SECONDS)
    assert ended.returncode == 1
    assert ended.stderr.decode().endswith("onwhen: cannot write output: No space left on device\n")
    assert b"Traceback" not in ended.stderr


def test_standard_input_that_is_closed_is_told(shop: Path, environment: Mapping[str, str]) -> None:
    """Nothing was named to be read instead."""
    command = f"exec {sys.executable} -m onwhen replay shop <&-"
    ended = subprocess.run(["sh", "-c", command], capture_output=True, cwd=shop, env=environment, timeout=SECONDS)
    assert ended.returncode == 2
    assert ended.stderr == b"onwhen: standard input is closed; name a file\n"


def test_a_file_name_that_is_no_text_is_told_all_the_same(shop: Path, cli: Cli, line: Line) -> None:
    """Its odd bytes are escaped, in the rejects as well."""
    name = os.fsdecode(b"odd\xff.ndjson")
    (shop / name).write_bytes(b"{\n")
    ended = cli("replay", "shop", name, "--rejects", "r")
    assert ended.code == 1
    assert json.loads((shop / "r").read_text())["file"] == "odd\\xff.ndjson"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("replay",), "APP"),
        (("replay", "shop", "nothing.ndjson"), "nothing.ndjson: No such file or directory"),
        (("replay", "shop", "."), ".: is a directory"),
        (("replay", "nowhere", "shop.py"), "there is no module 'nowhere'"),
        (("replay", "shop.py", "shop.py"), "this is a file; for the module in it"),
        (("replay", "shop:nothing", "shop.py"), "shop has no attribute 'nothing'; it holds orders, books"),
        (("replay", "shop", "--bogus"), "unknown option --bogus"),
        (("replay", "shop", "--time", "soon"), '"soon"'),
        (("replay", "shop", "--window", "0"), "--window 0: must be at least 1"),
        (("replay", "shop", "--max-line", "0"), "--max-line 0: must be at least 1"),
        (("replay", "shop", "--drain"), "--drain needs --time event"),
        (("replay", "shop", "--dump", "--strict"), "--dump needs a file name"),
        (("replay", "shop", "--dump", "no/such/folder"), "there is no directory no/such"),
        (("replay", "shop", "--dump", "."), "is a directory"),
        (("replay", "shop", "--dump", "shop.py", "shop.py"), "would overwrite shop.py"),
        (("replay", "shop", "--dump", "x", "--rejects", "./x"), "would overwrite x"),
        (("replay", "shop", "--dump", "-", "--rejects", "-"), "cannot both go to standard output"),
        (("replay", "shop", "-", "-"), "only once"),
        (("bogus",), "bogus"),
    ],
)
def test_what_cannot_be_done_ends_with_code_2_and_a_reason(
    shop: Path, cli: Cli, arguments: tuple[str, ...], told: str
) -> None:
    """On one line, and before anything is done."""
    ended = cli(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("onwhen: ")
    assert told in ended.err
    assert len(ended.err.splitlines()) == 1


def test_an_app_that_cannot_be_imported_shows_its_traceback(shop: Path, cli: Cli) -> None:
    """The author has to find the line."""
    (shop / "bad.py").write_text("x = 1\nboom = x / 0\n")
    ended = cli("replay", "bad")
    assert (ended.code, ended.out) == (2, "")
    assert "boom = x / 0" in ended.err
    assert ended.err.endswith("onwhen: importing bad failed: ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("x = 1\nraise SystemExit(3)\n", "SystemExit: 3"),
        ("x = 1\nimport nowhere\n", "No module named 'nowhere'"),
        ("x = 1\n1 +\n", "SyntaxError: invalid syntax (bad.py, line 2)"),
    ],
)
def test_the_traceback_of_an_app_is_its_own(shop: Path, cli: Cli, body: str, told: str) -> None:
    """A module that ends the program is told too; the steps of the import system are left out."""
    (shop / "bad.py").write_text(body)
    ended = cli("replay", "bad")
    assert (ended.code, ended.out) == (2, "")
    assert 'bad.py", line 2' in ended.err
    assert ended.err.count("  File ") == 1
    assert ended.err.endswith(f"onwhen: importing bad failed: {told}\n")


def test_a_setting_that_is_wrong_is_named(shop: Path, cli: Cli) -> None:
    """By its environment variable."""
    ended = cli("replay", "shop", ONWHEN_MAX_DEPTH="deep")
    assert ended.code == 2
    assert ended.err.startswith("onwhen: ONWHEN_MAX_DEPTH='deep': ")


# -- interrupts and broken pipes


def test_ctrl_c_ends_with_code_130_and_the_figures_so_far(
    start: Callable[..., subprocess.Popen[bytes]], shop: Path, line: Line
) -> None:
    """While a rule hangs and more input may come; no dump is written."""
    process = start("replay", "shop", "--time", "event", "--dump", "state.ndjson")
    assert process.stdin is not None
    process.stdin.write(line() + line(subject="order:2") + line("order.hang"))
    process.stdin.flush()
    wait_until((shop / "hanging").exists, process)
    process.send_signal(signal.SIGINT)
    code = process.wait(SECONDS)
    assert process.stdout is not None
    out = process.stdout.read().decode()
    assert code == 130
    assert rows(out)["events"] == "2"
    assert "Interrupted; these are the figures so far. No dump was written." in out
    assert not (shop / "state.ndjson").exists()


@pytest.mark.parametrize("mode", ["now", "event"])
def test_ctrl_c_is_heard_while_rules_never_suspend(
    start: Callable[..., subprocess.Popen[bytes]], shop: Path, line: Line, mode: str
) -> None:
    """And while input never ends."""
    process = start("replay", "shop", "--time", mode, "--rejects", "rejects")
    events = b"".join(line() for _ in range(1000))

    def feed() -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(b"{\n")
            while True:
                process.stdin.write(events)
        except BrokenPipeError:
            pass

    feeder = threading.Thread(target=feed)
    feeder.start()
    wait_until((shop / "rejects").exists, process)
    process.send_signal(signal.SIGINT)
    code = process.wait(SECONDS)
    feeder.join(SECONDS)
    assert code == 130
    assert process.stdout is not None
    assert "Interrupted" in process.stdout.read().decode()


def test_ctrl_c_is_heard_while_nothing_comes(start: Callable[..., subprocess.Popen[bytes]], shop: Path) -> None:
    """Waiting for a pipe is not waiting for ever."""
    process = start("replay", "shop", "--rejects", "rejects")
    wait_until((shop / "rejects").exists, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(SECONDS) == 130


def test_a_reader_that_has_seen_enough_is_no_crash(
    start: Callable[..., subprocess.Popen[bytes]], shop: Path, line: Line
) -> None:
    """As with `onwhen replay ... | head -1`."""
    (shop / "in.ndjson").write_bytes(b"".join(line(subject=f"order:{n}") for n in range(3000)))
    process = start("replay", "shop", "in.ndjson", "--dump", "-")
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(SECONDS) == 1
    assert process.stderr is not None
    assert b"Traceback" not in process.stderr.read()


# -- the terminal, the start, memory


def test_a_terminal_shows_progress_and_a_pipe_does_not(shop: Path, environment: Mapping[str, str], line: Line) -> None:
    """On standard error, with the rate."""
    (shop / "in.ndjson").write_bytes(b"".join(line() for _ in range(3000)))
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "onwhen", "replay", "shop", "in.ndjson"],
        stdout=subprocess.PIPE,
        stderr=end,
        cwd=shop,
        env={**environment, "TERM": "xterm"},
    )
    os.close(end)
    shown = b""
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # how Linux says that nobody writes any more
            break
        if not chunk:
            break
        shown += chunk
    os.close(terminal)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert b"events/s" in shown
    assert rows(out.decode())["events"] == "3,000"


MEASURED = """
import atexit, resource, sys
from pathlib import Path
from shop import orders

def peak():
    status = Path("/proc/self/status")  # of this program alone; elsewhere the figure includes what forked it
    if status.exists():
        (row,) = [row for row in status.read_text().splitlines() if row.startswith("VmHWM")]
        return int(row.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

atexit.register(lambda: Path("peak").write_text(str(peak())))
"""


@pytest.mark.parametrize("mode", ["now", "event"])
def test_memory_does_not_grow_with_the_input(
    start: Callable[..., subprocess.Popen[bytes]], shop: Path, line: Line, mode: str
) -> None:
    """60 MB through a pipe, a third of it one single line, take no more than 6 MB more than 1 MB does."""
    (shop / "measured.py").write_text(MEASURED)

    def peak(copies: int, long: int) -> int:
        process = start("replay", "measured:orders", "--time", mode, "--max-line", "100000", ONWHEN_DEDUP_WINDOW="100")
        assert process.stdin is not None
        for number in range(copies):
            process.stdin.write(
                b"".join(line("order.print" if n % 50 else "order.placed", data="x" * 20_000) for n in range(50))
            )
            if number == copies // 2:
                for _ in range(long):
                    process.stdin.write(b"y" * 1_000_000)
                process.stdin.write(b"\n")
        out, err = process.communicate(timeout=SECONDS)
        assert process.returncode == (1 if long else 0), err
        assert rows(out.decode())["events"] == f"{copies * 50:,}"
        return int((shop / "peak").read_text())

    assert peak(40, 20) - peak(1, 0) < 6_000_000
