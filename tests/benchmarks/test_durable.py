"""The durable benchmarks, at tiny size: each part runs, compares like with like, and says what it has found."""

import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from benchmarks.durable import figures, raw, rest, tape, turns
from benchmarks.durable.__main__ import cases, main
from benchmarks.durable.load import Load, Program
from benchmarks.durable.places import copied, on_disk, size
from benchmarks.durable.report import heading, latency_table, turns_table
from benchmarks.report import Machine
from benchmarks.rounds import ROOT, BenchmarkError
from onwhen import create_memory_storage

TINY = Load(emitters=4, turns=40, subjects=20)
FULL = turns.Case(load=TINY, synchronous="FULL")
IN_MEMORY = turns.Case(load=TINY, synchronous=None)


# -- the load --------------------------------------------------------------------------------------------------


async def test_each_event_changes_two_properties_of_a_subject() -> None:
    """No event finds the subject as it wants it already, in later rounds neither."""
    program = Program(create_memory_storage(), TINY.subjects)
    changed: list[int] = []
    program.bus.observe(lambda outcome: changed.extend(len(run.changes) for run in outcome.runs))
    async with program.bus:
        await program.warm_up()
        await program.emit(TINY)
    assert changed == [2] * (40 + TINY.turns)


async def test_events_that_do_not_reach_the_rule_are_no_figure() -> None:
    """An engine cannot be fast by doing nothing."""
    program = Program(create_memory_storage(), TINY.subjects)
    program.bus.exclude(*program.bus.rulebook.rule_sets)
    with pytest.raises(BenchmarkError, match="40 events were emitted, but the rule ran 0 times"):
        await program.emit(TINY)


# -- the bare loop -----------------------------------------------------------------------------------------------


def test_the_bare_loop_stores_the_same(tmp_path: Path) -> None:
    """A recording that is run again on a copy of the empty file leaves the same rows in all tables."""
    empty = turns.template(tmp_path)
    recorded = turns.record(FULL, empty)  # compares all rows
    head, timed = recorded.entries()
    assert tape.transactions(timed) == recorded.commits
    assert 0 < recorded.turns_per_commit == TINY.turns / recorded.commits
    with copied(empty, "again.db") as path:
        before = tape.contents(path)
        with tape.played(path) as connection:
            tape.run(connection, [*head, *timed])
        after = tape.contents(path)
    assert not before["properties"]
    assert len(after["subjects"]) == 20
    assert len(after["properties"]) == 40
    assert len(after["accepted"]) == 40 + TINY.turns


