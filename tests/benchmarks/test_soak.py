"""The soak, for a moment: its load leads to what can be counted, and what it prints can be pasted."""

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.durable import soak
from benchmarks.rounds import BenchmarkError

LINE = soak.Line(
    seconds=10, rate=5000, rss=60 << 20, file=20 << 20, wal=1 << 20, pending=7, timers=5, retries=1, dead=0
)


def test_a_soak_counts_what_every_event_had_to_lead_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A moment of load, then all of it is found in the subjects: events, messages, timers and retries, once each."""
    tried = soak.Soak(tmp_path / "soak.db", "NORMAL", 8)
    lines = asyncio.run(tried.run(0.4, 0.2))
    done = asyncio.run(tried.settled())
    assert len(lines) == len(capsys.readouterr().out.splitlines()) >= 2
    assert all(line.rss > 1 << 20 and line.wal > 0 and line.rate > 0 for line in lines)
    assert done["readings"] >= 100
    assert done["notices"] == -(-done["readings"] // 20)
    assert done["checks"] == -(-done["readings"] // 50)
    assert done["mended"] == -(-done["readings"] // 100)


def test_a_soak_notices_what_is_missing(tmp_path: Path) -> None:
    """One event that was to be handled and was not fails it."""
    tried = soak.Soak(tmp_path / "soak.db", "NORMAL", 2)
    asyncio.run(tried.run(0.05, 0.05))
    tried._due["readings"] += 1
    with pytest.raises(BenchmarkError, match="had to be done"):
        asyncio.run(tried.settled())


def test_the_summary_compares_the_end_with_the_warm_state() -> None:
    """What happens before the warm-up is over, is not compared."""
    cold = replace(LINE, seconds=10, rss=10 << 20)
    warm = replace(LINE, seconds=30)
    last = replace(LINE, seconds=60, rss=61 << 20, rate=7000)
    text = soak.summary([cold, warm, last], 30, Counter(readings=10, notices=1, checks=1, mended=1))
    assert "RSS: 60.0 MiB after 30 s, 61.0 MiB after 60 s (+1.0); most 61.0." in text
    assert "Turns per second: 6,000 on average (5,000 to 7,000 from line to line)." in text


def test_the_soak_prints_what_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table with a line now and then, and a summary."""
    options = ("--minutes", "0.005", "--every", "0.1", "--warm-up", "0.1", "--emitters", "4")
    assert soak.main([*options, "--directory", str(tmp_path)]) == 0
    head, rule, *rows = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.strip("|").split("|")][:3] == ["seconds", "turns/s", "RSS MiB"]
    assert set(rule) <= set("|-: ")
    assert rows[0].startswith("| ")
    assert "exactly once" in rows[-1]
