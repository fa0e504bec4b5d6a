"""The event envelope: what it takes, what it refuses, its ids, and its JSON form."""

import base64
import copy
import enum
import json
import pickle
import threading
import uuid
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from onwhen.engine.events import DEFAULT_SOURCE, Event
from onwhen.engine.values import MAX_DEPTH
from onwhen.errors import EventTooLarge, InvalidEvent

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)
ENVELOPE = {"specversion": "1.0", "id": "1", "source": "/desk", "type": "ticket.taken", "subject": "ticket:1"}

# Everything below U+FFFE that is no control character, noncharacter or surrogate; and some of what lies above.
characters = st.characters(
    exclude_categories=("Cc", "Cs"), exclude_characters=[chr(c) for c in range(0xFDD0, 0xFDF0)], max_codepoint=0xFFFD
) | st.sampled_from("😀\U0010fffd")
strings = st.text(characters, min_size=1)
atoms = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
json_values = st.recursive(atoms, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
offsets = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
times = st.datetimes(timezones=offsets).filter(lambda time: 1 < time.year < 9999)
taken = {"specversion", "id", "source", "type", "subject", "time", "data", "datacontenttype", "dataschema"}
taken |= {"correlationid", "causationid", "cascadedepth"}
names = st.from_regex("[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in taken)
extension_values = st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.just("") | strings
events = st.builds(
    Event,
    strings,
    strings,
    json_values | st.binary(),
    id=st.none() | strings,
    source=strings | st.just(DEFAULT_SOURCE),
    time=st.none() | times,
    datacontenttype=st.none() | st.just("application/json") | strings,
    dataschema=st.none() | strings,
    extensions=st.none() | st.dictionaries(names, extension_values, max_size=4),
    correlation_id=st.none() | strings,
    causation_id=st.none() | strings,
    depth=st.integers(0, 2**31 - 1),
)


def child_of(parent: Event, **changes: Any) -> Event:
    """An event as a rule emits it."""
    how = {"rule_id": "desk.take", "attempt": 1, "index": 0, "type": "ticket.seen", "subject": "ticket:1", **changes}
    return Event.caused_by(parent, **how)


def refusal(attribute: str, *args: Any, **kwargs: Any) -> str:
    """The message with which an event is refused for an attribute; it has to start with its name."""
    with pytest.raises(InvalidEvent) as caught:
        Event(*args, **kwargs)
    assert caught.value.attribute == attribute
    assert str(caught.value).startswith(attribute)
    return str(caught.value)


# -- making one ------------------------------------------------------------------------------------------------


def test_type_and_subject_are_enough() -> None:
    """All else has a default."""
    event = Event("ticket.taken", "ticket:1")
    assert (event.type, event.subject, event.source, event.depth) == ("ticket.taken", "ticket:1", "onwhen", 0)
    assert [event.data, event.time, event.datacontenttype, event.dataschema, event.causation_id] == [None] * 5
    assert event.extensions == {}


def test_nothing_can_be_changed() -> None:
    """Attributes are read-only, and there are no others."""
    event: Any = Event("ticket.taken", "ticket:1", {"tags": []}, extensions={"region": "eu"})
    for name in ("type", "subject", "data", "id", "source", "time", "extensions", "depth", "other"):
        with pytest.raises(AttributeError):
            setattr(event, name, "x")
    for change in (lambda: event.data["tags"].append(1), lambda: event.extensions.update(region="us")):
        with pytest.raises(TypeError, match="immutable"):
            change()


def test_the_data_is_a_copy() -> None:
    """What the caller does to it afterwards stays outside."""
    data = {"tags": ["a"]}
    event = Event("ticket.taken", "ticket:1", data)
    data["tags"].append("b")
    assert event.data == {"tags": ["a"]}


def test_data_may_be_bytes() -> None:
    """A bytearray is copied into them."""
    buffer = bytearray(b"\x00\xff")
    event = Event("photo.taken", "camera:1", buffer)
    buffer[0] = 7
    assert event.data == b"\x00\xff"
    assert type(event.data) is bytes


def test_a_str_enum_may_name_the_type() -> None:
    """It becomes the plain string that it stands for."""

    class Kind(enum.StrEnum):
        TAKEN = "ticket.taken"

    event = Event(Kind.TAKEN, "ticket:1")
    assert type(event.type) is str
    assert event.type == "ticket.taken"


@pytest.mark.parametrize("attribute", ["type", "subject", "id", "source"])
def test_the_names_must_not_be_empty(attribute: str) -> None:
    """The message says what the attribute is for."""
    arguments = {"type": "a", "subject": "b", attribute: ""}
    assert "empty; " in refusal(attribute, **arguments)


def test_the_error_for_a_missing_subject_says_that_onwhen_needs_one() -> None:
    """CloudEvents leaves it optional, so this surprises people."""
    assert "onwhen addresses every event to one subject" in refusal("subject", "ticket.taken", "")


@pytest.mark.parametrize(
    "attribute", ["type", "subject", "id", "source", "datacontenttype", "dataschema", "correlation_id", "causation_id"]
)
@pytest.mark.parametrize("value", [7, b"x", ["x"]])
def test_strings_must_be_strings(attribute: str, value: Any) -> None:
    """Nothing is converted; the error names the attribute as CloudEvents has it."""
    arguments = {"type": "a", "subject": "b", attribute: value}
    assert "a string is needed" in refusal(attribute.replace("_", ""), **arguments)


@pytest.mark.parametrize(
    "bad", ["\x00", "\n", "\x1f", "\x7f", "\x85", "\x9f", "\ud800", "\ufdd0", "\ufffe", "\U0010ffff"]
)
def test_characters_that_cloudevents_forbids_are_refused(bad: str) -> None:
    """Control characters, surrogates and noncharacters are named with their place."""
    expected = f"U+{ord(bad):04X} at character 1 is not allowed"
    assert expected in refusal("type", f"a{bad}", "ticket:1")
    assert expected in refusal("subject", "a", f"t{bad}")
    assert expected in refusal("region", "a", "ticket:1", extensions={"region": f"e{bad}"})


@pytest.mark.parametrize("good", ["straße", "\u00a0", "日本", "😀", "\ue000", "\u2028", "a b"])
def test_all_other_characters_are_kept(good: str) -> None:
    """They need not be printable."""
    assert Event(good, good).type == good


def test_each_character_is_either_forbidden_or_kept() -> None:
    """CloudEvents forbids 65 control characters, 2,048 surrogates and 66 noncharacters of Unicode, and no others."""
    forbidden = {*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000), *range(0xFDD0, 0xFDF0)}
    forbidden |= {code for code in range(0x110000) if code & 0xFFFE == 0xFFFE}
    assert len(forbidden) == 65 + 2048 + 66
    for code in forbidden:
        with pytest.raises(InvalidEvent):
            Event(chr(code), "b")
    kept = "".join(chr(code) for code in range(0x110000) if code not in forbidden)
    assert Event(kept, "b").type == kept


def test_a_time_without_a_zone_is_refused() -> None:
    """Nobody could tell which instant it means."""
    assert "has no time zone; pass an aware one" in refusal("time", "a", "b", time=datetime(2026, 11, 5))  # noqa: DTZ001


@pytest.mark.parametrize("time", ["2026-11-05T12:00:00Z", 1793880000, NOON.date()])
def test_a_time_is_a_datetime(time: Any) -> None:
    """Text is only read by `from_dict` and `from_json`."""
    assert "an aware datetime is needed" in refusal("time", "a", "b", time=time)


def test_a_time_that_utc_cannot_express_is_refused() -> None:
    """It could not be written down."""
    east = timezone(timedelta(hours=1))
    assert "outside the years 1 to 9999" in refusal("time", "a", "b", time=datetime(1, 1, 1, tzinfo=east))


@pytest.mark.parametrize("data", [Decimal(1), {"price": Decimal(1)}, float("nan"), {1: 2}, "\ud800", {"t": NOON}])
def test_data_that_is_not_json_is_refused(data: Any) -> None:
    """Whatever is wrong with it, the error is an InvalidEvent about `data`."""
    refusal("data", "a", "b", data)


def test_the_error_names_the_path_into_the_data() -> None:
    """It says where in the data, and what to do."""
    message = refusal("data", "a", "b", {"items": [0, {"price": Decimal(1)}]})
    assert message.startswith("data.items[1].price: Decimal is not a JSON value; pass str(...)")


@pytest.mark.parametrize("name", ["Region", "my_region", "my-region", "région", "a" * 21, ""])
def test_extension_names_are_short_and_plain(name: str) -> None:
    """1 to 20 of a-z and 0-9, so that they fit into any protocol's headers."""
    with pytest.raises(InvalidEvent, match="1 to 20 of a-z and 0-9") as caught:
        Event("a", "b", extensions={name: "x"})
    assert caught.value.attribute == name


@pytest.mark.parametrize("name", sorted(taken))
def test_attributes_that_exist_cannot_be_extensions(name: str) -> None:
    """Two ways to say one thing could contradict each other."""
    refusal(name, "a", "b", extensions={name: "x"})


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 1.5, None, b"x", NOON, ["x"], {}])
def test_extension_values_have_three_types(value: Any) -> None:
    """Other types of CloudEvents are written as strings in JSON, and kept as these."""
    assert "pass str, bool or a 32-bit int" in refusal("region", "a", "b", extensions={"region": value})


