"""Subjects as rules see them: named entities with properties, dynamic or declared.

Belongs here: the class that users extend and work with. It must not know of rules, turns or stores: values
live in a `State`, and what has to go to a store goes through the `Session` that an unattached subject was
given.
"""

from __future__ import annotations

import asyncio
import builtins
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, Protocol, Self, cast

from onwhen.engine import values
from onwhen.engine._declarations import Declarations, codec_of, declarations_of, inherited_by
from onwhen.engine.bag import ABSENT
from onwhen.engine.fields import DYNAMIC, DynamicCodec, TypedCodec, computed_cannot_be_set
from onwhen.engine.migrations import steps_of, upgrade
from onwhen.engine.state import State
from onwhen.engine.store import SubjectRecord
from onwhen.errors import (
    PropertyError,
    StoreConflict,
    StoreError,
    SubjectDefinitionError,
    SubjectStateError,
    UnknownProperty,
)

if TYPE_CHECKING:
    from onwhen.engine.outcomes import Receipt

__all__ = ["ExtendedProperties", "Session", "Subject"]


class Session(Protocol):
    """Where a subject outside a turn comes from and goes to."""

    async def load(self, cls: type[Subject], name: str) -> State:
        """Return the subject's state as it is stored now, ready to note what is asked of it."""
        ...

    async def store(self, cls: type[Subject], state: State) -> tuple[State, Sequence[Receipt]]:
        """Commit what was asked of a state; return it as it is then, and receipts of the events that it sent."""
        ...


