"""The benchmark of middleware, with tiny rounds; and what its figures say."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from benchmarks import pages
from benchmarks.middleware.__main__ import main
from benchmarks.middleware.report import Cost, heading, page, table
from benchmarks.middleware.variants import BARE, VARIANTS, variant_named
from benchmarks.report import Machine
from benchmarks.rounds import ROOT, Contender, Effort, Series, measure_in_turn

TINY = Effort(rounds=2, seconds=0.001)
WORKER = Contender(python=sys.executable, module="benchmarks.middleware.worker")
MACHINE = Machine(cpu="Babbage 2", cores=1, system="Linux", day=date(2026, 11, 20))


def cost(name: str, own: tuple[float, ...], bare: tuple[float, ...] = (1_000, 2_000), on_cpu: float = 1.0) -> Cost:
    def series(nanoseconds: tuple[float, ...]) -> Series:
        return Series(
            contender="onwhen",
            version="1.0",
            python="3.11.7",
            events=10,
            nanoseconds=(9e9, 9e9),
            on_cpu=on_cpu,
            cpu=nanoseconds,
        )

    return Cost(variant=variant_named(name), own=series(own), bare=series(bare))


async def test_every_variant_runs() -> None:
    """With each around it, every event still reaches the rule, which the workers check."""
    variants = [BARE, *VARIANTS]
    measured = await measure_in_turn([(WORKER, variant) for variant in variants], TINY)
    assert [len(one.nanoseconds) for one in measured] == [TINY.rounds] * len(variants)


def test_what_is_added_is_taken_turn_by_turn() -> None:
    """In a turn in which the machine was half as fast, the bare bus was so as well."""
    assert cost("empty", (1_500, 2_500)).added == (500, 500)


def test_the_table_has_the_bare_bus_and_each_variant() -> None:
    """As medians, with the middle half beside them."""
    shown = table([cost("empty", (1_500, 3_000)), cost("metrics", (900, 1_800))])
    bare, empty, metrics = shown.splitlines()[2:]
    assert [cell.strip() for cell in bare.split("|")[1:4]] == [BARE.title, "1,500", "1,000 to 2,000"]
    assert [cell.strip() for cell in empty.split("|")[4:7]] == ["+750", "500 to 1,000", "1.50 (1.50 to 1.50)"]
    assert [cell.strip() for cell in metrics.split("|")[4:7]] == ["-150", "-200 to -100", "0.90 (0.90 to 0.90)"]


def test_the_heading_says_where_with_what_and_how_busy_it_was() -> None:
    """Figures are of no use without."""
    text = heading([cost("empty", (1, 2))], MACHINE, Effort(), {"opentelemetry-sdk": "1.45"})
    assert "onwhen 1.0, opentelemetry-sdk 1.45; Python 3.11.7, Linux, Babbage 2, 1 core; 2026-11-20." in text
    assert "busy" not in text
    busy = heading([cost("empty", (1, 2), on_cpu=0.6)], MACHINE, Effort(), {})
    assert "other programs had up to 40% of the time" in busy


def test_it_writes_its_part_of_the_page(tmp_path: Path) -> None:
    """And leaves the other two as they are, which leave it as it is."""
    path = tmp_path / "performance.md"
    path.write_text("# Performance\n")
    pages.write_middleware(page("Here, today.", "| a |"), path)
    pages.write_fleet("## Workers\n", path)
    pages.write_main("# Performance, again\n", path)
    pages.write_middleware(page("There, tomorrow.", "| b |"), path)
    text = path.read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Performance, again",
        "## Workers",
        "## What middleware costs",
    ]
    assert text.endswith("| b |\n\nThere, tomorrow.\n")
    assert "today" not in text
    assert text.count("<!-- From here on written by") == 2


def test_the_command_measures_what_is_asked_for() -> None:
    """`--variant` names one."""
    command = (sys.executable, "-m", "benchmarks.middleware", "--rounds", "1", "--seconds", "0.001")
    done = subprocess.run(
        (*command, "--variant", "empty"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert variant_named("empty").title in done.stdout
    assert variant_named("metrics").title not in done.stdout


def test_mistakes_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, and an exit code that a script sees; half a report is refused."""
    assert main(["--rounds", "0"]) == 1
    assert "at least 1 round" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--report", "--variant", "empty"])
    assert "leave out --variant" in capsys.readouterr().err
    with pytest.raises(LookupError, match="no variant 'none'"):
        variant_named("none")
