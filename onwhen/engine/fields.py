"""The two codecs of property values: declared fields, validated by pydantic, and free JSON values.

Belongs here: how a declared type validates, becomes JSON text and comes back. It must not know of changes,
events or stores. pydantic is imported when the first typed subject is declared, because it takes a while.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, get_origin

from onwhen.engine import values
from onwhen.engine.state import ABSENT
from onwhen.errors import (
    PropertyTypeError,
    PropertyValueError,
    SubjectDefinitionError,
    UnknownProperty,
)

if TYPE_CHECKING:
    from pydantic import BaseModel, TypeAdapter
    from pydantic.fields import FieldInfo

__all__ = ["DYNAMIC", "DynamicCodec", "Field", "TypedCodec"]

_MAX_NAME: Final = 255
_FROZEN: Final = (values.FrozenDict, values.FrozenList)
_PLAIN_SCHEMAS: Final = frozenset({"int", "str", "bool", "none", "float", "literal", "nullable", "default", "union"})


class DynamicCodec:
    """Any name, any JSON value; for properties of dynamic subjects and for all extended properties."""

    def validate(self, subject: str, name: str, value: Any) -> Any:
        """Return `value` if it is JSON; the error names where in it the fault lies."""
        kind = type(value)
        if kind not in values.ATOMS or (kind is float and not math.isfinite(value)):
            self._check(subject, name, value)
        if type(name) is not str or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise PropertyTypeError(
                f"{subject}: property name {name!r:.80} must be a printable str of 1 to {_MAX_NAME} characters",
                subject=subject,
                property=str(name),
            )
        return values.thaw(value) if kind in _FROZEN else value

    def encode(self, subject: str, name: str, value: Any) -> bytes:
        """Return the JSON text of a value, checked once more because it may have been changed in place."""
        if type(value) not in values.ATOMS:
            self._check(subject, name, value)
        return values.encode(value)

    def decode(self, subject: str, name: str, text: bytes) -> Any:
        """Return the value of a JSON text."""
        return values.decode(text)

    def default(self, subject: str, name: str) -> Any:
        """Return ABSENT: a free property has no default."""
        return ABSENT

    def declared(self) -> tuple[str, ...]:
        """Return nothing: a free property has no declaration."""
        return ()

    @staticmethod
    def _check(subject: str, name: str, value: Any) -> None:
        try:
            values.check(value, f"{subject}: {name}")
        except TypeError as error:
            message = f"{error}; declare a typed subject (class ...(Subject, prefix=...)) to keep other types"
            raise PropertyTypeError(message, subject=subject, property=name) from None
        except ValueError as error:
            raise PropertyValueError(str(error), subject=subject, property=name) from None


DYNAMIC: Final = DynamicCodec()


class Field:
    """One declared property: its pydantic adapter, its default, and whether its JSON form is the value itself."""

    __slots__ = ("_adapter", "_default", "_factory", "name", "plain")

    def __init__(self, name: str, info: FieldInfo) -> None:
        import pydantic

        self.name = name
        self._factory = info.default_factory
        self._default = ABSENT if info.is_required() or self._factory else info.default
        constraints: list[Any] = list(info.metadata)
        if info.discriminator is not None:
            constraints.append(pydantic.Field(discriminator=info.discriminator))
        annotation: Any = Annotated[info.annotation, *constraints] if constraints else info.annotation
        try:
            config = pydantic.ConfigDict(allow_inf_nan=False)
            self._adapter: TypeAdapter[Any] = pydantic.TypeAdapter(annotation, config=config)
        except pydantic.errors.PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
            self._adapter = pydantic.TypeAdapter(annotation)  # a model has a config of its own
        self.plain = _is_plain(self._adapter.core_schema)

    @property
    def has_factory(self) -> bool:
        """Whether the default is made anew for each subject, so that it has to be kept once the subject is."""
        return self._factory is not None

    def default(self) -> Any:
        """Return a default of its own for one subject, or ABSENT."""
        if self._factory is not None:
            return self._adapter.validate_python(self._factory())  # type: ignore[call-arg]
        if self._default is ABSENT or type(self._default) in values.ATOMS:
            return self._default
        return self._adapter.validate_json(self._adapter.dump_json(self._default))

    def validate(self, value: Any) -> Any:
        """Return the value as declared, or raise `pydantic.ValidationError`."""
        return self._adapter.validator.validate_python(value)

    def to_json(self, value: Any) -> Any:
        """Return the JSON form of a value, as plain Python values."""
        return self._adapter.serializer.to_python(value, mode="json", by_alias=True, warnings=False)

    def from_json(self, text: bytes) -> Any:
        """Return the value of a JSON text, or raise `pydantic.ValidationError`."""
        return self._adapter.validator.validate_json(text)


class TypedCodec:
    """The declared properties of one subject class.

    Args:
        owner: the class, for error messages.
        model: a pydantic model with the same fields; the source of the declarations and of the JSON Schema.
    """

    def __init__(self, owner: str, model: type[BaseModel]) -> None:
        self.owner = owner
        self.model = model
        self.fields = {name: Field(name, info) for name, info in model.model_fields.items()}
        self._names = tuple(self.fields)
        self.factories = tuple(name for name, field in self.fields.items() if field.has_factory)

    def declared(self) -> tuple[str, ...]:
        """Return the declared names, in order of declaration, inherited ones first."""
        return self._names

    def validate(self, subject: str, name: str, value: Any) -> Any:
        """Return the value as the declaration makes it, or say why it is refused."""
        field = self._field(subject, name)
        if type(value) in _FROZEN:
            value = values.thaw(value)
        try:
            return field.validate(value)
        except ValueError as error:  # pydantic.ValidationError is one
            raise self._refused(subject, name, value, error) from None

    def encode(self, subject: str, name: str, value: Any) -> bytes:
        """Return the JSON text of a value."""
        field = self._field(subject, name)
        if field.plain and type(value) in values.ATOMS:
            return values.encode(value)
        from pydantic_core import PydanticSerializationError

        try:
            plain = field.to_json(value)
            values.check(plain, f"{subject}: {name}")
        except (TypeError, ValueError, PydanticSerializationError) as error:
            raise self._refused(subject, name, value, error) from None
        return values.encode(plain)

    def decode(self, subject: str, name: str, text: bytes) -> Any:
        """Return the value of a JSON text that was stored."""
        field = self.fields.get(name)
        if field is None or field.plain:
            return values.decode(text)
        try:
            return field.from_json(text)
        except ValueError as error:
            raise self._refused(subject, name, values.decode(text), error) from None

    def default(self, subject: str, name: str) -> Any:
        """Return the declared default, or ABSENT for a property that has none."""
        return self._field(subject, name).default()

    def _field(self, subject: str, name: str) -> Field:
        try:
            return self.fields[name]
        except KeyError:
            raise self.unknown(subject, name) from None

    def unknown(self, subject: str, name: str) -> UnknownProperty:
        """Return the error for a name that is not declared; it offers the nearest that is."""
        near = get_close_matches(str(name), self._names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it declares {', '.join(self._names) or 'none'}"
        return UnknownProperty(
            f"{subject}: {self.owner} has no property {name!r}; {hint}", subject=subject, property=str(name)
        )

    def _refused(self, subject: str, name: str, value: Any, error: Exception) -> PropertyValueError:
        where = "; ".join(_problems(error))
        return PropertyValueError(
            f"{subject}: {self.owner}.{name} = {value!r:.200} is refused: {where}",
            subject=subject,
            property=name,
        )


def build_codec(cls: type, base: TypedCodec | None, namespace: Mapping[str, Any]) -> TypedCodec:
    """Make the codec of a subject class from its annotations.

    Args:
        cls: the class being declared.
        base: codec of the class it extends, if that is typed too.
        namespace: names that annotations may use beside those of the module (the locals of a function).

    Raises:
        SubjectDefinitionError: an annotation cannot be resolved, or pydantic has no validator for it.
    """
    import pydantic

    body: dict[str, Any] = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    annotations = {name: hint for name, hint in inspect.get_annotations(cls).items() if not _is_class_var(hint)}
    body |= {name: cls.__dict__[name] for name in annotations if name in cls.__dict__}
    body["__annotations__"] = annotations
    for name, value in cls.__dict__.items():
        if isinstance(value, property) and "return" in inspect.get_annotations(value.fget or cls):
            body[name] = pydantic.computed_field(value)
    config = pydantic.ConfigDict(allow_inf_nan=False, validate_default=True, protected_namespaces=())
    bases: tuple[type, ...] = (base.model if base else pydantic.BaseModel,)
    try:
        metaclass: Any = type(pydantic.BaseModel)
        model = metaclass(cls.__name__, bases, body | {"model_config": config})
        model.model_rebuild(_types_namespace=dict(namespace))
        codec = TypedCodec(cls.__name__, model)
        for name, field in codec.fields.items():
            _check_default(cls, name, field)
    except (pydantic.errors.PydanticUserError, pydantic.errors.PydanticUndefinedAnnotation, NameError) as error:
        raise SubjectDefinitionError(f"{cls.__qualname__}: {error}") from error
    return codec


def _problems(error: Exception) -> Iterator[str]:
    """Yield what pydantic, or a serializer, has to say: where in the value, and what is wrong with it."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        for problem in error.errors(include_url=False):
            where = "".join(f"[{part!r}]" for part in problem["loc"])
            yield f"{where} {problem['msg']}" if where else problem["msg"]
    else:
        yield str(error)


def _check_default(cls: type, name: str, field: Field) -> None:
    if field.has_factory:
        return
    try:
        default = field.default()
        if default is not ABSENT:
            field.validate(default)
    except ValueError as error:
        raise SubjectDefinitionError(f"{cls.__qualname__}.{name}: the default is refused: {error}") from None


def _is_class_var(hint: Any) -> bool:
    return get_origin(hint) is ClassVar or (isinstance(hint, str) and "ClassVar" in hint)


def _is_plain(schema: Mapping[str, Any]) -> bool:
    """Tell whether a validated value and its JSON form are the same int, str, bool, float or None."""
    kind = schema["type"]
    if kind not in _PLAIN_SCHEMAS or "serialization" in schema:
        return False
    if kind == "literal":
        return all(type(value) in values.ATOMS for value in schema["expected"])
    if kind == "union":
        return all(_is_plain(choice[0] if isinstance(choice, tuple) else choice) for choice in schema["choices"])
    return _is_plain(schema["schema"]) if kind in ("nullable", "default") else True
