"""The metrics that there are: their names, what they mean, and how they are made from what was counted.

Belongs here: names, helps, labels, and one function for each group of them. It must not know when anything is counted
or scraped. Names follow the Prometheus conventions: base units, `_total` for what only grows, no label that grows with
the number of subjects.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, TypeAlias

import msgspec
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from onwhen import __version__
from onwhen.engine.status import WorkerStatus
from onwhen.engine.tally import Tally
from onwhen.middleware._metrics_counts import Counts, Durations

__all__ = ["ALL", "EVENT", "of_buses", "of_circuits", "of_counts", "of_workers"]

EVENT: Final = "(event)"
"""Stands for the event as a whole where a label says which rule."""

_SHOWN: Final = ("fired", "failed")
_ENDS: Final = ("handled", "stopped", "postponed", "failed")
_STATES: Final = ("closed", "half_open", "open")
_MOST_CIRCUITS: Final = 200  # that are shown one by one (a count); the rest is only counted

Values: TypeAlias = "Iterable[tuple[Sequence[str], float]]"


class _Spec(msgspec.Struct, frozen=True):
    """One metric: its name in full, what it means, its labels.

    Attributes:
        name: with its suffix.
        help: what it means.
        labels: names of its labels.
        kind: how Prometheus calls what it is.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    kind: str = "counter"

    def family(self, values: Values = ()) -> Metric:
        """Return it with values.

        Args:
            values: of its labels, and its own.
        """
        made: CounterMetricFamily | GaugeMetricFamily
        if self.kind == "counter":
            made = CounterMetricFamily(self.name, self.help, labels=self.labels)
        else:
            unit = "seconds" if self.name.endswith("_seconds") else ""
            made = GaugeMetricFamily(self.name, self.help, labels=self.labels, unit=unit)
        for labels, value in values:
            made.add_metric(labels, value)
        return made

    def histogram(self, bounds: Sequence[float], durations: Durations) -> Metric:
        """Return it with durations."""
        made = HistogramMetricFamily(self.name, self.help, labels=self.labels, unit="seconds")
        texts = [*map(str, bounds), "+Inf"]
        for name, durations_of in tuple(durations.items()):
            counts = accumulate(tuple(durations_of.counts))
            made.add_metric((name,), list(zip(texts, counts, strict=True)), durations_of.sum)
        return made


