"""`onwhen explain`: why rules ran, tried out on a copy of a state, or as a store has kept it.

Belongs here: where the event and the state come from, and how the tree is shown. How a turn is put into words is the
engine's; this must not know.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from onwhen.cli._app import App, find_app, make_bus
from onwhen.cli._copied import CopyOfStore, load_dump
from onwhen.cli._forms import clean, json_line
from onwhen.cli._given import json_given
from onwhen.cli._listing import say, show_json
from onwhen.cli._opening import reading
from onwhen.cli._options import UsageError
from onwhen.cli._terminal import is_utf8
from onwhen.engine.clock import VirtualClock
from onwhen.engine.events import DEFAULT_SOURCE, Event
from onwhen.engine.explaining import Account, told_by
from onwhen.engine.explaining.telling import NOT_NOTED, Branch, Kind, branches, lines
from onwhen.engine.outcomes import Receipt
from onwhen.engine.store import Explanation, Store
from onwhen.errors import StoreError

if TYPE_CHECKING:
    from rich.tree import Tree

__all__ = ["ExplainOptions", "explain_event", "explain_kept"]

_STDIN: Final = "-"
_REALLY: Final = "The rules are really run, and what they call outside is really called; the state is a copy in memory."
_STYLES: Final[dict[Kind, str]] = {
    "event": "bold",
    "fired": "green",
    "skipped": "yellow",
    "bad": "bold red",
    "held": "green",
    "change": "cyan",
    "message": "blue",
    "timer": "magenta",
    "note": "dim",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """The arguments of `onwhen explain`; see there.

    Raises:
        UsageError: they contradict each other.
    """

    app: str | None = None
    event: str | None = None
    state: str | None = None
    id: str | None = None
    subject: str | None = None
    failed: bool = False
    last: int | None = None
    as_json: bool = False
    store: str | None = None

    def __post_init__(self) -> None:
        asks_store = self.id is not None or self.subject is not None or self.failed or self.last is not None
        if self.app is not None and self.event is None:
            raise UsageError("explain needs an EVENT behind APP: JSON, @FILE, or - for standard input")
        if self.app is None and not asks_store:
            raise UsageError(
                "explain needs APP and EVENT, to try an event out; or, for what was kept, --id, --subject, --failed or "
                "--last"
            )
        if self.app is not None and asks_store:
            raise UsageError(
                "--id, --subject, --failed and --last are about what a store has kept; leave them out, or APP and EVENT"
            )
        if self.last is not None and self.last < 1:
            raise UsageError(f"--last {self.last}: must be at least 1")
        if self.app is None and self.state is not None:
            raise UsageError("--state is for an event that is tried out, with APP and EVENT")
        if self.state is not None and self.store is not None:
            raise UsageError("--state and --store both say which state to run on; give one of them")
        if self.state == _STDIN == self.event:
            raise UsageError("EVENT and --state cannot both be read from standard input")


# -- an event that is tried out ------------------------------------------------------------------------------------


def explain_event(options: ExplainOptions) -> int:
    """Run an event on a copy of a state, and tell why what happened did.

    Returns:
        The exit code: 1 if something failed.

    Raises:
        UsageError: the event or the state cannot be read; nothing was run.
        AppNotFound, SettingError: the rules cannot be had.
    """
    assert options.app is not None
    assert options.event is not None
    event = _event(options.event)
    app = find_app(options.app)
    with redirect_stdout(sys.stderr):  # for what rules print
        receipt = asyncio.run(_run(options, app, event))
    _show(receipt.explain(), options.as_json)
    return 0 if receipt.ok else 1


async def _run(options: ExplainOptions, app: App, event: Event) -> Receipt:
    async with AsyncExitStack() as opened:
        origin = None if options.store is None else await opened.enter_async_context(reading(options.store))
        clock = None if event.time is None else VirtualClock(event.time)
        store = CopyOfStore(origin)
        bus = make_bus(app, clock, store)
        async with bus:
            if options.state is not None:
                await load_dump(options.state, bus)
            say(_REALLY)
            return await bus.emit(event, explain=True)


def _event(text: str) -> Event:
    """Return the event that is meant; what CloudEvents asks for beside type and subject is filled in."""
    found, where = json_given(text, "EVENT")
    if not isinstance(found, dict):
        raise UsageError(f'{where}: must be a JSON object, such as {{"type": "ticket.taken", "subject": "ticket:1"}}')
    filled = {"specversion": "1.0", "id": str(uuid4()), "source": DEFAULT_SOURCE, **found}
    return Event.from_json(json_line(filled))


# -- what a store has kept -----------------------------------------------------------------------------------------


def explain_kept(options: ExplainOptions) -> int:
    """Tell what a store has kept: of a cascade, of a subject, of failures, or of the latest turns.

    Returns:
        The exit code: 1 if that is nothing.

    Raises:
        UsageError, SettingError: the store cannot be opened.
        StoreError: it failed, or what it has kept cannot be read.
    """
    return asyncio.run(_kept(options))


async def _kept(options: ExplainOptions) -> int:
    async with reading(options.store) as store:
        found = [one async for one in store.explanations(correlation=options.id, subject=options.subject)]
        if not found and options.id is not None:
            found = await _around(store, options.id, options.subject)
        if options.failed:
            found = [one for one in found if one.failed]
        if not found:
            say(await _nothing(store, options))
            return 1
    found.sort(key=lambda one: one.time)
    try:
        account = told_by(found[-options.last :] if options.last is not None else found)
    except ValueError as error:
        raise StoreError(str(error)) from error
    _show(account, options.as_json, with_ids=True)
    return 0


async def _around(store: Store, event: str, subject: str | None) -> list[Explanation]:
    """Return what was kept of the cascades that an event is in."""
    of = {one.correlation async for one in store.explanations() if one.event == event}
    return [one async for one in store.explanations(subject=subject) if one.correlation in of] if of else []


async def _nothing(store: Store, options: ExplainOptions) -> str:
    """Say that nothing was kept, and what would have been."""
    about = [f"of id {options.id}"] if options.id is not None else []
    about += [f"of subject {options.subject}"] if options.subject is not None else []
    what = "No failure" if options.failed else "Nothing"
    oldest = [one.time async for one in store.explanations()][:1]
    since = f"; the oldest here is of {oldest[0]:%Y-%m-%d %H:%M:%S} UTC" if oldest else "; this one has none"
    return (
        f"{' '.join([what, 'was kept', ' and '.join(about)]).strip()}. A store keeps why for turns in which something "
        f"failed, and for the share of all cascades that ONWHEN_EXPLAIN_SAMPLE says; the latest ones of each "
        f"partition{since}."
    )


# -- how it is shown -----------------------------------------------------------------------------------------------


def _show(account: Account, as_json: bool, *, with_ids: bool = False) -> None:
    if as_json:
        show_json(account.to_dict())
        return
    trees = branches(account)
    if with_ids:
        for tree, event in zip(trees, account.events, strict=True):
            tree.inside.insert(0, Branch(f"id {event.id}, correlation id {event.correlation}", "note"))
    if sys.stdout.isatty():
        _show_in_colours(trees)
    else:
        for number, tree in enumerate(trees):
            if number:
                print()
            for line in lines(tree, ascii=not is_utf8()):
                print(clean(line))
    if not account.is_complete:
        print(NOT_NOTED)


def _show_in_colours(trees: Sequence[Branch]) -> None:
    from rich.console import Console
    from rich.tree import Tree

    console = Console(highlight=False)
    for number, branch in enumerate(trees):
        if number:
            console.print()
        tree = Tree(_label(branch), guide_style="dim")
        _grow(tree, branch)
        console.print(tree)


def _grow(tree: Tree, branch: Branch) -> None:
    for inside in branch.inside:
        _grow(tree.add(_label(inside)), inside)


def _label(branch: Branch) -> Any:
    from rich.text import Text

    return Text(clean(branch.text), style=_STYLES[branch.kind])