def test_extensions_are_a_mapping() -> None:
    """A list of pairs is not."""
    refusal("extensions", "a", "b", extensions=[("region", "eu")])


@pytest.mark.parametrize("depth", [-1, 2**31, 1.0, True, "1", None])
def test_depth_is_a_count(depth: Any) -> None:
    """A 32-bit Integer of CloudEvents, not negative."""
    refusal("cascadedepth", "a", "b", depth=depth)


# -- ids, correlation and causation ----------------------------------------------------------------------------


def test_an_id_is_made_when_it_is_first_read() -> None:
    """It is a UUIDv7, and stays the same."""
    event = Event("a", "b")
    assert event._id is None
    assert event.id == event.id
    assert uuid.UUID(event.id).version == 7


def test_new_ids_are_ordered_by_time() -> None:
    """Ids made one after the other in one process sort in this order."""
    ids = [Event("a", "b").id for _ in range(1000)]
    assert ids == sorted(ids)
    assert len(set(ids)) == 1000


def test_threads_that_read_a_new_id_read_the_same() -> None:
    """The first one decides."""
    for _ in range(50):
        event, start = Event("a", "b"), threading.Barrier(4)
        seen: set[str] = set()

        def read(event: Event = event, seen: set[str] = seen, start: threading.Barrier = start) -> None:
            start.wait()
            seen.add(event.id)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 1


