"""What the figures of a fleet say, as text: tables with the aims beside them.

Belongs here: pure functions from figures to Markdown. It must not measure anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from textwrap import fill
from typing import Final

from benchmarks.durable.figures import grid, percentile, rate, ratio, ratios, spread, times
from benchmarks.fleet.rest import Latencies
from benchmarks.fleet.throughput import Backlog, Series, Two
from benchmarks.report import Machine

__all__ = ["backlog_table", "heading", "latency_table", "page", "partitions_table", "throughput_table", "two_table"]

_MIB: Final = 2**20
_AIMS: Final = {"krules-framework": "12x", "FastStream": "6x"}


def heading(machine: Machine, python: str, server: str, load: Sequence[tuple[float, float, float]]) -> str:
    """Return where and when it was measured, and how busy the machine was.

    Args:
        machine: where.
        python: version of Python.
        server: which server, and how it keeps what is written.
        load: the load averages of the system before and after, if it knows them.
    """
    cores = "1 core" if machine.cores == 1 else f"{machine.cores} cores"
    text = f"Python {python}, {server}, {machine.system}, {machine.cpu}, {cores}; {machine.day}."
    if load:
        text += f" Load average {load[0][0]:.1f} before, {load[-1][0]:.1f} after (this program makes about 1.5 of it)."
    return text


def page(heading: str, tables: Sequence[str]) -> str:
    """Return the figures as a part of the documentation.

    Args:
        heading: where and when they were taken.
        tables: one for each part, each with what is said of it below.
    """
    parts = "\n\n".join(_filled(table) for table in tables)
    return f"{_PAGE}\n{fill(heading, 120)}\n\n{parts}\n"


def _filled(table: str) -> str:
    return "\n".join(line if line.startswith("|") else fill(line, 120) for line in table.splitlines())


def throughput_table(series: Sequence[Series]) -> str:
    """Return events per second of each; the first one is onwhen, the others are what it is compared with."""
    own = series[0]
    head = ("one process", "events/s", "middle half", "onwhen is", "aim", "its CPU", "server's CPU")
    rows = []
    for one in series:
        beside = ("", "") if one is own else (ratio(ratios(own.rates, one.rates)), _AIMS.get(one.name, ""))
        name = f"{one.name} {one.version}" if one.name != "floor" else f"hand-written, redis-py {one.version}"
        rows.append((name, rate(one.rates), spread(one.rates), *beside, *_on_cpu(one)))
    reading = (
        "1,000 subjects, one rule that changes two properties of one, out of a backlog: the median of "
        f"{len(own.rounds)} rounds, and the middle half of them. How many times as fast onwhen is, is taken round by "
        "round. CPU is per event. After each round every subject is read and compared."
    )
    return "\n".join([grid(head, rows), "", reading, *_caution(own)])


def _caution(own: Series) -> list[str]:
    """Return what has to be said if other programs had the CPU: a worker with a backlog waits for nothing else."""
    share = median(taken.on_cpu / taken.seconds for taken in own.rounds)
    if share > 0.85:
        return []
    return [
        f"The machine was busy: {own.name} had a CPU for {share:.0%} of the time; then CPU per event says more than "
        f"events per second."
    ]


def _on_cpu(series: Series) -> tuple[str, str]:
    own = median(taken.on_cpu / taken.events for taken in series.rounds)
    server = median(taken.server / taken.events for taken in series.rounds)
    return f"{own * 1e6:.0f} µs", f"{server * 1e6:.0f} µs"


def partitions_table(found: Sequence[tuple[int, Series]]) -> str:
    """Return events per second of one worker by number of partitions; ratios are to the first."""
    head = ("one worker, partitions", "events/s", "middle half", "to 1 partition", "its CPU", "server's CPU")
    first = found[0][1]
    rows = [
        (str(n), rate(one.rates), spread(one.rates), ratio(ratios(one.rates, first.rates)), *_on_cpu(one))
        for n, one in found
    ]
    return grid(head, rows)


def two_table(two: Two, cores: int) -> str:
    """Return one worker next to two.

    Args:
        two: the figures.
        cores: how many the machine has (a count).
    """
    head = ("16 partitions", "events/s", "middle half", "to one worker", "cores used")
    rows = [
        ("one worker", rate(two.one), spread(two.one), "", ""),
        ("two workers", rate(two.both), spread(two.both), ratio(ratios(two.both, two.one)), f"{median(two.cores):.1f}"),
    ]
    reading = f"Cores used: by the two workers and the server together; the machine has {cores}."
    return f"{grid(head, rows)}\n\n{reading}"


def backlog_table(found: Backlog) -> str:
    """Return how a long backlog went."""
    head = ("part of the backlog", "events/s", "memory of the worker")
    marks = [f"{_mib(memory)}" for memory in found.memory]
    rows = [("before", "", marks[0])]
    rows += [(f"{10 * n} to {10 * n + 10} %", f"{piece:,.0f}", marks[n + 1]) for n, piece in enumerate(found.pieces)]
    slowest = min(found.pieces) / median(found.pieces)
    reading = (
        f"{found.events:,} of {found.made:,} events, made in {found.loading:.0f} s, handled by one worker in "
        f"{found.seconds:.0f} s: {found.events / found.seconds:,.0f} a second, the slowest tenth at {slowest:.2f} of "
        f"the median. The server's memory: {_mib(found.server[0])} with the backlog, {_mib(found.server[1])} at the "
        f"end."
    )
    return f"{grid(head, rows)}\n\n{reading}"


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"


def latency_table(taken: Latencies) -> str:
    """Return the latencies at rest."""
    head = ("one at a time, at rest", "p50", "p99", "longest")
    series = (
        ("emit until it has returned: accepted", taken.accepted),
        ("emit until the commit in the other process", taken.committed),
        ("emit until receipt.handled() has returned", taken.known),
        ("hand-written: XADD until the EVAL in the other process", taken.floor),
        ("one PING and its answer", taken.ping),
    )
    rows = [
        (name, times(percentile(values, 0.5)), times(percentile(values, 0.99)), times(max(values)))
        for name, values in series
    ]
    return f"{grid(head, rows)}\n\n{len(taken.ping):,} of each, in turn, each after a pause."


_PAGE: Final = """\
## Workers over Redis

How many events one worker process takes out of a backlog, next to two peers and to a loop that is written by hand; what
more partitions and a second worker change; how a long backlog goes; and how long one event takes at rest. The load is
the same for all: 1,000 subjects in turn, and one rule that changes two properties of one.

- **onwhen** is `Worker(bus)` on `create_redis_storage(url, partitions=16)`. The events are in its log, accepted; each
  turn is one atomic commit that checks who owns the partition, that the event is still there, and which version its
  subject has.
- **hand-written** is what asyncio, redis-py and hiredis take for it at least: `XRANGE` of 500 entries, then one `EVAL`
  an entry that sets two fields and removes the entry, all in one pipeline. It has one partition, keeps all state in
  memory, and checks nothing.
- **krules-framework** has its Redis storage, set up as its documentation does. The rule sets two properties and stores
  them at once, which its documentation calls efficient. There is no queue: the events lie in a list of the process, and
  are lost with it.
- **FastStream** has a Redis list and one message a call, logging off. The handler loads the subject's hash and writes
  two of its fields. A message that was taken is lost with the process.

All share one server on the same machine, and `gc.set_threshold(10_000, 10, 10)`, which the guide for operators tells
busy services to set. Events that warm a contender up do not count. After each round every subject is read, and compared
with what the events make of it. `make bench-fleet` measures on your machine, in about five minutes.
"""
