"""`onwhen repartition`: what is asked of a move, and what is told of it.

Belongs here: options, progress, words and exit codes. It must not know how a store is moved.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from onwhen.cli._forms import clean, json_line
from onwhen.cli._listing import Output, say
from onwhen.cli._opening import store_named
from onwhen.cli._options import UsageError
from onwhen.cli._terminal import is_utf8
from onwhen.errors import StoreCorrupt, StoreFormatError, StoreInUse

if TYPE_CHECKING:
    from onwhen.storage.redis import RedisStore
    from onwhen.storage.redis._repartition import Moved, Repartition, Survey

__all__ = ["RepartitionOptions", "repartition_store"]

_REFRESH: Final = 0.1  # seconds
_COUNTED: Final = {
    "subjects": ("subject", "subjects"),
    "events": ("pending event", "pending events"),
    "timers": ("timer", "timers"),
    "retries": ("retry", "retries"),
    "dead letters": ("dead letter", "dead letters"),
    "history": ("entry of the history", "entries of the history"),
    "explanations": ("explanation", "explanations"),
}
_CUT: Final = "Cut short: run it again, and it does what is left; or give it up with --undo."


@dataclass(frozen=True, slots=True, kw_only=True)
class RepartitionOptions:
    """What was typed; see `onwhen repartition --help`.

    Raises:
        UsageError: it does not say what is to be done.
    """

    partitions: int | None
    dry_run: bool
    undo: bool
    forget_bookmarks: bool

    def __post_init__(self) -> None:
        if self.undo and (self.partitions is not None or self.dry_run or self.forget_bookmarks):
            raise UsageError("--undo takes back what was begun, so nothing goes with it but --store")
        if not self.undo and self.partitions is None:
            raise UsageError("say how many partitions there are to be: --partitions N; or --undo")


async def repartition_store(url: str | None, options: RepartitionOptions, output: Output) -> int:
    """Move a store, or look what there is to be moved, or take back a move that was cut short.

    Args:
        url: where the store is; None for where the setting says.
        options: what is to be done.
        output: how it was asked for.

    Returns:
        The exit code.

    Raises:
        UsageError: it cannot be done; nothing was changed.
        StoreError: the store failed, or what was copied is not the same.
    """
    from onwhen.storage.redis._repartition import BookmarksDiffer, repartitioning

    store = _shared(url)
    with _progress() as progress:
        async with repartitioning(store, progress=progress, forget_bookmarks=options.forget_bookmarks) as moving:
            try:
                told = await _told(moving, options, output)
            except (BookmarksDiffer, StoreInUse, StoreFormatError, ValueError) as error:
                raise UsageError(str(error)) from error
    print(told)
    return 0


async def _told(moving: Repartition, options: RepartitionOptions, output: Output) -> str:
    """Do what is to be done, and return what is told of it."""
    if options.undo:
        undone = await moving.undo()
        if output.as_json:
            return _json({"undone": undone})
        return "Taken back; all is as it was." if undone else "There is nothing to take back."
    assert options.partitions is not None
    if not options.dry_run:
        moved = await _moved(moving, options.partitions)
        if output.as_json:
            return _json(asdict(moved))
        return f"Moved from {moved.before:,} to {moved.after:,} partitions, and compared: {_counts(moved.counts)}."
    survey = await moving.survey(options.partitions)
    if output.as_json:
        return _json(asdict(survey) | {"owners": {str(number): owner for number, owner in survey.owners.items()}})
    return "\n".join(map(clean, _looked(survey, options.partitions)))


def _shared(url: str | None) -> RedisStore:
    store = store_named(url)
    if not hasattr(store, "acquire"):
        raise UsageError("only a store that workers share is divided into partitions, such as --store redis://HOST")
    return store  # type: ignore[return-value]


async def _moved(moving: Repartition, partitions: int) -> Moved:
    from onwhen.storage.redis._repartition import BookmarksDiffer

    is_cut = True
    try:
        moved = await moving.run(partitions)
        is_cut = False
    except (BookmarksDiffer, StoreInUse, StoreFormatError, StoreCorrupt, ValueError):
        is_cut = False  # it was not begun, or taken back
        raise
    finally:
        if is_cut:
            say(_CUT)
    return moved


def _looked(survey: Survey, partitions: int) -> Iterator[str]:
    yield f"Would move from {survey.before:,} to {partitions:,} partitions: {_counts(survey.counts)}."
    yield f"The largest partition would have {_number('subjects', survey.largest)}."
    if survey.undelivered:
        yield f"Messages between partitions that are on their way, and would be delivered: {survey.undelivered:,}."
    if workers := sorted({*survey.workers, *survey.owners.values()}):
        yield f"Workers live, and have to be stopped first: {', '.join(workers)}."
    if survey.bookmarks:
        yield f"Sources that were read to different places, see --forget-bookmarks: {', '.join(survey.bookmarks)}."
    if survey.is_moving:
        yield "A move was begun and has not ended: it would be begun anew."


def _json(value: object) -> str:
    return json_line(value, ascii=not is_utf8())


def _counts(counts: Mapping[str, int]) -> str:
    told = [_number(kind, counts[kind]) for kind in _COUNTED if counts[kind] or kind in ("subjects", "events")]
    return ", ".join(told)


def _number(kind: str, count: int) -> str:
    one, many = _COUNTED[kind]
    return f"{count:,} {one if count == 1 else many}"


@contextmanager
def _progress() -> Iterator[Callable[[str, int], None]]:
    """Show on a terminal how much is done, and nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda kind, number: None
        return
    counts: dict[str, int] = {}
    last = 0.0

    def update(kind: str, number: int) -> None:
        nonlocal last
        counts[kind] = counts.get(kind, 0) + number
        if monotonic() - last >= _REFRESH:
            last = monotonic()
            status.update(", ".join(f"{count:,} {kind}" for kind, count in counts.items()))

    with console.status("") as status:
        yield update
