"""Clocks: the machine's, and one that is moved by hand."""

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import pytest

from onwhen import SystemClock, VirtualClock
from onwhen.engine import clock as clock_module

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)


def test_the_system_clock_is_aware() -> None:
    """It tells the machine's time in UTC."""
    before = datetime.now(UTC)
    assert before <= SystemClock().now() <= datetime.now(UTC)
    assert SystemClock().now().tzinfo is UTC


async def test_alarms_of_the_system_clock_ring_on_the_loop() -> None:
    """Not before they are due, at once if that has passed, and not at all once they are cancelled."""
    clock, rung = SystemClock(), []
    clock.alarm(clock.now() - timedelta(days=1), lambda: rung.append("past"))
    clock.alarm(clock.now() + timedelta(milliseconds=20), lambda: rung.append("soon"))
    cancel = clock.alarm(clock.now() + timedelta(milliseconds=1), lambda: rung.append("cancelled"))
    cancel()
    assert rung == []
    started = asyncio.get_running_loop().time()
    async with asyncio.timeout(5):
        while len(rung) < 2:
            await asyncio.sleep(0.001)
    assert rung == ["past", "soon"]
    assert asyncio.get_running_loop().time() - started >= 0.015


async def test_a_far_alarm_rings_early_to_look_at_the_clock_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loops count seconds and do not notice that the clock was set, so nobody sleeps for long without looking."""
    monkeypatch.setattr(clock_module, "_LONGEST", 0.001)
    rung = asyncio.Event()
    cancel = SystemClock().alarm(SystemClock().now() + timedelta(days=1000), rung.set)
    async with asyncio.timeout(5):
        await rung.wait()
    cancel()


def test_a_virtual_clock_stands_still_until_it_is_moved() -> None:
    """It starts with the Unix epoch, or where it is told to, and moves forward only."""
    clock = VirtualClock()
    assert clock.now() == clock.now() == datetime(1970, 1, 1, tzinfo=UTC)
    clock.move_to(NOON)
    assert clock.now() == NOON
    clock.move_to(NOON - timedelta(days=1))
    assert clock.now() == NOON
    clock.advance(timedelta(hours=1))
    assert clock.now() == NOON + timedelta(hours=1)
    assert VirtualClock(NOON).now() == NOON


def test_a_virtual_clock_is_in_utc_whatever_it_is_given() -> None:
    """Another zone is converted; a moment without one is refused."""
    clock = VirtualClock(NOON.astimezone(timezone(timedelta(hours=9))))
    assert clock.now() == NOON
    assert clock.now().tzinfo is UTC
    with pytest.raises(ValueError, match="no time zone"):
        VirtualClock(datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValueError, match="no time zone"):
        clock.move_to(datetime(2026, 1, 1))  # noqa: DTZ001


def test_until() -> None:
    """A duration counts from now, a moment is itself, and the way back is refused."""
    clock = VirtualClock(NOON)
    assert clock.until(timedelta(hours=1)) == NOON + timedelta(hours=1)
    assert clock.until(NOON) == NOON
    with pytest.raises(ValueError, match="backwards"):
        clock.until(timedelta(seconds=-1))
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(timedelta(seconds=-1))


def test_a_virtual_clock_rings_for_nobody() -> None:
    """Its alarms can be set and cancelled; whoever moves it runs what is due."""
    VirtualClock(NOON).alarm(NOON, lambda: pytest.fail("it rang"))()
