"""How values of properties are validated, become JSON text and come back."""

import enum
import math
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PrivateAttr,
    SecretStr,
    StringConstraints,
    computed_field,
)

from onwhen.engine.bag import ABSENT
from onwhen.engine.fields import DYNAMIC, TypedCodec
from onwhen.engine.subjects import Subject
from onwhen.errors import PropertyError, PropertyTypeError, PropertyValueError, UnknownProperty


class Colour(enum.Enum):
    RED = "red"
    GREEN = 2


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(BaseModel):
    x: float
    y: float = 0.0
    names: set[str] = set()


class Point3(Point):
    z: float = 0.0


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    good: bool = True


@dataclass
class Span:
    start: int
    end: int
    notes: list[str] = field(default_factory=list)


Pet = Annotated[Cat | Dog, Field(discriminator="kind")]


def codec_for(annotation: Any) -> TypedCodec:
    """The codec of a class with one property `x` of this type."""
    cls = type("Thing", (Subject,), {"__annotations__": {"x": annotation}, "__module__": __name__})
    codec = cls._codec
    assert isinstance(codec, TypedCodec)
    return codec


def brought_back(annotation: Any, value: Any) -> Any:
    """The value, as it is read after it was stored."""
    codec = codec_for(annotation)
    kept, _ = codec.accept("thing:1", "x", value)
    read = codec.decode("thing:1", "x", codec.encode("thing:1", "x", kept))
    assert repr(read) == repr(kept) or isinstance(read, (set, frozenset, Point))
    assert read == kept or value != value
    return read


# -- what comes back is what was written -------------------------------------------------------------------------

moments = st.datetimes() | st.datetimes(timezones=st.just(UTC) | st.just(timezone(timedelta(hours=5, minutes=30))))
typed_values: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "int": (int, st.integers()),
    "float": (float, st.floats(allow_nan=False, allow_infinity=False)),
    "bool or None": (bool | None, st.none() | st.booleans()),
    "str": (str, st.text()),
    "int or str": (int | str, st.integers() | st.text()),
    "bool, int or float": (
        bool | int | float,
        st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    ),
    "bytes": (bytes, st.binary()),
    "Decimal": (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    "datetime": (datetime, moments),
    "date": (date, st.dates()),
    "time": (time, st.times()),
    "timedelta": (timedelta, st.timedeltas(timedelta(days=-99999), timedelta(days=99999))),
    "UUID": (UUID, st.uuids()),
    "Enum": (Colour, st.sampled_from(Colour)),
    "IntEnum": (Level, st.sampled_from(Level)),
    "Literal": (Literal["a", 1, None], st.sampled_from(["a", 1, None])),
    "list": (list[Decimal | None], st.lists(st.none() | st.decimals(allow_nan=False, allow_infinity=False))),
    "tuple": (tuple[int, str], st.tuples(st.integers(), st.text())),
    "set": (set[int], st.sets(st.integers())),
    "frozenset": (frozenset[date], st.frozensets(st.dates())),
    "dict by int": (dict[int, list[bytes]], st.dictionaries(st.integers(), st.lists(st.binary()))),
    "dict by date": (dict[date, UUID], st.dictionaries(st.dates(), st.uuids())),
    "model": (Point, st.builds(Point, x=st.floats(-1e9, 1e9), names=st.sets(st.text()))),
    "discriminated union": (Pet, st.builds(Cat, lives=st.integers()) | st.builds(Dog, good=st.booleans())),
    "list of unions": (list[Pet], st.lists(st.builds(Cat, lives=st.integers()) | st.builds(Dog))),
    "dataclass": (Span, st.builds(Span, start=st.integers(), end=st.integers(), notes=st.lists(st.text()))),
}


@pytest.mark.parametrize("name", typed_values)
def test_json_brings_every_declared_value_back(name: str) -> None:
    """For every valid value v of a declared type: what is read after storing v equals v, and is of its type."""
    annotation, strategy = typed_values[name]
    codec = codec_for(annotation)

    @given(strategy)
    def holds(value: Any) -> None:
        kept, text = codec.accept("thing:1", "x", value)
        assert kept == value
        assert type(kept) is type(value)
        stored = codec.encode("thing:1", "x", kept)
        assert text is None or text == stored or codec.same("thing:1", "x", text, stored)
        read = codec.decode("thing:1", "x", stored)
        assert read == value
        assert type(read) is type(value)
        if isinstance(value, (float, Decimal)):
            assert str(read) == str(value)

    holds()


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_a_free_value_comes_back_or_is_refused(value: Any) -> None:
    """For every value v of a dynamic property: v reads back with the same types, or is refused when it is set."""
    try:
        kept, _ = DYNAMIC.accept("thing:1", "x", value)
    except PropertyValueError as error:
        assert "nan" in str(error) or "inf" in str(error) or "digits" in str(error)  # noqa: PT017
    else:
        assert repr(kept) == repr(value)
        assert repr(DYNAMIC.decode("thing:1", "x", DYNAMIC.encode("thing:1", "x", kept))) == repr(value)


