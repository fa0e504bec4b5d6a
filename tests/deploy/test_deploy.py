"""Dashboard and alerts: every expression asks for metrics, labels and values that a real scrape has."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from onwhen.middleware._metrics_families import ALL
from tests.middleware.metrics_seen import everything

DEPLOY = Path(__file__).parents[2] / "deploy"
WORDS = {
    *("by", "without", "on", "ignoring", "or", "and", "unless"),
    *("sum", "max", "min", "count", "rate", "increase", "histogram_quantile", "absent", "max_over_time", "vector"),
}
FROM_PROMETHEUS = {"job", "instance"}  # labels that it adds to all that it scrapes
ENUMERATED = {"outcome", "state", "answer"}  # labels whose values are ours
STRING = r'"(?:[^"\\]|\\.)*"'
SELECTOR = re.compile(rf"\b((?:onwhen|process)_\w+)(?:\{{((?:[^{{}}\"]|{STRING})*)\}})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')


def expressions_of_the_dashboard() -> Iterator[tuple[str, str]]:
    """Name of each panel, and what it asks for."""
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


def expressions_of_the_alerts() -> Iterator[tuple[str, str]]:
    """Name of each alert, and what it asks for."""
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    for found in re.finditer(r"- alert: (\w+)\n +expr: (?:>-\n)?((?:.*\n)+?) +(?:for|labels):", text):
        yield found[1], " ".join(found[2].split())


def dashboard() -> dict[str, Any]:
    """The dashboard, as it is imported."""
    read: dict[str, Any] = json.loads((DEPLOY / "grafana" / "onwhen.json").read_text())
    return read


EXPRESSIONS = [*expressions_of_the_dashboard(), *expressions_of_the_alerts()]

Seen = dict[str, dict[str, set[str]]]


@pytest.fixture
async def seen() -> Seen:
    """What a scrape has: name of each sample -> its labels -> their values."""
    metrics, _desk = await everything()
    found: Seen = {}
    for family in text_string_to_metric_families(generate_latest(metrics.registry).decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, defaultdict(set))
            for label, value in sample.labels.items():
                labels[label].add(value)
    return found


def problems(expression: str, seen: Seen) -> list[str]:
    """What is wrong with an expression; empty if nothing is."""
    told, labels = [], set(FROM_PROMETHEUS)
    for name, matchers in SELECTOR.findall(expression):
        known = seen.get(name)
        if known is None:
            told.append(f"there is no metric {name}")
            continue
        labels |= set(known)
        left = MATCHER.sub("", matchers).replace(",", "").strip()
        told += [f"{left!r} in a selector"] if left else []
        for label, _, value in MATCHER.findall(matchers):
            if label not in {*known, *FROM_PROMETHEUS}:
                told.append(f"{name} has no label {label}")
            elif label in ENUMERATED:
                told += [f"{name}: {label} is never {one}" for one in value.split("|") if one not in known[label]]
    rest = SELECTOR.sub(" ", expression)
    for group in re.findall(r"\b(?:by|without|on|ignoring)\s*\(([^()]*)\)", rest):
        told += [f"nothing to group by: {label}" for label in re.findall(r"\w+", group) if label not in labels]
    bare = re.sub(rf"{STRING}|\[\d+[smhd]\]|\b\d+(?:\.\d+)?\b", " ", rest)
    told += [f"unknown word {word}" for word in re.findall(r"[A-Za-z_$]\w*", bare) if word not in WORDS | labels]
    if any(expression.count(a) != expression.count(b) for a, b in ("()", "{}", "[]")):
        told.append("brackets that do not match")
    return told


@pytest.mark.parametrize(("name", "expression"), EXPRESSIONS, ids=[name for name, _ in EXPRESSIONS])
async def test_an_expression_asks_for_what_there_is(name: str, expression: str, seen: Seen) -> None:
    """A metric that is renamed here and not there would make a panel empty, and an alert silent."""
    assert problems(expression, seen) == []


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("rate(onwhen_turn_total[5m])", "there is no metric onwhen_turn_total"),
        ("onwhen_turns", "there is no metric onwhen_turns"),
        ('onwhen_turns_total{rule="x"}', "onwhen_turns_total has no label rule"),
        ('onwhen_turns_total{outcome=~"failed|broken"}', "onwhen_turns_total: outcome is never broken"),
        ("onwhen_turns_total{outcome=failed}", "'outcome=failed' in a selector"),
        ("sum by (rule) (onwhen_turns_total)", "nothing to group by: rule"),
        ("summe(onwhen_turns_total)", "unknown word summe"),
        ("sum(onwhen_turns_total", "brackets that do not match"),
    ],
)
async def test_an_expression_that_does_not_is_found(expression: str, told: str, seen: Seen) -> None:
    """What looks at the expressions is looked at itself."""
    assert told in problems(expression, seen)


def test_all_metrics_are_of_use() -> None:
    """Each is asked for by a panel or an alert."""
    asked = {name.removesuffix("_bucket") for _, expression in EXPRESSIONS for name, _ in SELECTOR.findall(expression)}
    assert {spec.name for spec in ALL} == {name for name in asked if name.startswith("onwhen_")}


def test_each_alert_is_found_tested_and_explained() -> None:
    """All of them are read here; each fires in one of promtool's tests and is silent in another one."""
    text = (DEPLOY / "prometheus" / "alerts.yml").read_text()
    tests = (DEPLOY / "prometheus" / "alerts_test.yml").read_text()
    names = [name for name, _ in expressions_of_the_alerts()]
    assert len(names) == text.count("- alert:") == text.count("summary:") == text.count("description:") == 11
    for name in names:
        assert f"alertname: {name}, exp_alerts: []" in tests
        assert f'alertname="{name}"' in tests


def test_the_dashboard_can_be_imported() -> None:
    """Its data source is chosen by who imports it; panels have ids of their own and do not lie on each other."""
    read = dashboard()
    panels = read["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    squares = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(squares)) == len(squares)
    assert max(x for x, _ in squares) < 24
    asked = [variable for variable in read["templating"]["list"] if variable["type"] == "query"]
    for thing in (*asked, *(target for panel in panels for target in panel.get("targets", ()))):
        assert thing["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert all("onwhen_build_info" in variable["definition"] for variable in asked)
