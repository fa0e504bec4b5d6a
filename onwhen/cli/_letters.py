"""Dead letters: listed, shown, replayed, discarded.

Belongs here: which ones are meant, and what is shown of them. What a replay does is the bus's; this must not know how.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from onwhen.cli._app import NamedApp
from onwhen.cli._fitting import Meant
from onwhen.cli._forms import ago, cut, error_text, json_line, rfc3339, seconds_text
from onwhen.cli._listing import Column, Output, say, show_facts, show_json, show_rows, show_text
from onwhen.cli._opening import is_for_workers, reading, writing
from onwhen.cli._options import UsageError
from onwhen.cli._remote import Failed, run_by_workers, told
from onwhen.cli._running import rules_on
from onwhen.cli._streams import batches
from onwhen.cli._terminal import is_utf8
from onwhen.engine.cascades import TRAIL
from onwhen.engine.clock import SystemClock
from onwhen.engine.store import DeadLetter, Store
from onwhen.engine.upkeep import dead_letters
from onwhen.errors import UnknownDeadLetter

__all__ = ["Selection", "discard_letters", "list_letters", "replay_letters", "show_letter"]

_ID: Final = 12  # characters of an id that a list shows; with a million of them two are alike once in 500 lists
_SUBJECT: Final = 100  # characters of a subject's name that a replay shows (a count)
_TOGETHER: Final = 256  # dead letters that are discarded at once (a count): the store may write them as one
_SHORTEST: Final = 4  # characters that the beginning of an id has at least (a count)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which dead letters are meant.

    Attributes:
        ids: these, each named in full or by its beginning.
        rule: those of this rule.
        subject: those of this subject.
        type: those of events of this type.
        all: every one.
    """

    ids: Sequence[str] = ()
    rule: str | None = None
    subject: str | None = None
    type: str | None = None
    all: bool = False

    @property
    def has_filter(self) -> bool:
        """Whether only some are meant, by what they are about."""
        return (self.rule, self.subject, self.type) != (None, None, None)

    def check(self) -> None:
        """Refuse what names none, or contradicts itself.

        Raises:
            UsageError: it does.
        """
        ways = [bool(self.ids), self.has_filter, self.all]
        if not any(ways):
            raise UsageError("which dead letters? name their ids, or --rule, --subject or --type, or --all")
        if sum(ways) > 1:
            raise UsageError("dead letters are chosen by their ids, or by --rule, --subject and --type, or by --all")

    async def found_in(self, store: Store) -> AsyncGenerator[DeadLetter, None]:
        """Go through the dead letters that are meant, oldest first; named ones as they were named.

        Raises:
            UsageError: an id is not there, or the beginning of several.
        """
        if self.ids:
            for letter in await find_letters(store, self.ids):
                yield letter
            return
        async for letter in dead_letters(store, rule=self.rule, subject=self.subject, event_type=self.type):
            yield letter


async def find_letters(store: Store, ids: Sequence[str]) -> list[DeadLetter]:
    """Return dead letters by their ids, or by the beginnings of these.

    Raises:
        UsageError: an id is not there, or the beginning of several.
    """
    found: dict[str, DeadLetter] = {}
    beginnings: list[str] = []
    for id in dict.fromkeys(ids):
        letter = await store.dead_letter(id)
        if letter is not None:
            found[id] = letter
        elif len(id) < _SHORTEST:
            raise UsageError(f"{id!r} is too short for the beginning of an id; give at least {_SHORTEST} characters")
        else:
            beginnings.append(id)
    if beginnings:
        async for letter in store.dead_letters():
            for beginning in beginnings:
                if letter.id.startswith(beginning):
                    if beginning in found:
                        raise UsageError(f"the ids of several dead letters begin with {beginning}; give more of it")
                    found[beginning] = letter
    for id in ids:
        if id not in found:
            raise UsageError(f"there is no dead letter {id}; 'onwhen deadletters list' shows those that there are")
    return list({found[id].id: found[id] for id in ids}.values())


# -- looking


async def list_letters(url: str | None, selection: Selection, output: Output) -> None:
    """Show dead letters, oldest first."""
    now = SystemClock().now()
    columns = (
        Column[DeadLetter]("id", lambda letter: letter.id, short=_ID),
        Column[DeadLetter]("age", lambda letter: seconds_text(ago(letter.time, now)), number=True),
        Column[DeadLetter]("rule", lambda letter: letter.rule or "(whole event)"),
        Column[DeadLetter]("subject", lambda letter: letter.subject),
        Column[DeadLetter]("event", lambda letter: letter.event.type),
        Column[DeadLetter]("error", lambda letter: error_text(letter.failure)),
    )
    none = "No dead letter fits." if selection.has_filter else "There is no dead letter."
    async with reading(url) as store:
        await show_rows(selection.found_in(store), columns, _facts, output, none)


