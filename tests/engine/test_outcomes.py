"""Outcomes and receipts: what an emitter is told."""

import json
from typing import Any

import pytest

from onwhen.engine.events import Event
from onwhen.engine.outcomes import Outcome, Receipt, RuleRun, failure_of
from onwhen.engine.state import Change
from onwhen.errors import CascadeLimit, RuleFailed, RuleTimeout

EVENT = Event("thing.done", "thing:1")


def receipt(*runs: RuleRun, error: BaseException | None = None, cascade: tuple[Receipt, ...] = ()) -> Receipt:
    """The receipt of a turn that is committed."""
    made = Receipt(EVENT, "handled")
    made._outcome = Outcome(event=EVENT, runs=runs, error=error)
    made.cascade.extend(cascade)
    return made


def run(rule: str = "a.r", **facts: Any) -> RuleRun:
    """One rule that was considered."""
    return RuleRun(rule=rule, event_type="thing.done", **facts)


def test_a_receipt_collects_what_the_rules_did() -> None:
    """In the order in which they were considered."""
    first, second = Change("n", None, 1), Change("n", 1, 2)
    message = Event("next", "thing:2")
    made = receipt(run("a.r", changes=(first,)), run("a.s", changes=(second,), messages=(message,)))
    assert made.changes == (first, second)
    assert made.sent == (message,)
    assert made.fired == ("a.r", "a.s")


def test_fired_names_rules_that_ran() -> None:
    """Not those that were skipped, stopped or failed, nor the middleware around the event."""
    runs = [
        run("a.1"),
        run("a.2", status="skipped"),
        run("a.3", status="stopped"),
        run("a.4", status="failed"),
        run(""),
    ]
    assert receipt(*runs).fired == ("a.1",)


def test_nothing_is_known_before_the_turn_is_committed() -> None:
    """A receipt that waits is empty."""
    waiting = Receipt(EVENT)
    assert (waiting.status, waiting.runs, waiting.error, waiting.dead, waiting.ok) == ("accepted", (), None, (), True)


def test_failures_are_found_in_the_whole_cascade() -> None:
    """Of rules, of events as a whole, and of messages that were not sent because their chain was too long."""
    broken, refused, too_deep = ValueError("broken"), OSError("refused"), CascadeLimit("deep", limit=64, cycle="")
    last = receipt(run("c.r", refused=(too_deep,)))
    middle = receipt(error=refused, cascade=(last,))
    made = receipt(run("a.r", status="failed", error=broken), cascade=(middle,))
    assert made.failures == (("a.r", broken), ("", refused), ("c.r", too_deep))
    assert not made.ok


def test_a_handled_failure_is_told_too() -> None:
    """A receipt hides nothing: that a middleware dealt with an error does not mean that the rule did its work."""
    made = receipt(run(status="failed", error=ValueError(), handled=True))
    assert not made.ok


def test_raise_for_failure_raises_the_first_as_the_cause() -> None:
    """All of them are named in the message and kept as an attribute."""
    broken = ValueError("broken")
    made = receipt(run("a.r", error=broken), run("a.s", error=OSError("down")))
    with pytest.raises(RuleFailed, match=r"thing.done to thing:1: a.r: ValueError\('broken'\); a.s: OSError") as caught:
        made.raise_for_failure()
    assert caught.value.__cause__ is broken
    assert caught.value.failures == made.failures


def test_raise_for_failure_returns_the_receipt_when_all_is_well() -> None:
    """So that it can be used in one line with emit."""
    made = receipt(run())
    assert made.raise_for_failure() is made


def test_walk_goes_depth_first() -> None:
    """What followed from a message comes before the next message."""
    leaf, other = receipt(), receipt()
    middle = receipt(cascade=(leaf,))
    root = receipt(cascade=(middle, other))
    assert list(root.walk()) == [root, middle, leaf, other]


def test_a_deep_cascade_is_no_problem() -> None:
    """Walking it does not recurse."""
    made = receipt(run(error=ValueError()))
    for _ in range(5000):
        made = receipt(cascade=(made,))
    assert len(made.failures) == 1


def test_repr_says_how_many_rules_did_what() -> None:
    """For the reader of a log, or of a failed assertion."""
    assert repr(receipt(run(), run(), run(status="failed"))) == (
        "<Receipt thing.done to thing:1: handled, 2 fired, 1 failed>"
    )
    assert repr(receipt()) == "<Receipt thing.done to thing:1: handled, no rule matched>"


# -- errors as they are stored ---------------------------------------------------------------------------------


def raised(error: BaseException) -> BaseException:
    """The error with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


def test_an_error_is_kept_as_text() -> None:
    """The class by its full name, the message, and where it happened, its causes included."""
    error = raised(RuleTimeout("a.r", 5))
    error.__cause__ = KeyError("first")
    failure = failure_of(error)
    assert failure.type == "onwhen.errors.RuleTimeout"
    assert failure.message == str(error)
    assert "test_outcomes.py" in failure.traceback
    assert "KeyError: 'first'" in failure.traceback
    assert failure_of(ValueError("x")).type == "ValueError"


def test_an_error_without_a_text_can_be_kept() -> None:
    """Even one whose `__str__` is broken."""

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert failure_of(raised(Broken())).message == "(its text cannot be had: RuntimeError)"


def test_an_error_that_quotes_half_a_surrogate_pair_can_be_stored() -> None:
    """Stores write UTF-8."""
    failure = failure_of(raised(ValueError("bad \ud800 text")))
    assert failure.message == "bad \\ud800 text"
    json.dumps([failure.message, failure.traceback], ensure_ascii=False).encode()


def test_an_error_that_quotes_a_whole_file_is_cut() -> None:
    """A dead letter stays small."""
    failure = failure_of(raised(ValueError("x" * 10**6)))
    assert len(failure.message) == 10_000
    assert len(failure.traceback) < 12_000
