"""A rate limit: who may go now, and when those are to come back who may not, as pure functions.

Belongs here: the state as a value, and the one decision about it. It must not know of rules, clocks or stores, nor
whether others share the state.

Sources: ITU-T Recommendation I.371 (2004), generic cell rate algorithm, in its form of virtual scheduling; J. Turner,
"New directions in communications", IEEE Communications Magazine 24(10), 1986, for the leaky bucket that it is.
"""

from __future__ import annotations

import msgspec

from onwhen.middleware._moments import AGREE

__all__ = ["Pace", "Permit", "Queue", "decide", "idle"]


class Pace(msgspec.Struct, frozen=True):
    """What is allowed: in any stretch of time t, at most `burst` + t / `interval`.

    Attributes:
        interval: from one to the next, in the long run (microseconds).
        burst: how many may come at once after a pause (a count).
    """

    interval: int
    burst: int


class Queue(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known; moments in microseconds since the epoch.

    Attributes:
        due: when the next one would come if all kept to the pace: the theoretical arrival time. Only those count that
            were let through, so the bound holds whatever became of the others.
        back: the end of the line: the place that was given away last to one who came for the first time.
        front: the same, for those who came back and were too early all the same; they go before all who come anew.
        seen: when this was decided.
    """

    due: int = 0
    back: int = 0
    front: int = 0
    seen: int = 0


class Permit(msgspec.Struct, frozen=True):
    """What a run is told.

    Attributes:
        queue: what is known afterwards.
        wait: how long until its place (microseconds); 0 if it may go now.
    """

    queue: Queue
    wait: int = 0


idle = Queue()
"""A limit that nobody has come to yet."""


def decide(queue: Queue, pace: Pace, now: int, *, again: bool = False, waits: bool = True) -> Permit:
    """Let a run through, or say when it is to come back.

    A place in line is a moment, one `interval` behind the one before, so that those who were sent away do not come back
    all at once. It is no promise: who comes is judged by when he really comes. But who comes for the first time stays
    behind those who have a place. Where the clock was set back, all moments are moved with it.

    Args:
        queue: what is known.
        pace: what is allowed.
        now: the moment.
        again: it has been sent away before.
        waits: it will come back; if not, it takes no place.
    """
    if (behind := queue.seen - now) > AGREE:  # nobody is to wait until the clock is there again
        queue = Queue(queue.due - behind, queue.back - behind, queue.front - behind, now)
    due = max(queue.due, now)
    earliest = due - (pace.burst - 1) * pace.interval
    is_first_in_line = again or not waits or queue.back <= now
    if earliest <= now and is_first_in_line:
        return Permit(Queue(due + pace.interval, queue.back, queue.front, now))
    if not waits:
        return Permit(queue, max(earliest - now, 1))
    if again:
        place = max(earliest, queue.front + pace.interval, now + 1)
        return Permit(Queue(queue.due, max(queue.back, place), place, now), place - now)
    place = max(earliest, queue.back + pace.interval, now + 1)
    return Permit(Queue(queue.due, place, queue.front, now), place - now)
