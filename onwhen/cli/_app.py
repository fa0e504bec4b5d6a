"""Finding the APP of a command: `module:attribute`, or a module with rule sets.

Belongs here: names and what they stand for. It must not know what is done with the bus that comes out.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

from onwhen.engine.bus import EventBus
from onwhen.engine.clock import Clock
from onwhen.engine.rules import RuleSet
from onwhen.engine.store import Store
from onwhen.errors import AppNotFound
from onwhen.middleware._registry import check_only, switch_on
from onwhen.storage.memory import create_memory_storage

__all__ = ["App", "NamedApp", "find_app", "make_bus", "named_app"]

App: TypeAlias = EventBus | tuple[RuleSet, ...]

_HOW = "give a module and an attribute, such as shop.rules:orders, or a module that holds rule sets"


class NamedApp(NamedTuple):
    """An APP as it was typed, and what that names."""

    name: str
    app: App


def named_app(name: str) -> NamedApp:
    """Return APP with its name; see `find_app`. Not to be called on an event loop, which would put off Ctrl-C."""
    return NamedApp(name, find_app(name))


def find_app(name: str) -> App:
    """Return the bus or the rule sets that APP names; the current directory is importable.

    Args:
        name: `module:attribute`, where the attribute (dots allowed) is a rule set, a list or tuple of them, a bus or
            a container; or a module, which stands for its one bus or container, or else for all its rule sets.

    Raises:
        AppNotFound: there is no such thing; the message says what is there instead. If importing the module raised,
            that is the cause.
    """
    path, colon, attribute = name.partition(":")
    if not all(part.isidentifier() for part in path.split(".")) or (colon and not attribute):
        raise AppNotFound(f"{name!r} names no module; {_advice(path)}")
    module = _import(path)
    app = _of_object(_attribute(module, attribute), name) if colon else _of_module(module)
    rules = app.rulebook.rules() if isinstance(app, EventBus) else (rule for rules in app for rule in rules)
    if next(iter(rules), None) is None:
        raise AppNotFound(f"{name} has no rules; include its rule sets where it is made, or name them instead")
    return app


def make_bus(app: App, clock: Clock | None = None, store: Store | None = None) -> EventBus:
    """Return a bus of its own for an app: the same rules over another store.

    What `ONWHEN_MIDDLEWARE` names is wrapped around them; a bus keeps what it uses itself, and is given what it does
    not use yet.

    Args:
        app: what `find_app` returned.
        clock: where its time comes from; None for the machine's.
        store: what it is over; None for an empty one in memory.

    Raises:
        OnwhenError: the settings in the environment, or the rule sets together, cannot be used.
    """
    from onwhen.container import Container

    settings = Container().settings()
    store = store or create_memory_storage(dedup_window=settings.dedup_window)
    if isinstance(app, EventBus):
        bus = app.twin(store=store, clock=clock)
    else:
        bus = EventBus(*app, store=store, clock=clock, limits=settings.limits(), source=settings.source)
    check_only(settings.middleware, [rule.id for rule in bus.rulebook.rules()])
    switch_on(bus, settings.middleware)
    return bus


def _advice(path: str) -> str:
    if path.endswith(".py") or os.sep in path:
        dotted = path.removesuffix(".py").strip("./").replace(os.sep, ".")
        return f"this is a file; for the module in it, seen from the current directory, write {dotted}"
    return _HOW


def _import(path: str) -> ModuleType:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != path and not path.startswith(f"{missing}."):
            raise AppNotFound(f"importing {path} failed: {error}") from _from_the_module(error)
        raise AppNotFound(f"there is no module {missing!r} in {here} or on the Python path; {_advice(path)}") from None
    except (Exception, SystemExit) as error:
        raise AppNotFound(f"importing {path} failed: {type(error).__name__}: {error}") from _from_the_module(error)


def _from_the_module(error: BaseException) -> BaseException:
    """Return an error with the traceback that its author needs: without us, and without the import system."""
    traceback = error.__traceback__
    while traceback is not None and _is_importing(traceback.tb_frame.f_globals.get("__name__", "")):
        traceback = traceback.tb_next
    return error.with_traceback(traceback)


def _is_importing(module: str) -> bool:
    return module == __name__ or module.partition(".")[0] in ("importlib", "_frozen_importlib")


def _attribute(module: ModuleType, attribute: str) -> Any:
    found: Any = module
    for step in attribute.split("."):
        try:
            found = getattr(found, step)
        except AttributeError:
            raise AppNotFound(f"{module.__name__} has no attribute {attribute!r}; {_there_is(module)}") from None
    return found


def _of_object(found: Any, name: str) -> App:
    bus = _bus_of(found)
    if bus is not None:
        return bus
    if isinstance(found, RuleSet):
        return (found,)
    if isinstance(found, ModuleType):
        return _of_module(found)
    if isinstance(found, list | tuple) and found and all(isinstance(one, RuleSet) for one in found):
        return tuple(found)
    if isinstance(found, type) and hasattr(found, "event_bus"):
        raise AppNotFound(f"{name} is a class of containers; make one in the module, and name that")
    raise AppNotFound(
        f"{name} is {_described(found)}; needed is a rule set, a list of rule sets, an EventBus or a container"
    )


def _described(found: Any) -> str:
    if isinstance(found, list | tuple):
        odd = next((one for one in found if not isinstance(one, RuleSet)), None)
        return f"an empty {type(found).__name__}" if not found else f"a {type(found).__name__} with {odd!r:.60} in it"
    if isinstance(found, type):
        return f"the class {found.__qualname__}"
    return f"of type {type(found).__qualname__}"


def _of_module(module: ModuleType) -> App:
    buses: dict[int, tuple[str, EventBus]] = {}
    for name, value in _public(module):
        bus = _bus_of(value)
        if bus is not None:
            buses.setdefault(id(bus), (name, bus))  # a container and its bus are one
    if len(buses) > 1:
        names = " or ".join(f"{module.__name__}:{name}" for name, _ in buses.values())
        raise AppNotFound(f"{module.__name__} holds {len(buses)} buses; say which one: {names}")
    for _, bus in buses.values():
        return bus
    sets = tuple({id(value): value for _, value in _public(module) if isinstance(value, RuleSet)}.values())
    if not sets:
        raise AppNotFound(f"{module.__name__} holds no rule set, bus or container; {_HOW}")
    return sets


def _bus_of(value: Any) -> EventBus | None:
    if isinstance(value, EventBus):
        return value
    library = sys.modules.get("dependency_injector.containers")  # nobody has a container without it
    if library is None or not isinstance(value, library.Container) or not hasattr(value, "event_bus"):
        return None
    bus = value.event_bus()
    return bus if isinstance(bus, EventBus) else None


def _public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    return ((name, value) for name, value in vars(module).items() if not name.startswith("__"))


def _there_is(module: ModuleType) -> str:
    names = [n for n, v in _public(module) if isinstance(v, RuleSet) or _bus_of(v) is not None]
    return f"it holds {', '.join(names)}" if names else "nor does it hold a rule set, a bus or a container"
