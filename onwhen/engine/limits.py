"""The limits of an engine, as one value; every knob with its unit, defaults in this one place.

It must not know where the values come from: settings, a container or a constructor.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from onwhen.engine.retries import RetryPolicy
from onwhen.errors import SettingError

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
        turn_timeout: how long all rules of an event may take together (seconds); None for no limit. What is late is
            cancelled, and the event fails as a whole.
        retry: for rules that name no policy of their own.
        explain_failures: the store keeps why a turn did what it did, if something in it failed.
        explain_sample: of how many of all cascades the store keeps that (a share, 0 to 1): always all turns of one, on
            whichever worker.

    Raises:
        SettingError: a limit is not what it must be.
    """

    max_reactions: int = 256
    max_depth: int = 64
    max_event_bytes: int = 1024 * 1024
    max_concurrent_turns: int = 1000
    hot_subjects: int = 10_000
    rule_timeout: float | None = None
    turn_timeout: float | None = 300.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    explain_failures: bool = True
    explain_sample: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_reactions", "max_depth", "max_event_bytes", "max_concurrent_turns", "hot_subjects"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise SettingError(f"{name}={value!r} must be an int of at least 1", settings=(name,))
        for name in ("rule_timeout", "turn_timeout"):
            timeout = getattr(self, name)
            if timeout is not None and not (type(timeout) in (int, float) and timeout > 0):
                problem = f"{name}={timeout!r} must be a number of seconds, more than 0, or None"
                raise SettingError(problem, settings=(name,))
        if type(self.explain_failures) is not bool:
            problem = f"explain_failures={self.explain_failures!r} must be True or False"
            raise SettingError(problem, settings=("explain_failures",))
        if not (type(self.explain_sample) in (int, float) and 0 <= self.explain_sample <= 1):
            problem = f"explain_sample={self.explain_sample!r} must be a share of all cascades, from 0 to 1"
            raise SettingError(problem, settings=("explain_sample",))
        if not isinstance(self.retry, RetryPolicy):
            raise SettingError(f"retry={self.retry!r} must be a RetryPolicy", settings=("retry",))
