"""What `onwhen graph` does: draw an app.

Belongs here: where the drawing goes. It must not know how it is made.
"""

from __future__ import annotations

import sys
from pathlib import Path

from onwhen.analysis import Graph, dot_of, facts_of_graph, graph_of, mermaid_of, svg_of
from onwhen.cli._check import survey_of
from onwhen.cli._forms import json_line
from onwhen.cli._options import UsageError
from onwhen.cli._terminal import is_utf8

__all__ = ["show_graph"]


def show_graph(app: str, format: str, output: str | None) -> None:
    """Draw an app.

    Args:
        app: where it is; see `find_app`.
        format: mermaid, dot, svg or json.
        output: name of a file; None or - for standard output.

    Raises:
        UsageError: the file cannot be written.
    """
    if output is not None and output != "-" and (not output or output.startswith("-")):
        raise UsageError(f"--output needs a file name, or - for standard output; it was given {output!r}")
    to_file = output is not None and output != "-"
    text = _drawn(graph_of(survey_of(app)), app, format, is_ascii=not to_file and not is_utf8())
    if not to_file:
        sys.stdout.write(text)
        return
    try:
        Path(output or "").write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror}") from error


def _drawn(graph: Graph, app: str, format: str, is_ascii: bool) -> str:
    if format == "json":
        return json_line(facts_of_graph(graph, app), ascii=is_ascii) + "\n"
    if format == "svg":
        drawn = svg_of(graph, app)
        return drawn.encode("ascii", "xmlcharrefreplace").decode() if is_ascii else drawn
    return dot_of(graph) if format == "dot" else mermaid_of(graph)