@pytest.mark.parametrize("number", [2**63, -(2**64), 10**4000], ids=["2**63", "-2**64", "10**4000"])
def test_big_integers_are_exact(number: int) -> None:
    """Python's own range, up to what it is willing to parse."""
    assert brought_back(int, number) == number
    assert DYNAMIC.accept("thing:1", "x", number) == (number, None)


def test_a_time_zone_comes_back_as_its_offset() -> None:
    """JSON keeps the moment and the wall clock, also in the hour that is repeated when summer ends."""
    berlin = ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        moment = datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=fold)
        kept = brought_back(datetime, moment)
        assert kept.isoformat() == moment.isoformat()
        assert brought_back(list[datetime], [moment])[0].isoformat() == moment.isoformat()


def test_a_value_is_copied_when_it_is_set() -> None:
    """The caller's own list or model is not the subject's."""
    mine = Point(x=1)
    kept, _ = codec_for(Point).accept("thing:1", "x", mine)
    assert kept == mine
    assert kept is not mine
    nested: list[Any] = [[1]]
    copied, _ = DYNAMIC.accept("thing:1", "x", nested)
    nested[0].append(2)
    assert copied == [[1]]


@pytest.mark.parametrize(
    ("annotation", "value", "kept"),
    [
        (Sequence[int], (1, 2), [1, 2]),
        (Any, (1, [2]), [1, [2]]),
        (Any, OrderedDict(a=1), {"a": 1}),
        (deque[int], [1, 2], deque([1, 2])),
        (int, "5", 5),
        (float, 1, 1.0),
        (Level, 1, Level.LOW),
        (str, Colour.RED.value, "red"),
    ],
)
def test_values_are_kept_as_the_declaration_makes_them(annotation: Any, value: Any, kept: Any) -> None:
    """What is read in the same rule is what everybody reads later."""
    read = brought_back(annotation, value)
    assert read == kept
    assert type(read) is type(kept)


class WithExcluded(BaseModel):
    password: str = Field("", exclude=True)


