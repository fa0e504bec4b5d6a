"""How stored properties of an older schema version become what a subject class declares today.

Belongs here: the steps of a class and how they are applied. It must not know of subjects at work, or of stores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from onwhen.engine import values
from onwhen.engine.state import State
from onwhen.engine.store import SubjectRecord
from onwhen.errors import MigrationError, PropertyError, SubjectDefinitionError

__all__ = ["migrate", "steps_of", "upgrade"]

_F = TypeVar("_F", bound=Callable[..., Any])
_MARK = "__onwhen_migrates__"


def migrate(from_version: int) -> Callable[[_F], _F]:
    """Mark a function in a subject class as the step from one schema version to the next.

    Args:
        from_version: version of the state that the function is given; it returns version `from_version + 1`.

    The function takes the stored properties as a dict of JSON values; it returns the new ones, or changes the
    dict in place and returns None.
    """

    def mark(function: _F) -> _F:
        setattr(function, _MARK, from_version)
        return function

    return mark


def steps_of(cls: type, version: int) -> dict[int, Any]:
    """Return the steps that a class itself declares, by the version from which they lead.

    Args:
        cls: the class.
        version: schema version that it declares.

    Raises:
        SubjectDefinitionError: a step leads nowhere, is there twice, or is async.
    """
    steps: dict[int, Any] = {}
    for name, value in vars(cls).items():
        step = getattr(cls, name, None)  # what a staticmethod or classmethod holds; either may carry the mark
        start = getattr(value, _MARK, getattr(step, _MARK, None))
        if start is None:
            continue
        if type(start) is not int or not 1 <= start < version:
            problem = f"there is no step from {start!r} to version {version}, which the class declares"
        elif start in steps:
            problem = f"there is another step from version {start} already"
        elif inspect.iscoroutinefunction(step):
            problem = "a step cannot be async: it only sees the properties that it is given"
        else:
            steps[start] = step
            continue
        raise SubjectDefinitionError(f"{cls.__qualname__}.{name}: {problem}")
    return steps


def upgrade(state: State, record: SubjectRecord, steps: Mapping[int, Any], owner: str, version: int) -> None:
    """Bring a loaded state to the version that its class declares; the next commit writes the difference.

    Args:
        state: the subject, loaded from `record`.
        record: the subject as it is stored, by another version.
        steps: what leads from version to version.
        owner: the class, for error messages.
        version: the version that it declares.

    Raises:
        MigrationError: a step is missing, fails, or makes what the class does not declare.
    """

    def failure(problem: str) -> MigrationError:
        message = f"{record.name}: {problem} ({owner} declares version {version})"
        return MigrationError(message, subject=record.name, stored=record.schema, declared=version)

    if record.schema > version:
        raise failure(f"its state has version {record.schema}, written by newer code; deploy that code")
    properties: Any = {name: values.decode(text) for name, text in record.properties.items()}
    for start in range(record.schema, version):
        step = steps.get(start)
        if step is None:
            raise failure(f"no step leads from version {start} to {start + 1}; add one with @migrate({start})")
        try:
            result = step(properties)
            properties = properties if result is None else result
            values.check(properties, "the result")
        except Exception as error:
            raise failure(f"the step from version {start} failed: {error!r}") from error
        if not isinstance(properties, dict):
            raise failure(f"the step from version {start} returned {properties!r:.80}, not a dict of properties")
    try:
        state.properties.upgrade({name: values.encode(value) for name, value in properties.items()})
    except PropertyError as error:
        raise failure(f"the steps from version {record.schema} made what is not valid: {error}") from error
