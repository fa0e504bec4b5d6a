"""The commands for what was set aside, dead letters and parked subjects, as they are typed.

Belongs here: names, options and help texts. What the commands do is imported when one is run.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from onwhen.cli._usage import (
    AppName,
    Flag,
    Force,
    Ids,
    JsonLines,
    JsonObject,
    Limit,
    StoreUrl,
    Subjects,
    Wait,
    flowing,
    run_async,
    usage,
)

__all__ = ["deadletters", "parked"]

deadletters = App(
    name="deadletters",
    help="Look at what rules could not handle, replay it, or discard it.",
    usage=usage("deadletters COMMAND"),
)
parked = App(
    name="parked",
    help="Look at subjects that are parked, resume them, or skip what they stand at.",
    usage=usage("parked COMMAND"),
)

Filter = Annotated[str | None, Parameter(metavar="NAME")]


@deadletters.command(name="list", usage=usage("deadletters list [OPTIONS]"))
@flowing
def list_letters(
    *,
    rule: Filter = None,
    subject: Filter = None,
    type: Filter = None,
    store: StoreUrl = None,
    json: JsonLines = False,
    limit: Limit = None,
) -> None:
    """List dead letters, oldest first.

    Parameters
    ----------
    rule
        Only those of this rule; '' for events that failed as a whole.
    subject
        Only those of this subject.
    type
        Only those of events of this type.
    """
    from onwhen.cli import _letters
    from onwhen.cli._listing import Output

    chosen = _letters.Selection(rule=rule, subject=subject, type=type)
    run_async(_letters.list_letters(store, chosen, Output(as_json=json, limit=limit)))


@deadletters.command(usage=usage("deadletters show [OPTIONS] ID"))
@flowing
def show(id: Ids, /, *, store: StoreUrl = None, json: JsonObject = False) -> None:
    """Show one dead letter: event, rule, error with traceback, attempts, times, and the cascade that led to it."""
    from onwhen.cli import _letters
    from onwhen.cli._listing import Output

    run_async(_letters.show_letter(store, id, Output(as_json=json)))


@deadletters.command(usage=usage("deadletters replay [OPTIONS] APP [ID...]"))
@flowing
def replay(
    app: AppName,
    /,
    *ids: Ids,
    rule: Filter = None,
    subject: Filter = None,
    type: Filter = None,
    all: Flag = False,
    force: Force = False,
    wait: Wait = 30.0,
    store: StoreUrl = None,
) -> int:
    """Run what failed once more: only the one rule on its event, or the whole event if that was refused.

    Opens a store in a file with your rules, as your program does: whatever else is pending there is handled as well,
    and timers and retries that are due fire, before the command ends. So no other program may have the store open, and
    APP has to have rules for all of that. A store that 'onwhen replay --time event' has filled stays at the moment that
    this had come to. On a store that workers share, it is they who run it; APP is only looked at. The exit code is 0
    if all went through, 1 if something failed again, or is not handled yet.

    Parameters
    ----------
    rule
        Those of this rule; '' for events that failed as a whole.
    subject
        Those of this subject.
    type
        Those of events of this type.
    all
        Every one.
    """
    from onwhen.cli import _letters
    from onwhen.cli._app import named_app

    chosen = _letters.Selection(ids=ids, rule=rule, subject=subject, type=type, all=all)
    return run_async(_letters.replay_letters(store, named_app(app), chosen, force, wait))


@deadletters.command(usage=usage("deadletters discard [OPTIONS] [ID...]"))
@flowing
def discard(
    *ids: Ids,
    rule: Filter = None,
    subject: Filter = None,
    type: Filter = None,
    all: Flag = False,
    store: StoreUrl = None,
) -> None:
    """Remove dead letters for good. No rule is run.

    Parameters
    ----------
    rule
        Those of this rule; '' for events that failed as a whole.
    subject
        Those of this subject.
    type
        Those of events of this type.
    all
        Every one.
    """
    from onwhen.cli import _letters

    chosen = _letters.Selection(ids=ids, rule=rule, subject=subject, type=type, all=all)
    run_async(_letters.discard_letters(store, chosen))


@parked.command(name="list", usage=usage("parked list [OPTIONS]"))
@flowing
def list_parked(*, store: StoreUrl = None, json: JsonLines = False, limit: Limit = None) -> None:
    """List what subjects are parked at, longest first: a rule's attempts are used up, and later events wait."""
    from onwhen.cli import _parked
    from onwhen.cli._listing import Output

    run_async(_parked.list_parked(store, Output(as_json=json, limit=limit)))


@parked.command(usage=usage("parked resume [OPTIONS] APP [SUBJECT...]"))
@flowing
def resume(
    app: AppName,
    /,
    *subjects: Subjects,
    all: Flag = False,
    force: Force = False,
    wait: Wait = 30.0,
    store: StoreUrl = None,
) -> int:
    """Run what subjects are parked at once more; if it goes through, their later events follow.

    Opens a store in a file with your rules, as your program does: whatever else is pending there is handled as well,
    and timers and retries that are due fire, before the command ends. So no other program may have the store open, and
    APP has to have rules for all of that. A store that 'onwhen replay --time event' has filled stays at the moment that
    this had come to. On a store that workers share, it is they who run it; APP is only looked at. The exit code is 0
    if all went through, 1 if something failed again, or is not handled yet.

    Parameters
    ----------
    all
        Every subject that is parked.
    """
    from onwhen.cli import _parked
    from onwhen.cli._app import named_app

    return run_async(_parked.resume_parked(store, named_app(app), subjects, all, force, wait))


@parked.command(usage=usage("parked skip [OPTIONS] [SUBJECT...]"))
@flowing
def skip(*subjects: Subjects, all: Flag = False, store: StoreUrl = None) -> None:
    """Give up what subjects are parked at: it becomes dead letters, and their later events can go on.

    No rule is run: the later events are handled by the workers, or when your program opens the store.

    Parameters
    ----------
    all
        Every subject that is parked.
    """
    from onwhen.cli import _parked

    run_async(_parked.skip_parked(store, subjects, all))