class _Property:
    """One declared property as an attribute; found on the class, so that reading it costs one lookup."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, subject: Subject | None, owner: type) -> Any:
        if subject is None:
            return self
        bag = subject._state.properties
        value = bag.live.get(self.name, ABSENT)
        if value is ABSENT and (value := bag.read(self.name)) is ABSENT:
            message = f"{subject.name}: {self.name} has no value yet and declares no default; set it first, or use get"
            raise UnknownProperty(message, subject=subject.name, property=self.name)
        return value


class Subject:
    """A named entity with state.

    Without declared properties it is dynamic: any property, any JSON value. A subclass declares properties as
    annotated fields, which pydantic validates on every write:

        class Ticket(Subject, prefix="ticket:", version=2):
            status: Literal["new", "open", "closed"] = "new"
            tags: list[str] = []

    A value is copied when it is set. A list, dict or model that is read can be changed in place, and the change
    counts. A method with `@property` is a computed property: read like any other, never set or stored.

    Class arguments:
        prefix: subjects whose name starts with it are of this class.
        version: schema version of the properties, from 1 up; by default that of the class it extends. See `migrate`.

    Inside a rule the state is loaded, and nothing awaits. Outside, use `async with container.subject(name)`,
    or `load` and `store`.
    """

    __slots__ = ("_session", "_state", "name")

    _prefix: ClassVar[str] = ""
    _version: ClassVar[int] = 1
    _codec: ClassVar[TypedCodec | DynamicCodec] = DYNAMIC
    _declared: ClassVar[Declarations] = {}
    _taken: ClassVar[frozenset[str]]
    _steps: ClassVar[Mapping[int, Callable[..., Any]]] = {}

    name: str
    _state: State
    _session: Session | None

    def __init_subclass__(cls, *, prefix: str = "", version: int | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if not isinstance(prefix, str):
            raise SubjectDefinitionError(f"{cls.__qualname__}: prefix={prefix!r} must be a str, such as 'ticket:'")
        if version is not None and (type(version) is not int or version < 1):
            raise SubjectDefinitionError(f"{cls.__qualname__}: version={version!r} must be an int of at least 1")
        inherited = inherited_by(cls, _RESERVED)
        own = declarations_of(cls, _namespace_of_caller(), _RESERVED)
        cls._codec = codec_of(cls, inherited, own, _RESERVED)
        cls._declared = own
        cls._prefix = prefix
        cls._version = version or cls._version
        cls._steps = {**cls._steps, **steps_of(cls, cls._version)}
        for name in cls._codec.declared:
            setattr(cls, name, _Property(name))
        cls._taken = frozenset(name for name in dir(cls) if not name.startswith("_")) - set(cls._codec.declared)

    # -- how the engine makes them

    @classmethod
    def _of(cls, state: State) -> Self:
        """Return a subject around a state that is loaded."""
        subject = object.__new__(cls)
        _set_name(subject, state.name)
        _set_state(subject, state)
        return subject

    @classmethod
    def _detached(cls, name: str, session: Session) -> Self:
        """Return a subject that is not loaded yet."""
        subject = object.__new__(cls)
        _set_name(subject, name)
        _set_state(subject, cast(State, _Unusable(f"{name} is not loaded: use 'async with', or await load() first")))
        _set_session(subject, session)
        return subject

    @classmethod
    def _state_of(cls, record: SubjectRecord, kind: type[State] = State) -> State:
        """Return the state of a stored subject, brought to this class's schema version."""
        schema = cls._schema_of(record)
        state = kind(record.name, cls._codec, DYNAMIC, record, schema)
        if record.version is not None and record.schema != schema:
            upgrade(state, record, cls._steps, cls.__qualname__, schema)
        return state

    @classmethod
    def _schema_of(cls, record: SubjectRecord) -> int:
        """Return the schema version that a stored subject is to have; a class without properties takes any."""
        return record.schema if cls is Subject and record.version is not None else cls._version

    def _end(self) -> None:
        """Cut the subject off, because its turn has ended."""
        _set_state(self, _ENDED)

    # -- properties

    def get(self, name: str, default: Any = None) -> Any:
        """Return a property, a computed one too, or `default` if it has no value.

        Raises:
            UnknownProperty: the subject is typed and does not declare it.
        """
        if name in self._codec.computed:
            return getattr(self, name)
        value = self._state.properties.read(name)
        return default if value is ABSENT else value

    def set(
        self, name: str, value: Any, *, muted: bool = False, extra: Mapping[str, Any] | None = None
    ) -> tuple[Any, Any]:
        """Set a property.

        Args:
            name: which one.
            value: the new value, or a function that is given the current one (None if there is none).
            muted: emit no property-changed event.
            extra: anything that reacting rules should see as `ctx.extra`.

        Returns:
            The new and the old value; equal if nothing changed.

        Raises:
            PropertyTypeError, PropertyValueError: the value is refused; the message says why.
            UnknownProperty: the subject is typed and does not declare it.
        """
        new, old = self._state.set(name, value, muted, extra)
        return new, None if old is ABSENT else old

    def delete(self, name: str, *, muted: bool = False, extra: Mapping[str, Any] | None = None) -> Any:
        """Delete a property and return its value; a declared one has its default again. Without a value, nothing."""
        old = self._state.delete(name, muted, extra)
        return None if old is ABSENT else old

    def has(self, name: str) -> bool:
        """Tell whether the property has a value, be it a default; `in`, `keys` and `dict` go by the same."""
        try:
            return self._state.properties.read(name) is not ABSENT
        except UnknownProperty:
            return False

    def keys(self) -> list[str]:
        """Return the names of the properties that have a value."""
        return self._state.properties.names()

    def dict(self, mode: Literal["python", "json"] = "python") -> builtins.dict[str, Any]:
        """Return the properties that have a value, as a copy; without the computed ones.

        Args:
            mode: "python" for the values as rules see them, "json" for their JSON form.
        """
        bag = self._state.properties
        if mode == "python":
            return {name: bag.copy(name) for name in bag.names()}
        return {name: values.decode(bag.codec.encode(self.name, name, bag.read(name))) for name in bag.names()}

    @classmethod
    def json_schema(cls) -> builtins.dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of the declared properties, computed ones as read-only.

        Raises:
            SubjectDefinitionError: the type of a property or of a computed one has none.
        """
        if not isinstance(cls._codec, TypedCodec):
            return {"type": "object", "additionalProperties": True}
        from pydantic.errors import PydanticUserError

        try:
            return cls._codec.model.model_json_schema(mode="serialization")
        except PydanticUserError as error:
            raise SubjectDefinitionError(f"{cls.__qualname__} has no JSON Schema: {error}") from error

    # -- extended properties

    @property
    def ext(self) -> ExtendedProperties:
        """The extended properties, as a mapping: stored with the subject, never emitting."""
        return ExtendedProperties(self)

    def get_ext(self, name: str, default: Any = None) -> Any:
        """Return an extended property, or `default` if it has no value."""
        value = self._state.ext.read(name)
        return default if value is ABSENT else value

    def set_ext(self, name: str, value: Any) -> tuple[Any, Any]:
        """Set an extended property to a JSON value, or to what a function makes of the current one.

        Returns:
            The new and the old value (None if there was none).
        """
        new, old = self._state.set_ext(name, value)
        return new, None if old is ABSENT else old

    def delete_ext(self, name: str) -> Any:
        """Delete an extended property and return its value, None if it had none."""
        old = self._state.delete_ext(name)
        return None if old is ABSENT else old

    # -- the whole subject

    def flush(self) -> None:
        """Delete the subject: property-deleted for each property, then subject-deleted; its timers are cancelled."""
        self._state.flush()

    async def load(self) -> Self:
        """Load the state as it is stored now, dropping changes that were not stored. Inside a turn, do nothing."""
        session = self._outside()
        if session is not None:
            _set_state(self, await session.load(type(self), self.name))
        return self

    async def store(self) -> Sequence[Receipt]:
        """Commit what was changed, in one piece, and send its property-changed events as messages.

        If the subject has moved on since it was loaded, functions given to `set` are applied again to its new
        state. Inside a turn this does nothing: the turn's own commit stores the subject.

        Returns:
            The receipts of these messages, handled.

        Raises:
            StoreConflict: a value was changed in place here and by somebody else as well.
            StoreError: the store did not answer. Then, and if this is cancelled, it is not known whether the changes
                are stored; the subject has to be loaded again before it can be used.
        """
        session = self._outside()
        if session is None:
            return ()
        state = self._state
        # If this is cut short, asking again could apply a function twice; so nothing can be asked of it meanwhile.
        _set_state(self, cast(State, _Unusable(_CUT_SHORT.format(self.name))))
        try:
            stored, receipts = await session.store(type(self), state)
        except StoreConflict:
            _set_state(self, state)
            raise
        except (StoreError, asyncio.CancelledError):
            raise
        except BaseException:
            _set_state(self, state)
            raise
        _set_state(self, stored)
        return receipts

    def _outside(self) -> Session | None:
        session: Session | None = getattr(self, "_session", None)
        if session is None:
            self._state.ensure_writable()
        return session

    async def __aenter__(self) -> Self:
        return await self.load()

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            await self.store()

    # -- as Python sees them

    def __getattr__(self, name: str) -> Any:
        if name not in self._taken and not name.startswith("_"):
            value = self._state.properties.read(name)  # an unknown name of a typed subject raises here
            if value is not ABSENT:
                return value
        raise self._no_attribute(name)

    def _no_attribute(self, name: str) -> AttributeError:
        """Return the error for an attribute that could not be read."""
        attribute = inspect.getattr_static(type(self), name, None)
        if attribute is not None:  # it is there, and raised an AttributeError: do it again, to see which one
            try:
                attribute.__get__(self, type(self))
            except AttributeError as error:
                return error
        if name.startswith("_"):
            return AttributeError(f"{type(self).__qualname__!r} object has no attribute {name!r}")
        near = get_close_matches(name, self.keys(), n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"get({name!r}) returns None instead of this error"
        return UnknownProperty(f"{self.name} has no property {name!r}; {hint}", subject=self.name, property=name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._taken or name.startswith("_"):
            raise self._not_settable(name)
        self._state.set(name, value)

    def __delattr__(self, name: str) -> None:
        if name in self._taken or name.startswith("_"):
            raise self._not_settable(name)
        if self._state.delete(name) is ABSENT and name not in self._codec.declared:
            raise self._no_attribute(name)

    def _not_settable(self, name: str) -> PropertyError:
        codec = self._codec
        if name in codec.computed:
            return computed_cannot_be_set(self.name, codec.owner, name)
        if isinstance(codec, TypedCodec) and name not in self._taken:
            return codec.unknown(self.name, name)
        message = f"{self.name}: {type(self).__qualname__}.{name} is not a property, the name is reserved"
        if not isinstance(codec, TypedCodec):
            message += f"; use set({name!r}, ...) for a property of that name"
        return PropertyError(message, subject=self.name, property=name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.has(name)

    def __len__(self) -> int:
        return len(self.keys())

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __repr__(self) -> str:
        state = self._state
        shown = "" if isinstance(state, _Unusable) else "".join(f", {k}={self.get(k)!r:.60}" for k in self.keys())
        return f"{type(self).__name__}({self.name!r}{shown})"


class ExtendedProperties(MutableMapping[str, Any]):
    """The extended properties of one subject."""

    __slots__ = ("_subject",)

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def __getitem__(self, name: str) -> Any:
        value = self._subject._state.ext.read(name)
        if value is ABSENT:
            raise KeyError(name)
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self._subject.set_ext(name, value)

    def __delitem__(self, name: str) -> None:
        if self._subject._state.delete_ext(name) is ABSENT:
            raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._subject._state.ext.written())

    def __len__(self) -> int:
        return len(self._subject._state.ext.written())

    def __repr__(self) -> str:
        return repr(dict(self))


class _Unusable:
    """Stands in for the state of a subject that cannot be used at this moment."""

    def __init__(self, problem: str) -> None:
        self._problem = problem

    def __getattr__(self, _: str) -> Any:
        raise SubjectStateError(self._problem)


_CUT_SHORT: Final = (
    "{0} is being stored, or that was cut short and nobody knows whether it is: await load(), and look before you "
    "change it again"
)
_ENDED: Final = cast(
    State,
    _Unusable("this subject's turn has ended: read it with 'await bus.read(name)', change it by sending an event"),
)
_set_name = Subject.__dict__["name"].__set__
_set_state = Subject.__dict__["_state"].__set__
_set_session = Subject.__dict__["_session"].__set__
_RESERVED: Final = frozenset(name for name in dir(Subject) if not name.startswith("_"))
Subject._taken = _RESERVED


def _namespace_of_caller() -> dict[str, Any]:
    """Return what a class statement can refer to, for annotations that are strings."""
    frame: Any = sys._getframe(1)
    while frame.f_code.co_name == "__init_subclass__":
        frame = frame.f_back
    return {**frame.f_globals, **frame.f_locals}
