"""The fleet benchmarks, at tiny size: each part runs on a real server, checks what was done, and says what it found."""

import asyncio
import sys
from collections.abc import Iterator
from datetime import date
from io import StringIO
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.fleet import rest, throughput
from benchmarks.fleet.__main__ import main
from benchmarks.fleet.load import SUBJECTS, Contents, contents_after, subject_of
from benchmarks.fleet.processes import Contender, Taken
from benchmarks.fleet.report import (
    backlog_table,
    heading,
    latency_table,
    page,
    partitions_table,
    throughput_table,
    two_table,
)
from benchmarks.fleet.server import described, started, used_memory
from benchmarks.fleet.serving import Progress, ServerClock, serve
from benchmarks.fleet.throughput import Backlog, Series, Two
from benchmarks.report import Machine
from benchmarks.rounds import BenchmarkError
from onwhen.testing.servers import RedisServer

FLOOR = Contender(python=sys.executable, module="floor")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with started(None, "everysec") as server:
        yield server


def taken(rate: int, *, on_cpu: float = 1.0) -> Taken:
    return Taken(events=rate, began=10.0, ended=11.0, on_cpu=on_cpu, server=0.1)


def series(name: str, *rates: int, on_cpu: float = 1.0) -> Series:
    return Series(name=name, version="1", rounds=tuple(taken(rate, on_cpu=on_cpu) for rate in rates))


# -- the load --------------------------------------------------------------------------------------------------


def test_each_subject_ends_with_its_last_level() -> None:
    """Events go to the subjects in turn, and each sets its own number as the level."""
    stored: dict[str, tuple[int, int]] = {}
    for number in range(2 * SUBJECTS + 7):
        name = subject_of(number)
        stored[name] = (number, stored.get(name, (0, 0))[1] + 1)
        if number in (0, SUBJECTS - 1, SUBJECTS, 2 * SUBJECTS + 6):
            assert contents_after(number + 1) == stored


# -- the stopwatch ---------------------------------------------------------------------------------------------


async def test_what_warms_up_does_not_count(server: RedisServer) -> None:
    """The time runs from the event with which a contender is warm to the last one."""
    progress = Progress(10, 5, ServerClock(server.url))
    progress.reach(12)
    assert not progress.is_over
    progress.add(3)
    await progress.finished()
    found = progress.taken()
    assert found["events"] == 3
    assert found["ended"] > found["began"]


def test_half_a_round_is_no_figure(server: RedisServer) -> None:
    """A contender cannot be fast by leaving something out."""
    progress = Progress(0, 5, ServerClock(server.url))
    progress.add(4)
    with pytest.raises(RuntimeError, match="4 of 5 handled"):
        progress.taken()


# -- measuring ---------------------------------------------------------------------------------------------------


async def test_contenders_take_turns(server: RedisServer) -> None:
    """Each has a figure for each round; what they have stored was compared after each."""
    server.ask("FLUSHALL")
    own, floor = await throughput.measure([throughput.onwhen(4), FLOOR], 2, 0.02, server.url)
    assert own.name == "onwhen"
    assert [len(own.rounds), len(floor.rounds)] == [2, 2]
    assert all(one.events > 0 and one.rate > 0 and one.on_cpu > 0 for one in (*own.rounds, *floor.rounds))


class Liar:
    """Says that it has handled everything, and has stored all but one."""

    name, version, warm = "liar", "1", 0

    async def load(self, first: int, events: int) -> None:
        self.events = events

    async def drain(self, progress: Progress) -> None:
        progress.reach(0)
        progress.add(self.events)

    async def contents(self) -> Contents:
        return contents_after(self.events - 1)


