"""The command that moves a store to another number of partitions, as it is typed.

Belongs here: its options and help text. What it does is imported when it is run.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from onwhen.cli._usage import Flag, JsonObject, SharedStoreUrl, flowing, run_async

__all__ = ["repartition"]


@flowing
def repartition(
    *,
    partitions: Annotated[int | None, Parameter(metavar="N")] = None,
    dry_run: Flag = False,
    undo: Flag = False,
    forget_bookmarks: Flag = False,
    store: SharedStoreUrl = None,
    json: JsonObject = False,
) -> int:
    """Divide a store that workers share into another number of partitions, while no worker lives.

    Everything is copied, compared, and only then counts; then what was there before is removed. So for a while the
    server needs room for both. Cut short anywhere, the same command does what is left. Processes that still have the
    store open are refused from the beginning, and told to start again. The exit code is 0 if it is done, 1 if the store
    failed or what was copied is not the same, 2 if it cannot be done as asked, and nothing was changed.

    Parameters
    ----------
    partitions
        How many there are to be.
    dry_run
        Only say what would be done. Workers may go on meanwhile.
    undo
        Give up a move that was cut short: all is as it was before.
    forget_bookmarks
        Forget how far sources were read, where that differs between subjects that come together in one partition. It
        never does if the new number is a multiple of the old one.
    """
    from onwhen.cli._listing import Output
    from onwhen.cli._repartition import RepartitionOptions, repartition_store

    options = RepartitionOptions(partitions=partitions, dry_run=dry_run, undo=undo, forget_bookmarks=forget_bookmarks)
    return run_async(repartition_store(store, options, Output(as_json=json)))