def test_a_root_event_correlates_with_itself() -> None:
    """It has no cause, and its own id names the cascade."""
    event = Event("a", "b")
    assert event.correlation_id == event.id
    assert event.causation_id is None


def test_an_emitted_event_names_its_parent_and_its_root() -> None:
    """Along a chain the correlation id stays, the causation id moves on, the depth grows."""
    root = Event("a", "b")
    child = child_of(root)
    grandchild = child_of(child)
    assert [e.correlation_id for e in (root, child, grandchild)] == [root.id] * 3
    assert [e.causation_id for e in (root, child, grandchild)] == [None, root.id, child.id]
    assert [e.depth for e in (root, child, grandchild)] == [0, 1, 2]


def test_an_emitted_event_has_the_same_id_when_its_turn_is_run_again() -> None:
    """The id is a UUIDv8 that follows from the parent, the rule, the attempt and the index; this one is for ever."""
    parent = Event("a", "b", id="1", source="/desk")
    assert child_of(parent).id == child_of(parent.replace()).id == "7124e5ab-202e-8d06-88c9-b4883ceaad39"
    assert uuid.UUID(child_of(parent).id).variant == uuid.RFC_4122


def test_each_part_of_where_it_came_from_changes_the_id() -> None:
    """The parent's source counts too: another sender may use the same ids."""
    parent = Event("a", "b", id="1", source="/desk")
    children = [
        child_of(parent),
        child_of(parent.replace(id="2")),
        child_of(parent.replace(source="/shop")),
        child_of(parent, rule_id="desk.close"),
        child_of(parent, attempt=2),
        child_of(parent, index=1),
        child_of(parent, attempt=11, index=0),
        child_of(parent, attempt=1, index=10),
    ]
    assert len({child.id for child in children}) == len(children)


