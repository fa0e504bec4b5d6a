"""Properties that rules react to: one, all, or all but some.

Belongs here: which properties a trigger and its conditions leave over. It must not know how they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from onwhen.analysis._flow import are_related
from onwhen.analysis._survey import SeenRule
from onwhen.analysis._texts import Text, meets
from onwhen.analysis._values import classes_of
from onwhen.engine.fields import TypedCodec
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
        known = Text.between(other.name.split(ANY))
        return meets(known, self.name) != "never" if self.is_pattern or other.is_pattern else other.name == self.name


def watched_by(rule: SeenRule, trigger: Trigger) -> list[Watched]:
    """Return the properties that a rule reacts to, after what its conditions leave over."""
    names, cls = rule.filter.properties, rule.rule.subject
    if trigger.properties:
        return [Watched(cls, name) for name in trigger.properties if name in names]
    if names.only is not None:
        return [Watched(cls, str(name)) for name in sorted(map(_text, names.only)) if name]
    begins = names.prefixes[0] if names.prefixes else ("",)
    return [Watched(cls, f"{prefix}{ANY}", frozenset(map(_text, names.without))) for prefix in begins]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def owner_of(cls: type[Subject], name: str) -> type[Subject]:
    """Return the class that declares a property: a base of a class, or the only one that extends it and has it."""
    has_it = [one for one in cls.__mro__ if name in vars(one).get("_declared", ())]
    if not has_it and isinstance(cls._codec, TypedCodec):
        has_it = [one for one in classes_of(cls) if name in vars(one)["_declared"]]
        return has_it[0] if len(has_it) == 1 else cls
    return has_it[0] if has_it else cls
