"""The command that says why rules ran, or did not, as it is typed.

Belongs here: names, options and help texts. What the command does is imported when it is run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import Parameter

from onwhen.cli._usage import StoreUrl, flowing

__all__ = ["explain"]

_File = Annotated[str | None, Parameter(metavar="FILE", allow_leading_hyphen=True)]


@flowing
def explain(
    app: Annotated[str | None, Parameter(name="APP")] = None,
    event: Annotated[str | None, Parameter(name="EVENT", allow_leading_hyphen=True)] = None,
    /,
    *,
    state: _File = None,
    id: Annotated[str | None, Parameter(metavar="ID", allow_leading_hyphen=True)] = None,
    subject: Annotated[str | None, Parameter(metavar="NAME", allow_leading_hyphen=True)] = None,
    failed: Annotated[bool, Parameter(negative=())] = False,
    last: Annotated[int | None, Parameter(metavar="COUNT")] = None,
    format: Literal["text", "json"] = "text",
    store: StoreUrl = None,
) -> int:
    """Tell why rules ran, and why others did not: of an event that is tried out, or of what has happened.

    With APP and EVENT, the rules are really run, so what they call outside is really called; but on a copy of the state
    in memory, and what they change, send and set is forgotten. The exit code is then 1 if something failed.

    With --id, --subject, --failed or --last, what a store has kept is told: of turns in which something failed, and of
    the share of all that ONWHEN_EXPLAIN_SAMPLE says. The exit code is then 1 if nothing was kept.

    Parameters
    ----------
    app
        Where the rules are: module:attribute, or a module; see 'onwhen replay --help'.
    event
        A CloudEvent as JSON, type and subject at least; @FILE for what is in a file, - for standard input. If it has a
        time, that is what the rules are told it is.
    state
        The state to run on: a dump, as 'onwhen replay --dump' writes it; - for standard input. By default there is
        none, and with --store it is what that store holds, which is only read.
    id
        Tell of the cascade with this correlation id, which is the id of the event that it began with; if there is none,
        of the one that an event with this id is part of.
    subject
        Tell of this subject only.
    failed
        Tell only of turns in which something failed.
    last
        Tell of so many turns, the latest ones.
    format
        text: a tree. json: one object.
    """
    from onwhen.cli._explain import ExplainOptions, explain_event, explain_kept

    options = ExplainOptions(
        app=app,
        event=event,
        state=state,
        id=id,
        subject=subject,
        failed=failed,
        last=last,
        as_json=format == "json",
        store=store,
    )
    return explain_kept(options) if options.app is None else explain_event(options)
