"""Properties that rules react to: one, all, or all but some.

Belongs here: which properties a trigger and its conditions leave over. It must not know how they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from onwhen.analysis._flow import are_related
from onwhen.analysis._survey import SeenRule
from onwhen.analysis._texts import Text, meets
from onwhen.engine.subjects import Subject
from onwhen.engine.triggers import Trigger

__all__ = ["ANY", "Watched", "owner_of", "watched_by"]

ANY: Final = "*"


@dataclass(frozen=True, slots=True)
class Watched:
    """A property node, and what it stands for.

    Attributes:
        cls: class of its subjects.
        name: its name, `*` for any.
        without: names that it does not stand for.
    """

    cls: type[Subject]
    name: str
    without: frozenset[str] = frozenset()

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for more than one property."""
        return ANY in self.name

    def covers(self, other: Watched) -> bool:
        """Tell whether a change of the other one is a change of this."""
        if other == self or other.name in self.without or are_related(other.cls, self.cls) == "never":
            return False
        known = Text.of(*_split(other.name))
        return meets(known, self.name) != "never" if self.is_pattern or other.is_pattern else other.name == self.name


def _split(name: str) -> Iterator[str | None]:
    for at, part in enumerate(name.split(ANY)):
        if at:
            yield None
        yield part


def watched_by(rule: SeenRule, trigger: Trigger) -> list[Watched]:
    """Return the properties that a rule reacts to, after what its conditions leave over."""
    names, cls = rule.filter.properties, rule.rule.subject
    if trigger.properties:
        return [Watched(cls, name) for name in trigger.properties if name in names]
    if names.only is not None:
        return [Watched(cls, str(name)) for name in sorted(map(_text, names.only)) if name]
    return [Watched(cls, ANY, frozenset(map(_text, names.without)))]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def owner_of(cls: type[Subject], name: str) -> type[Subject]:
    """Return the class that declares a property that a class has."""
    return next((base for base in cls.__mro__ if name in vars(base).get("_declared", ())), cls)
