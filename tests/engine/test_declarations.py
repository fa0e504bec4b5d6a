"""Declaring a subject class: what annotations mean, what is refused, and the JSON Schema that comes of it."""

from __future__ import annotations

import enum
import sys
from datetime import datetime
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

import pytest
from pydantic import BaseModel, Field, computed_field, field_validator

from onwhen.engine.migrations import migrate
from onwhen.engine.subjects import Subject
from onwhen.errors import (
    PropertyValueError,
    SubjectDefinitionError,
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
    level: Annotated[int, Field(ge=0, le=5)] = 0
    address: Address | None = None
    opened: datetime

    @property
    def is_new(self) -> bool:
        """Whether nobody has looked at it."""
        return self.status is Status.NEW


# -- declaring a class -------------------------------------------------------------------------------------------


def test_annotations_may_name_what_is_local_to_a_function() -> None:
    """Strings too, which `from __future__ import annotations` makes of all of them."""

    class Local(BaseModel):
        n: int

    Kind = Literal["a", "b"]

    class Thing(Subject):
        local: Local
        kind: Kind = "a"
        maybe: list[Local] | None = None

    subject = Thing._of(Thing._state_of(record()))
    subject.local = {"n": 1}  # type: ignore[assignment]
    assert subject.local == Local(n=1)
    with pytest.raises(PropertyValueError):
        subject.kind = "c"  # type: ignore[assignment]


def test_a_property_may_have_the_name_of_its_type() -> None:
    """`date: date | None = None` refers to the type, not to the default."""
    source = (
        "from __future__ import annotations\nfrom datetime import date\nfrom onwhen.engine.subjects import Subject\n"
    )
    module = ModuleType("a_module_of_rules")
    sys.modules[module.__name__] = module
    try:
        exec(source + "class Day(Subject):\n    date: date | None = None\n    copy: int = 0\n", module.__dict__)
    finally:
        del sys.modules[module.__name__]
    subject = module.Day._of(module.Day._state_of(record()))
    subject.date = "2024-02-29"
    assert subject.date.year == 2024


def test_names_that_pydantic_models_use_are_free() -> None:
    """A subject is no model."""

    class Thing(Subject):
        schema: str = ""
        copy: int
        json: list[int] = []
        model_config: str = "x"
        model_fields: int = 0

    subject = Thing._of(Thing._state_of(record(copy=2)))
    assert subject.dict() == {"schema": "", "copy": 2, "json": [], "model_config": "x", "model_fields": 0}
    assert list(Thing.json_schema()["properties"]) == ["schema", "copy", "json", "model_config", "model_fields"]


def test_properties_are_inherited() -> None:
    """From subject classes and from annotated mixins; declared anew they change in their place."""

    class Audited:
        changed_by: str | None = None

    class Base(Subject, version=2):
        level: int = 0
        tags: list[str] = []

    class Urgent(Audited, Base, prefix="urgent:"):
        level: int = 5
        deadline: float = 1.0

    assert Urgent._codec.declared == ("level", "tags", "changed_by", "deadline")
    subject = Urgent._of(Urgent._state_of(record()))
    assert (subject.level, subject.tags, subject.changed_by, subject.deadline) == (5, [], None, 1.0)
    assert Base._of(Base._state_of(record())).level == 0
    assert (Urgent._version, Base._prefix, Urgent._prefix) == (2, "", "urgent:")


def test_two_subject_classes_can_be_combined() -> None:
    """As Python combines classes: the first one wins."""

    class Named(Subject):
        title: str = "?"
        level: int = 1

    class Rated(Subject):
        stars: int = 0
        level: int = 2

    class Book(Named, Rated):
        pass

    subject = Book._of(Book._state_of(record()))
    subject.stars = 3
    assert (subject.title, subject.level, subject.stars) == ("?", 1, 3)


def test_constants_are_no_properties() -> None:
    """ClassVar and Final, as strings too."""
    assert "LIMIT" not in Ticket._codec.declared
    assert "FIRST" not in Ticket._codec.declared
    assert Ticket.LIMIT == 3


TOOLS = {  # what the bodies below use
    "cached_property": cached_property,
    "computed_field": computed_field,
    "field_validator": field_validator,
    "migrate": migrate,
}


def declare(body: str) -> type[Subject]:
    """Declare a class `Thing` with this body."""
    names = {**globals(), **TOOLS}
    exec(f"class Thing(Ticket):\n    {body}\n", names)
    thing: type[Subject] = names["Thing"]
    return thing


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("get: int = 0", r"Thing\.get: the name is reserved, every subject has it; choose another"),
        ("name: str", r"Thing\.name: the name is reserved"),
        ("_level: int = 0", r"Thing\._level: a property's name cannot start with '_'"),
        ("count = 0", r"Thing\.count: write 'count: int = \.\.\.' for a property, 'count: ClassVar' for a constant"),
        ("level = 3", r"Thing\.level: it would hide the property of that name; annotate it to declare it anew"),
        ("def level(self): ...", r"Thing\.level: it would hide the property"),
        ("x: Missing", r"Thing\.x: name 'Missing' is not defined; import it at run time too"),
        ("x: NotThereAtRunTime", r"Thing\.x: name 'NotThereAtRunTime' is not defined"),
        ("x: 'list['", r"Thing\.x: "),
        ("x: int = 'many'", r"Thing\.x: default: Thing\.x = 'many' is refused: Input should be a valid integer"),
        ("x: float = float('nan')", r"Thing\.x: .* finite number"),
        ("x: Undescribed", r"Thing: Unable to generate pydantic-core schema"),
        ("x: int = Field(0, alias='y')", r"Thing\.x: Field\(alias"),
        ("x: int = Field(0, frozen=True)", r"Thing\.x: Field\(alias=\.\.\., frozen"),
        ("x: int = Field(default_factory=lambda data: 1)", r"Thing\.x: a default_factory is called without arguments"),
        ("late = cached_property(lambda self: 1)", r"Thing\.late: a cached_property would not follow the state"),
        ("check = field_validator('level')(lambda cls, v: v)", r"Thing\.check: pydantic's decorators are for models"),
        ("late = computed_field(property(lambda self: 1))", r"Thing\.late: pydantic's .* a plain @property"),
        ("step = migrate(1)(lambda properties: None)", r"Thing\.step: there is no step from 1 to version 1"),
    ],
)
def test_a_class_that_could_not_work_is_refused(body: str, problem: str) -> None:
    """Where it is declared, with class and attribute in the message, and what to write instead."""
    with pytest.raises(SubjectDefinitionError, match=problem):
        declare(body)