def test_ids_of_emitted_events_are_not_worked_out_before_they_are_read() -> None:
    """Neither the event's own, nor its parent's."""
    parent = Event("a", "b")
    child = child_of(parent)
    assert child._id is parent._id is None
    assert child.causation_id == parent.id


@pytest.mark.parametrize("use", [Event.detach, lambda e: e.id, lambda e: e.correlation_id, lambda e: e.causation_id])
def test_the_parent_is_let_go_with_the_ids(use: Any) -> None:
    """A long cascade does not keep all its events alive."""
    parent = Event("a", "b")
    child = child_of(parent)
    assert child._origin is not None
    use(child)
    assert child._origin is None
    assert (child.causation_id, child.correlation_id) == (parent.id, parent.id)


def test_detach_gives_a_root_event_its_id() -> None:
    """After it, nothing is left to be worked out."""
    event = Event("a", "b")
    event.detach()
    id = event._id
    event.detach()
    assert event.id == id is not None


def test_emitted_events_are_checked_like_all_others() -> None:
    """A rule cannot send what a caller could not."""
    with pytest.raises(InvalidEvent, match=r"^data\.x: set is not a JSON value"):
        child_of(Event("a", "b"), data={"x": {1}})
    with pytest.raises(InvalidEvent, match=r"^subject: empty"):
        child_of(Event("a", "b"), subject="")


# -- as a value ------------------------------------------------------------------------------------------------


def test_events_are_equal_when_all_their_attributes_are() -> None:
    """The same instant in another zone is the same time."""
    event = Event("a", "b", {"x": 1}, id="1", time=NOON)
    assert event == Event("a", "b", {"x": 1}, id="1", time=NOON.astimezone(timezone(timedelta(hours=2))))
    assert event == Event("a", "b", {"x": 1}, id="1", time=NOON, correlation_id="1")
    for changes in ({"type": "c"}, {"data": {"x": 2}}, {"id": "2"}, {"source": "/desk"}, {"depth": 1}, {"time": None}):
        assert event != event.replace(**changes)
    assert event != "an event"


def test_the_hash_is_of_source_and_id() -> None:
    """Which together name an event, in CloudEvents."""
    event = Event("a", "b", {"x": [1]}, id="1")
    assert hash(event) == hash(event.replace(type="c"))
    assert {event, event.replace()} == {event}


def test_replace_keeps_what_is_not_named() -> None:
    """The id as well, and the checks are the same."""
    event = child_of(Event("a", "b"), data={"x": 1}, extensions={"region": "eu"}, time=NOON)
    changed = event.replace(data={"x": 2})
    assert changed.data == {"x": 2}
    assert changed.replace(data={"x": 1}) == event
    with pytest.raises(InvalidEvent, match=r"^type: empty"):
        event.replace(type="")
    with pytest.raises(TypeError, match="unknown"):
        event.replace(unknown=1)


@given(events)
def test_copies_and_pickles_are_equal(event: Event) -> None:
    """For every event e: a copy is e itself, and a pickled one equals it."""
    assert copy.copy(event) is copy.deepcopy(event) is event
    restored = pickle.loads(pickle.dumps(event))
    assert restored == event
    assert restored.to_json() == event.to_json()


def test_a_repr_is_short() -> None:
    """It leaves out the data, which may be long or private."""
    event = Event("ticket.taken", "ticket:1", {"password": "x" * 1000}, id="7")
    assert repr(event) == "<Event ticket.taken to ticket:1, id 7>"


# -- JSON ------------------------------------------------------------------------------------------------------


