"""What code does to its subject and sends, as far as it can be seen.

Belongs here: the findings of a reader, as data. It must not know how code is read, nor what is made of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

from onwhen.analysis._sources import Place
from onwhen.analysis._texts import Text
from onwhen.engine.subjects import Subject

__all__ = [
    "NOTHING_SEEN",
    "Deferral",
    "Effect",
    "Emission",
    "Read",
    "Reading",
    "Unseen",
    "Write",
    "passed_on",
    "uncertain",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Emission:
    """A message, or a timer.

    Attributes:
        type: of the event.
        target: name of the subject it is addressed to; None for the turn's own.
        is_timer: it is given a delay, or a moment.
        key: name of the timer, if it is given one.
        is_certain: whenever the code ends well, it was sent.
        place: where that stands.
    """

    type: Text
    target: Text | None = None
    is_timer: bool = False
    key: Text | None = None
    is_certain: bool
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A change of the turn's subject.

    Attributes:
        property: which one; unknown text for any of them.
        verb: how; "flush" deletes all of them.
        is_muted: it sets off no reaction.
        change: whether the value is another one each time, always the same `value`, or that cannot be told.
        value: what it is set to, if that is always the same.
        is_certain: whenever the code ends well, it was done.
        is_narrowed: the code asks what the subject is, so it may know more of it than its rule does.
        is_doubtful: it is in a function that several rules may share, and not always done.
        place: where that stands.
    """

    property: Text
    verb: Literal["set", "change", "delete", "flush"]
    is_muted: bool = False
    change: Literal["always", "constant", "unknown"] = "unknown"
    value: Any = None
    is_certain: bool = False
    is_narrowed: bool = False
    is_doubtful: bool = False
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A look at a property.

    Attributes:
        subject: class of the subject.
        property: which one.
        is_question: it only asks whether it is there.
        is_narrowed: the code asks what the subject is, so it may know more of it than its rule does.
        is_doubtful: it is in a function that several rules may share, and not always done.
        place: where that stands.
    """

    subject: type[Subject]
    property: Text
    is_question: bool
    is_narrowed: bool
    is_doubtful: bool = False
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Deferral:
    """The rule is to be run again on the same event, later."""

    is_certain: bool
    place: Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Unseen:
    """Something that cannot be told from the code.

    Attributes:
        what: a sentence's predicate, such as "calls f(ctx), whose source is not there".
        place: where that stands.
    """

    what: str
    place: Place


Effect: TypeAlias = Emission | Write | Read | Deferral | Unseen


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All that was seen in a function and what it calls, in order.

    Attributes:
        emissions: what it sends.
        writes: what it changes.
        reads: what it looks at.
        deferrals: where it puts itself off.
        unseen: what could not be told.
        refuses: there is a `raise` in it that may put an end to something.
        goes_on: of a middleware: whenever it ends well, it has run what it is wrapped around.
    """

    emissions: tuple[Emission, ...] = ()
    writes: tuple[Write, ...] = ()
    reads: tuple[Read, ...] = ()
    deferrals: tuple[Deferral, ...] = ()
    unseen: tuple[Unseen, ...] = ()
    refuses: bool = False
    goes_on: bool = False

    @classmethod
    def of(cls, effects: list[Effect], *, refuses: bool = False, goes_on: bool = False) -> Reading:
        """Return the effects by kind, in the order of the code, each once."""
        unique = sorted(dict.fromkeys(effects), key=lambda one: (one.place, repr(one)))
        return cls(
            emissions=tuple(one for one in unique if isinstance(one, Emission)),
            writes=tuple(one for one in unique if isinstance(one, Write)),
            reads=tuple(one for one in unique if isinstance(one, Read)),
            deferrals=tuple(one for one in unique if isinstance(one, Deferral)),
            unseen=tuple(one for one in unique if isinstance(one, Unseen)),
            refuses=refuses,
            goes_on=goes_on,
        )


NOTHING_SEEN: Final = Reading()


def passed_on(effect: Effect, *, is_narrowed: bool, is_doubtful: bool) -> Effect:
    """Return an effect of a function as it is for whoever calls it."""
    if isinstance(effect, Read | Write) and (is_narrowed, is_doubtful) != (False, False):
        narrowed, doubtful = effect.is_narrowed or is_narrowed, effect.is_doubtful or is_doubtful
        return replace(effect, is_narrowed=narrowed, is_doubtful=doubtful)
    return effect


def uncertain(effect: Effect) -> Effect:
    """Return an effect that may as well not happen."""
    if isinstance(effect, Emission | Write | Deferral) and effect.is_certain:
        return replace(effect, is_certain=False)
    return effect
