"""Decorators bound to one bus: where their rules go, and what a second import of a module does."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from onwhen.engine.bus import EventBus
from onwhen.errors import DuplicateRule
from onwhen.storage.memory import create_memory_storage

MODULE = """
from home import bus

on, when, middleware, emit = bus.handlers()


@on("device.checked")
def count(ctx):
    ctx.subject.set("checks", lambda n: (n or 0) + 1)
"""


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> EventBus:
    home = ModuleType("home")
    bus = EventBus(store=create_memory_storage())
    home.__dict__["bus"] = bus
    monkeypatch.setitem(sys.modules, "home", home)
    return bus


def load(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.mark.parametrize("second", ["devices", "shop.devices"], ids=["the same name", "another name"])
async def test_a_module_that_is_imported_twice_registers_once(bus: EventBus, tmp_path: Path, second: str) -> None:
    """Under one name or under two: its rules run once per event."""
    path = tmp_path / "devices.py"
    path.write_text(MODULE)
    load("devices", path)
    load(second, path)
    receipt = await bus.emit("device.checked", "device:1")
    assert receipt.fired == ("devices.count",)
    assert (await bus.read("device:1")).get("checks") == 1


def test_two_functions_of_one_name_in_a_module_are_refused(bus: EventBus, tmp_path: Path) -> None:
    """One of them would be lost without a word."""
    path = tmp_path / "devices.py"
    path.write_text(MODULE + MODULE.split("emit = bus.handlers()")[1])
    with pytest.raises(DuplicateRule, match=r"devices\.count"):
        load("devices", path)
