"""The benchmark's harness, with tiny rounds and without a peer, whose environment tests do not install."""

import asyncio
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.cases import CASES, Case, case_named
from benchmarks.environments import python_for
from benchmarks.report import Machine, Result, page, table
from benchmarks.rounds import ROOT, BenchmarkError, Contender, Effort, Series, Worker, measure
from benchmarks.serving import Program, Tally

OWN = Contender(python=sys.executable, module="benchmarks.workers.onwhen")
TINY = Effort(rounds=2, seconds=0.001)
MACHINE = Machine(cpu="Babbage 2", cores=1, system="Linux", day=date(2026, 11, 5))


def series(contender: str, *nanoseconds: float, on_cpu: float = 1.0) -> Series:
    return Series(
        contender=contender, version="1.0", python="3.11.7", events=10, nanoseconds=nanoseconds, on_cpu=on_cpu
    )


# -- measuring -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_every_case_runs_in_onwhen(case: Case) -> None:
    """A worker gets the case ready, is calibrated, and each round reaches the rule once for each event."""
    [measured] = await measure(case, [OWN], TINY)
    assert measured.contender == "onwhen"
    assert measured.events >= 1
    assert len(measured.nanoseconds) == TINY.rounds
    assert all(nanoseconds > 0 for nanoseconds in measured.nanoseconds)
    assert 0 < measured.on_cpu <= 1


async def test_contenders_are_measured_in_one_run() -> None:
    """Each has a series of its own, with as many rounds as the others: entry i belongs to turn i."""
    measured = await measure(case_named("rule"), [OWN, OWN], TINY)
    assert [len(one.nanoseconds) for one in measured] == [TINY.rounds, TINY.rounds]


async def test_calibration_finds_how_many_events_make_a_round() -> None:
    """A round of ten times the length has more events."""
    async with Worker.start(OWN, case_named("rule")) as worker:
        assert await worker.calibrate(0.001) < await worker.calibrate(0.01)


async def test_a_worker_that_ends_is_an_error() -> None:
    """What it had to say went to standard error, which is ours."""
    with pytest.raises(BenchmarkError, match=r"no\.such\.worker has ended by itself"):
        await measure(case_named("rule"), [Contender(python=sys.executable, module="no.such.worker")], TINY)


def test_a_contender_cannot_be_fast_by_doing_nothing() -> None:
    """A round in which the rule did not run for each event is refused."""
    program = Program(lambda: asyncio.sleep(0), [()], Tally())
    with pytest.raises(RuntimeError, match="3 events were emitted, but the rule ran 0 times"):
        asyncio.run(program.round(3))


@pytest.mark.parametrize("wrong", [{"rounds": 0}, {"seconds": 0}, {"seconds": 61}])
def test_an_effort_has_to_make_sense(wrong: dict[str, int]) -> None:
    """No rounds at all, or rounds of no length or of minutes, are refused."""
    with pytest.raises(BenchmarkError, match="at least 1 round"):
        Effort(**wrong)


# -- what the figures say --------------------------------------------------------------------------------------


def test_ratios_are_taken_pair_by_pair() -> None:
    """In a turn in which the machine was half as fast, both were, and the ratio is the same."""
    result = Result(case=CASES[0], own=series("onwhen", 100, 200), peer=series("peer", 300, 600))
    assert result.ratios == (3, 3)


def test_the_table_shows_median_and_middle_half() -> None:
    """An outlier moves neither."""
    own, peer = series("onwhen", 100, 101, 102, 103, 9000), series("peer", 200, 202, 204, 206, 9000)
    shown = table([Result(case=CASES[0], own=own, peer=peer)], MACHINE, Effort())
    assert shown.splitlines()[-1].split("  ") == [
        "one event, one rule", "102 ns", "101 to 103", "204 ns", "202 to 206", "2.00x", "2.00x to 2.00x", " 2x",
    ]  # fmt: skip


def test_the_table_says_where_and_when() -> None:
    """Versions, Python, CPU and date belong to a figure."""
    shown = table([Result(case=CASES[0], own=series("onwhen", 100), peer=series("peer", 100))], MACHINE, Effort())
    assert "onwhen 1.0 and peer 1.0; Python 3.11.7, Linux, Babbage 2, 1 core; 2026-11-05." in shown


def test_figures_of_a_busy_machine_say_so() -> None:
    """Whoever reads them has to know that other programs were at work."""
    busy = Result(case=CASES[0], own=series("onwhen", 100, on_cpu=0.6), peer=series("peer", 100))
    quiet = Result(case=CASES[0], own=series("onwhen", 100), peer=series("peer", 100))
    assert "other programs took up to 40% of the time" in table([quiet, busy], MACHINE, Effort())
    assert "busy" not in table([quiet], MACHINE, Effort())


def test_the_page_explains_each_case() -> None:
    """It says what is done for an event, beside how long that takes."""
    results = [Result(case=case, own=series("onwhen", 100), peer=series("peer", 1000)) for case in CASES]
    text = page(results, MACHINE, Effort())
    assert text.startswith("# Performance\n")
    assert all(case.work in " ".join(text.split()) for case in CASES)
    assert "| a change and a reaction | 100 ns | 100 to 100 | 1,000 ns | 1,000 to 1,000 | 10x |" in text


# -- the command -----------------------------------------------------------------------------------------------


def test_the_command_measures_onwhen_alone() -> None:
    """`python -m benchmarks --alone` needs nothing but onwhen."""
    command = (sys.executable, "-m", "benchmarks", "--alone", "--rounds", "1", "--seconds", "0.001", "--case", "rule")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "one event, one rule" in done.stdout


def test_a_failure_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, and an exit code that a script sees."""
    assert main(["--alone", "--rounds", "0"]) == 1
    assert "at least 1 round" in capsys.readouterr().err


def test_a_partial_report_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The page in the docs has all cases and the peer, or stays as it is."""
    with pytest.raises(SystemExit):
        main(["--alone", "--report"])
    assert "all cases and the peer" in capsys.readouterr().err


# -- the peer's environment ------------------------------------------------------------------------------------


def test_an_environment_that_is_there_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once: the second call installs nothing. Pins that have changed make it anew."""
    installs: list[object] = []
    monkeypatch.setattr("benchmarks.environments.venv.create", lambda path, **_: path.mkdir(exist_ok=True))
    monkeypatch.setattr("benchmarks.environments.subprocess.run", lambda command, **_: installs.append(command))
    assert python_for("krules", tmp_path) == python_for("krules", tmp_path)
    assert len(installs) == 1
    (tmp_path / "krules" / "made-from").write_text("other pins")
    python_for("krules", tmp_path)
    assert len(installs) == 2


def test_an_environment_that_cannot_be_made_says_what_else_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without a package index, onwhen can still be measured."""
    monkeypatch.setattr("benchmarks.environments.venv.create", lambda path, **_: path.mkdir(exist_ok=True))
    with pytest.raises(BenchmarkError, match="--alone"):
        python_for("krules", tmp_path)
    assert not (tmp_path / "krules" / "made-from").exists()


def test_pins_are_names_and_versions_only() -> None:
    """Where packages come from is the user's own configuration."""
    for line in (ROOT / "benchmarks" / "peers" / "krules.txt").read_text().splitlines():
        assert line.startswith("#") or line.count("==") == 1
        assert "/" not in line