def test_a_bare_loop_that_stores_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a loop that leaves out a statement would flatter it."""
    run = tape.run
    monkeypatch.setattr(tape, "run", lambda connection, entries: run(connection, _without_properties(entries)))
    with pytest.raises(BenchmarkError, match="has not stored the same"):
        turns.record(FULL, turns.template(tmp_path))


def _without_properties(entries: list[tape.Entry]) -> list[tape.Entry]:
    return [entry for entry in entries if "INTO properties" not in entry[1]]


def test_a_recording_is_cut_into_turns(tmp_path: Path) -> None:
    """A single emitter makes two commits for each event: it is accepted, then handled."""
    single = turns.Case(load=Load(emitters=1, turns=5, subjects=2), synchronous="FULL")
    recorded = turns.record(single, turns.template(tmp_path))
    _, timed = recorded.entries()
    found = rest.pieces(timed, 5)
    assert [tape.transactions(piece) for piece in found] == [2] * 5
    assert [entry for piece in found for entry in piece] == timed
    with pytest.raises(BenchmarkError, match="6 turns of two commits each"):
        rest.pieces(timed, 6)


# -- measuring ---------------------------------------------------------------------------------------------------


def test_all_contenders_take_turns(tmp_path: Path) -> None:
    """Each case has a figure for each round, and so has the machine; the store in memory has no bare loop."""
    found, floors = turns.measure([FULL, IN_MEMORY], 2, tmp_path)
    assert [len(one.engine) for one in found] == [2, 2]
    assert [len(one.bare) for one in found] == [2, 0]
    assert all(one.rate > 0 and one.on_cpu > 0 for rates in found for one in (*rates.engine, *rates.bare))
    assert len(floors.syncs) == len(floors.commits) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"empty.db", "empty.db-lock"}


def test_latencies_are_taken_in_turn(tmp_path: Path) -> None:
    """There are as many of each kind, and an emit takes longer than nothing."""
    taken = rest.measure(4, 0, tmp_path, subjects=2, settle=5)
    series = (taken.emit, taken.bare, taken.commit, taken.sync)
    assert [len(one) for one in series] == [4] * 4
    assert all(seconds > 0 for one in series for seconds in one)


def test_a_step_is_done_at_least_once() -> None:
    """Also if there is no time for it; a rate of nothing would divide by zero."""
    done: list[None] = []
    assert raw.while_it_lasts(lambda: done.append(None), 0) > 0
    assert len(done) == 1


def test_a_sync_appends_and_leaves_nothing(tmp_path: Path) -> None:
    """Each step makes the file 4 KiB longer; afterwards it is gone."""
    with raw.sync_steps(tmp_path / "raw") as step:
        step()
        step()
        assert size(tmp_path / "raw") == 8192
    assert size(tmp_path / "raw") == 0


def test_a_log_of_zeros_is_an_empty_one(tmp_path: Path) -> None:
    """A copy may have the log of a store that was in use for a while: it stays as long as it is, and holds nothing."""
    empty = turns.template(tmp_path)
    with copied(empty, "used.db", log=1 << 20) as path, tape.played(path) as connection:
        connection.execute("INSERT INTO bookmarks VALUES (0, 'a', 'b')")
        assert size(path, "-wal") == 1 << 20
        assert {**tape.contents(path), "bookmarks": []} == tape.contents(empty)
    assert size(path, "-wal") == size(path) == 0


def test_a_measurement_has_a_directory_of_its_own(tmp_path: Path) -> None:
    """It is removed at the end; one that is asked for and is not there is not made."""
    with on_disk(tmp_path) as directory:
        assert directory.parent == tmp_path
        (directory / "some.db").touch()
    assert not directory.exists()
    with pytest.raises(BenchmarkError, match="no such directory"), on_disk(tmp_path / "none"):
        pass


# -- what the figures say ------------------------------------------------------------------------------------------


def test_percentiles_are_values_that_were_measured() -> None:
    """The 99th of a hundred is the last but one; of one value all are that."""
    values = [float(n) for n in range(100, 0, -1)]
    assert figures.percentile(values, 0.5) == 50
    assert figures.percentile(values, 0.99) == 99
    assert figures.percentile(values, 1.0) == 100
    assert figures.percentile([7.0], 0.99) == 7


def test_ratios_are_taken_round_by_round() -> None:
    """In a round in which the machine was half as fast, both were, and the ratio is the same."""
    assert figures.ratios([100, 50], [200, 100]) == (0.5, 0.5)
    assert figures.ratio((0.5, 0.6, 0.7)) == "0.60 (0.55 to 0.65)"


def test_a_series_is_cut_into_parts_of_about_the_same_length() -> None:
    """Each value is in one of them, in order; there are no empty ones."""
    assert figures.chunks([1, 2, 3, 4, 5, 6, 7], 3) == [[1, 2], [3, 4], [5, 6, 7]]
    assert figures.chunks([1, 2], 3) == [[1], [2]]


def test_a_table_is_markdown() -> None:
    """The first column is text, the others are figures; all cells of a column are of one width."""
    assert figures.grid(("case", "n"), [("a", "1,000"), ("longer", "2")]).splitlines() == [
        "| case   |     n |",
        "| ------ | ----: |",
        "| a      | 1,000 |",
        "| longer |     2 |",
    ]


def test_the_table_of_turns_shows_the_bare_loop_beside_the_engine(tmp_path: Path) -> None:
    """With the ratio, how many turns shared a commit, and what both took of a CPU."""
    recorded = turns.Recorded(packed=b"", start=0, end=0, turns=40, commits=10, rate=100)
    rounds = [turns.Round(rate=100, on_cpu=0.0001)] * 3
    bare = [turns.Round(rate=200, on_cpu=0.00002)] * 3
    durable = turns.Rates(case=FULL, recorded=recorded, engine=rounds, bare=bare)
    memory = turns.Rates(case=IN_MEMORY, recorded=None, engine=rounds)
    text = turns_table([durable, memory], turns.Floors(commits=[3000.0], syncs=[4000.0]))
    first, second = (line.strip("| ").split("|") for line in text.splitlines()[2:4])
    assert [cell.strip() for cell in first] == [
        "SQLite, FULL", "4", "100", "100 to 100", "200", "200 to 200", "0.50 (0.50 to 0.50)", "4.0", "100 µs", "20 µs",
    ]  # fmt: skip
    assert second[0].strip() == "in memory"
    assert "4,000 times a second" in text
    assert "measure again" not in text
    slow = replace(recorded, rate=50)
    odd = turns.Rates(case=FULL, recorded=slow, engine=rounds, bare=bare)
    assert "Recorded runs were 0.50 to 0.50 times as fast" in turns_table([odd], turns.Floors(commits=[1], syncs=[1]))


def test_the_table_of_latencies_compares_with_the_disk() -> None:
    """p50 with p50, and p99 with p99."""
    taken = rest.Latencies(emit=(0.003,) * 9 + (0.008,), bare=(0.002,) * 10, commit=(0.001,) * 10, sync=(0.001,) * 10)
    row = latency_table(taken, 1).splitlines()[2]
    assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [
        "3.00 ms", "8.00 ms", "8.00 ms", "3.00 (3.00 to 3.00)", "8.00 (8.00 to 8.00)",
    ]  # fmt: skip


def test_the_heading_says_where_and_how_busy() -> None:
    """Whoever reads figures has to know what else the machine had to do."""
    machine = Machine(cpu="Babbage 2", cores=1, system="Linux", day=date(2026, 11, 5))
    text = heading(machine, "3.11.7", "3.40.1", [(0.5, 0, 0), (2.5, 0, 0)])
    assert text.startswith(
        "Python 3.11.7, SQLite 3.40.1, Linux, Babbage 2, 1 core; 2026-11-05. Load average 0.5 before"
    )
    assert "Load" not in heading(machine, "3.11.7", "3.40.1", [])


def test_few_emitters_get_fewer_turns() -> None:
    """Each of them waits for the disk, and a round is to take about a second."""
    found = cases([256, 1], 10_000, 1_000)
    assert [(case.load.emitters, case.load.turns, case.synchronous) for case in found] == [
        (1, 200, "FULL"),
        (256, 10_000, "FULL"),
        (256, 10_000, "NORMAL"),
        (256, 10_000, None),
    ]


# -- the commands --------------------------------------------------------------------------------------------------


def test_the_command_measures_all_parts(tmp_path: Path) -> None:
    """`python -m benchmarks.durable` prints both tables, and leaves nothing behind."""
    sizes = (
        "--rounds",
        "1",
        "--turns",
        "20",
        "--samples",
        "3",
        "--pause",
        "0",
        "--emitters",
        "1",
        "4",
        "--settle",
        "9",
        "--subjects",
        "9",
    )
    command = (sys.executable, "-m", "benchmarks.durable", *sizes, "--directory", str(tmp_path))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "| SQLite, FULL     |        4 |" in done.stdout
    assert "| emit, accepted and handled (FULL)" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [("--rounds", "0"), ("--emitters", "0"), ("--directory", "/no/such/directory")])
def test_a_failure_is_told_in_one_line(wrong: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, and an exit code that a script sees."""
    assert main(wrong) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