@given(events)
def test_json_brings_every_event_back(event: Event) -> None:
    """For every event e: reading what it wrote gives e again, and writes the same bytes."""
    for again in (Event.from_json(event.to_json()), Event.from_dict(event.to_dict())):
        assert again == event
        assert again.to_json() == event.to_json()
        assert repr(again.data) == repr(event.data)


@given(events)
def test_the_sdk_reads_the_same_from_our_json(event: Event) -> None:
    """For every event: the cloudevents SDK finds each attribute and the data in what we write, and no others."""
    read = JSONFormat().read(None, event.to_json())
    attributes = read.get_attributes()
    if event.time is None:
        attributes.pop("time")  # the SDK makes one up
    expected = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": event.time,
        "datacontenttype": event.datacontenttype,
        "dataschema": event.dataschema,
        "correlationid": event._correlation_id,
        "causationid": event.causation_id,
        "cascadedepth": event.depth or None,
        **event.extensions,
    }
    assert attributes == {name: value for name, value in expected.items() if value is not None}
    assert read.get_data() == event.data


def test_json_leaves_out_what_is_not_set() -> None:
    """A root event needs no correlation id and no depth."""
    assert json.loads(Event("ticket.taken", "ticket:1", id="1", source="/desk").to_json()) == ENVELOPE


def test_json_of_an_emitted_event_tells_where_it_came_from() -> None:
    """In three extension attributes."""
    root = Event("a", "b")
    child = child_of(root).to_dict()
    assert (child["correlationid"], child["causationid"], child["cascadedepth"]) == (root.id, root.id, 1)


def test_the_dict_is_the_callers_own() -> None:
    """Its data is plain and can be changed."""
    event = Event("a", "b", {"tags": []})
    event.to_dict()["data"]["tags"].append(1)
    assert event.data == {"tags": []}


def test_times_are_written_in_utc() -> None:
    """RFC 3339 with a Z, and microseconds when there are any."""
    east = timezone(timedelta(hours=2, seconds=30))
    written = Event("a", "b", time=datetime(2026, 11, 5, 14, 0, 30, 7, tzinfo=east)).to_dict()["time"]
    assert written == "2026-11-05T12:00:00.000007Z"
    assert Event("a", "b", time=NOON).to_dict()["time"] == "2026-11-05T12:00:00Z"


def test_a_time_is_kept_as_it_was_given() -> None:
    """Its zone is the sender's; only the written form is in UTC."""
    east = timezone(timedelta(hours=2))
    given_time = NOON.astimezone(east)
    assert Event("a", "b", time=given_time).time is given_time


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-11-05T12:00:00Z", NOON),
        ("2026-11-05t12:00:00z", NOON),
        ("2026-11-05T13:30:00+01:30", NOON),
        ("2026-11-05T12:00:00-00:00", NOON),
        ("2026-11-05T12:00:00.5Z", NOON.replace(microsecond=500_000)),
        ("2026-11-05T12:00:00.123456789Z", NOON.replace(microsecond=123_456)),
        ("2016-12-31T23:59:60Z", datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2016-12-31T15:59:60.5-08:00", datetime(2016, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_all_forms_of_rfc_3339_are_read(text: str, time: datetime) -> None:
    """Digits after the microsecond are cut off; a leap second is the last microsecond of its minute."""
    assert Event.from_dict({**ENVELOPE, "time": text}).time == time


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-05",
        "2026-11-05T12:00:00",
        "2026-11-05 12:00:00Z",
        "2026-11-05T12:00Z",
        "20261105T120000Z",
        "2026-W45-4T12:00:00Z",
        "2026-02-30T12:00:00Z",
        "2026-11-05T24:00:00Z",
        "2026-11-05T12:00:61Z",
        "2026-11-05T12:00:60Z",
        "2026-11-05T12:00:00+24:00",
        "2026-11-05T12:00:00+0100",
        "2026-11-05T12:00:00,5Z",
        "\N{FULLWIDTH DIGIT TWO}026-11-05T12:00:00Z",
        "2026-11-05T12:00:00Z\n",
        "0001-01-01T00:00:00+01:00",
        "yesterday",
        "",
    ],
)
def test_other_forms_of_a_time_are_refused(text: str) -> None:
    """ISO 8601 has many more, and no two readers know the same ones."""
    with pytest.raises(InvalidEvent, match=r"^time: ") as caught:
        Event.from_dict({**ENVELOPE, "time": text})
    assert caught.value.attribute == "time"


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "specversion"])
@pytest.mark.parametrize("left_out", [True, False])
def test_a_missing_attribute_is_named(name: str, left_out: bool) -> None:
    """Null is the same as not there, as the JSON format says."""
    envelope = {**ENVELOPE, name: None}
    if left_out:
        del envelope[name]
    with pytest.raises(InvalidEvent, match=f"^{name}: missing; ") as caught:
        Event.from_dict(envelope)
    assert caught.value.attribute == name


