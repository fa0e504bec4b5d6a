"""How often the engine did what: plain numbers that only grow, for whoever measures it.

Belongs here: what is counted. It must not know who reads it, nor how that is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from onwhen.engine.store import Answer, Commit

__all__ = ["Tally"]


@dataclass(slots=True, eq=False)  # no msgspec.Struct: to write an attribute of one costs twice as much
class Tally:
    """What a bus, and the worker that runs its turns, have done since the bus was made; counts, all of them.

    Each counts what is known to have happened. A commit whose answer was lost counts once it is found out what it has
    come to; timers and messages between partitions whose answer was lost do not count.

    Attributes:
        accepted: events from outside that were put into the log, or handled at once.
        duplicates: events from outside that had been accepted before.
        loads: subjects that were loaded for a turn; for all other turns they were still in memory.
        committed: turns that were committed.
        conflicts: turns that were run again, because the subject had been changed meanwhile.
        done: turns whose event had been handled already.
        fenced: turns that were refused, because somebody else owned the partition by then.
        messages: messages that turns have sent.
        timers_set: timers that turns have set.
        timers_fired: timers that became due, and were put into the log or the outbox.
        retried: retries that were run.
        relayed: messages that were brought to other partitions.
        store_errors: calls to the store that failed while events were accepted, handled and relayed, or partitions
            owned.
        retries: rule id ("" for an event as a whole) -> runs that were planned after a failure, or put off.
        parked: rule id -> failures for good, after which a subject waits until somebody resumes it.
        dead: rule id -> dead letters that turns have left.
    """

    accepted: int = 0
    duplicates: int = 0
    loads: int = 0
    committed: int = 0
    conflicts: int = 0
    done: int = 0
    fenced: int = 0
    messages: int = 0
    timers_set: int = 0
    timers_fired: int = 0
    retried: int = 0
    relayed: int = 0
    store_errors: int = 0
    retries: dict[str, int] = field(default_factory=dict)
    parked: dict[str, int] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Count what another one has counted, too."""
        for name in (one.name for one in fields(self)):
            mine, more = getattr(self, name), getattr(other, name)
            if isinstance(more, dict):
                mine.update({rule: mine.get(rule, 0) + count for rule, count in more.items()})
            else:
                setattr(self, name, mine + more)

    def refused(self, answer: Answer) -> None:
        """Count a turn that was not committed, and will not be."""
        self.done += answer is Answer.DONE
        self.fenced += answer is Answer.FENCED

    def left(self, commit: Commit) -> None:
        """Count what a turn has left that was committed; most leave nothing, so that is asked first."""
        self.messages += len(commit.messages)
        self.timers_set += len(commit.timers)
        self.retried += commit.retried is not None
        for retry in commit.retries:
            counts = self.parked if retry.parked else self.retries
            counts[retry.rule] = counts.get(retry.rule, 0) + 1
        for letter in commit.dead:
            self.dead[letter.rule] = self.dead.get(letter.rule, 0) + 1
