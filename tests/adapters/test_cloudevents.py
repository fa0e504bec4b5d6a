"""Events to and from the `cloudevents` SDK."""

import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v03.event import CloudEvent as CloudEventV03
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from onwhen.adapters.cloudevents import from_cloudevents, to_cloudevents
from onwhen.engine.events import Event
from onwhen.errors import InvalidEvent

ATTRIBUTES = {"id": "1", "source": "/desk", "type": "ticket.taken", "subject": "ticket:1"}

strings = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1)
atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(atoms, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
events = st.builds(
    Event,
    strings,
    strings,
    json_values | st.binary(),
    source=strings,
    time=st.none() | st.datetimes(timezones=offsets).filter(lambda time: 1 < time.year < 9999),
    datacontenttype=st.none() | strings,
    dataschema=st.none() | strings,
    extensions=st.dictionaries(
        st.from_regex("x[a-z0-9]{1,19}", fullmatch=True),
        st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.just("") | strings,
        max_size=4,
    ),
    correlation_id=st.none() | strings,
    causation_id=st.none() | strings,
    depth=st.integers(0, 100),
)


@given(events)
def test_an_event_comes_back_from_the_sdk(event: Event) -> None:
    """For every event: to the SDK and back gives the same event, time zone included."""
    again = from_cloudevents(to_cloudevents(event))
    assert again == event
    assert again.to_json() == event.to_json()
    assert again.time is event.time


@given(events)
def test_an_event_of_the_sdk_comes_back_from_ours(event: Event) -> None:
    """For every event of the SDK: to ours and back gives the same attributes and data."""
    theirs = to_cloudevents(event)
    again = to_cloudevents(from_cloudevents(theirs))
    assert again.get_attributes() == theirs.get_attributes()
    assert again.get_data() == theirs.get_data()


@given(events.filter(lambda event: event.datacontenttype is None))
def test_the_sdk_writes_an_event_that_we_read(event: Event) -> None:
    """For every event: what the SDK writes of it as JSON is the same event to us."""
    assert Event.from_json(JSONFormat().write(to_cloudevents(event))) == event


def test_an_event_without_a_time_gets_none() -> None:
    """The SDK would make one up."""
    assert to_cloudevents(Event("a", "b")).get_time() is None


def test_where_an_event_came_from_travels_as_extensions() -> None:
    """Under the names that the JSON has, too."""
    root = Event("a", "b")
    converted = to_cloudevents(Event.caused_by(root, "desk.take", 1, 0, "c", "d"))
    assert converted.get_extension("correlationid") == root.id
    assert converted.get_extension("causationid") == root.id
    assert converted.get_extension("cascadedepth") == 1


def test_the_data_of_the_converted_event_can_be_changed() -> None:
    """It is plain, and the event's own stays as it is."""
    event = Event("a", "b", {"tags": []})
    data: Any = to_cloudevents(event).get_data()
    data["tags"].append(1)
    assert event.data == {"tags": []}


def test_an_event_of_the_sdk_needs_a_subject() -> None:
    """For the SDK it is optional."""
    attributes = {name: value for name, value in ATTRIBUTES.items() if name != "subject"}
    with pytest.raises(InvalidEvent, match=r"^subject: missing; onwhen addresses every event to one subject"):
        from_cloudevents(CloudEvent(attributes))


def test_older_versions_are_refused() -> None:
    """The SDK knows 0.3 as well."""
    with pytest.raises(InvalidEvent, match=r"^specversion: '0\.3'; it must be"):
        from_cloudevents(CloudEventV03(dict(ATTRIBUTES)))


@pytest.mark.parametrize(
    ("changes", "data", "attribute"),
    [
        ({}, {"x": float("nan")}, "data"),
        ({"region": 1.5}, None, "region"),
        ({"subject": "a\nb"}, None, "subject"),
        ({"a" * 21: "x"}, None, "a" * 21),
    ],
)
def test_what_only_the_sdk_lets_through_is_refused(changes: dict[str, Any], data: Any, attribute: str) -> None:
    """The checks are those of `Event`."""
    with pytest.raises(InvalidEvent) as caught:
        from_cloudevents(CloudEvent({**ATTRIBUTES, "time": datetime.now(UTC), **changes}, data))
    assert caught.value.attribute == attribute


def test_without_the_sdk_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK is not installed with onwhen itself."""
    monkeypatch.setitem(sys.modules, "cloudevents.core.v1.event", None)
    with pytest.raises(ImportError, match=r"pip install 'onwhen\[cloudevents\]'"):
        to_cloudevents(Event("a", "b"))
