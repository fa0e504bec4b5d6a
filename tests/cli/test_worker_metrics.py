"""`/metrics` of `onwhen worker`: what a real worker says of itself while it works, next to what was really done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from onwhen.testing.servers import RedisServer
from tests.cli.fleets import APP, Started, leave, until

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]

OWN_APP = """
from onwhen import EventBus, RuleSet, create_memory_storage
from onwhen.middleware import Metrics

desk = RuleSet("desk")

@desk.on("ticket.taken")
def take(ctx):
    ctx.subject.set("n", 1)

bus = EventBus(desk, store=create_memory_storage())
bus.use(Metrics(buckets=[0.5]))
"""


class Scraped(dict[tuple[str, ...], float]):
    """What one scrape of a worker has said: name and values of labels, sorted by name of label -> value."""

    def __init__(self, client: httpx.Client) -> None:
        answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        assert answer.status_code == 200
        for family in text_string_to_metric_families(answer.text):
            for sample in family.samples:
                labels = [value for _, value in sorted(sample.labels.items())]
                self[(sample.name, *labels)] = sample.value


def health_of(worker: Started) -> httpx.Client:
    """A client of a worker's health port, once it owns all."""
    url = worker.says(r"health at (http://127.0.0.1:\d+)\n")[1]
    worker.says(r"owns 4 of 4 partitions: 0-3\n")
    return httpx.Client(base_url=url, timeout=10, trust_env=False)


def test_a_worker_tells_what_it_does(launch: Launch, onwhen: Onwhen) -> None:
    """By itself, with its health: counts to the event, while it works; and how its partitions fare."""
    worker = launch("worker", APP, "--health-port", "0", "--id", "desk")
    with health_of(worker) as client:
        for number in (1, 1, 2):
            assert onwhen("emit", "order.placed", f"order:{number}", "--wait", "20").code == 0
        assert onwhen("emit", "order.printed", "order:1", "--wait", "20").code == 0
        assert onwhen("emit", "order.weighed", "order:3").code == 0
        assert onwhen("emit", "order.called", "order:4", "--wait", "20").code == 0
        assert onwhen("emit", "unheard.of", "order:5", "--wait", "20").code == 0
        until(lambda: Scraped(client)["onwhen_commits_total", "ok"] == 7)
        assert onwhen("emit", "order.slow", "order:6").code == 0
        until(lambda: Path("slow").exists())
        seen = Scraped(client)
        turns = {key[1:]: count for key, count in seen.items() if key[0] == "onwhen_turns_total" and count}
        assert turns == {
            ("order.placed", "handled"): 3,
            ("order.printed", "handled"): 1,
            ("order.weighed", "handled"): 1,
            ("order.called", "handled"): 1,
            ("(other)", "handled"): 1,
        }
        runs = {key[1:]: count for key, count in seen.items() if key[0] == "onwhen_rule_runs_total" and count}
        assert runs == {
            ("fired", "shop.place"): 3,
            ("failed", "shop.print_order"): 1,
            ("failed", "shop.weigh"): 1,
            ("failed", "shop.call"): 1,
        }
        assert seen["onwhen_dead_letters_total", "shop.print_order"] == 1
        assert seen["onwhen_parked_total", "shop.weigh"] == 1
        assert seen["onwhen_retries_planned_total", "shop.call"] == 1
        assert seen["onwhen_commits_total", "ok"] == 7  # the slow one is not committed yet
        assert seen["onwhen_store_errors_total",] == 0
        assert (seen["onwhen_worker_ready",], seen["onwhen_worker_owned_partitions",]) == (1, 4)
        assert (seen["onwhen_partitions",], seen["onwhen_partitions_unowned",]) == (4, 0)
        assert [seen["onwhen_partition_owned", str(number)] for number in range(4)] == [1, 1, 1, 1]
        until(lambda: sum(Scraped(client)["onwhen_partition_pending_events", str(number)] for number in range(4)) == 1)
        until(lambda: max(Scraped(client)["onwhen_partition_oldest_age_seconds", str(n)] for n in range(4)) > 0)
        assert seen["process_resident_memory_bytes",] > 0
        leave("go on")
        until(lambda: Scraped(client)["onwhen_commits_total", "ok"] == 8)


def test_the_metrics_of_the_app_are_used(launch: Launch, onwhen: Onwhen, tmp_path: Path) -> None:
    """With the durations, buckets and all; they are told once, not twice."""
    (tmp_path / "app.py").write_text(OWN_APP)
    with health_of(launch("worker", "app:bus", "--health-port", "0")) as client:
        assert onwhen("emit", "ticket.taken", "ticket:1", "--wait", "20").code == 0
        until(lambda: Scraped(client)["onwhen_commits_total", "ok"] == 1)
        seen = Scraped(client)
    buckets = {key[1:]: count for key, count in seen.items() if key[0] == "onwhen_rule_duration_seconds_bucket"}
    assert buckets == {("0.5", "desk.take"): 1, ("+Inf", "desk.take"): 1}
    assert seen["onwhen_rule_runs_total", "fired", "desk.take"] == 1
    assert seen["onwhen_worker_ready",] == 1


def test_settings_switch_on_durations(launch: Launch, onwhen: Onwhen) -> None:
    """For an app that is no more than rules."""
    worker = launch("worker", APP, "--health-port", "0", ONWHEN_MIDDLEWARE="metrics")
    with health_of(worker) as client:
        assert onwhen("emit", "order.placed", "order:1", "--wait", "20").code == 0
        until(lambda: Scraped(client)["onwhen_commits_total", "ok"] == 1)
        assert Scraped(client)["onwhen_turn_duration_seconds_count", "order.placed"] == 1


def test_without_prometheus_client_there_are_none(launch: Launch, tmp_path: Path) -> None:
    """Whoever has not installed it has a worker like any other, and its health."""
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError('no', name='prometheus_client')")
    path = f"{tmp_path}:{Path(__file__).parents[2]}"
    with health_of(launch("worker", APP, "--health-port", "0", PYTHONPATH=path)) as client:
        assert client.get("/metrics").status_code == 404
        until(lambda: client.get("/ready").status_code == 200)


def test_the_figures_of_a_store_that_is_away(launch: Launch, tmp_path: Path) -> None:
    """It is asked for nothing at a scrape, so metrics are there also when it is not, and say so."""
    with RedisServer() as server:
        worker = launch(
            "worker", APP, "--health-port", "0", "--store", server.url, "--lease", "2", ONWHEN_KEY_PREFIX="t"
        )
        with health_of(worker) as client:
            server.stop()
            until(lambda: Scraped(client)["onwhen_store_errors_total",] > 0)
            until(lambda: Scraped(client)["onwhen_worker_ready",] == 0)
