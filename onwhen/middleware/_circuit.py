"""A circuit: closed, open or half-open; what a call, a success and a failure make of it, as pure functions.

Belongs here: the state as a value, and every decision about it. It must not know of rules, events, clocks or stores,
nor whether others share the state.

Source: M. Nygard, "Release It!" (2nd ed., 2018), chapter 5, "Circuit Breaker".
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from onwhen.middleware._moments import AGREE

__all__ = ["Admission", "Result", "State", "Status", "Terms", "admit", "closed", "joined", "settle"]

Status: TypeAlias = Literal["closed", "open", "half_open"]
Result: TypeAlias = Literal["ok", "failed", "neither"]
Part: TypeAlias = "tuple[int, int, int]"
"""A part of a window: its number, its calls, and how many of them failed."""

_PARTS: Final = 10  # of a window; what is older than it leaves by such parts
_SHORTEST_WAIT: Final = 100_000  # microseconds


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """When a circuit opens, and for how long; durations in microseconds.

    Attributes:
        failures: so many in a row open it (a count); None if that does not.
        rate: such a share of the calls in a window opens it (0 to 1); None if that does not.
        window: what is older does not count.
        minimum: fewer calls in the window have no rate (a count).
        open_for: how long nothing is let through.
    """

    failures: int | None
    rate: float | None
    window: int
    minimum: int
    open_for: int


class State(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of a circuit; moments in microseconds since the epoch.

    Attributes:
        status: "closed", calls go through; "open", none does; "half_open", one is tried.
        since: when it became that, half-open once more if a probe was lost; 0 if it was never anything else.
        failures: failures in a row (a count).
        failed: when the last one was.
        until: when it is open, how long.
        probe: what the call that is tried goes by; "" if none is under way.
        probe_until: when that counts as lost, and another one is tried.
        reason: why it opened.
        calls: where a rate counts, each part of the window that had calls, oldest first.
    """

    status: Status = "closed"
    since: int = 0
    failures: int = 0
    failed: int = 0
    until: int = 0
    probe: str = ""
    probe_until: int = 0
    reason: str = ""
    calls: tuple[Part, ...] = ()


class Admission(msgspec.Struct, frozen=True):
    """What a call is told.

    Attributes:
        state: the circuit afterwards; the very same value if nothing has changed.
        verdict: "go"; "probe", go, and everything hangs on it; or "no".
        wait: when to ask again, if it is "no" (microseconds from now).
    """

    state: State
    verdict: Literal["go", "probe", "no"]
    wait: int = 0


closed: Final = State()
"""A circuit of which nothing is known yet."""


def admit(state: State, terms: Terms, now: int, probe: str, probe_for: int) -> Admission:
    """Say whether a call may go through.

    Args:
        state: the circuit.
        terms: its terms.
        now: the moment.
        probe: what the call goes by, if it is the one that is tried.
        probe_for: how long that may take before it counts as lost.
    """
    if state.status == "closed":
        return Admission(state, "go")
    was_set_back = state.since - now > AGREE  # the clock; nobody is to wait until it is there again
    if state.status == "open" and now < state.until and not was_set_back:
        return Admission(state, "no", state.until - now)
    if state.probe and now < state.probe_until and not was_set_back:
        # It will be known any moment whether the circuit closes; those that wait are not to wait for the worst case.
        soon = max(terms.open_for // _PARTS, _SHORTEST_WAIT)
        return Admission(state, "no", min(soon, state.probe_until - now))
    # One that is lost can have said nothing of it, because that goes with its commit; so it is half-open from now on.
    since = state.since if state.status == "half_open" and not state.probe else now
    tried = msgspec.structs.replace(
        state, status="half_open", since=since, until=0, probe=probe, probe_until=now + probe_for
    )
    return Admission(tried, "probe")


def settle(state: State, terms: Terms, now: int, probe: str, result: Result) -> State:
    """Return what a circuit becomes when a call has ended; the very same value if that changes nothing.

    Args:
        state: the circuit, as it is now.
        terms: its terms.
        now: the moment.
        probe: what the call goes by if it was let through as the one that is tried, else "".
        result: "ok", "failed", or "neither" if it was not really tried.
    """
    if probe:
        if state.status != "half_open" or state.probe != probe:
            return state  # it took so long that another one was tried in its place
        if result == "neither":
            return msgspec.structs.replace(state, probe="", probe_until=0)
        if result == "ok":
            return State(since=now)
        return _opened(state, terms, now, state.failures + 1, "the probe failed")
    if state.status != "closed" or result == "neither":
        return state  # it began before the circuit opened
    if result == "ok":
        if not state.failures and terms.rate is None:
            return state
        return msgspec.structs.replace(state, failures=0, failed=0, calls=_counted(state, terms, now, 0))
    in_a_row = state.failures + 1 if now - state.failed <= terms.window else 1
    after = msgspec.structs.replace(state, failures=in_a_row, failed=now, calls=_counted(state, terms, now, 1))
    reason = _reason(after, terms)
    return _opened(after, terms, now, in_a_row, reason) if reason else after


def joined(state: State, other: State, terms: Terms, now: int) -> State:
    """Return a circuit with the calls of another one added, if both are closed; the very same value if none are.

    Args:
        state: the circuit.
        other: the one whose calls are added.
        terms: its terms.
        now: the moment.
    """
    if not other.calls or state.status != "closed":
        return state
    return msgspec.structs.replace(state, calls=_within(state.calls + other.calls, terms, now))


def _counted(state: State, terms: Terms, now: int, failed: int) -> tuple[Part, ...]:
    """Return the calls of the window with one more."""
    if terms.rate is None:
        return ()
    number, calls = _part(terms, now), state.calls
    if calls and calls[-1][0] == number:  # as most are; what is too old has left when the first of the part came
        return (*calls[:-1], (number, calls[-1][1] + 1, calls[-1][2] + failed))
    return _within((*calls, (number, 1, failed)), terms, now)


def _within(calls: tuple[Part, ...], terms: Terms, now: int) -> tuple[Part, ...]:
    """Return the calls that are in the window, each part of it once."""
    last = _part(terms, now)
    kept: dict[int, Part] = {}
    for number, known, failed in calls:
        if last - _PARTS < number:
            _, others, of_them = kept.get(number, (number, 0, 0))
            kept[number] = (number, known + others, failed + of_them)
    return tuple(sorted(kept.values()))


def _part(terms: Terms, now: int) -> int:
    return now // max(terms.window // _PARTS, 1)


def _reason(state: State, terms: Terms) -> str:
    """Say why a circuit has to open after a failure; "" if it has not."""
    if terms.failures is not None and state.failures >= terms.failures:
        return f"{state.failures} failures in a row"
    if terms.rate is not None:
        calls, failed = sum(part[1] for part in state.calls), sum(part[2] for part in state.calls)
        if calls >= terms.minimum and failed >= terms.rate * calls:
            return f"{failed} of {calls} calls failed"
    return ""


def _opened(state: State, terms: Terms, now: int, failures: int, reason: str) -> State:
    return State(
        status="open",
        since=now,
        failures=failures,
        failed=now,
        until=now + terms.open_for,
        reason=reason,
    )
