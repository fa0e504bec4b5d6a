"""A static look at rules: who triggers whom, and what cannot be right.

Nothing is run: the rules are those that were registered when the app was imported, what they do is read from their
source.
"""

from __future__ import annotations

from onwhen.analysis._check import check
from onwhen.analysis._dot import dot_of
from onwhen.analysis._facts import facts_of_findings, facts_of_graph
from onwhen.analysis._findings import CODES, SEVERITIES, Finding, Severity
from onwhen.analysis._graph import Edge, Graph, Node, graph_of
from onwhen.analysis._mermaid import mermaid_of
from onwhen.analysis._sources import Place, condition_text, place_of
from onwhen.analysis._survey import Survey, survey
from onwhen.analysis._svg import svg_of

__all__ = [
    "CODES",
    "SEVERITIES",
    "Edge",
    "Finding",
    "Graph",
    "Node",
    "Place",
    "Severity",
    "Survey",
    "check",
    "condition_text",
    "dot_of",
    "facts_of_findings",
    "facts_of_graph",
    "graph_of",
    "mermaid_of",
    "place_of",
    "survey",
    "svg_of",
]
