"""From a subject class, as its author wrote it, to the codec of its properties.

Belongs here: how annotations are read, and what a class may not declare. It must not know how values are kept.
"""

from __future__ import annotations

import functools
import inspect
import re
import types
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeAlias, get_origin, get_type_hints

from onwhen.engine.fields import DynamicCodec, Field, TypedCodec
from onwhen.errors import PropertyValueError, SubjectDefinitionError

if TYPE_CHECKING:
    from pydantic import BaseModel, ConfigDict, TypeAdapter
    from pydantic.fields import FieldInfo

__all__ = ["Declarations", "codec_of", "declarations_of", "inherited_by"]

Declarations: TypeAlias = dict[str, tuple[Any, Any]]
"""Property -> its annotation, resolved, and its default or pydantic `Field`; `...` if it has none."""

_CONSTANT: Final = re.compile(r"\s*(\w+\.)*(ClassVar|Final)\b")
_PREFIX: Final = "property_"  # keeps the names clear of what a pydantic model has itself


def inherited_by(cls: type, reserved: frozenset[str]) -> Declarations:
    """Return the properties that a class inherits, from subject classes and from annotated mixins alike."""
    found: Declarations = {}
    for base in reversed(cls.__mro__[1:]):
        found |= vars(base)["_declared"] if "_declared" in vars(base) else declarations_of(base, {}, reserved)
    return found


def declarations_of(cls: type, namespace: Mapping[str, Any], reserved: frozenset[str]) -> Declarations:
    """Return the properties that a class itself declares.

    Args:
        cls: the class.
        namespace: names that annotations may use beside those of the module (the locals of a function).
        reserved: names that no property can have.

    Raises:
        SubjectDefinitionError: an annotation cannot be resolved, or a name is reserved.
    """
    found: Declarations = {}
    for name, annotation in inspect.get_annotations(cls).items():
        if isinstance(annotation, str) and _CONSTANT.match(annotation):
            continue
        hint = _resolved(cls, name, annotation, namespace)
        if hint in (ClassVar, Final) or get_origin(hint) in (ClassVar, Final):
            continue
        if name in reserved:
            raise _wrong(cls, name, "the name is reserved, every subject has it; choose another")
        if name.startswith("_"):
            raise _wrong(cls, name, "a property's name cannot start with '_'; annotate a constant as ClassVar")
        found[name] = (hint, vars(cls).get(name, ...))
    return found


def codec_of(cls: type, inherited: Declarations, own: Declarations, reserved: frozenset[str]) -> Any:
    """Return the codec of a class with these properties: a `TypedCodec`, or without any a `DynamicCodec`.

    Raises:
        SubjectDefinitionError: something in the class would not work as it looks, pydantic cannot handle a type,
            or a default is refused.
    """
    _check_rest(cls, inherited, own)
    declarations = inherited | own
    computed = _computed_of(cls, declarations.keys() | reserved)
    if not declarations:
        return DynamicCodec(cls.__qualname__, computed)
    from pydantic import ConfigDict
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    config = ConfigDict(allow_inf_nan=False, ser_json_bytes="base64", val_json_bytes="base64")
    try:
        model = _model_of(cls, declarations, computed, config)
        infos = {name: model.model_fields[_PREFIX + name] for name in declarations}
        fields = {name: _field_of(cls, name, info, config) for name, info in infos.items()}
    except (PydanticUserError, PydanticUndefinedAnnotation) as error:
        raise SubjectDefinitionError(f"{cls.__qualname__}: {error}") from error
    codec = TypedCodec(cls.__qualname__, fields, computed, model)
    for name, info in infos.items():
        if not info.is_required() and info.default_factory is None:
            _set_default(cls, codec, name, info.default)
    return codec


