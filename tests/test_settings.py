"""Settings: from the environment, from code, and what is said about bad values."""

import os
from datetime import timedelta
from typing import Any

import pytest

from onwhen import Limits, RetryPolicy, Settings
from onwhen.errors import OnwhenError, SettingError


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("ONWHEN_"):
            monkeypatch.delenv(name)


def test_the_defaults_are_those_of_limits_and_retry_policy() -> None:
    """There is one place for each default."""
    assert Settings().limits() == Limits()
    assert Settings().limits().retry == RetryPolicy()
    assert Settings().source == "onwhen"


def test_every_setting_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `ONWHEN_` and its name."""
    given = {
        "SOURCE": "/desk",
        "MAX_REACTIONS": "1",
        "MAX_DEPTH": "2",
        "MAX_EVENT_BYTES": "3",
        "MAX_CONCURRENT_TURNS": "4",
        "HOT_SUBJECTS": "5",
        "RULE_TIMEOUT": "0.5",
        "TURN_TIMEOUT": "8",
        "RETRY_ATTEMPTS": "6",
        "RETRY_DELAY": "7.5",
        "RETRY_FACTOR": "3",
        "RETRY_MAX_DELAY": "PT1H",
        "STORE": "sqlite:///desk.db",
        "DEDUP_WINDOW": "0",
        "KEY_PREFIX": "desk",
        "PARTITIONS": "9",
        "MAX_BACKLOG": "10",
        "EXPLAIN_FAILURES": "false",
        "EXPLAIN_SAMPLE": "0.25",
        "EXPLANATIONS": "11",
        "MIDDLEWARE": "logging",
        "LOG_FORMAT": "json",
    }
    assert {name.lower() for name in given} == set(Settings.model_fields)
    for name, value in given.items():
        monkeypatch.setenv(f"ONWHEN_{name}", value)
    settings = Settings()
    assert (settings.source, settings.store, settings.dedup_window) == ("/desk", "sqlite:///desk.db", 0)
    assert [one.name for one in settings.middleware] == ["logging"]
    assert settings.log_format == "json"
    assert settings.storage() == {"partitions": 9, "dedup_window": 0, "explanations": 11}
    shared = {"partitions": 9, "dedup_window": 0, "key_prefix": "desk", "max_backlog": 10, "explanations": 11}
    assert settings.storage("redis+cluster://host") == shared
    assert settings.limits() == Limits(
        max_reactions=1,
        max_depth=2,
        max_event_bytes=3,
        max_concurrent_turns=4,
        hot_subjects=5,
        rule_timeout=0.5,
        turn_timeout=8.0,
        explain_failures=False,
        explain_sample=0.25,
        retry=RetryPolicy(attempts=6, delay=timedelta(seconds=7.5), factor=3, max_delay=timedelta(hours=1)),
    )


def test_a_window_that_is_not_set_is_that_of_the_store_in_redis() -> None:
    """It goes by what it was made with; memory and files by the setting's default."""
    settings = Settings()
    always = {"partitions": None, "explanations": 1_000}
    assert settings.storage("redis://host") == {**always, "key_prefix": "onwhen", "max_backlog": 100_000}
    assert settings.storage() == {**always, "dedup_window": 100_000}


def test_every_setting_says_its_unit() -> None:
    """In brackets, at the end or before a remark."""
    units = (
        "(count)",
        "(bytes)",
        "(seconds)",
        "(seconds or ISO 8601)",
        "(factor)",
        "(URI reference)",
        "(URL)",
        "(names or JSON)",
        "(true or false)",
        "(share from 0 to 1)",
        "(text)",
        "(text or json)",
    )
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert any(unit in field.description for unit in units), name


def test_code_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not given comes from there; nothing can be changed afterwards."""
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "5")
    monkeypatch.setenv("ONWHEN_HOT_SUBJECTS", "6")
    settings = Settings(max_depth=7)
    assert (settings.max_depth, settings.hot_subjects) == (7, 6)
    with pytest.raises(ValueError, match="frozen"):
        settings.max_depth = 8


def test_a_variable_that_is_set_to_nothing_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deployments often pass on variables that are empty."""
    monkeypatch.setenv("ONWHEN_RULE_TIMEOUT", "")
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "")
    assert Settings().limits() == Limits()


def test_a_limit_that_has_a_default_can_be_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """The word none; nothing at all would leave the default."""
    assert Settings().turn_timeout == 300.0
    monkeypatch.setenv("ONWHEN_TURN_TIMEOUT", "none")
    assert Settings().limits().turn_timeout is None
    assert Settings(turn_timeout=None).turn_timeout is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_DEPTH", "0"),
        ("MAX_DEPTH", "many"),
        ("MAX_REACTIONS", "-1"),
        ("MAX_EVENT_BYTES", "1.5"),
        ("MAX_CONCURRENT_TURNS", "0"),
        ("HOT_SUBJECTS", "0"),
        ("RULE_TIMEOUT", "0"),
        ("RULE_TIMEOUT", "inf"),
        ("RULE_TIMEOUT", "nan"),
        ("TURN_TIMEOUT", "0"),
        ("TURN_TIMEOUT", "long"),
        ("RETRY_ATTEMPTS", "0"),
        ("RETRY_DELAY", "-1"),
        ("RETRY_DELAY", "soon"),
        ("RETRY_DELAY", "inf"),
        ("RETRY_FACTOR", "0.5"),
        ("RETRY_FACTOR", "inf"),
        ("RETRY_MAX_DELAY", "-PT1S"),
        ("DEDUP_WINDOW", "-1"),
    ],
)
def test_a_bad_value_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error says which variable, what it was, and what it is for."""
    monkeypatch.setenv(f"ONWHEN_{name}", value)
    with pytest.raises(SettingError) as caught:
        Settings().limits()
    assert f"ONWHEN_{name}=" in str(caught.value)
    assert str(Settings.model_fields[name.lower()].description) in str(caught.value)
    assert caught.value.settings == (f"ONWHEN_{name}",)
    assert isinstance(caught.value, OnwhenError)


def test_all_bad_values_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables and arguments alike, each as the user knows it."""
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "deep")
    wrong: dict[str, Any] = {"hot_subjects": 0, "colour": "red"}
    with pytest.raises(SettingError) as caught:
        Settings(**wrong)
    assert set(caught.value.settings) == {"ONWHEN_MAX_DEPTH", "hot_subjects", "colour"}
    for told in ("ONWHEN_MAX_DEPTH='deep'", "hot_subjects=0", "colour='red'"):
        assert told in str(caught.value)
