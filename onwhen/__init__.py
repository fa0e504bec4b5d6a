"""onwhen: an event-driven rules engine.

Rules are plain functions on typed subjects. What a rule does to its subject, the events it sends, the timers it
sets and the fact that the event was handled are stored together or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onwhen.engine.bus import EventBus
from onwhen.engine.chain import Middleware
from onwhen.engine.clock import Clock, SystemClock, VirtualClock
from onwhen.engine.context import Context
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
from onwhen.engine.handlers import Handlers
from onwhen.engine.limits import Limits
from onwhen.engine.outcomes import Outcome, Receipt, RuleRun
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.rules import ANY, RuleSet, changed, deleted, when
from onwhen.engine.subjects import Subject, migrate
from onwhen.errors import OnwhenError
from onwhen.storage.memory import create_memory_storage

if TYPE_CHECKING:
    from onwhen.container import Container
    from onwhen.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "SUBJECT_DELETED",
    "SUBJECT_PROPERTY_CHANGED",
    "SUBJECT_PROPERTY_DELETED",
    "Clock",
    "Container",
    "Context",
    "Event",
    "EventBus",
    "Handlers",
    "Limits",
    "Middleware",
    "OnwhenError",
    "Outcome",
    "Receipt",
    "RetryPolicy",
    "RuleRun",
    "RuleSet",
    "Settings",
    "Subject",
    "SystemClock",
    "VirtualClock",
    "changed",
    "create_memory_storage",
    "deleted",
    "migrate",
    "when",
]

_LAZY = {"Container": "onwhen.container", "Settings": "onwhen.settings"}  # these import slow libraries


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module 'onwhen' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return __all__
