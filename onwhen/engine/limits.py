"""The limits of an engine, as one value; every knob with its unit, defaults in this one place.

It must not know where the values come from: settings, a container or a constructor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onwhen.engine.retries import RetryPolicy

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an engine allows.

    Attributes:
        max_reactions: property events that one turn may handle (a count).
        max_depth: messages that may follow from each other in a chain (a count).
        max_event_bytes: size of an event's data as JSON (bytes).
        max_concurrent_turns: subjects that are worked on at the same time (a count).
        hot_subjects: subjects whose state is kept in memory between turns (a count).
        rule_timeout: how long one run of a rule may take (seconds); None for no limit.
        retry: for rules that name no policy of their own.

    Raises:
        ValueError: a limit is below 1, or not positive.
    """

    max_reactions: int = 256
    max_depth: int = 64
    max_event_bytes: int = 1024 * 1024
    max_concurrent_turns: int = 1000
    hot_subjects: int = 10_000
    rule_timeout: float | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        for name in ("max_reactions", "max_depth", "max_event_bytes", "max_concurrent_turns", "hot_subjects"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)!r} must be at least 1")
        if self.rule_timeout is not None and not self.rule_timeout > 0:
            raise ValueError(f"rule_timeout={self.rule_timeout!r} must be more than 0 seconds, or None")