_ACCEPTED = _Spec("onwhen_events_accepted_total", "Events from outside that were accepted.")
_DUPLICATES = _Spec("onwhen_events_duplicate_total", "Events from outside that had been accepted before.")
_TURNS = _Spec(
    "onwhen_turns_total",
    "Turns that were committed, by type of event and outcome (handled, stopped, postponed, failed as a whole). "
    "A rule that is retried has turns of its own.",
    ("event_type", "outcome"),
)
_RUNS = _Spec(
    "onwhen_rule_runs_total",
    "Rules considered in turns that were committed, by outcome (fired, skipped, failed, stopped, postponed).",
    ("rule", "outcome"),
)
_LOADS = _Spec(
    "onwhen_subject_loads_total",
    "Subjects that were loaded from the store for a turn; for all other turns they were still in memory.",
)
_COMMITS = _Spec(
    "onwhen_commits_total",
    "Commits of turns, by the store's answer: ok, conflict (run again), done (was handled before), fenced (not owner).",
    ("answer",),
)
_MESSAGES = _Spec("onwhen_messages_sent_total", "Messages that turns have sent.")
_RELAYED = _Spec("onwhen_messages_relayed_total", "Messages that were brought to another partition.")
_TIMERS_SET = _Spec("onwhen_timers_set_total", "Timers that turns have set.")
_TIMERS_FIRED = _Spec("onwhen_timers_fired_total", "Timers that have become due, and were put into the log.")
_RETRIES = _Spec(
    "onwhen_retries_planned_total", "Runs that were planned after a failure, or put off, by rule.", ("rule",)
)
_RETRIED = _Spec("onwhen_retries_run_total", "Retries that were run.")
_PARKED = _Spec(
    "onwhen_parked_total", "Failures for good after which a subject waits to be resumed, by rule.", ("rule",)
)
_DEAD = _Spec("onwhen_dead_letters_total", "Dead letters that turns have left, by rule.", ("rule",))
_STORE_ERRORS = _Spec(
    "onwhen_store_errors_total",
    "Calls to the store that failed, or were refused because it is full, while the engine did its work.",
)
_PENDING = _Spec(
    "onwhen_bus_pending_events",
    "Events that this process has taken in and is not done with; those of workers are in onwhen_partition_*.",
    kind="gauge",
)
_TURN_SECONDS = _Spec(
    "onwhen_turn_duration_seconds",
    "How long all rules of an event took together, without load and commit.",
    ("event_type",),
    "histogram",
)
_RULE_SECONDS = _Spec("onwhen_rule_duration_seconds", "How long a rule took that was run.", ("rule",), "histogram")
_READY = _Spec("onwhen_worker_ready", "1 if the worker is ready, as /ready says it, else 0.", kind="gauge")
_OWNED_COUNT = _Spec("onwhen_worker_owned_partitions", "Partitions that the worker owns.", kind="gauge")
_SHARE = _Spec("onwhen_worker_share_partitions", "Partitions that the worker should own.", kind="gauge")
_PROGRESS = _Spec(
    "onwhen_worker_last_progress_age_seconds",
    "Since when the worker has got nowhere though it had something to do.",
    kind="gauge",
)
_PARTITIONS = _Spec("onwhen_partitions", "Partitions that there are.", kind="gauge")
_UNOWNED = _Spec(
    "onwhen_partitions_unowned", "Partitions that no living worker owned, as this one saw it.", kind="gauge"
)
_OWNED = _Spec(
    "onwhen_partition_owned",
    "1 for a partition that this worker owns, 0 for one that nobody owned.",
    ("partition",),
    "gauge",
)
_BACKLOG = _Spec(
    "onwhen_partition_pending_events",
    "Pending events of a partition that this worker owns, or that nobody owned.",
    ("partition",),
    "gauge",
)
_AGE = _Spec(
    "onwhen_partition_oldest_age_seconds",
    "How long the oldest event of the partition was pending that could be handled; 0 if none could.",
    ("partition",),
    "gauge",
)
_CIRCUITS = _Spec("onwhen_circuits", "Circuits, by state (closed, half_open, open).", ("state",), "gauge")
_CIRCUIT = _Spec(
    "onwhen_circuit_state",
    "1 for the state that a circuit is in, 0 for the others; of at most 200 circuits, those that are not closed first.",
    ("circuit", "state"),
    "gauge",
)
_BUILD = _Spec("onwhen_build_info", "Version of onwhen and of Python; always 1.", ("version", "python"), "info")

ALL: Final = tuple(spec for spec in list(globals().values()) if isinstance(spec, _Spec))
"""All metrics, in the order in which they are shown."""


def of_counts(counts: Counts, bounds: Sequence[float], rules: Sequence[str]) -> Iterator[Metric]:
    """Go through what turns and rules came to.

    Args:
        counts: them.
        bounds: of the buckets of durations (seconds).
        rules: those that there are; that they fire and that they fail is shown from the start, or else the first
            failure of one would not be seen by `rate` and `increase`.
    """
    runs = {(rule, outcome): 0 for rule in rules for outcome in _SHOWN} | counts.runs
    types = dict.fromkeys([event_type for event_type, _ in tuple(counts.turns)])
    turns = {(event_type, outcome): 0 for event_type in types for outcome in _ENDS} | counts.turns
    yield _TURNS.family(list(turns.items()))
    yield _RUNS.family(list(runs.items()))
    yield _TURN_SECONDS.histogram(bounds, counts.turn_durations)
    yield _RULE_SECONDS.histogram(bounds, counts.rule_durations)