@pytest.mark.parametrize("version", ["0.3", "1.0.2", 1.0, 1, ["1.0"]])
def test_only_version_one_is_read(version: Any) -> None:
    """All releases of CloudEvents 1.0 write "1.0"."""
    with pytest.raises(InvalidEvent, match=r'^specversion: .*; it must be "1\.0"'):
        Event.from_dict({**ENVELOPE, "specversion": version})


def test_unknown_attributes_are_extensions() -> None:
    """As long as their names are legal."""
    event = Event.from_dict({**ENVELOPE, "traceparent": "00-ab-cd-01", "sequence": 7, "sampled": True, "none": None})
    assert event.extensions == {"traceparent": "00-ab-cd-01", "sequence": 7, "sampled": True}


@pytest.mark.parametrize("name", ["Time", "content-type", "data_base_64", "correlation_id"])
def test_unknown_attributes_with_other_names_are_refused(name: str) -> None:
    """A misspelt attribute must not get lost."""
    with pytest.raises(InvalidEvent, match=f"^{name}: not an attribute of CloudEvents") as caught:
        Event.from_dict({**ENVELOPE, name: "x"})
    assert caught.value.attribute == name


@pytest.mark.parametrize("value", [1.0, [1], {"a": 1}, 2**31])
def test_extensions_in_json_have_three_types(value: Any) -> None:
    """Others are not in the type system of CloudEvents."""
    with pytest.raises(InvalidEvent, match=r"^region: ") as caught:
        Event.from_json(json.dumps({**ENVELOPE, "region": value}))
    assert caught.value.attribute == "region"


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "time", "datacontenttype", "correlationid"])
@pytest.mark.parametrize("value", [1, True, ["x"], {"x": 1}])
def test_attributes_of_a_wrong_type_are_named(name: str, value: Any) -> None:
    """As they are called in the JSON."""
    with pytest.raises(InvalidEvent, match=f"^{name}: ") as caught:
        Event.from_json(json.dumps({**ENVELOPE, name: value}))
    assert caught.value.attribute == name


def test_bytes_travel_as_base64() -> None:
    """Even when there are none."""
    for data in (b"\x00\xff", b""):
        written = Event("a", "b", data).to_dict()
        assert written["data_base64"] == base64.b64encode(data).decode()
        assert Event.from_dict(written).data == data


@pytest.mark.parametrize("text", ["!!!!", "AP8", "AP8=\n", "AP-_", "é", 7, ["AP8="]])
def test_bad_base64_is_refused(text: Any) -> None:
    """Also what lenient readers skip over."""
    with pytest.raises(InvalidEvent, match=r"^data_base64: ") as caught:
        Event.from_dict({**ENVELOPE, "data_base64": text})
    assert caught.value.attribute == "data_base64"


@pytest.mark.parametrize("data", [{"x": 1}, None, "AP8="])
def test_data_and_data_base64_exclude_each_other(data: Any) -> None:
    """One of them would have to be dropped."""
    with pytest.raises(InvalidEvent, match=r"^data_base64: there is data as well; send one of them"):
        Event.from_dict({**ENVELOPE, "data": data, "data_base64": "AP8="})


