"""The two codecs of property values: declared fields, validated by pydantic, and free JSON values.

Belongs here: how a value is validated, becomes JSON text and comes back the same. It must not know of changes,
events or stores. pydantic is imported when the first typed subject is declared, because it takes a while.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, time
from difflib import get_close_matches
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from onwhen.engine import values
from onwhen.engine.bag import ABSENT, is_immutable
from onwhen.errors import PropertyTypeError, PropertyValueError, UnknownProperty

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter

__all__ = ["DYNAMIC", "DynamicCodec", "Field", "TypedCodec", "computed_cannot_be_set"]

_MAX_NAME: Final = 255
_SMALL: Final = 2**63
_PLAIN_SCHEMAS: Final = frozenset({"int", "str", "bool", "none", "float", "literal", "nullable", "default", "union"})
_MAX_DEPTH: Final = values.MAX_DEPTH - 1  # in the event of its change, a value is inside of an object


class DynamicCodec:
    """Any name, any JSON value; for properties of dynamic subjects and for all extended properties.

    Args:
        owner: the subject's class, for error messages.
        computed: names that the class computes, and that can therefore not be set.
    """

    declared: tuple[str, ...] = ()
    factories: tuple[str, ...] = ()

    def __init__(self, owner: str = "Subject", computed: Mapping[str, Any] | None = None) -> None:
        self.owner = owner
        self.computed = computed or {}

    def accept(self, subject: str, name: str, value: Any) -> tuple[Any, bytes | None]:
        """Return a copy of `value` if it is JSON; the error names where in it the fault lies."""
        if type(name) is not str or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            message = f"{subject}: property name {name!r:.80} must be a printable str of 1 to {_MAX_NAME} characters"
            raise PropertyTypeError(message, subject=subject, property=str(name))
        if name in self.computed:
            raise computed_cannot_be_set(subject, self.owner, name)
        if _is_simple(value):
            return value, None
        text = self.encode(subject, name, value)
        return (value, None) if type(value) in values.ATOMS else (values.decode(text), text)

    def encode(self, subject: str, name: str, value: Any) -> bytes:
        """Return the JSON text of a value."""
        if not _is_simple(value):
            try:
                values.check(value, f"{subject}: {name}", _MAX_DEPTH)
            except TypeError as error:
                message = f"{error}; declare a typed subject (class ...(Subject, prefix=...)) to keep other types"
                raise PropertyTypeError(message, subject=subject, property=name) from None
            except ValueError as error:
                raise PropertyValueError(str(error), subject=subject, property=name) from None
        return values.encode(value)

    def decode(self, subject: str, name: str, text: bytes) -> Any:
        """Return the value of a JSON text."""
        return values.decode(text)

    def same(self, subject: str, name: str, text: bytes, other: bytes) -> bool:
        """Return False: one JSON value has one text."""
        return False

    def default(self, subject: str, name: str) -> Any:
        """Return ABSENT: a free property has no default."""
        return ABSENT


DYNAMIC: Final = DynamicCodec()


class Field:
    """One declared property: its pydantic adapter, and what is to be known about its type.

    Args:
        adapter: validates and serializes its values.
        factory: makes its default, if the default is made anew each time.

    Attributes:
        default: JSON text of its default, or None.
        plain: every valid value is an int, str, bool, float or None, and its JSON form is the value itself.
        unordered: there are sets in its values, whose JSON form may have any order.
    """

    __slots__ = ("_serialize", "default", "factory", "from_json", "plain", "unordered", "validate")

    def __init__(self, adapter: TypeAdapter[Any], factory: Callable[[], Any] | None) -> None:
        self.validate: Callable[[Any], Any] = adapter.validator.validate_python
        self.from_json: Callable[[bytes], Any] = adapter.validator.validate_json
        self._serialize = adapter.serializer.to_python
        self.factory = factory
        self.default: bytes | None = None
        self.plain = _is_plain(adapter.core_schema)
        self.unordered = _has_sets(adapter.core_schema)

    def to_json(self, value: Any) -> Any:
        """Return the JSON form of a value, as plain Python values."""
        return self._serialize(value, mode="json", by_alias=True, round_trip=True, warnings=False)


class TypedCodec:
    """The declared properties of one subject class.

    Args:
        owner: the class, for error messages.
        fields: the properties, in order of declaration, inherited ones first.
        computed: names that the class computes.
        model: a pydantic model with the same fields; where the JSON Schema comes from.
    """

    def __init__(
        self, owner: str, fields: Mapping[str, Field], computed: Mapping[str, Any], model: type[BaseModel]
    ) -> None:
        self.owner = owner
        self.model = model
        self.fields = fields
        self.computed = computed
        self.declared = tuple(fields)
        self.factories = tuple(name for name, field in fields.items() if field.factory is not None)

    def accept(self, subject: str, name: str, value: Any) -> tuple[Any, bytes | None]:
        """Return the value as the declaration makes it and as JSON brings it back, or say why it is refused."""
        field = self.fields.get(name)
        if field is None:
            raise self.unknown(subject, name)
        try:
            value = field.validate(value)
        except ValueError as error:  # pydantic.ValidationError is one
            raise self._refused(subject, name, value, error) from None
        if field.plain and _is_simple(value):
            return value, None
        text = self.encode(subject, name, value)
        try:
            copy = field.from_json(text)
        except ValueError as error:
            problem = f"it would be stored as {text.decode():.200}, which cannot be read back: {_told(error)}"
            raise self._refused(subject, name, value, problem) from None
        if not _is_alike(copy, value):
            problem = f"it would be stored as {text.decode():.200}, and read back as {_shown(copy)}"
            raise self._refused(subject, name, value, problem)
        return copy, None if is_immutable(copy) else text

    def encode(self, subject: str, name: str, value: Any) -> bytes:
        """Return the JSON text of a value."""
        field = self.fields.get(name) or self._field(subject, name)
        if field.plain and _is_simple(value):
            return values.encode(value)
        from pydantic_core import PydanticSerializationError

        try:
            plain = field.to_json(value)
            values.check(plain, name, _MAX_DEPTH)
        except (TypeError, ValueError, PydanticSerializationError) as error:
            raise self._refused(subject, name, value, error) from None
        return values.encode(plain)

    def decode(self, subject: str, name: str, text: bytes) -> Any:
        """Return the value of a JSON text that was stored, or was sent along with an event."""
        field = self._field(subject, name)
        try:
            return field.from_json(text)
        except ValueError as error:
            raise PropertyValueError(
                f"{subject}: {self.owner}.{name} cannot be read from {text.decode():.200}: {_told(error)}; if it was "
                f"declared differently once, raise the class's version and add a step with @migrate",
                subject=subject,
                property=name,
            ) from None

    def same(self, subject: str, name: str, text: bytes, other: bytes) -> bool:
        """Tell whether two texts are read as the same value: one is of an older declaration, or sets are in both."""
        value = self.decode(subject, name, other)
        if self.encode(subject, name, value) == text:
            return True
        is_shuffled = self.fields[name].unordered and sorted(text) == sorted(other)
        return is_shuffled and bool(value == self.decode(subject, name, text))

    def default(self, subject: str, name: str) -> Any:
        """Return a default of its own for this subject, or ABSENT for a property that has none."""
        field = self._field(subject, name)
        if field.factory is not None:
            return self.accept(subject, name, field.factory())[0]
        return ABSENT if field.default is None else field.from_json(field.default)

    def unknown(self, subject: str, name: str) -> UnknownProperty:
        """Return the error for a name that is not declared; it offers the nearest that is."""
        if name in self.computed:
            return computed_cannot_be_set(subject, self.owner, name)
        near = get_close_matches(str(name), self.declared, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it declares {', '.join(self.declared)}"
        return UnknownProperty(
            f"{subject}: {self.owner} has no property {name!r}; {hint}", subject=subject, property=str(name)
        )

    def _field(self, subject: str, name: str) -> Field:
        try:
            return self.fields[name]
        except KeyError:
            raise self.unknown(subject, name) from None

    def _refused(self, subject: str, name: str, value: Any, problem: Exception | str) -> PropertyValueError:
        why = problem if isinstance(problem, str) else _told(problem)
        return PropertyValueError(
            f"{subject}: {self.owner}.{name} = {_shown(value)} is refused: {why}", subject=subject, property=name
        )


def computed_cannot_be_set(subject: str, owner: str, name: str) -> UnknownProperty:
    """Return the error for a name that a class computes."""
    message = f"{subject}: {owner}.{name} is computed, it cannot be set; set what it is computed from"
    return UnknownProperty(message, subject=subject, property=name)


def _told(error: Exception) -> str:
    """Return what pydantic, or a serializer, has to say: where in the value, and what is wrong with it."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return str(error)

    def lines() -> Iterator[str]:
        for problem in error.errors(include_url=False):
            where = "".join(f"[{part!r}]" for part in problem["loc"])
            yield f"{where} {problem['msg']}" if where else problem["msg"]

    return "; ".join(lines())


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.200}"
    except Exception as error:  # an integer of too many digits, or a repr of the user's own
        return f"<{type(value).__qualname__}, no repr: {error}>"


