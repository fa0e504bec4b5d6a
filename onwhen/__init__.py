"""onwhen: an event-driven rules engine.

Rules are plain functions on typed subjects. What a rule does to its subject, the events it sends, the timers it
sets and the fact that the event was handled are stored together or not at all.

Nothing is imported before it is asked for (PEP 562): the names below come from their modules at first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onwhen.container import Container
    from onwhen.engine.bus import EventBus
    from onwhen.engine.chain import Middleware, Next
    from onwhen.engine.clock import Clock, SystemClock, VirtualClock
    from onwhen.engine.context import Context
    from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Event
    from onwhen.engine.explaining import Account
    from onwhen.engine.handlers import Handlers
    from onwhen.engine.limits import Limits
    from onwhen.engine.migrations import migrate
    from onwhen.engine.outcomes import Outcome, Receipt, RuleRun
    from onwhen.engine.partitions import partition_of
    from onwhen.engine.retries import RetryPolicy
    from onwhen.engine.rules import ANY, RuleSet, changed, deleted, when
    from onwhen.engine.status import WorkerStatus
    from onwhen.engine.subjects import Subject
    from onwhen.engine.worker import Worker
    from onwhen.errors import OnwhenError
    from onwhen.settings import Settings
    from onwhen.storage.memory import create_memory_storage
    from onwhen.storage.redis import create_redis_storage
    from onwhen.storage.sqlite import create_sqlite_storage

__version__ = "0.1.0"

__all__ = [
    "ANY",
    "SUBJECT_DELETED",
    "SUBJECT_PROPERTY_CHANGED",
    "SUBJECT_PROPERTY_DELETED",
    "Account",
    "Clock",
    "Container",
    "Context",
    "Event",
    "EventBus",
    "Handlers",
    "Limits",
    "Middleware",
    "Next",
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
    "Worker",
    "WorkerStatus",
    "changed",
    "create_memory_storage",
    "create_redis_storage",
    "create_sqlite_storage",
    "deleted",
    "migrate",
    "partition_of",
    "when",
]

_HOME: Final = {
    "Container": "onwhen.container",
    "EventBus": "onwhen.engine.bus",
    "Worker": "onwhen.engine.worker",
    "WorkerStatus": "onwhen.engine.status",
    "Middleware": "onwhen.engine.chain",
    "Next": "onwhen.engine.chain",
    "Clock": "onwhen.engine.clock",
    "SystemClock": "onwhen.engine.clock",
    "VirtualClock": "onwhen.engine.clock",
    "Context": "onwhen.engine.context",
    "SUBJECT_DELETED": "onwhen.engine.events",
    "SUBJECT_PROPERTY_CHANGED": "onwhen.engine.events",
    "SUBJECT_PROPERTY_DELETED": "onwhen.engine.events",
    "Event": "onwhen.engine.events",
    "Account": "onwhen.engine.explaining",
    "Handlers": "onwhen.engine.handlers",
    "Limits": "onwhen.engine.limits",
    "Outcome": "onwhen.engine.outcomes",
    "Receipt": "onwhen.engine.outcomes",
    "RuleRun": "onwhen.engine.outcomes",
    "partition_of": "onwhen.engine.partitions",
    "RetryPolicy": "onwhen.engine.retries",
    "ANY": "onwhen.engine.rules",
    "RuleSet": "onwhen.engine.rules",
    "changed": "onwhen.engine.rules",
    "deleted": "onwhen.engine.rules",
    "when": "onwhen.engine.rules",
    "Subject": "onwhen.engine.subjects",
    "migrate": "onwhen.engine.migrations",
    "OnwhenError": "onwhen.errors",
    "Settings": "onwhen.settings",
    "create_memory_storage": "onwhen.storage.memory",
    "create_redis_storage": "onwhen.storage.redis",
    "create_sqlite_storage": "onwhen.storage.sqlite",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'onwhen' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
