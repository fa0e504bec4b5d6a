"""Retry policies: what they decide after a failed attempt, and which ones are refused."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.engine.retries import GiveUp, Park, RetryAfter, RetryPolicy
from onwhen.errors import RuleDefinitionError

SECOND = timedelta(seconds=1)


def waits(policy: RetryPolicy, attempts: int, seed: str = "event/rule") -> list[timedelta]:
    """The waits after the first attempts."""
    decisions = [policy.decide(OSError(), attempt=attempt, seed=seed) for attempt in range(1, attempts + 1)]
    return [decision.delay for decision in decisions if isinstance(decision, RetryAfter)]


def test_by_default_a_rule_is_run_once() -> None:
    """Who wants retries asks for them."""
    assert RetryPolicy().decide(OSError(), attempt=1, seed="") == GiveUp()


def test_attempts_count_the_first_run() -> None:
    """Three attempts are the first run and two retries."""
    policy = RetryPolicy(attempts=3)
    assert isinstance(policy.decide(OSError(), attempt=2, seed=""), RetryAfter)
    assert policy.decide(OSError(), attempt=3, seed="") == GiveUp()


def test_each_wait_is_longer_by_the_factor_up_to_the_longest() -> None:
    """Back-off is exponential, and capped."""
    policy = RetryPolicy(attempts=9, delay=SECOND, factor=3, max_delay=20 * SECOND, jitter=0)
    assert waits(policy, 5) == [SECOND, 3 * SECOND, 9 * SECOND, 20 * SECOND, 20 * SECOND]


def test_waits_are_spread_the_longest_ones_too() -> None:
    """Events that failed together do not come back together."""
    policy = RetryPolicy(attempts=9, delay=SECOND, max_delay=60 * SECOND, jitter=0.5)
    spread = {waits(policy, 8, f"event {number}")[-1] for number in range(50)}
    assert len(spread) > 40
    assert all(40 * SECOND <= wait <= 60 * SECOND for wait in spread)


def test_a_delay_that_is_longer_than_the_longest_wait_counts() -> None:
    """Who asks for an hour is not given the five minutes that are the default limit."""
    assert waits(RetryPolicy(attempts=4, delay=3600 * SECOND, jitter=0), 3) == [3600 * SECOND] * 3


def test_the_jitter_is_the_same_for_a_turn_that_is_run_again() -> None:
    """It is derived from the event, the rule and the attempt."""
    policy = RetryPolicy(attempts=9, jitter=1)
    assert waits(policy, 8, "a") == waits(policy, 8, "a")
    assert waits(policy, 8, "a") != waits(policy, 8, "b")


@given(
    attempt=st.integers(1, 100_000),
    delay=st.timedeltas(timedelta(0), timedelta(days=3650)),
    factor=st.floats(1, allow_nan=False, allow_infinity=False),
    max_delay=st.timedeltas(timedelta(0), timedelta(days=3650)),
    jitter=st.floats(0, 1),
)
def test_no_wait_is_negative_or_longer_than_the_longest(
    attempt: int, delay: timedelta, factor: float, max_delay: timedelta, jitter: float
) -> None:
    """For every policy and attempt: 0 <= wait <= max_delay (or the delay itself), and no arithmetic fails."""
    policy = RetryPolicy(attempts=100_001, delay=delay, factor=factor, max_delay=max_delay, jitter=jitter)
    decision = policy.decide(OSError(), attempt=attempt, seed="seed")
    assert isinstance(decision, RetryAfter)
    rounding = timedelta(microseconds=2)
    assert timedelta(0) <= decision.delay <= max(max_delay, delay * (1 + jitter)) + rounding
    if not delay:
        assert not decision.delay


@pytest.mark.parametrize(
    ("retry_on", "retried", "given_up"),
    [
        (OSError, ConnectionError(), ValueError()),
        ((OSError, KeyError), KeyError(), ValueError()),
        (lambda error: "busy" in str(error), ValueError("busy"), ValueError("gone")),
    ],
    ids=["class", "classes", "predicate"],
)
def test_only_some_errors_are_worth_a_retry(retry_on: Any, retried: Exception, given_up: Exception) -> None:
    """`retry_on` says which."""
    policy = RetryPolicy(attempts=2, retry_on=retry_on)
    assert isinstance(policy.decide(retried, attempt=1, seed=""), RetryAfter)
    assert policy.decide(given_up, attempt=1, seed="") == GiveUp()


def test_what_is_no_exception_is_not_retried_unless_named() -> None:
    """BaseException stands for more than a failed rule."""

    class Abort(BaseException):
        pass

    assert RetryPolicy(attempts=2).decide(Abort(), attempt=1, seed="") == GiveUp()
    named = RetryPolicy(attempts=2, retry_on=Abort)
    assert isinstance(named.decide(Abort(), attempt=1, seed=""), RetryAfter)


def test_a_predicate_that_raises_gives_up_and_says_so() -> None:
    """The rule's own error stays the one that is reported."""
    error = OSError("down")
    policy = RetryPolicy(attempts=2, retry_on=lambda error: error.missing)  # type: ignore[attr-defined,no-any-return]
    assert policy.decide(error, attempt=1, seed="") == GiveUp()
    assert "retry_on raised AttributeError" in error.__notes__[0]


def test_a_policy_may_park_in_place_of_giving_up() -> None:
    """When the attempts are used up, and for errors that are not to be retried."""
    policy = RetryPolicy(attempts=2, retry_on=OSError, on_exhausted="park")
    assert isinstance(policy.decide(OSError(), attempt=1, seed=""), RetryAfter)
    assert policy.decide(OSError(), attempt=2, seed="") == Park()
    assert policy.decide(ValueError(), attempt=1, seed="") == Park()


def test_parking_and_letting_later_events_pass_exclude_each_other() -> None:
    """One makes them wait, the other does not."""
    with pytest.raises(RuleDefinitionError, match="choose one"):
        RetryPolicy(on_exhausted="park", in_order=False)
    assert not RetryPolicy(in_order=False).in_order


@pytest.mark.parametrize(
    "options",
    [
        {"on_exhausted": "give_up"},
        {"on_exhausted": None},
        {"attempts": 0},
        {"delay": timedelta(seconds=-1)},
        {"delay": timedelta.max},
        {"max_delay": timedelta.max},
        {"factor": 0.5},
        {"factor": float("inf")},
        {"factor": float("nan")},
        {"max_delay": timedelta(seconds=-1)},
        {"jitter": 1.5},
        {"retry_on": "OSError"},
        {"retry_on": int},
        {"retry_on": (OSError, 1)},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused_by_name(options: dict[str, Any]) -> None:
    """The message begins with the option at fault."""
    (name,) = options
    with pytest.raises(RuleDefinitionError, match=f"RetryPolicy: {name}="):
        RetryPolicy(**options)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"attempts": "3"}, "attempts='3' must be an int"),
        ({"attempts": 2.5}, "attempts=2.5 must be an int"),
        ({"attempts": True}, "attempts=True must be an int"),
        ({"delay": 30}, "delay=30 must be a timedelta"),
        ({"max_delay": None}, "max_delay=None must be a timedelta"),
        ({"factor": "2"}, "factor='2' must be a number"),
    ],
)
def test_values_of_a_wrong_type_are_refused(options: dict[str, Any], problem: str) -> None:
    """With what they have to be."""
    with pytest.raises(RuleDefinitionError, match=f"RetryPolicy: {problem}"):
        RetryPolicy(**options)