def of_buses(tallies: Sequence[Tally], pending: int, rules: Sequence[str]) -> Iterator[Metric]:
    """Go through what the engine has counted itself.

    Args:
        tallies: its counts.
        pending: events that it is not done with (a count).
        rules: those that there are.
    """

    def total(spec: _Spec, name: str) -> Metric:
        return spec.family([((), sum(getattr(tally, name) for tally in tallies))])

    def by_rule(spec: _Spec, name: str) -> Metric:
        # What is told by alerts is there from the start; see `of_counts`.
        counts = dict.fromkeys((*rules, EVENT), 0) if spec is not _RETRIES else {}
        for tally in tallies:
            for rule, count in tuple(getattr(tally, name).items()):
                counts[rule or EVENT] = counts.get(rule or EVENT, 0) + count
        return spec.family([((rule,), count) for rule, count in counts.items()])

    answers = {"ok": "committed", "conflict": "conflicts", "done": "done", "fenced": "fenced"}
    commits = [((said,), sum(getattr(tally, name) for tally in tallies)) for said, name in answers.items()]
    yield total(_ACCEPTED, "accepted")
    yield total(_DUPLICATES, "duplicates")
    yield total(_LOADS, "loads")
    yield _COMMITS.family(commits)
    yield total(_MESSAGES, "messages")
    yield total(_RELAYED, "relayed")
    yield total(_TIMERS_SET, "timers_set")
    yield total(_TIMERS_FIRED, "timers_fired")
    yield by_rule(_RETRIES, "retries")
    yield total(_RETRIED, "retried")
    yield by_rule(_PARKED, "parked")
    yield by_rule(_DEAD, "dead")
    yield total(_STORE_ERRORS, "store_errors")
    yield _PENDING.family([((), pending)])
    build = InfoMetricFamily(_BUILD.name.removesuffix("_info"), _BUILD.help)
    build.add_metric((), {"version": __version__, "python": platform.python_version()})
    yield build


def of_workers(statuses: Sequence[WorkerStatus]) -> Iterator[Metric]:
    """Go through how workers fare; two in one process are shown as if they were one."""
    if not statuses:
        return
    owned: dict[int, int] = {}
    backlogs: dict[int, int] = {}
    ages: dict[int, float] = {}
    for status in statuses:
        for number in status.unowned:
            owned.setdefault(number, 0)
    for status in statuses:
        owned |= dict.fromkeys(status.owned, 1)
        for number in (*status.owned, *status.unowned):
            backlogs[number] = max(backlogs.get(number, 0), status.backlogs.get(number, 0))
            ages[number] = max(ages.get(number, 0.0), status.oldest_ages.get(number, 0.0))
    yield _READY.family([((), all(status.is_ready for status in statuses))])
    yield _OWNED_COUNT.family([((), sum(owned.values()))])
    yield _SHARE.family([((), sum(status.share for status in statuses))])
    yield _PROGRESS.family([((), max(status.last_progress_age for status in statuses))])
    yield _PARTITIONS.family([((), max(status.partitions for status in statuses))])
    yield _UNOWNED.family([((), sum(not is_owned for is_owned in owned.values()))])
    for spec, values in ((_OWNED, owned), (_BACKLOG, backlogs), (_AGE, ages)):
        yield spec.family([((str(number),), values[number]) for number in sorted(values)])


def of_circuits(circuits: Iterable[tuple[str, str]]) -> Iterator[Metric]:
    """Go through circuits.

    Args:
        circuits: what each is called, and "closed", "half_open" or "open"; of those that are called alike, the worst
            is shown.
    """
    counts, worst = dict.fromkeys(_STATES, 0), dict[str, str]()
    for name, state in circuits:
        counts[state] += 1
        worst[name] = max(worst.get(name, "closed"), state, key=_STATES.index)
    if not worst:
        return
    shown = sorted(worst.items(), key=lambda item: (item[1] == "closed", item[0]))[:_MOST_CIRCUITS]
    yield _CIRCUITS.family([((state,), count) for state, count in counts.items()])
    yield _CIRCUIT.family([((name, state), state == now) for name, now in sorted(shown) for state in _STATES])
