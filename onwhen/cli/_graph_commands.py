"""The commands that look at rules without running them, as they are typed.

Belongs here: names, options and help texts. What the commands do is imported when one is run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from onwhen.cli._usage import AppName, Flag, flowing

__all__ = ["check", "graph"]

_Output = Annotated[str | None, Parameter(metavar="FILE", allow_leading_hyphen=True)]


@flowing
def graph(
    app: AppName,
    /,
    *,
    format: Literal["mermaid", "dot", "svg", "json"] = "mermaid",
    output: _Output = None,
) -> None:
    """Draw events, rules and properties, and who triggers whom.

    What rules emit and set is read from their source. What cannot be told from that is shown as a question mark. None
    of their code is run, but APP is imported.

    Parameters
    ----------
    format
        mermaid or dot: text for these programs. svg: a picture. json: for programs.
    output
        Write it to this file. By default to standard output.
    """
    from onwhen.cli._graph import show_graph

    show_graph(app, format, output)


@flowing
def check(
    app: AppName,
    /,
    *,
    format: Literal["text", "json"] = "text",
    strict: Flag = False,
    closed: Flag = False,
    external: Annotated[tuple[str, ...] | None, Parameter(metavar="TYPE", negative="")] = None,
) -> int:
    """Look for what cannot be right: cascades without end, rules that never fire, properties that are not there.

    What rules emit and set is read from their source; none of their code is run, but APP is imported. The exit code
    is 0 if there is no error, 1 if there is one, 2 if the command cannot be run as given.

    Parameters
    ----------
    format
        text: a finding a line. json: one object.
    strict
        Exit with 1 for warnings, too.
    closed
        Warn of events that no rule emits, or that no rule is for: none come from outside or go there.
    external
        Events of this type come from outside, or go there; a glob such as order.* will do. May be given again.
    """
    from onwhen.cli._check import show_findings

    return show_findings(app, format, strict=strict, closed=closed, external=external or ())
