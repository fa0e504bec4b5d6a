"""Graphs and findings as plain values, for programs.

Belongs here: names of fields, which stay as they are. It must not know how they become text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from onwhen.analysis._findings import SEVERITIES, Finding
from onwhen.analysis._graph import Graph
from onwhen.analysis._sources import Place

__all__ = ["facts_of_findings", "facts_of_graph"]

_VERSION: Final = 1
"""Raised when a field is taken away or means something else; fields may be added without."""


def facts_of_graph(graph: Graph, app: str) -> dict[str, Any]:
    """Return a graph as a JSON value.

    Args:
        graph: which one.
        app: how the app is called.
    """
    return {
        "format": "onwhen.graph",
        "version": _VERSION,
        "app": app,
        "nodes": [
            {
                "id": node.id,
                "kind": node.kind,
                "label": node.label,
                "group": node.group or None,
                "pattern": node.is_pattern,
                "notes": list(node.notes),
                **_of_place(node.place),
            }
            for node in graph.nodes
        ],
        "edges": [
            {
                "source": edge.source,
                "target": edge.target,
                "kind": edge.kind,
                "timer": edge.is_timer,
                "muted": edge.is_muted,
                "certain": edge.is_certain,
                "label": edge.label or None,
                **_of_place(edge.place),
            }
            for edge in graph.edges
        ],
    }


def facts_of_findings(findings: Sequence[Finding], app: str) -> dict[str, Any]:
    """Return findings as a JSON value.

    Args:
        findings: which ones.
        app: how the app is called.
    """
    count = Counter(finding.severity for finding in findings)
    return {
        "format": "onwhen.check",
        "version": _VERSION,
        "app": app,
        "counts": {severity: count[severity] for severity in SEVERITIES},
        "findings": [
            {
                "code": finding.code,
                "severity": finding.severity,
                "rule": finding.rule,
                **_of_place(finding.place),
                "message": finding.message,
            }
            for finding in findings
        ],
    }


def _of_place(place: Place | None) -> dict[str, Any]:
    return {"file": None if place is None else place.file, "line": (place.line or None) if place is not None else None}
