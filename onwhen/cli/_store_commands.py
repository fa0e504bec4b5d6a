"""The commands that look into a store, and the one that brings its state up to date, as they are typed.

Belongs here: names, options and help texts. What the commands do is imported when one is run.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from onwhen.cli._usage import AppName, Flag, JsonLines, JsonObject, Limit, StoreUrl, flowing, run_async, usage

__all__ = ["log", "migrate", "retries", "stats", "subjects", "timers"]

subjects = App(name="subjects", help="Look at the subjects of a store.", usage=usage("subjects COMMAND"))


@subjects.command(name="list", usage=usage("subjects list [OPTIONS] [PREFIX]"))
@flowing
def list_(
    prefix: Annotated[str, Parameter(name="PREFIX", show_default=False)] = "",
    /,
    *,
    store: StoreUrl = None,
    json: JsonLines = False,
    limit: Limit = None,
) -> None:
    """List subjects in order of name.

    Parameters
    ----------
    prefix
        Only those whose name begins with this.
    """
    from onwhen.cli._inspect import list_subjects
    from onwhen.cli._listing import Output

    run_async(list_subjects(store, prefix, Output(as_json=json, limit=limit)))


@subjects.command(usage=usage("subjects get [OPTIONS] NAME"))
@flowing
def get(name: Annotated[str, Parameter(name="NAME")], /, *, store: StoreUrl = None, json: JsonObject = False) -> None:
    """Show one subject as it is stored, whole.

    Parameters
    ----------
    name
        Which one.
    """
    from onwhen.cli._inspect import get_subject
    from onwhen.cli._listing import Output

    run_async(get_subject(store, name, Output(as_json=json)))


@subjects.command(usage=usage("subjects history [OPTIONS] NAME"))
@flowing
def history(
    name: Annotated[str, Parameter(name="NAME")],
    /,
    *,
    store: StoreUrl = None,
    json: JsonLines = False,
    limit: Limit = None,
) -> None:
    """Show what was done to a subject, latest first: times, events and changes.

    A store keeps history only while it is written to with ?history=N behind its file name.

    Parameters
    ----------
    name
        Which one; it may be removed meanwhile.
    """
    from onwhen.cli._inspect import show_history
    from onwhen.cli._listing import Output

    run_async(show_history(store, name, Output(as_json=json, limit=limit)))


@flowing
def timers(
    subject: Annotated[str | None, Parameter(name="SUBJECT")] = None,
    /,
    *,
    store: StoreUrl = None,
    json: JsonLines = False,
    limit: Limit = None,
) -> None:
    """List the timers that are set, earliest first.

    Parameters
    ----------
    subject
        Only those that this subject has set.
    """
    from onwhen.cli._inspect import list_timers
    from onwhen.cli._listing import Output

    run_async(list_timers(store, subject, Output(as_json=json, limit=limit)))


@flowing
def retries(
    subject: Annotated[str | None, Parameter(name="SUBJECT")] = None,
    /,
    *,
    store: StoreUrl = None,
    json: JsonLines = False,
    limit: Limit = None,
) -> None:
    """List the rules that failed and wait to be run again, earliest first; parked ones are listed by parked list.

    Parameters
    ----------
    subject
        Only those that failed on this subject.
    """
    from onwhen.cli._inspect import list_retries
    from onwhen.cli._listing import Output

    run_async(list_retries(store, subject, Output(as_json=json, limit=limit)))


@flowing
def log(*, store: StoreUrl = None, json: JsonLines = False, limit: Limit = None) -> None:
    """List the events that are accepted but not handled yet, oldest first.

    Starts say how often the handling of an event was begun by a process that was gone before it ended.
    """
    from onwhen.cli._inspect import list_log
    from onwhen.cli._listing import Output

    run_async(list_log(store, Output(as_json=json, limit=limit)))


@flowing
def stats(*, store: StoreUrl = None, json: JsonObject = False) -> None:
    """Show how much a store holds, how old its oldest pending event is, and where it is."""
    from onwhen.cli._listing import Output
    from onwhen.cli._stats import show_stats

    run_async(show_stats(store, Output(as_json=json)))


@flowing
def migrate(app: AppName, /, *, dry_run: Flag = False, store: StoreUrl = None) -> int:
    """Bring all stored subjects to the version that their class declares.

    No rule is run. The exit code is 0 if all could be, 1 if some could not; those are named with their errors, and
    stay as they are.

    Parameters
    ----------
    app
        Where the subject classes are, by the rule sets that are for them: module:attribute, or a module. See
        'onwhen replay --help'.
    dry_run
        Only say what would be done. This needs the store for reading only, so it may be in use.
    """
    from onwhen.cli._app import find_app
    from onwhen.cli._migrate import migrate_store

    return run_async(migrate_store(store, find_app(app), dry_run))
