"""Decorators and `emit` bound to one bus, for modules whose rules belong to it alone.

It must not know how a bus works; it registers what it is given.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from onwhen.engine.chain import Scope
from onwhen.engine.rules import RuleSet, when
from onwhen.engine.triggers import Trigger

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["Handlers", "handlers_of"]

_F = TypeVar("_F", bound=Callable[..., Any])


class Handlers(NamedTuple):
    """What a module of rules needs: decorators and `emit`, bound to one bus."""

    on: Callable[..., Callable[[Any], Any]]
    when: Callable[..., Callable[[Any], Any]]
    middleware: Callable[..., Callable[..., Any]]
    emit: Callable[..., Any]


def handlers_of(bus: EventBus) -> Handlers:
    """Return the decorators and `emit` of a bus; rules go into one rule set per module, named after it."""

    def on(*triggers: str | Trigger, **options: Any) -> Callable[[_F], _F]:
        def register(function: _F) -> _F:
            name = _module_name(function)
            file = getattr(getattr(function, "__code__", None), "co_filename", "<")
            home = name if file.startswith("<") else file  # one file may be imported under two names
            if home not in bus.module_sets:
                rule_set = RuleSet(name)
                bus.include(rule_set)
                bus.module_sets[home] = rule_set
            return bus.module_sets[home].on(*triggers, **options)(function)

        return register

    def middleware(function: Any = None, *, scope: Scope | None = None) -> Any:
        if function is None:
            return lambda decorated: middleware(decorated, scope=scope)
        bus.use(function, scope=scope)
        return function

    return Handlers(on, when, middleware, bus.emit)


def _module_name(function: Callable[..., Any]) -> str:
    """Return a name for a function's module that is the same whether it is run with -m or imported."""
    name = function.__module__
    if name == "__main__":
        spec = getattr(sys.modules.get(name), "__spec__", None)
        name = spec.name.removesuffix(".__main__") if spec is not None else "main"
    return re.sub(r"[^\w.-]", "_", name)
