"""`onwhen replay`, from its options to its exit code.

Belongs here: which files are opened, what is printed where, and what is left when it is interrupted. It must not
know how events are read and handled; see `replay`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, BinaryIO, Final

from rich.console import Console

from onwhen.cli._app import find_app, make_bus
from onwhen.cli._bookmarks import Bookmarks
from onwhen.cli._dump import dump_subjects, whole_file
from onwhen.cli._opening import is_for_workers, reading, store_named
from onwhen.cli._options import ReplayOptions, UsageError
from onwhen.cli._render import clean, progress_on, summary
from onwhen.cli._rest import rest
from onwhen.cli._running import let_go
from onwhen.cli.replay import Reject, ReplayReport, Source, replay
from onwhen.engine.bus import EventBus
from onwhen.engine.clock import VirtualClock
from onwhen.engine.shared import SharedStore, is_shared
from onwhen.engine.store import Store
from onwhen.errors import SettingError, StoreError

__all__ = ["run_replay"]

_INTERRUPTED: Final = 130
_TOLD: Final = 20  # rejects of a source that are shown (a count)


def run_replay(options: ReplayOptions) -> int:
    """Run the command.

    Returns:
        The exit code: 0, or 1 if there were dead letters or rejects, or 130 after an interrupt.

    Raises:
        OSError: some output could not be written; the summary was shown, if that could be.
        StoreError: the store failed on the way; the same.
        InputChanged: other events were replayed into the store under these names before.
        UsageError: a file, or the store, cannot be used as asked; nothing was done.
        AppNotFound: APP names nothing that holds rules.
    """
    sources = options.sources()
    store = _store(options)
    options.check_outputs(getattr(store, "path", None))
    screen = Console(stderr=True)
    bookmarks = None
    if store is not None and not store.volatile:
        bookmarks = Bookmarks(store, options.time, sources)
    with redirect_stdout(sys.stderr) if options.writes_to_stdout else nullcontext():  # for what rules print
        bus = make_bus(find_app(options.app), _clock(options), store if bookmarks is None else bookmarks.store)
        if options.time == "event":  # in the order of the log, wherever it was interrupted, and whatever the store
            bus.limits = replace(bus.limits, max_concurrent_turns=1)
        report, interrupted = ReplayReport(is_for_workers=is_shared(bus.store)), False
        unwritten: Exception | None = None
        try:
            asyncio.run(_run(options, bus, sources, bookmarks, screen, report))
        except KeyboardInterrupt:
            interrupted = True
        except BrokenPipeError:
            raise
        except (OSError, StoreError) as error:
            unwritten = error
    shown = screen if options.writes_to_stdout else Console()
    shown.print(summary(report))
    notes = ["Interrupted; these are the figures so far."] if interrupted else []
    if bookmarks is not None and (interrupted or unwritten is not None):
        notes.append("Run it again with the same arguments, and it goes on from here.")
    if options.dump is not None and (interrupted or unwritten is not None or not report.complete):
        notes.append("No dump was written.")
    if notes:
        shown.print(*notes)
    if unwritten is not None:
        raise unwritten
    return _INTERRUPTED if interrupted else 0 if report.ok else 1


def _clock(options: ReplayOptions) -> VirtualClock | None:
    """Return a clock that any event can move on, even one from before 1970."""
    return VirtualClock(datetime.min.replace(tzinfo=UTC)) if options.time == "event" else None


def _store(options: ReplayOptions) -> Store | None:
    if options.store is None:
        return None
    if is_for_workers(options.store):
        if options.time == "event":
            raise UsageError(
                "--time event: workers go by the clock of their machines, which nobody can move to the time of "
                "recorded events; leave it out, or replay into memory or a file"
            )
        return store_named(options.store)
    from onwhen.settings import Settings
    from onwhen.storage import create_storage

    window = Settings().dedup_window
    try:
        return create_storage(options.store, dedup_window=window)
    except SettingError as error:
        raise UsageError(f"--store: {error}") from error


async def _run(
    options: ReplayOptions,
    bus: EventBus,
    sources: list[Source],
    bookmarks: Bookmarks | None,
    screen: Console,
    report: ReplayReport,
) -> None:
    asyncio.get_running_loop().set_exception_handler(partial(_tell, screen))
    try:
        try:
            if is_shared(bus.store):
                async with reading(options.store):
                    pass  # nothing is made by mistake: there have to be workers, and these make it
            await bus.start()
        except StoreError as error:
            raise UsageError(str(error)) from error
        await _replay(options, bus, sources, bookmarks, screen, report)
    except BaseException:
        asyncio.get_running_loop().set_exception_handler(_tell_unless_closed)
        await let_go(bus)
        raise
    await bus.close()


def _tell(screen: Console, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report an error that nobody has caught; of a store that fails, in one sentence."""
    error = context.get("exception")
    if isinstance(error, StoreError):
        _say(screen, f"{error}. The replay waits for that; Ctrl-C ends it, and nothing that was done is lost.")
    else:
        loop.default_exception_handler(context)


