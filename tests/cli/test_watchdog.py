"""An event loop that hangs is seen from outside, with what it hangs in."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from onwhen import Context, EventBus, RuleSet, create_memory_storage, when
from onwhen.cli import _silence
from onwhen.cli._silence import Silence
from onwhen.cli._watchdog import Stalled, Watchdog

SECONDS = 20.0  # how long anything here may take on a busy machine

blockers = RuleSet("blockers")
seen = threading.Event()


def block(_: object) -> bool:
    """Block until somebody has seen it."""
    assert seen.wait(SECONDS)
    return True


@blockers.on("block.rule")
def block_in_rule(ctx: Context[Any]) -> None:
    block(ctx)


@blockers.on("block.late")
async def block_later(ctx: Context[Any]) -> None:
    await asyncio.sleep(0)
    block(ctx)


@blockers.on("block.condition")
@when(block)
def never_alone(ctx: Context[Any]) -> None: ...


async def stall_of(event: str | None, **limits: float) -> Stalled:
    """What the watchdog tells when an event of this type is handled, or the loop is blocked by nobody in particular."""
    told: list[Stalled] = []

    def tell(stalled: Stalled) -> None:
        told.append(stalled)
        seen.set()

    seen.clear()
    async with EventBus(blockers, store=create_memory_storage()) as bus:
        with Watchdog(0.3, tell):
            if event is None:
                block(None)
            else:
                await bus.emit(event, "door:1")
    [stalled] = told
    return stalled


@pytest.mark.parametrize(
    ("event", "rule"),
    [
        ("block.rule", "blockers.block_in_rule"),
        ("block.late", "blockers.block_later"),
        ("block.condition", "blockers.never_alone"),
    ],
)
async def test_a_rule_that_blocks_is_named(event: str, rule: str) -> None:
    """With the event that it handles and the line that it hangs in; a condition counts as its rule."""
    stalled = await stall_of(event)
    assert (stalled.rule, stalled.event) == (rule, f"{event} to door:1")
    assert str(stalled).startswith(f"the rule {rule} blocks the event loop at {event} to door:1: it has not turned for")
    assert "assert seen.wait(SECONDS)" in stalled.stack


async def test_what_is_no_rule_has_a_stack_all_the_same() -> None:
    """A callback of somebody else's may block as well."""
    stalled = await stall_of(None)
    assert (stalled.rule, stalled.event) == ("", "")
    assert str(stalled).startswith("the event loop is blocked: it has not turned")
    assert "assert seen.wait(SECONDS)" in stalled.stack


async def test_a_loop_that_turns_is_left_alone() -> None:
    """However long it goes on; the watchdog looks, and says nothing."""
    told: list[Stalled] = []
    looks = 0
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 20:  # twice the patience
            loop.call_soon_threadsafe(enough.set)

    with Watchdog(0.5, told.append, look):
        async with asyncio.timeout(SECONDS):
            await enough.wait()
    assert not told


def test_time_in_which_nobody_listened_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was stopped for an hour, or a machine that slept, has not missed any sign of life."""
    now = 0.0
    monkeypatch.setattr(_silence, "monotonic", lambda: now)
    silence = Silence(1.0)
    assert silence.look("first") == 0.0
    now += 1.0
    assert silence.look("first") == 1.0
    now += 3600.0
    assert silence.look("first") == 3.0
    now += 1.0
    assert silence.look("second") == 0.0