def _is_simple(value: Any) -> bool:
    """Tell at a glance that a value is JSON; other JSON values take a closer look."""
    kind = value.__class__
    if kind is int:
        return -_SMALL < value < _SMALL  # type: ignore[no-any-return]
    if kind is str:
        return value.isascii()  # type: ignore[no-any-return]
    return kind is bool or value is None or (kind is float and isfinite(value))


def _is_alike(copy: Any, value: Any) -> bool:
    """Tell whether JSON has brought a value back, but for the kind of its sequences, mappings and time zones."""
    if copy == value:
        return True
    if isinstance(value, (str, bytes)):
        return False
    if isinstance(value, Mapping):
        return (
            isinstance(copy, Mapping)
            and copy.keys() == value.keys()
            and all(_is_alike(copy[key], item) for key, item in value.items())
        )
    if isinstance(value, Sequence):
        return isinstance(copy, Sequence) and len(copy) == len(value) and all(map(_is_alike, copy, value))
    if type(copy) is not type(value):
        return False
    if isinstance(value, (datetime, time)):
        return bool(copy.isoformat() == value.isoformat())  # PEP 495: one in a repeated hour equals no other
    kind: Any = type(value)
    names = getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", None)
    if names is None:
        return bool(kind.__eq__ is object.__eq__)
    extra = getattr(copy, "model_extra", None) == getattr(value, "model_extra", None)
    return extra and all(_is_alike(getattr(copy, name), getattr(value, name)) for name in names)


def _is_plain(schema: Mapping[str, Any]) -> bool:
    kind = schema["type"]
    if kind not in _PLAIN_SCHEMAS or "serialization" in schema:
        return False
    if kind == "literal":
        return all(type(value) in values.ATOMS for value in schema["expected"])
    if kind == "union":
        return all(_is_plain(choice[0] if isinstance(choice, tuple) else choice) for choice in schema["choices"])
    return _is_plain(schema["schema"]) if kind in ("nullable", "default") else True


def _has_sets(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("type") in ("set", "frozenset") or any(map(_has_sets, schema.values()))
    return isinstance(schema, (list, tuple)) and any(map(_has_sets, schema))
