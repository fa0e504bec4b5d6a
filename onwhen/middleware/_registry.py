"""The middleware that comes with the engine, by name: what settings choose from, and what is made of their choice.

Belongs here: names, where each class is, and how what settings say becomes one of it. It must not know what any of
them does: what an option may be is the constructor's to judge.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from fnmatch import fnmatchcase
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter, ValidationError

from onwhen.engine.chain import Middleware
from onwhen.errors import RuleDefinitionError, SettingError

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["KINDS", "Chosen", "Kind", "check_only", "chosen_from", "switch_on"]

_VARIABLE: Final = "ONWHEN_MIDDLEWARE"
_ONLY: Final = "only"
_DURATION: Final = re.compile(r"P[0-9.TDHMSW]+")
_OBJECT: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_HOW: Final = (
    "give names, as logging,metrics, or a JSON list of names and of objects with one name and its options, as "
    '["logging", {"rate_limit": {"rate": 100, "per": 1}}]'
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One middleware that there is.

    Attributes:
        name: how settings call it, and the module that it is in.
        cls: name of its class.
        library: what it needs that not everybody has installed, as it is imported; empty if it needs nothing.
        objects: options that are functions, classes or other things of Python; settings name those as
            `module:attribute`.
    """

    name: str
    cls: str
    library: str = ""
    objects: tuple[str, ...] = ("key",)

    @property
    def module(self) -> str:
        """The module of its class."""
        return f"onwhen.middleware.{self.name}"

    def load(self) -> type[Any]:
        """Return its class.

        Raises:
            SettingError: what it needs is not installed.
        """
        try:
            found = getattr(import_module(self.module), self.cls)
        except ModuleNotFoundError as error:
            if not self.library or (error.name or "").partition(".")[0] != self.library:
                raise
            raise _refusal(
                f"{self.name} needs {self.library}, which is not installed: pip install 'onwhen[{self.name}]'"
            ) from error
        assert isinstance(found, type)
        return found


KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind(name="logging", cls="Logging"),
        Kind(name="tracing", cls="Tracing", library="opentelemetry", objects=("tracer_provider", "propagator")),
        Kind(name="metrics", cls="Metrics", library="prometheus_client", objects=("registry",)),
        Kind(name="debug", cls="Debug"),
        Kind(name="error_events", cls="ErrorEvents"),
        Kind(name="partitioning", cls="Partitioning", objects=("forward",)),
        Kind(name="deduplication", cls="Deduplication"),
        Kind(name="debounce", cls="Debounce"),
        Kind(name="throttle", cls="Throttle"),
        Kind(name="single_flight", cls="SingleFlight"),
        Kind(name="fallback", cls="Fallback", objects=("alternatives", "on")),
        Kind(name="retry", cls="Retry", objects=("retry_on", "wait")),
        Kind(name="circuit_breaker", cls="CircuitBreaker", objects=("key", "counts")),
        Kind(name="rate_limit", cls="RateLimit"),
        Kind(name="bulkhead", cls="Bulkhead"),
        Kind(name="timeout", cls="Timeout"),
    )
}
"""All there are, outermost first, where an order makes sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """One middleware as settings choose it.

    Attributes:
        name: which one; a key of `KINDS`.
        options: what its constructor is given, as it was said.
        only: ids of the rules that it is wrapped around, or globs of such; empty for all.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def make(self) -> Middleware:
        """Return the middleware.

        Raises:
            SettingError: it takes no such options, or what it needs is not installed.
        """
        kind = KINDS[self.name]
        cls = kind.load()
        known = inspect.signature(cls).parameters
        options = {option: self._value(kind, option, value) for option, value in self.options.items()}
        if unknown := [option for option in options if option not in known]:
            raise _refusal(
                f"{self.name} has no option {' or '.join(map(repr, unknown))}; it has {', '.join((*known, _ONLY))}"
            )
        if missing := [option for option, one in known.items() if _is_needed(one) and option not in options]:
            raise _refusal(f"{self.name} needs {' and '.join(missing)}: it has {', '.join((*known, _ONLY))}")
        several = next((name for name, one in known.items() if one.kind is one.VAR_POSITIONAL), None)
        given = options.pop(several, ()) if several is not None else ()
        try:
            made: Middleware = cls(*(given if isinstance(given, tuple) else (given,)), **options)
        except (TypeError, ValueError) as error:
            raise _refusal(f"{self.name}: {str(error).removeprefix(f'{kind.cls}: ')}") from error
        return made

    def _value(self, kind: Kind, option: str, value: Any) -> Any:
        """Return what JSON stands for: tuples for lists, durations in ISO 8601, things of Python by their names."""
        if isinstance(value, list):
            return tuple(self._value(kind, option, one) for one in value)
        if not isinstance(value, str):
            return value
        if option in kind.objects and _OBJECT.fullmatch(value):
            return _named(value, f"{self.name}: {option}={value!r}")
        return _duration(value) if _DURATION.fullmatch(value) else value