def test_text_of_another_media_type_is_a_string() -> None:
    """It is not taken for JSON."""
    event = Event.from_json(json.dumps({**ENVELOPE, "datacontenttype": "text/xml", "data": "<a/>"}))
    assert (event.datacontenttype, event.data) == ("text/xml", "<a/>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"specversion": "1.0", "id": "1", "id": "2"}', '^event: duplicate key "id"'),
        ('{"data": {"a": 1, "a": 2}}', '^event: duplicate key "a"'),
        ('{"data": NaN}', "^event: JSON has no NaN"),
        (b'{"id": "\xff"}', "^event: not UTF-8 at byte 8"),
        (r'{"id": "\ud800"}', r"^event\.id: half a surrogate pair"),
        ('{"id": "1",}', "^event: not JSON: .* at line 1, column"),
        ('{"data":' + "[" * 1000 + "]" * 1000 + "}", "^event.*: nested more than 128 deep"),
        ("[1]", "^event: a JSON object is needed, not list"),
        ("null", "^event: a JSON object is needed, not NoneType"),
        (None, "^event: JSON as bytes or str is needed, not NoneType"),
    ],
    ids=lambda text: repr(text)[:30],
)
def test_bad_json_is_refused(text: Any, message: str) -> None:
    """The error is about the event as a whole, and says where as far as it is known."""
    with pytest.raises(InvalidEvent, match=message) as caught:
        Event.from_json(text)
    assert caught.value.attribute is None


def test_data_may_be_as_deep_in_json_as_in_python() -> None:
    """The envelope does not count."""
    data: list[Any] = []
    for _ in range(MAX_DEPTH - 1):
        data = [data]
    event = Event("a", "b", data)
    assert Event.from_json(event.to_json()) == event
    with pytest.raises(InvalidEvent, match="nested more than 128 deep"):
        Event.from_json(event.to_json().replace(b"[]", b"[[]]"))


def test_an_event_over_the_limit_is_refused() -> None:
    """Before it is read; sizes are in bytes of UTF-8, for text too."""
    text = json.dumps({**ENVELOPE, "data": "x" * 10_000_000})
    with pytest.raises(EventTooLarge, match=r"10,000,\d\d\d bytes are more than the limit of 1,048,576") as caught:
        Event.from_json(text, max_bytes=1_048_576)
    assert (caught.value.size, caught.value.limit, caught.value.attribute) == (len(text), 1_048_576, "data")
    text = json.dumps({**ENVELOPE, "data": "é"}, ensure_ascii=False)
    assert Event.from_json(text, max_bytes=len(text) + 1).data == "é"
    with pytest.raises(EventTooLarge):
        Event.from_json(text, max_bytes=len(text))


@given(st.binary() | st.text() | json_values.map(json.dumps))
def test_whatever_comes_in_the_error_is_ours(text: bytes | str) -> None:
    """For every input: it is read, or refused with an InvalidEvent."""
    with pytest.raises(InvalidEvent):
        Event.from_json(text)


@given(st.dictionaries(st.sampled_from(sorted(taken)) | st.text(), json_values | strings))
def test_whatever_an_envelope_holds_the_error_is_ours(changes: dict[str, Any]) -> None:
    """For every mapping: an event that writes itself, or an InvalidEvent that names an attribute."""
    try:
        event = Event.from_dict({**ENVELOPE, **changes})
    except InvalidEvent as exc:
        named = exc.attribute
    else:
        named = "none"
        assert Event.from_json(event.to_json()) == event
    assert named is not None


@given(events)
def test_what_a_store_has_written_is_read_again_without_another_look(event: Event) -> None:
    """It is the same event as with all checks; what something else has written is refused as clearly."""
    text = event.to_json()

    assert Event.restored(text) == Event.from_json(text) == event
    assert Event.restored(text.decode()).to_json() == text
    for broken in (text[:-1], b"[]", b"{}", text.replace(b"1.0", b"2.0", 1)[:-1]):
        with pytest.raises(InvalidEvent):
            Event.restored(broken)