class Undecided:
    """A type of the user's own, without __eq__, that pydantic can handle."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        make = core_schema.no_info_plain_validator_function(
            lambda value: value if isinstance(value, cls) else cls(value)
        )
        return core_schema.json_or_python_schema(
            make, make, serialization=core_schema.plain_serializer_function_ser_schema(lambda value: value.text)
        )


def test_a_type_that_cannot_be_compared_is_taken_at_its_word() -> None:
    """Two objects without __eq__ are never equal, which says nothing about them."""
    kept, _ = codec_for(Undecided).accept("thing:1", "x", Undecided("a"))
    assert kept.text == "a"


@pytest.mark.parametrize(
    ("annotation", "value", "problem"),
    [
        (Point, Point3(x=1, z=2), "read back as Point("),
        (list[Point], [Point3(x=1)], "read back as"),
        (WithExcluded, WithExcluded(password="x"), "read back as"),
        (SecretStr, SecretStr("x"), "read back as SecretStr"),
        (Any, {1, 2}, "read back as [1, 2]"),
        (Any, Decimal("1.5"), "read back as '1.5'"),
        (Any, {1: "a"}, "read back as {'1': 'a'}"),
        (Decimal | str, "1.5", "read back as Decimal('1.5')"),
        (Annotated[int, AfterValidator(lambda n: n + 1)], 1, "read back as 3"),
        (Annotated[date, PlainSerializer(lambda day: day.year)], date(2024, 2, 1), "stored as 2024"),
    ],
)
def test_what_json_would_not_bring_back_is_refused(annotation: Any, value: Any, problem: str) -> None:
    """A loss is an error when the value is set, not a surprise after a restart."""
    with pytest.raises(PropertyValueError) as caught:
        codec_for(annotation).accept("thing:1", "x", value)
    assert problem in str(caught.value)


class WithComputed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: int
    _cache: int = PrivateAttr(0)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


class WithExtra(BaseModel):
    model_config = ConfigDict(extra="allow")


class WithAlias(BaseModel):
    inner: int = Field(alias="Inner")


@pytest.mark.parametrize("value", [WithComputed(side=3), WithExtra(a=[1]), WithAlias(Inner=1)])
def test_models_with_settings_of_their_own_come_back(value: BaseModel) -> None:
    """Computed fields, extra ones, aliases."""
    assert brought_back(type(value), value) == value


def test_private_attributes_of_a_model_are_not_state() -> None:
    """They are caches and the like, and never were part of its JSON."""
    value = WithComputed(side=3)
    value._cache = 5
    assert brought_back(WithComputed, value)._cache == 0


# -- NaN and infinities ------------------------------------------------------------------------------------------


class Loose(BaseModel):
    number: float | None = None
    amount: Annotated[Decimal, Field(allow_inf_nan=True)] = Decimal(0)
    more: dict[str, list[float]] = {}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("annotation", "make"),
    [
        (float, lambda number: number),
        (float | None, lambda number: number),
        (Any, lambda number: {"a": [number]}),
        (list[float], lambda number: [1.0, number]),
        (dict[str, dict[str, float]], lambda number: {"a": {"b": number}}),
        (dict[float, int], lambda number: {number: 1}),
        (set[float], lambda number: {number}),
        (Decimal, lambda number: Decimal(str(number))),
        (Loose, lambda number: Loose(number=number)),
        (Loose, lambda number: Loose(more={"a": [number]})),
        (Loose | None, lambda number: Loose.model_construct(number=number)),
        (list[Loose], lambda number: [Loose(number=number)]),
        (Span, lambda number: Span(number, 1)),
        (float | str, lambda number: number),
    ],
)
def test_nan_and_infinities_are_refused_everywhere(annotation: Any, make: Any, number: float) -> None:
    """JSON has none of them: refused when set, however deep, whatever a nested model allows."""
    with pytest.raises(PropertyValueError, match=r"thing:1: Thing\.x = "):
        codec_for(annotation).accept("thing:1", "x", make(number))


def test_nan_in_a_decimal_of_a_model_is_refused() -> None:
    """It would be text in JSON, and still equals nothing, not even itself."""
    with pytest.raises(PropertyValueError):
        codec_for(Loose).accept("thing:1", "x", Loose(amount=Decimal("NaN")))


@pytest.mark.parametrize("value", [math.nan, [math.inf], {"a": {"b": -math.inf}}])
def test_dynamic_properties_refuse_them_too(value: Any) -> None:
    """The error names the place."""
    with pytest.raises(PropertyValueError, match=r"thing:1: x.*JSON has no"):
        DYNAMIC.accept("thing:1", "x", value)


# -- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [b"x", {1, 2}, object(), Decimal(1), datetime(2024, 1, 1, tzinfo=UTC), Point(x=1)])
def test_a_dynamic_property_takes_json_only(value: Any) -> None:
    """Anything else is a TypeError that says what to do."""
    with pytest.raises(PropertyTypeError, match=r"thing:1: x\.a\[0\]: .*declare a typed subject") as caught:
        DYNAMIC.accept("thing:1", "x", {"a": [value]})
    assert isinstance(caught.value, TypeError)
    assert (caught.value.subject, caught.value.property) == ("thing:1", "x")


@pytest.mark.parametrize("name", ["", "a\nb", "\ud800", "x" * 256, 5, None, ("a",), ["a"]])
def test_a_name_must_be_printable_text(name: Any) -> None:
    """What cannot be shown in a log or typed in a console is no name."""
    with pytest.raises(PropertyTypeError, match="must be a printable str of 1 to 255 characters"):
        DYNAMIC.accept("thing:1", name, 1)


@pytest.mark.parametrize("value", ["\ud800", 10**5000, ["\udfff"]], ids=["str", "int", "list"])
def test_what_no_json_reader_would_take_is_refused(value: Any) -> None:
    """Half a surrogate pair, a number of 5,000 digits: when it is set, not when it is stored."""
    for codec in (DYNAMIC, codec_for(Any), codec_for(int | str | list[str])):
        with pytest.raises(PropertyValueError):
            codec.accept("thing:1", "x", value)


def test_a_refused_value_is_shown_with_the_reason() -> None:
    """Subject, property, value, the place in it, and what pydantic says."""
    with pytest.raises(PropertyValueError) as caught:
        codec_for(list[Point]).accept("thing:1", "x", [{"x": 1}, {"x": "far"}])
    assert str(caught.value) == (
        "thing:1: Thing.x = [{'x': 1}, {'x': 'far'}] is refused: "
        "[1]['x'] Input should be a valid number, unable to parse string as a number"
    )
    assert isinstance(caught.value, ValueError)


def test_a_long_value_is_cut_in_the_error() -> None:
    """An error must fit into a log line."""
    with pytest.raises(PropertyValueError) as caught:
        codec_for(int).accept("thing:1", "x", "y" * 10_000)
    assert len(str(caught.value)) < 400


def test_stored_text_that_does_not_fit_says_what_to_do() -> None:
    """The declaration has changed; a migration step is missing."""
    with pytest.raises(PropertyValueError, match=r'Thing.x cannot be read from "many": .*add a step with @migrate'):
        codec_for(int).decode("thing:1", "x", b'"many"')


def test_stored_text_is_read_as_declared_now() -> None:
    """What pydantic converts without loss needs no migration."""
    assert codec_for(str | None).decode("thing:1", "x", b"null") is None
    number = codec_for(float).decode("thing:1", "x", b"1")
    assert (number, type(number)) == (1.0, float)


def test_an_unknown_name_offers_the_nearest() -> None:
    """Or, if none is near, all of them."""
    codec = codec_for(int)
    with pytest.raises(UnknownProperty, match=r"thing:1: Thing has no property 'far away'; it declares x"):
        codec.accept("thing:1", "far away", 1)

    class Ticket(Subject):
        owner: str | None = None
        status: str = "new"

    with pytest.raises(UnknownProperty, match="Ticket has no property 'onwer'; did you mean 'owner'") as caught:
        Ticket._codec.accept("ticket:1", "onwer", 1)
    assert isinstance(caught.value, AttributeError)
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, PropertyError)


# -- constraints and defaults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("annotation", "good", "bad"),
    [
        (Annotated[int, Field(ge=1, le=5)], 5, 6),
        (Annotated[str, StringConstraints(pattern="^[a-z]+$")], "abc", "ABC"),
        (Annotated[list[int], Field(max_length=2)], [1, 2], [1, 2, 3]),
        (Annotated[int, Field(strict=True)], 5, "5"),
        (list[Annotated[str, Field(min_length=1)]], ["a"], [""]),
        (Literal["new", "open"], "open", "closed"),
        (Colour, "red", "blue"),
        (Pet, {"kind": "dog"}, {"kind": "cow"}),
        (tuple[int, str], (1, "a"), (1, "a", 2)),
    ],
)
def test_constraints_hold_on_every_write(annotation: Any, good: Any, bad: Any) -> None:
    """However they are declared."""
    codec = codec_for(annotation)
    codec.accept("thing:1", "x", good)
    with pytest.raises(PropertyValueError):
        codec.accept("thing:1", "x", bad)


def test_constraints_may_stand_in_a_field_too() -> None:
    """`x: int = Field(...)` is the same as Annotated."""

    class Thing(Subject):
        x: int = Field(3, gt=2, description="how many")
        pet: Cat | Dog = Field(default=Cat(), discriminator="kind")

    assert Thing._codec.default("thing:1", "x") == 3
    assert Thing._codec.default("thing:1", "pet") == Cat()
    with pytest.raises(PropertyValueError, match="greater than 2"):
        Thing._codec.accept("thing:1", "x", 2)
    with pytest.raises(PropertyValueError, match="cow"):
        Thing._codec.accept("thing:1", "pet", {"kind": "cow"})


def test_each_subject_gets_a_default_of_its_own() -> None:
    """Changing one in place must not reach another."""

    class Thing(Subject):
        tags: list[str] = ["a"]
        point: Point = Point(x=1)

    for name in ("tags", "point"):
        one, other = Thing._codec.default("thing:1", name), Thing._codec.default("thing:2", name)
        assert one == other
        assert one is not other


def test_a_default_is_made_what_the_declaration_says() -> None:
    """As any other value that is set."""

    class Thing(Subject):
        rate: float = 1
        price: Decimal = "1.50"  # type: ignore[assignment]
        colour: Colour = "red"  # type: ignore[assignment]

    defaults = [Thing._codec.default("thing:1", name) for name in ("rate", "price", "colour")]
    assert repr(defaults) == repr([1.0, Decimal("1.50"), Colour.RED])


def test_no_default_means_absent() -> None:
    """There is nothing to read until it is set."""
    assert codec_for(int).default("thing:1", "x") is ABSENT


def test_what_a_factory_makes_is_checked() -> None:
    """The error names the property."""

    class Thing(Subject):
        x: int = Field(default_factory=lambda: "many")  # type: ignore[assignment]

    with pytest.raises(PropertyValueError, match=r"thing:1: .*Thing\.x = 'many' is refused"):
        Thing._codec.default("thing:1", "x")