@pytest.mark.parametrize("body", ["def late(self): ...", "Kind = Literal['a']", "Both = int | str", "_cache = 5"])
def test_methods_types_and_private_names_need_no_annotation(body: str) -> None:
    """They are no state, and do not look like it."""
    assert declare(body)._codec.declared == Ticket._codec.declared


@pytest.mark.parametrize("version", [0, -1, "2", 1.5, True])
def test_a_version_is_a_positive_int(version: Any) -> None:
    """Nothing else counts up."""
    with pytest.raises(SubjectDefinitionError, match="must be an int of at least 1"):
        type("Thing", (Subject,), {}, version=version)


# -- JSON Schema -------------------------------------------------------------------------------------------------


def test_the_json_schema_tells_everything_declared() -> None:
    """Types, constraints, defaults, nested models; computed properties are read-only."""
    schema = Ticket.json_schema()
    assert schema["title"] == "Ticket"
    assert schema["description"] == "A request for help."
    assert list(schema["properties"]) == [
        "status", "level", "address", "opened", "is_new",
    ]  # fmt: skip
    assert schema["properties"]["level"] == {
        "default": 0, "maximum": 5, "minimum": 0, "title": "Level", "type": "integer",
    }  # fmt: skip
    assert schema["properties"]["is_new"] == {
        "description": "Whether nobody has looked at it.", "readOnly": True, "title": "Is New", "type": "boolean",
    }  # fmt: skip
    assert schema["$defs"].keys() == {"Status", "Address"}
    assert "opened" in schema["required"]


def test_a_dynamic_subject_allows_anything() -> None:
    """So does its schema."""
    assert Subject.json_schema() == {"type": "object", "additionalProperties": True}


def test_a_type_without_schema_says_so() -> None:
    """Its class and reason are named."""

    class Odd(Subject):
        level: int = 0

        @property
        def thing(self) -> Undescribed:
            return Undescribed()

    with pytest.raises(SubjectDefinitionError, match=r"Odd has no JSON Schema: .*Undescribed"):
        Odd.json_schema()


class Undescribed:
    """Nothing that pydantic knows."""
