"""Short ways to look at what is seen in a function, and at what is found wrong with rules."""

from __future__ import annotations

from typing import Any, Literal

from onwhen import RuleSet, Subject
from onwhen.analysis import Finding, Graph, Survey, check, graph_of, survey
from onwhen.analysis._effects import Emission, Write
from onwhen.analysis._reader import Known, read
from onwhen.engine.rulebook import Rulebook

KIND = "looking"


class Ticket(Subject, prefix="ticket:"):
    status: Literal["new", "open", "closed"] = "new"
    owner: str | None = None
    events: int = 0
    tags: list[str] = []
    facts: dict[str, Any] = {}

    @property
    def is_open(self) -> bool:
        return self.status == "open"

    def close(self) -> None:
        self.status = "closed"


class Customer(Subject, prefix="customer:"):
    tickets: int = 0


def emissions(function: Any, subject: type[Subject] = Subject) -> list[Emission]:
    return list(read(function, Known(subject)).emissions)


def emitted(function: Any, subject: type[Subject] = Subject) -> list[str]:
    """Return the types of what a function emits, as they are shown."""
    return sorted({str(one.type) for one in emissions(function, subject)})


def writes(function: Any, subject: type[Subject] = Subject) -> list[Write]:
    return list(read(function, Known(subject)).writes)


def written(function: Any, subject: type[Subject] = Subject) -> list[str]:
    """Return the names of what a function changes, as they are shown."""
    return sorted({str(one.property) for one in writes(function, subject)})


def looked_at(function: Any, subject: type[Subject] = Subject) -> list[str]:
    return sorted({str(one.property) for one in read(function, Known(subject)).reads})


def unseen(function: Any, subject: type[Subject] = Subject) -> list[str]:
    return [one.what for one in read(function, Known(subject)).unseen]


def survey_of(*rule_sets: RuleSet, middleware: tuple[Any, ...] = ()) -> Survey:
    book = Rulebook()
    book.include(*rule_sets)
    for one in middleware:
        book.use(one)
    return survey(book)


def graph(*rule_sets: RuleSet, middleware: tuple[Any, ...] = ()) -> Graph:
    return graph_of(survey_of(*rule_sets, middleware=middleware))


def found(*rule_sets: RuleSet, code: str, middleware: tuple[Any, ...] = (), **options: Any) -> list[Finding]:
    """Return the findings of one kind."""
    findings = check(survey_of(*rule_sets, middleware=middleware), **options)
    return [finding for finding in findings if finding.code == code]


def arrows(graph: Graph) -> set[tuple[str, str, str]]:
    """Return source, kind and target of the edges."""
    return {(edge.source, edge.kind, edge.target) for edge in graph.edges}


def use(*values: Any) -> None:
    """Do nothing with values."""
