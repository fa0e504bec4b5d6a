"""`onwhen migrate`: stored subjects brought to the version that their class declares."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli import stores

Onwhen = Callable[..., Any]

NEWER = "tests.cli.stores:newer"


@pytest.fixture
def old(store: Path) -> Path:
    """A store with two parcels of the first version, and something else; one parcel is pending."""
    stores.fill(
        store,
        ("parcel.weighed", "parcel:1", 5),
        ("parcel.weighed", "parcel:2", 7),
        ("parcel.said", "other:1", "x"),
        settings={"SCALES": "on"},
    )
    stores.accept(store, ("parcel.weighed", "parcel:3", 9))
    return store


def subject(onwhen: Onwhen, name: str) -> Any:
    """Schema version and properties of a subject."""
    told = json.loads(onwhen("subjects", "get", name, "--json").out)
    return told["schema"], told["properties"]


def test_all_subjects_are_migrated(old: Path, onwhen: Onwhen) -> None:
    """Without a rule: what is pending stays pending. A second time there is nothing to do."""
    ended = onwhen("migrate", NEWER)
    assert (ended.code, ended.out, ended.err) == (0, "migrated 2, current 0, failed 0\n", "")
    assert subject(onwhen, "parcel:2") == (2, {"grams": 7000})
    assert "1 event is pending" in onwhen("log").out
    assert onwhen("migrate", NEWER).out == "migrated 0, current 2, failed 0\n"


def test_a_dry_run_changes_nothing(old: Path, onwhen: Onwhen) -> None:
    """It says the same."""
    ended = onwhen("migrate", NEWER, "--dry-run")
    assert (ended.code, ended.out) == (0, "would be: migrated 2, current 0, failed 0\n")
    assert subject(onwhen, "parcel:2") == (1, {"weight": 7})


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_what_cannot_be_migrated_is_named(old: Path, onwhen: Onwhen, options: list[str]) -> None:
    """With its error; it stays as it is, the others go on, and the exit code tells."""
    stores.fill(old, ("parcel.weighed", "parcel:0", -1), settings={"SCALES": "on"})
    ended = onwhen("migrate", NEWER, *options)
    heading, failure, counts = ended.out.splitlines()
    assert (ended.code, heading.split()) == (1, ["subject", "stored", "declared", "error"])
    assert failure.split()[:3] == ["parcel:0", "1", "2"]
    assert "the step from version 1 failed" in failure
    assert "-1 kg" in failure
    assert counts.endswith("migrated 3, current 0, failed 1")
    assert subject(onwhen, "parcel:0") == (1, {"weight": -1})


def test_a_subject_that_cannot_be_migrated_is_parked(store: Path, onwhen: Onwhen) -> None:
    """By the program that finds that out; it is listed, and nothing is lost."""
    stores.fill(store, ("parcel.weighed", "parcel:0", -1), settings={"SCALES": "on"})
    stores.fill(store, ("parcel.weighed", "parcel:0", 3), rules=stores.newer)
    (parked,) = [json.loads(line) for line in onwhen("parked", "list", "--json").out.splitlines()]
    assert (parked["subject"], parked["rule"]) == ("parcel:0", "")
    assert parked["error"]["type"] == "onwhen.errors.MigrationError"
    assert "(whole event)" in onwhen("parked", "list").out
    assert subject(onwhen, "parcel:0") == (1, {"weight": -1})
    ended = onwhen("parked", "resume", NEWER, "parcel:0")
    assert (ended.code, ended.err) == (1, "1 resumed; 1 of them with failures.\n")
    assert "parcel.weighed to parcel:0: failed again: MigrationError" in ended.out
    assert onwhen("parked", "resume", stores.APP, "parcel:0").code == 1  # the older rules know it, but not the scales
    assert len(onwhen("parked", "list", "--json").out.splitlines()) == 1
