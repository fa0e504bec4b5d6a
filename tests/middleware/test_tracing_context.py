"""Trace context in events: what of it is believed, and what is passed on. W3C Trace Context is the measure."""

import logging
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from onwhen import Event
from onwhen.middleware._trace_context import carrier_of, stamps_of

IDS = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


@pytest.mark.parametrize(
    "parent", [f"00-{IDS}-01", f"00-{IDS}-00", f"00-{IDS}-ff", f"01-{IDS}-01", f"cc-{IDS}-01-and-more"]
)
def test_what_is_sound_is_believed(parent: str) -> None:
    """A version to come may say more; its first four parts are ours."""
    assert carrier_of({"traceparent": parent, "tracestate": "a=1"}) == {"traceparent": parent, "tracestate": "a=1"}


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        f"ff-{IDS}-01",
        f"00-{IDS}-01-",
        f"00-{IDS}-01-and-more",
        f"00-{IDS}-1",
        f"00-{IDS.upper()}-01",
        f"0-{IDS}-01",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
        f"00-{IDS}-01\n",
        f" 00-{IDS}-01",
        f"cc-{IDS}-01" + "-x" * 1000,
        f"cc-{IDS}-01more",
        "00-\u0660af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    ],
)
def test_a_parent_that_is_malformed_is_left_out_with_its_state(parent: str) -> None:
    """It is no error: events come from outside."""
    assert carrier_of({"traceparent": parent, "tracestate": "a=1", "other": "x"}) == {"other": "x"}


def test_values_that_are_no_texts_are_left_out() -> None:
    """Extension attributes may be numbers, and a propagator reads texts."""
    assert carrier_of({"traceparent": 7, "tracestate": True, "hops": 3}) == {}


@pytest.mark.parametrize(
    "state",
    [
        "",
        ",",
        "a",
        "a=",
        "A=1",
        "a=1=2",
        "a=1,a=2",
        "a=1,=3",
        "é=1",
        "a=é",
        ",".join(f"k{i}=1" for i in range(33)),
        ",".join(f"k{i}=" + "x" * 200 for i in range(3)),
        "a=" + "x" * 257,
        "a@b@c=1",
    ],
)
def test_a_state_that_is_malformed_is_left_out_alone(state: str) -> None:
    """The trace goes on without it."""
    assert carrier_of({"traceparent": f"00-{IDS}-01", "tracestate": state}) == {"traceparent": f"00-{IDS}-01"}


@pytest.mark.parametrize("state", ["a=1", "a=1, b=2", "a=1,,b=2", "0v@sys=x y", ",".join(f"k{i}=1" for i in range(32))])
def test_a_state_that_is_sound_is_believed(state: str) -> None:
    """Up to 32 members and 512 characters."""
    assert carrier_of({"traceparent": f"00-{IDS}-01", "tracestate": state})["tracestate"] == state


parents = st.from_regex(re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]{0,9})?"), fullmatch=True)
states = st.lists(st.from_regex(re.compile(r"[a-z0-9@]{1,4}=[ -~]{0,6}"), fullmatch=True), max_size=34).map(",".join)


@given(parents | st.text(max_size=70), states | st.text(max_size=40))
@example(f"00-{IDS}-01", "a=1")
@example(f"01-{IDS}-01-", "a@a=1")
def test_what_is_believed_the_library_understands_and_what_is_not_it_is_spared(parent: str, state: str) -> None:
    """OpenTelemetry's propagator finds a valid parent just where we let one through, and has nothing to warn of."""
    carrier = carrier_of({"traceparent": parent, "tracestate": state})
    warnings: list[logging.LogRecord] = []
    logger = logging.getLogger("opentelemetry.trace.span")
    watch = logging.Handler()
    watch.emit = warnings.append  # type: ignore[method-assign]
    logger.addHandler(watch)
    try:
        found = trace.get_current_span(TraceContextTextMapPropagator().extract(carrier, Context())).get_span_context()
    finally:
        logger.removeHandler(watch)
    assert found.is_valid == ("traceparent" in carrier)
    assert warnings == []
    if "tracestate" in carrier:
        assert len(found.trace_state) == len([member for member in state.split(",") if member.strip()])
    told = trace.get_current_span(TraceContextTextMapPropagator().extract({"traceparent": parent}, Context()))
    if parent == parent.strip(" \t\n"):
        assert told.get_span_context().is_valid == ("traceparent" in carrier)


# -- what is passed on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("carrier", "stamps"),
    [
        ({"traceparent": "x", "baggage": "a=1"}, {"traceparent": "x", "baggage": "a=1"}),
        ({"X-B3-TraceId": "x", "uber-trace-id": "x", "b3": "1-2"}, {"b3": "1-2"}),
        ({"baggage": "a\nb", "b3": "", "x": "é", "y": "y" * 9000}, {}),
    ],
)
def test_only_what_can_be_an_extension_attribute_is_passed_on(carrier: dict[str, str], stamps: dict[str, str]) -> None:
    """A propagator may write names for HTTP, and a rule must not fail for that."""
    assert stamps_of(carrier) == stamps
    Event("a", "b", extensions=stamps)


def test_a_state_that_has_grown_too_long_loses_large_members_first_then_the_oldest() -> None:
    """W3C Trace Context, section 3.3.1.5."""
    large, small = "l=" + "x" * 200, [f"s{i}=" + "x" * 60 for i in range(7)]
    state = stamps_of({"tracestate": ",".join([small[0], large, *small[1:]])})["tracestate"]
    assert state == ",".join(small)
    longer = [f"m{i}=" + "x" * 100 for i in range(9)]
    assert stamps_of({"tracestate": ",".join(longer)})["tracestate"] == ",".join(longer[:4])


@given(st.lists(st.integers(1, 256), max_size=40))
def test_a_state_that_is_passed_on_is_never_too_long(sizes: list[int]) -> None:
    """Whatever a sampler has put in."""
    state = ",".join(f"k{i}={'x' * size}" for i, size in enumerate(sizes))
    kept = stamps_of({"tracestate": state}).get("tracestate", "")
    assert len(kept) <= 512
    assert set(filter(None, kept.split(","))) <= set(state.split(","))
    if len(state) <= 512:
        assert kept == state