async def show_letter(url: str | None, id: str, output: Output) -> None:
    """Show one dead letter: its event, its rule, the error, and how it came about.

    Raises:
        UsageError: there is none of this id.
    """
    async with reading(url) as store:
        [letter] = await find_letters(store, [id])
    if output.as_json:
        show_json(_facts(letter))
        return
    event = letter.event
    facts = [
        ("id", letter.id),
        ("rule", letter.rule or "(whole event)"),
        ("subject", letter.subject),
        ("event", event.type),
        ("event id", event.id),
        ("source", event.source),
        ("event time", "-" if event.time is None else rfc3339(event.time)),
        ("attempts", str(letter.attempts)),
        ("first failed", rfc3339(letter.first_failed)),
        ("set aside", rfc3339(letter.time)),
        ("error", letter.failure.type),
        ("message", letter.failure.message),
        ("root event", event.correlation_id),
        ("caused by", event.causation_id or "-"),
        ("depth", str(event.depth)),
    ]
    trail = _trail(letter)
    if trail:
        facts.append(("trail", " -> ".join(trail)))
    show_facts(facts)
    show_text("Event", json_line(event.to_dict(), ascii=not is_utf8()))
    if letter.failure.traceback:
        show_text("Traceback", letter.failure.traceback)


def _trail(letter: DeadLetter) -> list[str] | None:
    """Return the last rules and event types that led to an event deep in a chain; None for any other event."""
    try:
        steps = json.loads(str(letter.event.extensions[TRAIL]))
    except (KeyError, ValueError, RecursionError):
        return None
    return [str(step) for step in steps] if isinstance(steps, list) else None


def _facts(letter: DeadLetter) -> dict[str, Any]:
    event, failure = letter.event, letter.failure
    return {
        "id": letter.id,
        "rule": letter.rule,
        "subject": letter.subject,
        "event": event.to_dict(),
        "error": {"type": failure.type, "message": failure.message, "traceback": failure.traceback},
        "attempts": letter.attempts,
        "first_failed": rfc3339(letter.first_failed),
        "time": rfc3339(letter.time),
        "cascade": {
            "correlation_id": event.correlation_id,
            "causation_id": event.causation_id,
            "depth": event.depth,
            "trail": _trail(letter),
        },
    }


# -- doing something about them


async def replay_letters(
    url: str | None, app: NamedApp, selection: Selection, force: bool = False, wait: float = 0.0
) -> int:
    """Run what failed once more, one after the other, and tell what came of each.

    Args:
        url: where the store is; None for where the setting says.
        app: APP, found.
        selection: which dead letters are meant, of those that are there before anything is run.
        force: go on even if APP has no rule for some of what would be handled.
        wait: how long to wait, if workers share the store and so it is they who run it (seconds).

    Returns:
        The exit code: 1 if something failed again, or no worker has handled it in time.
    """
    selection.check()

    async def letters(store: Store) -> list[DeadLetter]:
        return [letter async for letter in selection.found_in(store)]

    if is_for_workers(url):
        return told(await run_by_workers(url, app, letters, _label, force=force, wait=wait), "replay")
    done = failed = 0

    async def choose(store: Store) -> list[Meant]:
        return [Meant.of(letter) for letter in await letters(store)]

    async with rules_on(url, app, choose, force=force) as running:
        for id, rule, subject, _ in running.meant:
            try:
                receipt = await running.bus.replay(id)
            except UnknownDeadLetter:  # a rule of this very bus, or whoever it called, was faster
                continue
            running.say_what_came(_named(id, rule, subject), receipt)
            done, failed = done + 1, failed + (not receipt.ok)
    if not done:
        say("There was nothing to replay.")
    elif failed:
        say(f"{done:,} replayed; {failed:,} of them with failures.")
    else:
        say(f"{done:,} replayed.")
    return 1 if failed else 0


def _label(failed: Failed) -> str:
    assert isinstance(failed, DeadLetter)
    return _named(failed.id, failed.rule, failed.subject)


def _named(id: str, rule: str, subject: str) -> str:
    return f"{id[:_ID]} {rule or '(whole event)'} on {cut(subject, _SUBJECT)}"


async def discard_letters(url: str | None, selection: Selection) -> None:
    """Remove dead letters for good, without any rules."""
    selection.check()
    gone = 0
    async with writing(url) as store:
        async for batch in batches(selection.found_in(store), _TOGETHER):
            gone += sum(await asyncio.gather(*(store.discard(letter.id) for letter in batch)))
    say(f"{gone:,} discarded.")