def chosen_from(given: Any) -> tuple[Chosen, ...]:
    """Return what a setting says: names with commas, or JSON, as text or as it is read from there.

    Args:
        given: the text, or a list of names and of objects with one name and its options.

    Raises:
        ValueError: there is no such middleware, or the form is another one.
    """
    if isinstance(given, str):
        given = _read(given)
    if not isinstance(given, list | tuple):
        raise ValueError(f"{_HOW}; not {given!r:.100}")
    return tuple(_one(entry) for entry in given)


def switch_on(bus: EventBus, chosen: Iterable[Chosen]) -> None:
    """Wrap what settings choose around the rules or the events of a bus, inside of what the bus uses already.

    What the bus uses already of a kind is left as it is, and no other one of that kind is added: code goes before
    settings.

    Raises:
        SettingError: one cannot be made, or cannot be wrapped around single rules.
    """
    used = {
        (type(one).__module__, type(one).__qualname__)
        for scope in ("event", "rule")
        for one in bus.rulebook.around(scope)
    }
    wanted = [one for one in chosen if (KINDS[one.name].module, KINDS[one.name].cls) not in used]
    for one, made in [(one, one.make()) for one in wanted]:
        try:
            bus.use(made, only=one.only or None)
        except RuleDefinitionError as error:
            raise _refusal(f"{one.name}: {error}") from error


def check_only(chosen: Iterable[Chosen], rules: Sequence[str]) -> None:
    """Refuse what is to be wrapped around rules that are not there.

    Args:
        chosen: what settings choose.
        rules: ids of all rules that there will be.

    Raises:
        SettingError: no rule fits; the message says which ones there are.
    """
    for one in chosen:
        for pattern in one.only:
            if not any(fnmatchcase(rule, pattern) for rule in rules):
                there = ", ".join(rules[:10]) + (", ..." if len(rules) > 10 else "")
                raise _refusal(f"{one.name}: {_ONLY} {pattern!r} fits no rule; there are {there or 'none'}")


# -- reading it ----------------------------------------------------------------------------------------------------


def _read(text: str) -> Any:
    if not text.lstrip().startswith(("[", "{", '"')):
        return [name for name in map(str.strip, text.split(",")) if name]
    try:
        return json.loads(text, parse_constant=_not_a_number, object_pairs_hook=_each_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON: {error}; {_HOW}") from None


def _not_a_number(name: str) -> Any:
    raise ValueError(f"{name} is not a number that JSON has")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"an object names something twice: {', '.join(name for name, _ in pairs)}")
    return found


def _one(entry: Any) -> Chosen:
    if isinstance(entry, Chosen):
        return entry
    name: Any = entry
    options: Any = {}
    if isinstance(entry, Mapping) and len(entry) == 1:
        [(name, options)] = entry.items()
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise ValueError(f"{_HOW}; not {entry!r:.100} in it")
    if name not in KINDS:
        raise ValueError(f"there is no middleware {name!r:.100}; there are {', '.join(KINDS)}")
    options = dict(options)
    is_for_all = _ONLY not in options
    only = options.pop(_ONLY, ())
    if isinstance(only, str):
        only = (only,)
    is_list = isinstance(only, list | tuple) and all(isinstance(pattern, str) and pattern for pattern in only)
    if not is_list or not (only or is_for_all):
        wanted = '["tickets.escalate", "billing.*"]'
        raise ValueError(f"{name}: {_ONLY} takes ids of rules, or globs of such, as {wanted}; not {only!r:.100}")
    return Chosen(name=name, options=options, only=tuple(only))


def _duration(text: str) -> timedelta | str:
    """Return a duration; a text that only looks like one stays a text, for the constructor to refuse."""
    try:
        return TypeAdapter(timedelta).validate_python(text)
    except ValidationError:
        return text


def _is_needed(option: inspect.Parameter) -> bool:
    return option.default is option.empty and option.kind is not option.VAR_POSITIONAL


def _named(name: str, where: str) -> Any:
    path, _, attribute = name.partition(":")
    try:
        found: Any = import_module(path)
        for step in attribute.split("."):
            found = getattr(found, step)
    except (ImportError, AttributeError) as error:
        raise _refusal(f"{where} names nothing: {error}") from error
    return found


def _refusal(message: str) -> SettingError:
    return SettingError(f"{_VARIABLE}: {message}", settings=(_VARIABLE,))
