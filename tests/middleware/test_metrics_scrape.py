"""Metrics over HTTP: what a Prometheus server is answered, in both of its formats, and that the docs list all of it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from onwhen.gateway.health import listen, serve, url_of
from onwhen.middleware import Metrics
from onwhen.middleware._metrics_families import ALL
from tests.middleware.metrics_seen import STATUS, Desk, everything

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
DOCS = Path(__file__).parents[2] / "docs" / "observability.md"


@asynccontextmanager
async def scraping(metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that has the metrics in two places: as a route and mounted."""
    routes = [Route("/metrics", metrics.app()), Mount("/below", metrics.app())]
    listening = listen("127.0.0.1", 0)
    serving = asyncio.create_task(serve(Starlette(routes=routes), listening))
    async with httpx.AsyncClient(base_url=url_of(listening), timeout=10, trust_env=False) as client:
        yield client
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving


def own(families: Any) -> dict[str, Any]:
    """Families by name, without those of the process."""
    return {family.name: family for family in families if not family.name.startswith("process_")}


def family_name(name: str) -> str:
    """What a parser calls a metric."""
    return name.removesuffix("_total").removesuffix("_info")


async def test_all_is_there_in_the_text_format() -> None:
    """Each name as it is declared, with its help, its kind and its labels."""
    metrics, _desk = await everything()
    async with scraping(metrics) as client:
        answer = await client.get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = {family.name: family for family in parse_text(answer.text) if not family.name.startswith("process_")}
    assert set(found) == {spec.name.removesuffix("_total") for spec in ALL}
    for spec in ALL:
        family = found[spec.name.removesuffix("_total")]
        assert family.documentation == spec.help
        assert family.type == {"info": "gauge"}.get(spec.kind, spec.kind)
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(spec.labels)


async def test_all_is_there_as_openmetrics() -> None:
    """Which its parser takes strictly: units, suffixes, order, the end."""
    metrics, _desk = await everything()
    async with scraping(metrics) as client:
        answer = await client.get("/metrics", headers={"Accept": OPENMETRICS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    found = own(parse_openmetrics(answer.text))
    assert set(found) == {family_name(spec.name) for spec in ALL}
    for spec in ALL:
        family = found[family_name(spec.name)]
        assert (family.type, family.documentation) == (spec.kind, spec.help)
        assert family.unit == ("seconds" if spec.name.endswith("_seconds") else "")


async def test_a_route_and_a_mount_answer_alike() -> None:
    """Without being sent elsewhere first; compressed for those who take that; single metrics for those who ask."""
    metrics, _desk = await everything()
    async with scraping(metrics) as client:
        answers = [await client.get(path) for path in ("/metrics", "/below/")]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert answers[0].headers["content-encoding"] == "gzip"
        plain = await client.get("/metrics", headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        one = await client.get("/metrics", params={"name[]": "onwhen_events_accepted_total"})
    assert re.findall(r"^[a-z].*", one.text, re.MULTILINE) == ["onwhen_events_accepted_total 1.0"]


async def test_figures_are_those_of_now() -> None:
    """Nothing is kept from the scrape before."""
    metrics, desk = await everything()
    async with scraping(metrics) as client, desk.bus:
        for number in range(1, 4):
            assert f"onwhen_events_accepted_total {number}.0\n" in (await client.get("/metrics")).text
            await desk.bus.emit("order.taken", f"order:{number}")


async def test_how_a_worker_fares() -> None:
    """Each figure of its status, by partition where it is one of a partition."""
    metrics, _desk = await everything()
    get = metrics.registry.get_sample_value
    assert get("onwhen_worker_ready") == 0
    assert get("onwhen_worker_owned_partitions") == 2
    assert get("onwhen_worker_share_partitions") == 3
    assert get("onwhen_worker_last_progress_age_seconds") == 0.25
    assert (get("onwhen_partitions"), get("onwhen_partitions_unowned")) == (4, 1)
    for partition, owned, backlog, age in (
        ("1", 1, 7, 61.5),
        ("3", 1, 0, 0),
        ("2", 0, 5, 300),
        ("0", None, None, None),
    ):
        labels = {"partition": partition}
        assert get("onwhen_partition_owned", labels) == owned
        assert get("onwhen_partition_pending_events", labels) == backlog
        assert get("onwhen_partition_oldest_age_seconds", labels) == age


async def test_two_workers_in_one_process_are_shown_as_one() -> None:
    """A partition that one of them owns is not without an owner because the other one looked earlier."""
    metrics, desk = await everything()
    status = {"owned": frozenset({2}), "unowned": frozenset({0}), "backlogs": {2: 1}, "is_ready": True}
    other = Desk(desk.bus, msgspec.structs.replace(STATUS, **status))
    metrics.watch(other).watch(other)
    get = metrics.registry.get_sample_value
    assert (get("onwhen_worker_ready"), get("onwhen_worker_owned_partitions")) == (0, 3)
    assert get("onwhen_worker_share_partitions") == 6
    assert get("onwhen_partitions_unowned") == 1
    assert [get("onwhen_partition_owned", {"partition": str(number)}) for number in range(4)] == [0, 1, 1, 1]
    assert get("onwhen_partition_pending_events", {"partition": "2"}) == 5


async def test_a_worker_that_is_gone_is_not_shown() -> None:
    """What it last said of itself is true no more."""
    metrics, desk = await everything()
    assert metrics.registry.get_sample_value("onwhen_worker_ready") == 0
    del desk
    assert metrics.registry.get_sample_value("onwhen_worker_ready") is None


def test_names_follow_the_conventions() -> None:
    """What only grows ends in _total and nothing else does; times are in seconds; no label is a subject."""
    for spec in ALL:
        assert re.fullmatch(r"onwhen_[a-z]+(_[a-z]+)*", spec.name)
        assert spec.name.endswith("_total") == (spec.kind == "counter")
        assert ("duration" in spec.name or "age" in spec.name) == spec.name.endswith("_seconds") or "mess" in spec.name
        assert not {"subject", "id", "event"} & set(spec.labels)


def test_the_docs_list_them_all() -> None:
    """Name, kind, labels and help of each, in the order in which they are declared."""
    between = re.search(r"<!-- metrics: .*? -->\n(.*?)\n<!-- end of metrics -->", DOCS.read_text(), re.DOTALL)
    assert between is not None
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in between[1].splitlines()[2:]]
    declared = [
        [f"`{spec.name}`", spec.kind, ", ".join(f"`{label}`" for label in spec.labels), spec.help] for spec in ALL
    ]
    assert rows == declared
