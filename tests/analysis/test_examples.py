"""The examples and the rules in the docs: what is found in them is true, and drawn as it should be."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from onwhen.analysis import Finding, Survey, check, dot_of, graph_of, mermaid_of, survey, svg_of
from onwhen.cli._app import find_app
from onwhen.engine.bus import EventBus
from onwhen.engine.rulebook import Rulebook
from onwhen.errors import AppNotFound

ROOT = Path(__file__).parents[2]
PATTERNS = "examples.krules_patterns."

KNOWN = {
    f"{PATTERNS}loops:looping": ["error cascade bad_handler"],  # it is there to show just that
    f"{PATTERNS}retries:sleeping": ["warning cascade call_with_retry"],  # ended by a count
    f"{PATTERNS}error_events": ["warning cascade fill_dlq", "warning cascade send_to_dlq"],  # if they fail themselves
}
"""What is worse than worth knowing; of all other examples, nothing is."""


def names_of(module: str) -> list[str]:
    """Return the apps of an example, or none if it is not one."""
    if module.endswith(".app"):
        return [f"{module}:rules"]
    try:
        find_app(module)
    except AppNotFound as error:
        return re.findall(rf"{re.escape(module)}:\w+", str(error)) if "buses" in str(error) else []
    return [module]


def modules() -> Iterator[str]:
    for path in sorted((ROOT / "examples").rglob("*.py")):
        if not path.name.startswith(("test_", "_")) and path.name != "conftest.py":
            yield ".".join(path.relative_to(ROOT).with_suffix("").parts)


APPS = [name for module in modules() for name in names_of(module)]


def look(name: str) -> Survey:
    found = find_app(name)
    if isinstance(found, EventBus):
        return survey(found.rulebook)
    book = Rulebook()
    book.include(*found)
    return survey(book)


def told(findings: tuple[Finding, ...]) -> list[str]:
    return [f"{one.severity} {one.code} {one.rule.rpartition('.')[2]}" for one in findings if one.severity != "info"]


def test_the_examples_are_found() -> None:
    """Those of the help desk, and of every module of patterns that has rules."""
    assert {"examples.helpdesk.rules", f"{PATTERNS}naming", f"{PATTERNS}loops:filtered"} <= set(APPS)
    assert len(APPS) >= 17


@pytest.mark.parametrize("name", APPS)
def test_what_is_found_in_an_example_is_known(name: str) -> None:
    """Each finding was looked at; there is no error that is none, and nothing that cannot be told."""
    findings = check(look(name))
    assert told(findings) == KNOWN.get(name, [])
    assert [one for one in findings if one.code == "unknown"] == []


@pytest.mark.parametrize("name", APPS)
def test_an_example_can_be_drawn(name: str) -> None:
    """Every rule is in it, and connected; two drawings are alike."""
    graph = graph_of(look(name))
    touched = {node for edge in graph.edges for node in (edge.source, edge.target)}
    assert {node.id for node in graph.nodes} == touched
    assert svg_of(graph) == svg_of(graph_of(look(name)))
    ET.fromstring(svg_of(graph))
    assert dot_of(graph)
    assert mermaid_of(graph)


def test_the_help_desk_is_read_whole() -> None:
    """All that its rules set and send, and nothing else."""
    seen = look("examples.helpdesk.rules")
    effects = {
        rule.id: sorted(
            [str(one.property) for one in rule.reading.writes] + [f"{one.type}!" for one in rule.reading.emissions]
        )
        for rule in seen.rules
    }
    assert effects == {
        "tickets.welcome": ["customer.ticket_opened!", "sla.expired!"],
        "tickets.count_event": ["events"],
        "tickets.follow": ["customer", "owner", "product", "seriousness", "service_level", "workgroup"],
        "tickets.take": ["status"],
        "tickets.wait": ["status"],
        "tickets.resolve": ["status"],
        "tickets.close": ["status"],
        "tickets.count_handover": ["handovers"],
        "tickets.count_level_change": ["level_changes"],
        "tickets.count_reopening": ["reopened"],
        "tickets.breach": ["customer.sla_breached!", "overdue"],
        "customers.count_ticket": ["tickets"],
        "customers.count_breach": ["breaches"],
    }


# -- the docs ----------------------------------------------------------------------------------------------------


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "reference").glob("*.md"))]
FILE = re.compile(r"<!-- file: (\w+)\.py -->\n```python\n(.*?)```", re.DOTALL)
FILES = [(page, name) for page in PAGES for name, text in FILE.findall(page.read_text()) if "RuleSet(" in text]
SEEDED = {("static", "shop")}
"""Pages that show what is found wrong."""


@pytest.mark.parametrize(("page", "name"), FILES, ids=[f"{page.stem}:{name}" for page, name in FILES])
def test_there_is_no_error_in_the_programs_of_the_docs(
    page: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where a page is about them."""
    files = dict(FILE.findall(page.read_text()))
    for other, text in files.items():
        (tmp_path / f"{other}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        errors = [one for one in check(look(name)) if one.severity == "error"]
    finally:
        for other in files:
            sys.modules.pop(other, None)
    assert bool(errors) == ((page.stem, name) in SEEDED), errors


def test_the_picture_in_the_docs_is_the_help_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    """If this fails: `onwhen graph examples.helpdesk.rules --format svg --output docs/helpdesk.svg`."""
    monkeypatch.chdir(ROOT)  # places are told from there
    drawn = svg_of(graph_of(look("examples.helpdesk.rules")), "examples.helpdesk.rules")
    assert (ROOT / "docs" / "helpdesk.svg").read_text(encoding="utf-8") == drawn