def _model_of(
    cls: type, declarations: Declarations, computed: Mapping[str, Any], config: ConfigDict
) -> type[BaseModel]:
    import pydantic

    fields: dict[str, Any] = {_PREFIX + name: declaration for name, declaration in declarations.items()}
    properties: Any = {
        _PREFIX + name: pydantic.computed_field(alias=name, return_type=hint)(getattr(cls, name))
        for name, hint in computed.items()
    }
    model: type[BaseModel] = pydantic.create_model(
        cls.__name__,
        __config__={**config, "alias_generator": lambda name: name.removeprefix(_PREFIX), "defer_build": True},
        __doc__=cls.__doc__,
        __module__=cls.__module__,
        __validators__=properties,
        **fields,
    )
    return model


def _field_of(cls: type, name: str, info: FieldInfo, config: ConfigDict) -> Field:
    import pydantic

    if info.frozen or info.exclude or info.alias_priority == 2:  # 2: an alias of its own
        raise _wrong(cls, name, "Field(alias=..., frozen=..., exclude=...) is for models; leave it out")
    if info.default_factory is not None and info.default_factory_takes_validated_data:
        raise _wrong(cls, name, "a default_factory is called without arguments; set the property in a rule instead")
    constraints: list[Any] = list(info.metadata)
    if info.discriminator is not None:
        constraints.append(pydantic.Field(discriminator=info.discriminator))
    annotation: Any = Annotated[info.annotation, *constraints] if constraints else info.annotation
    try:
        adapter: TypeAdapter[Any] = pydantic.TypeAdapter(annotation, config=config)
    except pydantic.errors.PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        adapter = pydantic.TypeAdapter(annotation)  # a model has a config of its own
    factory: Any = info.default_factory
    return Field(adapter, factory)


def _set_default(cls: type, codec: TypedCodec, name: str, default: Any) -> None:
    try:
        value, text = codec.accept("default", name, default)
    except PropertyValueError as error:
        raise SubjectDefinitionError(f"{cls.__qualname__}.{name}: {error}") from None
    codec.fields[name].default = codec.encode("default", name, value) if text is None else text


def _resolved(cls: type, name: str, annotation: Any, namespace: Mapping[str, Any]) -> Any:
    holder = type(cls.__name__, (), {"__annotations__": {name: annotation}, "__module__": cls.__module__})
    annotated = inspect.get_annotations(cls)
    inside = {key: value for key, value in vars(cls).items() if key not in annotated}
    try:
        return get_type_hints(holder, localns={**namespace, **inside}, include_extras=True)[name]
    except NameError as error:
        raise _wrong(cls, name, f"{error}; import it at run time too, pydantic needs the type itself") from error
    except (SyntaxError, TypeError, AttributeError) as error:
        raise _wrong(cls, name, f"the annotation {annotation!r} cannot be used: {error}") from error


def _computed_of(cls: type, taken: Set[str]) -> dict[str, Any]:
    """Return the computed properties of a class, with the types of their values as far as they can be told."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if isinstance(value, property) and name not in taken and not name.startswith("_"):
                try:
                    found[name] = get_type_hints(value.fget, include_extras=True).get("return", Any)
                except NameError:
                    found[name] = Any
    return found


def _check_rest(cls: type, inherited: Declarations, own: Declarations) -> None:
    """Refuse what looks like a property and would not be one."""
    annotated = inspect.get_annotations(cls)
    for name, value in vars(cls).items():
        if name in own or name.startswith("__"):
            continue
        if isinstance(value, functools.cached_property):
            raise _wrong(cls, name, "a cached_property would not follow the state; use @property")
        if hasattr(value, "decorator_info"):
            raise _wrong(
                cls,
                name,
                "pydantic's decorators are for models; use a plain @property, or constrain the annotation: "
                "Annotated[int, AfterValidator(function)]",
            )
        if name in inherited:
            raise _wrong(cls, name, "it would hide the property of that name; annotate it to declare it anew")
        is_constant = name in annotated or name.startswith("_") or isinstance(value, types.UnionType)
        if not (is_constant or callable(value) or hasattr(value, "__get__")):
            kind = type(value).__name__
            raise _wrong(cls, name, f"write '{name}: {kind} = ...' for a property, '{name}: ClassVar' for a constant")


def _wrong(cls: type, name: str, problem: str) -> SubjectDefinitionError:
    return SubjectDefinitionError(f"{cls.__qualname__}.{name}: {problem}")