def _tell_unless_closed(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report an error that nobody has caught, but not that turns which have not ended cannot be stored any more."""
    if not isinstance(context.get("exception"), StoreError):
        loop.default_exception_handler(context)


def _say(screen: Console, text: str) -> None:
    screen.print(clean(text), markup=False, highlight=False, soft_wrap=True)


async def _replay(
    options: ReplayOptions,
    bus: EventBus,
    sources: list[Source],
    bookmarks: Bookmarks | None,
    screen: Console,
    report: ReplayReport,
) -> None:
    sizes = [source.size for source in sources]
    total = None if None in sizes else sum(size for size in sizes if size is not None)
    with ExitStack() as open_files:
        on_reject = open_files.enter_context(_rejects(options, screen))
        own_stdout = sys.stdout.isatty() and not options.writes_to_stdout
        with progress_on(screen, total, own_stdout) as progress:
            await replay(
                bus,
                sources,
                drain=options.drain,
                strict=options.strict,
                window=options.window,
                max_line_bytes=options.max_line,
                on_reject=on_reject,
                progress=progress,
                report=report,
                bookmarks=bookmarks,
            )
            if is_shared(bus.store) and report.complete:
                await _rest(bus, bus.store, screen, report)
    if options.dump is not None and report.complete:
        with _output(options.dump, whole_file) as out:
            await dump_subjects(bus, out)


async def _rest(bus: EventBus, store: SharedStore, screen: Console, report: ReplayReport) -> None:
    """Wait until workers have handled what was sent, and count what they have left."""
    pending = (await store.stats()).pending
    if pending:
        events = "1 event is" if pending == 1 else f"{pending:,} events are"
        _say(screen, f"All is sent; {events} pending, and this waits for the workers to handle what is.")
    began = monotonic()
    await rest(store, lambda: _say(screen, "No worker is alive; start one with 'onwhen worker'."))
    report.seconds += monotonic() - began
    stats = await store.stats()
    report.subjects, report.timers_pending, report.retries_waiting = stats.subjects, stats.timers, stats.retries
    report.dead_letters = max(0, stats.dead - report.dead_before)


@contextmanager
def _rejects(options: ReplayOptions, screen: Console) -> Iterator[Callable[[Reject], None]]:
    """Open what rejects go to, and tell of the first ones of each source on the screen as well."""
    found: Counter[str] = Counter()

    def tell(reject: Reject) -> None:
        found[reject.file] += 1
        if found[reject.file] <= _TOLD:
            _say(screen, f"{reject.file}:{reject.line}: {reject.reason}")

    try:
        if options.rejects is None:
            yield tell
        else:
            with _output(options.rejects, lambda path: path.open("wb")) as out:

                def keep(reject: Reject) -> None:
                    tell(reject)
                    text = json.dumps(reject.to_dict(), ensure_ascii=False)
                    out.write(text.encode(errors="backslashreplace") + b"\n")

                yield keep
    finally:
        for name, count in found.items():
            if count > _TOLD:
                _say(
                    screen,
                    f"{name}: … and {count - _TOLD:,} more; --rejects {options.rejects or 'FILE'} keeps them all",
                )


@contextmanager
def _output(name: str, opened: Callable[[Path], Any]) -> Iterator[BinaryIO]:
    if name == "-":
        with open(1, "wb", closefd=False) as out:
            yield out
    else:
        with opened(Path(name)) as out:
            yield out
