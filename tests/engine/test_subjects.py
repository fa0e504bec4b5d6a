"""Subjects as rules see them: declared and dynamic properties, errors, versions, and the ends of their life."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, Optional
from uuid import UUID, uuid4

import pytest
from pydantic import BaseModel, Field

from onwhen.engine import values
from onwhen.engine.outcomes import Receipt
from onwhen.engine.state import ABSENT, Snapshot, State
from onwhen.engine.store import SubjectRecord
from onwhen.engine.subjects import Subject
from onwhen.errors import (
    PropertyError,
    PropertyTypeError,
    PropertyValueError,
    SubjectStateError,
    UnknownProperty,
)
from tests.engine.samples import record

if TYPE_CHECKING:
    from collections.abc import Mapping as NotThereAtRunTime  # noqa: F401 (named in a string below)


class Status(enum.Enum):
    NEW = "new"
    OPEN = "open"


class Address(BaseModel):
    city: str
    lines: list[str] = []


class Ticket(Subject, prefix="ticket:"):
    """A request for help."""

    LIMIT: ClassVar[int] = 3
    FIRST: Final = "new"

    status: Status = Status.NEW
    owner: Optional[str] = None  # noqa: UP045 (people write it)
    level: Annotated[int, Field(ge=0, le=5)] = 0
    kind: Literal["bug", "wish"] = "bug"
    price: Decimal = Decimal("0.00")
    tags: list[str] = []
    address: Address | None = None
    opened: datetime

    @property
    def is_owned(self) -> bool:
        """Whether somebody works on it."""
        return self.owner is not None

    @property
    def shout(self) -> str:
        return self.owner.upper()  # type: ignore[union-attr]

    def assign(self, who: str) -> None:
        self.owner = who


def ticket(**properties: Any) -> Ticket:
    """A ticket that is stored with these properties."""
    return Ticket._of(Ticket._state_of(record(**properties)))


def device(**properties: Any) -> Subject:
    """A dynamic subject that is stored with these properties."""
    return Subject._of(Subject._state_of(record(name="device:7", **properties)))


def commit(subject: Subject) -> dict[str, Any]:
    """Store what was changed; return what is stored then."""
    state = subject._state
    state.collect()
    write = state.write()
    state.committed(write, 1 if write else state.version)
    return {name: values.decode(text) for name, text in state.properties.stored.items()}


# -- typed properties --------------------------------------------------------------------------------------------


def test_declared_properties_are_attributes() -> None:
    """They start with their defaults, and are what pydantic makes of what is set."""
    subject = ticket()
    assert (subject.name, subject.status, subject.owner, subject.price) == (
        "ticket:1",
        Status.NEW,
        None,
        Decimal("0.00"),
    )
    subject.status = "open"  # type: ignore[assignment]
    subject.price = "12.50"  # type: ignore[assignment]
    subject.address = {"city": "Rome"}  # type: ignore[assignment]
    assert (subject.status, subject.price, subject.address) == (Status.OPEN, Decimal("12.50"), Address(city="Rome"))


def test_get_and_set_do_the_same_by_name() -> None:
    """`set` returns the new and the old value at once."""
    subject = ticket(level=1)
    assert subject.set("level", 2) == (2, 1)
    assert subject.set("level", 2) == (2, 2)
    assert subject.get("level") == 2
    assert subject.get("opened") is None
    assert subject.get("opened", "never") == "never"


def test_set_with_a_function_gives_it_the_current_value() -> None:
    """None, if there is none."""
    subject = ticket(level=1)
    assert subject.set("level", lambda n: n + 1) == (2, 1)
    other = device()
    assert other.set("alarms", lambda n: (n or 0) + 1) == (1, None)


def test_extra_must_be_json() -> None:
    """It is in the event of the change; and what the writer does to it later does not reach there."""
    subject = device()
    with pytest.raises(PropertyTypeError, match=r"extra of level\.by: object is not a JSON value"):
        subject.set("level", 1, extra={"by": object()})
    assert "level" not in subject
    extra: dict[str, list[str]] = {"by": ["ops"]}
    subject.set("level", 1, extra=extra)
    extra["by"].append("me")
    assert subject._state.changes[0].extra == {"by": ["ops"]}


def test_muted_and_extra_go_with_the_change() -> None:
    """For whoever turns changes into events."""
    subject = ticket()
    subject.set("level", 1, muted=True)
    subject.delete("level", extra={"why": "mistake"})
    assert [(change.muted, change.extra) for change in subject._state.changes] == [
        (True, None),
        (False, {"why": "mistake"}),
    ]


def test_a_deleted_property_has_its_default_again() -> None:
    """Deleting what has no value of its own does nothing."""
    subject = ticket(level=3)
    assert subject.delete("level") == 3
    assert subject.level == 0
    assert subject.delete("level") is None
    del subject.owner
    assert [change.kind for change in subject._state.changes] == ["deleted"]


def test_a_property_without_default_is_not_there_until_it_is_set() -> None:
    """Reading it is an error that says so; get, has and keys take it as absent."""
    subject = ticket()
    with pytest.raises(
        UnknownProperty, match="ticket:1: opened has no value yet and declares no default; set it first"
    ):
        _ = subject.opened
    assert not subject.has("opened")
    assert "opened" not in subject
    assert not hasattr(subject, "opened")
    subject.opened = datetime(2024, 1, 1)  # noqa: DTZ001
    assert subject.has("opened")


def test_a_subject_is_a_collection_of_its_properties() -> None:
    """Those that have a value, in order of declaration."""
    subject = ticket(level=2)
    names = ["status", "owner", "level", "kind", "price", "tags", "address"]
    assert subject.keys() == list(subject) == list(subject.dict()) == names
    assert len(subject) == len(names)
    assert "level" in subject
    assert "nonsense" not in subject
    assert 5 not in subject
    assert bool(device())  # an empty one is still a subject


def test_dict_is_a_copy() -> None:
    """As Python values, or as JSON."""
    subject = ticket(address={"city": "Rome"}, price="1.0")
    subject.dict()["tags"].append("x")
    assert subject.tags == []
    assert subject.dict()["address"] == Address(city="Rome")
    assert subject.dict(mode="json") == {
        "status": "new",
        "owner": None,
        "level": 0,
        "kind": "bug",
        "price": "1.0",
        "tags": [],
        "address": {"city": "Rome", "lines": []},
    }


def test_a_refused_value_says_what_was_wrong_and_where() -> None:
    """The old value stays."""
    subject = ticket(level=1)
    with pytest.raises(PropertyValueError, match=r"ticket:1: Ticket\.level = 9 is refused: .* less than or equal to 5"):
        subject.level = 9
    assert subject.level == 1


def test_a_misspelt_name_offers_the_nearest() -> None:
    """Wherever it is used."""
    subject = ticket(onwer="left by an older declaration")
    uses = [
        lambda: subject.onwer,
        lambda: setattr(subject, "onwer", "a"),
        lambda: subject.get("onwer"),
        lambda: subject.set("onwer", "a"),
        lambda: subject.delete("onwer"),
        lambda: delattr(subject, "onwer"),
    ]
    for use in uses:
        with pytest.raises(
            UnknownProperty, match=r"^ticket:1: Ticket has no property 'onwer'; did you mean 'owner'\?$"
        ):
            use()
    assert not subject.has("onwer")


def test_names_of_the_subject_itself_cannot_be_set() -> None:
    """Neither its name nor its methods."""
    subject = ticket()
    for name in ("name", "get", "ext", "assign", "LIMIT"):
        with pytest.raises(PropertyError, match=rf"ticket:1: Ticket\.{name} is not a property, the name is reserved"):
            setattr(subject, name, 1)
    with pytest.raises(UnknownProperty, match="no property '_hidden'"):
        subject._hidden = 1  # type: ignore[attr-defined]


def test_methods_are_part_of_the_class() -> None:
    """And set properties as anybody else."""
    subject = ticket()
    subject.assign("eve")
    assert subject.owner == "eve"


# -- computed properties -----------------------------------------------------------------------------------------


def test_a_computed_property_is_read_like_any_other() -> None:
    """By attribute and by get; it follows the state."""
    subject = ticket()
    assert subject.is_owned is False
    subject.owner = "eve"
    assert subject.is_owned is True
    assert subject.get("is_owned") is True


def test_a_computed_property_is_not_state() -> None:
    """Neither set, nor deleted, nor listed."""
    subject = ticket()
    uses = [
        lambda: setattr(subject, "is_owned", True),
        lambda: subject.set("is_owned", True),
        lambda: delattr(subject, "is_owned"),
    ]
    for use in uses:
        with pytest.raises(PropertyError, match=r"Ticket\.is_owned is computed, it cannot be set; set what it is comp"):
            use()
    assert "is_owned" not in subject.dict()
    assert not subject.has("is_owned")


def test_an_error_in_a_computed_property_is_shown_as_it_is() -> None:
    """An AttributeError too, which Python would take for "no such attribute"."""
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'upper'"):
        _ = ticket().shout
    with pytest.raises(AttributeError, match="'NoneType' object has no attribute 'upper'"):
        ticket().get("shout")


def test_dynamic_subjects_can_compute_too() -> None:
    """A subclass without annotated fields stays dynamic."""

    class Device(Subject, prefix="device:"):
        @property
        def is_hot(self) -> bool:
            return bool(self.temperature > 80)

    subject = Device._of(Device._state_of(record(name="device:7", temperature=91)))
    assert subject.is_hot
    assert subject.get("is_hot")
    for use in (lambda: setattr(subject, "is_hot", False), lambda: subject.set("is_hot", False)):
        with pytest.raises(PropertyError, match="is_hot is computed, it cannot be set"):
            use()
    subject.anything = [1]
    assert subject.dict() == {"temperature": 91, "anything": [1]}


# -- defaults that are made --------------------------------------------------------------------------------------


class Session(Subject):
    id: UUID = Field(default_factory=uuid4)
    seen: list[int] = Field(default_factory=lambda: [1])
    hits: int = 0


def test_what_a_factory_makes_is_kept_once_the_subject_is_stored() -> None:
    """Whoever loads the subject reads the same value, whatever the first write was about."""
    subject = Session._of(Session._state_of(record()))
    made = subject.id
    assert subject.id == made
    subject.hits = 1
    assert commit(subject) == {"hits": 1, "id": str(made), "seen": [1]}
    assert subject.id == made
    again = Session._of(Session._state_of(record(id=str(made), hits=1)))
    assert again.id == made


def test_making_a_default_is_no_change() -> None:
    """No event tells of it, and a subject that was only read is not stored."""
    subject = Session._of(Session._state_of(record()))
    assert subject.id != Session._of(Session._state_of(record())).id
    assert commit(subject) == {}
    subject.ext["note"] = 1
    assert commit(subject).keys() == {"id", "seen"}
    assert subject._state.changes == []


def test_a_failed_rule_does_not_lose_the_made_default() -> None:
    """It was there before, for those who had read it."""
    subject = Session._of(Session._state_of(record()))
    made = subject.id
    mark = subject._state.mark()
    subject.id = uuid4()
    subject.seen.append(2)
    subject._state.rollback(mark)
    assert (subject.id, subject.seen) == (made, [1])


def test_a_deleted_made_default_is_made_anew() -> None:
    """And kept again."""
    subject = Session._of(Session._state_of(record(id=str(UUID(int=1)), seen=[])))
    assert subject.delete("id") == UUID(int=1)
    assert subject.id != UUID(int=1)
    assert commit(subject) == {"id": str(subject.id), "seen": []}


# -- dynamic subjects --------------------------------------------------------------------------------------------


def test_a_dynamic_subject_takes_any_json_under_any_name() -> None:
    """By attribute, or by name where Python would not have it as an attribute."""
    subject = device()
    subject.temperature = 21.5
    subject.set("max temperature °C", {"day": [30, None], "night": True})
    subject.set("name", "the kitchen")
    subject.set("get", 1)
    assert subject.temperature == 21.5
    assert subject.get("max temperature °C") == {"day": [30, None], "night": True}
    assert (subject.name, subject.get("name"), subject.get("get")) == ("device:7", "the kitchen", 1)
    assert subject.keys() == ["temperature", "max temperature °C", "name", "get"]


def test_reserved_attributes_of_a_dynamic_subject_say_how_to_set_them() -> None:
    """An assignment to one is more likely a mistake."""
    subject = device()
    for name in ("name", "ext", "flush"):
        with pytest.raises(PropertyError, match=rf"device:7: Subject\.{name} is not a property.*; use set\('{name}', "):
            setattr(subject, name, 1)
    with pytest.raises(PropertyError, match=r"use set\('_x'"):
        subject._x = 1
    with pytest.raises(PropertyError, match="name is not a property"):
        del subject.name


def test_a_missing_property_is_an_attribute_error_that_offers_the_nearest() -> None:
    """`get` returns its default instead."""
    subject = device(temperature=20)
    with pytest.raises(UnknownProperty, match=r"device:7 has no property 'temprature'; did you mean 'temperature'\?"):
        _ = subject.temprature
    with pytest.raises(AttributeError, match=r"has no property 'colour'; get\('colour'\) returns None"):
        _ = subject.colour
    with pytest.raises(UnknownProperty):
        del subject.colour
    assert subject.get("colour") is None
    assert subject.delete("colour") is None
    assert not hasattr(subject, "colour")
    with pytest.raises(AttributeError, match="'Subject' object has no attribute '__wrapped__'"):
        _ = subject.__wrapped__


def test_only_json_can_be_set() -> None:
    """The error says where it is not, and to declare a typed subject."""
    with pytest.raises(
        PropertyTypeError, match=r"device:7: at\.since\[1\]: datetime is not a JSON value.*typed subject"
    ):
        device().set("at", {"since": [1, datetime(2024, 1, 1)]})  # noqa: DTZ001


# -- extended properties -----------------------------------------------------------------------------------------


def test_extended_properties_are_a_mapping() -> None:
    """Any JSON value under any name, on typed subjects too; none of it is a change."""
    subject = ticket()
    subject.ext["source"] = "mail"
    subject.ext.update(priority=1, labels=["a"])
    subject.ext["labels"].append("b")
    subject._state.collect()
    assert dict(subject.ext) == {"source": "mail", "priority": 1, "labels": ["a", "b"]}
    assert len(subject.ext) == 3
    assert "source" in subject.ext
    assert subject.ext.pop("source") == "mail"
    assert repr(subject.ext) == "{'priority': 1, 'labels': ['a', 'b']}"
    with pytest.raises(KeyError, match="source"):
        _ = subject.ext["source"]
    with pytest.raises(KeyError, match="source"):
        del subject.ext["source"]
    assert subject._state.changes == []
    write = subject._state.write()
    assert write is not None
    assert write.set_ext == {"priority": b"1", "labels": b'["a","b"]'}


def test_extended_properties_have_methods_as_well() -> None:
    """With functions and defaults, as properties have."""
    subject = device()
    assert subject.set_ext("n", 1) == (1, None)
    assert subject.set_ext("n", lambda n: n + 1) == (2, 1)
    assert subject.get_ext("n") == 2
    assert subject.get_ext("m", 5) == 5
    assert subject.delete_ext("n") == 2
    assert subject.delete_ext("n") is None
    with pytest.raises(PropertyTypeError):
        subject.set_ext("n", object())


# -- changes in place --------------------------------------------------------------------------------------------


def test_changes_in_place_count() -> None:
    """Of lists, of dicts, of models."""
    subject = ticket(address={"city": "Rome"})
    subject.tags.append("a")
    subject.tags += ["b"]
    assert subject.address is not None
    subject.address.lines.append("Via Appia")
    subject.address.city = "Roma"
    assert commit(subject) == {"tags": ["a", "b"], "address": {"city": "Roma", "lines": ["Via Appia"]}}


def test_what_was_set_is_no_longer_the_callers() -> None:
    """One constant can be given to many subjects."""
    constant = {"a": [1]}
    one, other = device(), device()
    one.config = other.config = constant
    one.config["a"].append(2)
    assert (constant, other.config, one.config) == ({"a": [1]}, {"a": [1]}, {"a": [1, 2]})


def test_values_of_an_event_can_be_set_and_then_changed() -> None:
    """They are frozen in the event, not in the subject."""
    payload = values.freeze({"tags": ["a"]}, "data")
    for subject in (device(), ticket()):
        subject.tags = payload["tags"]
        subject.tags.append("b")
        assert subject.tags == ["a", "b"]


# -- the ends of its life ----------------------------------------------------------------------------------------


def test_after_its_turn_a_subject_is_of_no_use() -> None:
    """Everything says so, but for its name."""
    for subject in (ticket(level=1), device(level=1)):
        ext = subject.ext
        subject._end()
        uses = [
            lambda subject=subject: subject.level,
            lambda subject=subject: setattr(subject, "level", 2),
            lambda subject=subject: subject.get("level"),
            lambda subject=subject: subject.has("level"),
            lambda subject=subject: subject.delete("level"),
            lambda subject=subject: len(subject),
            lambda subject=subject: subject.dict(),
            lambda subject=subject: subject.flush(),
            lambda subject=subject: subject.set_ext("a", 1),
            lambda subject=subject: asyncio.run(subject.store()),
            lambda subject=subject: asyncio.run(subject.load()),
            lambda ext=ext: ext["a"],
        ]
        for use in uses:
            with pytest.raises(
                SubjectStateError, match=r"this subject's turn has ended: read it with 'await bus\.read"
            ):
                use()
        assert subject.name in repr(subject)


def test_a_snapshot_can_only_be_read() -> None:
    """By all means of reading, and by none of writing."""
    subject = Ticket._of(Ticket._state_of(record(level=2), Snapshot))
    assert (subject.level, subject.get("owner"), subject.is_owned) == (2, None, False)
    uses = [
        lambda: setattr(subject, "level", 3),
        lambda: subject.set("level", 3),
        lambda: delattr(subject, "level"),
        lambda: subject.ext.update(a=1),
        subject.flush,
        lambda: asyncio.run(subject.store()),
    ]
    for use in uses:
        with pytest.raises(SubjectStateError, match="ticket:1 is a read-only snapshot"):
            use()


class Memory:
    """A session that keeps one subject."""

    def __init__(self) -> None:
        self.record = record(level=1)

    async def load(self, cls: type[Subject], name: str) -> State:
        return cls._state_of(self.record)

    async def store(self, cls: type[Subject], state: State) -> tuple[State, Sequence[Receipt]]:
        state.collect()
        write = state.write()
        assert write is not None
        state.committed(write, 2)
        self.record = SubjectRecord(name=state.name, properties=dict(state.properties.stored), ext={}, version=2)
        return state, ()


async def change_and_fail(subject: Ticket) -> None:
    async with subject:
        subject.level = 5
        subject.level = 1 // 0


async def test_outside_a_turn_a_subject_is_loaded_changed_and_stored() -> None:
    """By `async with`; an error inside stores nothing."""
    session = Memory()
    async with Ticket._detached("ticket:1", session) as subject:
        subject.level += 1
    assert session.record.properties["level"] == b"2"
    subject = Ticket._detached("ticket:1", session)
    with pytest.raises(ZeroDivisionError):
        await change_and_fail(subject)
    assert session.record.properties["level"] == b"2"
    await subject.load()
    assert subject.level == 2


async def test_before_it_is_loaded_a_subject_says_how_to() -> None:
    """Its name is known, and nothing else."""
    subject = Ticket._detached("ticket:1", Memory())
    assert repr(subject) == "Ticket('ticket:1')"
    with pytest.raises(SubjectStateError, match=r"ticket:1 is not loaded: use 'async with', or await load\(\) first"):
        _ = subject.level
    with pytest.raises(SubjectStateError, match="not loaded"):
        await subject.store()


async def test_inside_a_turn_load_and_store_do_nothing() -> None:
    """The turn's own commit stores the subject."""
    subject = ticket(level=1)
    subject.level = 2
    assert await subject.store() == ()
    assert (await subject.load()).level == 2


def test_its_repr_shows_what_it_holds() -> None:
    """Class, name, and properties, shortened."""
    assert repr(device(a=1, b="x" * 100)) == f"Subject('device:7', a=1, b='{'x' * 59})"
    assert repr(ABSENT) == "ABSENT"
