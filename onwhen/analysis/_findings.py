"""What a look at rules has found wrong, or worth knowing.

Belongs here: findings as data, and their order. It must not know how they are found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal, TypeAlias

from onwhen.analysis._sources import Place
from onwhen.analysis._survey import SeenMiddleware, SeenRule

__all__ = ["CODES", "SEVERITIES", "Finding", "Severity", "finding", "in_order", "suggestion"]

Severity: TypeAlias = Literal["error", "warning", "info"]

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "info")
"""The worst first: it cannot be right; it may well be wrong; it is worth knowing."""

CODES: Final = {
    "cascade": "rules set off each other in a circle",
    "never-fires": "a rule, or one of its triggers, can never fire",
    "muted-trigger": "a rule reacts to a property that rules change only muted",
    "duplicate-trigger": "a trigger is covered by another one of the same rule",
    "unknown-property": "code uses a property that the class does not have",
    "misaddressed-event": "an event goes to subjects that the rules for it are not for",
    "unhandled-event": "an event is emitted that no rule is for",
    "unemitted-event": "a rule is for an event that no rule emits",
    "unknown": "something cannot be told from the code",
}
"""What each code stands for; codes are not renamed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found.

    Attributes:
        code: which kind; see `CODES`.
        severity: how bad it is.
        rule: id of the rule, or name of the middleware, that it is about.
        place: where it stands; None if that is not known.
        message: what is wrong, and what to do.
    """

    code: str
    severity: Severity
    rule: str
    place: Place | None
    message: str


def finding(
    code: str, severity: Severity, who: SeenRule | SeenMiddleware, message: str, place: Place | None = None
) -> Finding:
    """Return a finding about a rule or a middleware; it stands where that does, unless it is said."""
    name = who.id if isinstance(who, SeenRule) else who.name
    return Finding(code=code, severity=severity, rule=name, place=place or who.place, message=message)


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings, each once, the worst first, then by place."""
    return tuple(
        sorted(
            dict.fromkeys(findings),
            key=lambda one: (
                SEVERITIES.index(one.severity),
                one.place or Place("", 0),
                list(CODES).index(one.code),
                one.rule,
                one.message,
            ),
        )
    )


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what somebody may have meant, as a question; an empty text if nothing is near."""
    near = get_close_matches(name, sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else ""