async def test_a_contender_that_leaves_something_out_has_no_figure(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each round every subject is compared with what the events make of it."""
    monkeypatch.setattr(sys, "stdin", StringIO('{"do": "round", "events": 5}\n'))
    with pytest.raises(RuntimeError, match="liar: what is stored is not what 5 events make"):
        await serve(Liar(), server.url)


async def test_two_workers_share_the_partitions(server: RedisServer) -> None:
    """Both have handled their half when a round is over, and a round of one is beside it."""
    server.ask("FLUSHALL")
    two = await throughput.two_workers(1, 0.02, server.url)
    assert len(two.one) == len(two.both) == len(two.cores) == 1
    assert min(two.one + two.both + two.cores) > 0


async def test_a_long_backlog_is_measured_in_tenths(server: RedisServer) -> None:
    """Tenths that are over before one can look are taken together; memory is known at both ends."""
    server.ask("FLUSHALL")
    found = await throughput.backlog(2_000, server.url, lambda: used_memory(server))
    assert found.events == found.made == 2_000
    assert found.pieces
    assert min(found.pieces) > 0
    assert min(found.memory) > 1_000_000
    assert found.server[0] > found.server[1] > 0


async def test_a_backlog_that_does_not_go_is_no_figure(server: RedisServer) -> None:
    """A worker that has handled nothing when its time is over has no rate."""
    server.ask("FLUSHALL")
    with pytest.raises(BenchmarkError, match="handled nothing of its backlog in 0 s"):
        await throughput.backlog(100, server.url, lambda: used_memory(server), longest=0.0)


async def test_latencies_are_taken_in_turn(server: RedisServer) -> None:
    """There are as many of each kind; nobody knows of a commit before it is made."""
    server.ask("FLUSHALL")
    found = await rest.measure(5, 0, server.url, FLOOR, settle=2)
    every = (found.accepted, found.committed, found.known, found.floor, found.ping)
    assert [len(one) for one in every] == [5] * 5
    assert min(map(min, every)) > 0
    assert all(found.known[n] > found.accepted[n] for n in range(5))


def test_what_fails_is_told_and_not_waited_for(server: RedisServer) -> None:
    """A contender that ends takes the run with it, at once."""
    nobody = Contender(python=sys.executable, module="nobody")
    with pytest.raises(BenchmarkError, match="nobody failed"):
        asyncio.run(throughput.measure([nobody], 1, 0.02, server.url))


# -- what is said --------------------------------------------------------------------------------------------------


def test_ratios_are_taken_round_by_round() -> None:
    """A round that was slow for all of them changes no ratio."""
    table = throughput_table(
        [series("onwhen", 2400, 240), series("krules-framework", 200, 20), series("floor", 4800, 480)]
    )
    assert "| krules-framework 1 " in table
    assert "12.00 (12.00 to 12.00) | 12x |" in table
    assert "0.50 (0.50 to 0.50) |" in table
    assert "The machine was busy" not in table


def test_a_busy_machine_is_told() -> None:
    """A worker with a backlog that has no CPU says that somebody else had it."""
    table = throughput_table([series("onwhen", 100, on_cpu=0.5)])
    assert "The machine was busy: onwhen had a CPU for 50% of the time" in table


def test_each_part_has_a_table() -> None:
    """Every figure stands in it, with its unit."""
    assert "| 4 " in partitions_table([(1, series("onwhen", 100)), (4, series("onwhen", 200))])
    assert "2.00 (2.00 to 2.00)" in partitions_table([(1, series("onwhen", 100)), (4, series("onwhen", 200))])
    assert "1.50 (1.50 to 1.50)" in two_table(Two(one=(100.0,), both=(150.0,), cores=(1.9,)), 2)
    found = Backlog(
        made=2000,
        events=1000,
        loading=2.0,
        seconds=10.0,
        pieces=(100.0, 50.0, 100.0),
        memory=(1 << 20,) * 4,
        server=(3 << 20, 2 << 20),
    )
    assert "the slowest tenth at 0.50 of the median" in backlog_table(found)
    values = (0.001, 0.002)
    latencies = rest.Latencies(accepted=values, committed=values, known=values, floor=values, ping=values)
    assert "| 1.00 ms | 2.00 ms | 2.00 ms |" in latency_table(latencies)


def test_the_heading_says_where_and_on_which_server(server: RedisServer) -> None:
    """Figures are of no use without the machine, the server and how it keeps what is written."""
    machine = Machine(cpu="a CPU", cores=2, system="Linux", day=date(2026, 11, 20))
    text = heading(machine, "3.11.7", described(server, "everysec"), [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
    assert "with appendfsync everysec" in text
    assert "a CPU, 2 cores; 2026-11-20. Load average 1.0 before, 2.0 after" in text


def test_each_command_writes_its_own_part_of_the_page(tmp_path: Path) -> None:
    """What one of them writes anew, the other's part outlives."""
    path = tmp_path / "performance.md"
    path.write_text("# Performance\n")
    pages.write_fleet(page("Here, today.", ["| a |\n\n" + "word " * 30]), path)
    pages.write_main("# Performance, again\n", path)
    text = path.read_text()
    assert text.startswith("# Performance, again\n\n<!-- From here on")
    assert text.count("## Workers over Redis") == 1
    assert "Here, today.\n\n| a |\n\nword word" in text
    assert max(map(len, text.splitlines())) <= 120
    pages.write_fleet("new\n", path)
    assert path.read_text().endswith("--report`. -->\n\nnew\n")
    assert path.read_text().startswith("# Performance, again\n\n<!--")


def test_half_a_report_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The page has all parts, or stays as it is."""
    with pytest.raises(SystemExit):
        main(["--report", "--part", "rest"])
    assert "leave out --part" in capsys.readouterr().err


def test_sizes_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused before anything is started."""
    assert main(["--rounds", "0"]) == 1
    assert "have to be at least 1" in capsys.readouterr().err


def test_one_part_can_be_measured_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """The command starts a server of its own, and prints the table of that part."""
    assert main(["--part", "backlog", "--backlog", "500"]) == 0
    out = capsys.readouterr().out
    assert "| part of the backlog" in out
    assert "500 of 500 events" in out
