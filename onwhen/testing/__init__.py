"""Help for testing rules: a harness on a virtual clock, and a pytest plugin that brings it as a fixture.

Nothing is imported here before it is asked for, because pytest loads the plugin in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onwhen.testing.harness import Harness
    from onwhen.testing.then import Failed, Found, Then

__all__ = ["Failed", "Found", "Harness", "Then"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'onwhen.testing' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"onwhen.testing.{'harness' if name == 'Harness' else 'then'}"), name)


def __dir__() -> list[str]:
    return __all__
