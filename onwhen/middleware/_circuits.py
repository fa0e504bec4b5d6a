"""Where circuits are kept: in this process, or in the store for all workers.

Belongs here: asking `_circuit` what to do, and keeping what it answers; how workers come to agree, and what one does
while the store does not answer. It must not know of rules and events.
"""

from __future__ import annotations

from collections.abc import Callable
from os import urandom
from typing import Final, Protocol

import msgspec

from onwhen.engine.clock import Clock
from onwhen.errors import StoreError
from onwhen.middleware._circuit import Result, State, Terms, admit, closed, joined, settle
from onwhen.middleware._moments import micros
from onwhen.middleware._shared import Shared

__all__ = ["Circuit", "Entry", "Local", "Together"]

_MARGIN: Final = 60.0  # seconds that a cell is kept beyond its use
_DAY: Final = 86_400.0  # seconds


class Entry(msgspec.Struct, frozen=True):
    """How a call was let in, or not.

    Attributes:
        verdict: "go", "probe" or "no".
        wait: when to ask again, if it is "no" (microseconds from now).
        probe: what the call goes by, if it is the one that is tried.
        before: the circuit before that.
        after: the circuit afterwards.
    """

    verdict: str
    wait: int
    probe: str
    before: State
    after: State


class Circuit(Protocol):
    """One circuit."""

    @property
    def state(self) -> State:
        """What is known of it."""
        ...

    def is_closed(self) -> bool:
        """Tell whether a call may go through without asking: it is closed, and that is known well enough."""
        ...

    def succeed(self) -> bool:
        """Take note that a call has succeeded; False if that is more than a note, so that it has to `leave`."""
        ...

    async def enter(self, probe_for: int) -> Entry:
        """Ask whether a call may go through; `probe_for`: how long one that is tried may take (microseconds)."""
        ...

    async def leave(self, probe: str, result: Result) -> tuple[State, State]:
        """Say what became of a call; return the circuit before and after."""
        ...


class Local:
    """A circuit of this process alone.

    Args:
        terms: its terms.
        clock: by which it goes.
    """

    __slots__ = ("_clock", "_terms", "state")

    def __init__(self, terms: Terms, clock: Clock) -> None:
        self.state = closed
        self._terms = terms
        self._clock = clock

    def is_closed(self) -> bool:
        """See `Circuit.is_closed`."""
        return self.state.status == "closed"

    def succeed(self) -> bool:
        """See `Circuit.succeed`."""
        if self.state.failures:
            return False
        if self._terms.rate is not None:
            self.state = settle(self.state, self._terms, micros(self._clock.now()), "", "ok")
        return True

    async def enter(self, probe_for: int) -> Entry:
        """See `Circuit.enter`."""
        entry = _entry(self.state, self._terms, micros(self._clock.now()), urandom(16).hex(), probe_for)
        self.state = entry.after
        return entry

    async def leave(self, probe: str, result: Result) -> tuple[State, State]:
        """See `Circuit.leave`."""
        before = self.state
        self.state = settle(before, self._terms, micros(self._clock.now()), probe, result)
        return before, self.state


class Together:
    """A circuit that all workers share.

    Whatever opens or closes it is one compare and set on the newest state, so exactly one worker has the probe. What a
    healthy circuit costs is a look now and then: successes are not told while there are no failures to make up for.

    Args:
        terms: its terms.
        shared: where it is.
        look: how old what is known may be (microseconds).
    """

    __slots__ = ("_look", "_shared", "_terms", "_untold")

    def __init__(self, terms: Terms, shared: Shared[State], look: int) -> None:
        self._terms = terms
        self._shared = shared
        self._look = look
        self._untold = closed  # successes for the rate that nobody else has been told of

    @property
    def state(self) -> State:
        """What was last seen of it."""
        return self._shared.known or closed

    def is_closed(self) -> bool:
        """See `Circuit.is_closed`."""
        return self.state.status == "closed" and self._has_looked()

    def succeed(self) -> bool:
        """See `Circuit.succeed`."""
        if self.state.failures:
            return False
        if self._terms.rate is not None:
            self._untold = settle(self._untold, self._terms, self._shared.now(), "", "ok")
        return True

    async def enter(self, probe_for: int) -> Entry:
        """See `Circuit.enter`."""
        shared, terms = self._shared, self._terms
        entry, probe = _GO, ""

        def decide(known: State | None, now: int) -> State | None:
            nonlocal entry, probe
            probe = probe or urandom(16).hex()  # of all tries the same: after a lost answer it is what is found there
            entry = _entry(known or closed, terms, now, probe, probe_for)
            return entry.after if entry.after is not entry.before else None

        try:
            if not self._has_looked():
                await shared.look()
                await self._tell_successes()
            if self.state.status != "closed":
                await shared.change(decide, self._ttl)
        except StoreError:
            self._alone(decide)
        return entry

    async def leave(self, probe: str, result: Result) -> tuple[State, State]:
        """See `Circuit.leave`."""
        before = after = closed
        told, self._untold = self._untold, closed  # before it is awaited: what comes meanwhile is told next time

        def decide(known: State | None, now: int) -> State | None:
            nonlocal before, after
            before = known or closed
            after = settle(joined(before, told, self._terms, now), self._terms, now, probe, result)
            return after if after != before else None

        try:
            await self._shared.change(decide, self._ttl)
        except StoreError:
            self._alone(decide)
        return before, after

    def _alone(self, decide: Callable[[State | None, int], State | None]) -> None:
        """Go by what is known here, because the store has not answered."""
        if (after := decide(self._shared.known, self._shared.now())) is not None:
            self._shared.assume(after)

    def _has_looked(self) -> bool:
        """Tell whether what is known is new enough."""
        shared = self._shared
        return shared.looked is not None and 0 <= shared.now() - shared.looked < self._look

    async def _tell_successes(self) -> None:
        """Add our successes where somebody counts failures; a circuit without any needs none."""
        if not self._untold.calls or not self.state.calls:
            return
        told = self._untold

        def decide(known: State | None, now: int) -> State | None:
            return joined(known, told, self._terms, now) if known is not None and known.status == "closed" else None

        self._untold = closed  # before it is awaited: what comes meanwhile is told next time
        await self._shared.change(decide, self._ttl)

    def _ttl(self, state: State) -> float:
        """Return how long the state is of use (seconds); a circuit that is not there is closed."""
        if state.status == "closed":
            return self._terms.window / 1e6 + _MARGIN
        return max(10 * self._terms.open_for / 1e6, _DAY)


_GO: Final = Entry("go", 0, "", closed, closed)


def _entry(before: State, terms: Terms, now: int, probe: str, probe_for: int) -> Entry:
    admission = admit(before, terms, now, probe, probe_for)
    mine = probe if admission.verdict == "probe" else ""
    return Entry(admission.verdict, admission.wait, mine, before, admission.state)
