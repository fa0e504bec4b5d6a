"""Settings from the environment: every knob of an engine, named `ONWHEN_*`, documented with its unit.

Belongs here: names, types, units and where the values come from. It must not know what they are used for. The
defaults are those of `Limits` and `RetryPolicy`.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, FiniteFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from onwhen.engine.events import DEFAULT_SOURCE
from onwhen.engine.limits import Limits
from onwhen.engine.retries import RetryPolicy
from onwhen.errors import SettingError
from onwhen.middleware._registry import Chosen, chosen_from
from onwhen.storage._urls import is_redis

__all__ = ["Settings"]

_LIMITS: Final = Limits()
_RETRY: Final = RetryPolicy()
_PREFIX: Final = "ONWHEN_"


def _seconds(value: Any) -> Any:
    """Read the text of a number as the number; for durations, pydantic takes text to be ISO 8601 or a clock time."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _unlimited(value: Any) -> Any:
    """Read the text none as no limit; a variable that is set to nothing counts as not set."""
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


_Duration: TypeAlias = Annotated[timedelta, BeforeValidator(_seconds), Field(ge=timedelta(0))]


class Settings(BaseSettings):
    """What an engine is set up with; each field is also an environment variable, `ONWHEN_` and its name.

    Durations are numbers of seconds, or ISO 8601 (`PT5M`). A variable that is set to nothing counts as not set.

    Raises:
        SettingError: a value is refused; the message names each variable, or argument, that has one.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _setting_error(error, values) from None

    source: str = Field(
        DEFAULT_SOURCE, min_length=1, description="CloudEvents source of what is emitted (URI reference)"
    )
    max_reactions: PositiveInt = Field(
        _LIMITS.max_reactions, description="property events that one turn may handle (count)"
    )
    max_depth: PositiveInt = Field(_LIMITS.max_depth, description="messages that may follow from each other (count)")
    max_event_bytes: PositiveInt = Field(
        _LIMITS.max_event_bytes, description="size of an event's data, as JSON (bytes)"
    )
    max_concurrent_turns: PositiveInt = Field(
        _LIMITS.max_concurrent_turns, description="subjects worked on at the same time (count)"
    )
    hot_subjects: PositiveInt = Field(_LIMITS.hot_subjects, description="subjects kept in memory between turns (count)")
    rule_timeout: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        _LIMITS.rule_timeout, description="how long one run of a rule may take (seconds); unset for no limit"
    )
    turn_timeout: Annotated[Annotated[FiniteFloat, Field(gt=0)] | None, BeforeValidator(_unlimited)] = Field(
        _LIMITS.turn_timeout,
        description="how long all rules of an event may take together (seconds); none for no limit",
    )
    retry_attempts: PositiveInt = Field(
        _RETRY.attempts, description="how often a rule is run at most, for rules without a policy of their own (count)"
    )
    retry_delay: _Duration = Field(_RETRY.delay, description="wait before the second attempt (seconds or ISO 8601)")
    retry_factor: Annotated[FiniteFloat, Field(ge=1)] = Field(
        _RETRY.factor, description="each further wait is this many times longer (factor)"
    )
    retry_max_delay: _Duration = Field(_RETRY.max_delay, description="no wait is longer (seconds or ISO 8601)")
    explain_failures: bool = Field(
        _LIMITS.explain_failures, description="the store keeps why, of turns in which something failed (true or false)"
    )
    explain_sample: Annotated[FiniteFloat, Field(ge=0, le=1)] = Field(
        _LIMITS.explain_sample, description="of how many of all cascades the store keeps why (share from 0 to 1)"
    )
    store: str = Field(
        "memory://",
        min_length=1,
        description="where all is kept: memory://, a file as sqlite:///FILE, or redis://HOST:PORT/DB (URL)",
    )
    dedup_window: Annotated[int, Field(ge=0)] = Field(
        100_000,
        description="accepted events that the store remembers by source and id (count); unset in Redis for "
        "as many as before, 10,000 in a new store",
    )
    key_prefix: str = Field("onwhen", min_length=1, description="what the names of all keys in Redis start with (text)")
    partitions: PositiveInt | None = Field(
        None, description="partitions of a new store (count); unset for 16 in Redis, else 1"
    )
    max_backlog: PositiveInt = Field(
        100_000,
        description="pending events of a partition in Redis above which no more are taken (count)",
    )
    explanations: Annotated[int, Field(ge=0)] = Field(
        1_000, description="explanations that each partition keeps of what turns did (count)"
    )
    middleware: Annotated[tuple[Chosen, ...], NoDecode, BeforeValidator(chosen_from)] = Field(
        (), description="what is wrapped around all rules or events, outermost first (names or JSON)"
    )

    log_format: Literal["text", "json"] = Field(
        "text", description="how a worker writes log records, if its application has not set logging up (text or json)"
    )

    def storage(self, url: str | None = None) -> dict[str, Any]:
        """Return what `create_storage` is to be given beside an address.

        Args:
            url: the address; None for that of the settings.
        """
        given: dict[str, Any] = {"partitions": self.partitions, "explanations": self.explanations}
        is_shared = is_redis(self.store if url is None else url)
        if is_shared:
            given |= {"key_prefix": self.key_prefix, "max_backlog": self.max_backlog}
        if not is_shared or "dedup_window" in self.model_fields_set:  # unset, Redis goes by what it was made with
            given["dedup_window"] = self.dedup_window
        return given

    def limits(self) -> Limits:
        """Return what the engine allows."""
        return Limits(
            max_reactions=self.max_reactions,
            max_depth=self.max_depth,
            max_event_bytes=self.max_event_bytes,
            max_concurrent_turns=self.max_concurrent_turns,
            hot_subjects=self.hot_subjects,
            rule_timeout=self.rule_timeout,
            turn_timeout=self.turn_timeout,
            retry=RetryPolicy(
                attempts=self.retry_attempts,
                delay=self.retry_delay,
                factor=self.retry_factor,
                max_delay=self.retry_max_delay,
            ),
            explain_failures=self.explain_failures,
            explain_sample=self.explain_sample,
        )


def _setting_error(error: ValidationError, values: dict[str, Any]) -> SettingError:
    """Say which variables of the environment, or which arguments, have values that cannot be."""
    problems: dict[str, str] = {}
    for found in error.errors():
        field = str(found["loc"][0])
        name = field if field in values else _PREFIX + field.upper()
        declared = Settings.model_fields.get(field)
        meaning = f" [{declared.description}]" if declared is not None else ""
        told = found["msg"].removeprefix("Value error, ")  # which pydantic puts before what validators say
        problems[name] = f"{name}={found['input']!r:.80}: {told}{meaning}"
    return SettingError("; ".join(problems.values()), settings=tuple(problems))
