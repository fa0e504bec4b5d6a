"""The commands of a fleet, whose workers share a store, as they are typed.

Belongs here: names, options and help texts. What the commands do is imported when one is run.
"""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from onwhen.cli._usage import AppName, Flag, JsonObject, Seconds, SharedStoreUrl, StoreUrl, flowing, run_async

__all__ = ["emit", "partitions", "worker"]

_Count = Annotated[int | None, Parameter(metavar="N")]
_Name = Annotated[str | None, Parameter(metavar="NAME")]


@flowing
def worker(
    app: AppName,
    /,
    *,
    store: SharedStoreUrl = None,
    partitions: _Count = None,
    processes: _Count = None,
    own: Annotated[str | None, Parameter(metavar="PARTITIONS")] = None,
    id: _Name = None,
    lease: Seconds = 10.0,
    grace: Seconds = 30.0,
    stall: Seconds = 60.0,
    max_age: Seconds = 60.0,
    health_port: Annotated[int | None, Parameter(metavar="PORT")] = None,
    health_host: Annotated[str, Parameter(metavar="HOST")] = "127.0.0.1",
) -> int:
    """Run your rules on the events of a store that workers share, until it is told to end.

    Workers that are started with the same store share its partitions evenly. SIGTERM or Ctrl-C ends it: it finishes
    what is under way, and hands its partitions over. Once more, or when the grace period is over, it ends at once, and
    what was under way is handled again by whoever takes over. The exit code is 0 if it ended as it was told to, 128 and
    the number of the signal if it was cut short, 2 if it cannot be run as given, 1 if the store cannot be opened.

    Parameters
    ----------
    partitions
        How many partitions a new store is to have; one that is there has to have so many. By default as many as it has,
        and 16 in a new one.
    processes
        Run so many workers, each in a process of its own, and start those again that end.
    own
        Own these partitions, and no others: 0-15,20; or every n-th one, for the i-th of n workers, counted from 0: i/n,
        or name-i/n. Then nobody else should.
    id
        Name of this worker, unique among all that live. With --processes they are NAME-0, NAME-1 and so on.
    lease
        How long nobody else takes over what this one owns, if it is gone without a word.
    grace
        How long it may take to end.
    stall
        How long it may go without any progress, or a rule may block the event loop, before the process starts again.
    max_age
        It is not ready while its oldest pending event is older.
    health_port
        Answer /live, /ready and /metrics there, over HTTP; 0 for a free one. With --processes the next ones have the
        ports after that.
    health_host
        The address for that; 0.0.0.0 for all, in a container.
    """
    from onwhen.cli._worker_options import WorkerOptions

    options = WorkerOptions(
        app=app,
        store=store,
        partitions=partitions,
        processes=processes,
        own=own,
        id=id,
        lease=lease,
        grace=grace,
        stall=stall,
        max_age=max_age,
        health_port=health_port,
        health_host=health_host,
    )
    if options.processes is not None:
        from onwhen.cli._supervisor import supervise

        return supervise(options)
    from onwhen.cli._worker import run_worker

    return run_worker(options)


@flowing
def emit(
    type: Annotated[str, Parameter(name="TYPE")],
    subject: Annotated[str, Parameter(name="SUBJECT")],
    /,
    *,
    data: Annotated[str | None, Parameter(metavar="JSON", allow_leading_hyphen=True)] = None,
    id: Annotated[str | None, Parameter(metavar="ID", allow_leading_hyphen=True)] = None,
    time: Annotated[str | None, Parameter(metavar="TIME")] = None,
    wait: Annotated[float | None, Parameter(metavar="SECONDS")] = None,
    store: StoreUrl = None,
    json: JsonObject = False,
) -> int:
    """Send one event: once this has ended well, it is kept until it is handled.

    The exit code is 0 if it was accepted, now or before; 75 if too many events are pending, so that it has to be sent
    again later; 1 if the store failed, or it was not handled within --wait.

    Parameters
    ----------
    type
        Type of the event.
    subject
        Name of the subject that it is for.
    data
        Its data, as JSON; @FILE for what is in a file, - for standard input.
    id
        Its id: a second event of the same id is not accepted. By default one that is new.
    time
        When it happened, such as 2026-03-02T08:00:00Z. By default now.
    wait
        On a store that workers share: wait until it is handled, but no longer than this.
    """
    from onwhen.cli._emit import EmitOptions, emit_event
    from onwhen.cli._listing import Output

    options = EmitOptions(type=type, subject=subject, data=data, id=id, time=time, wait=wait)
    return run_async(emit_event(store, options, Output(as_json=json)))


@flowing
def partitions(
    *, watch: Flag = False, every: Seconds = 2.0, store: SharedStoreUrl = None, json: JsonObject = False
) -> None:
    """Show who owns which partition, what waits there, how fast it is handled, and which workers live.

    Rates are those of the last second, or since the sample before.

    Parameters
    ----------
    watch
        Go on, until Ctrl-C; with --json, one object a line.
    every
        How often, with --watch.
    """
    from onwhen.cli._listing import Output
    from onwhen.cli._partitions import show_partitions

    run_async(show_partitions(store, watch, every, Output(as_json=json)))
