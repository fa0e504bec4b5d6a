"""A loop ends in a dead letter that names it; the three ways out count each change once."""

from typing import Any

import pytest

from examples.krules_patterns.loops import extended, filtered, looping, muted
from onwhen import Container


async def change(container: Container, subject: str, temperature: int = 20) -> Any:
    """Change one property from outside; return the receipt of its property event."""
    async with container.event_bus():
        device = await container.subject(subject).load()
        device.set("temperature", temperature)
        (receipt,) = await device.store()
        return receipt


async def test_a_handler_that_triggers_itself_is_stopped_and_named() -> None:
    """The change itself stays; what the loop did is undone; the dead letter says what to do."""
    receipt = await change(looping, "device-1")
    (letter,) = receipt.dead
    assert letter.failure.type == "onwhen.errors.CascadeLimit"
    rule = "examples.krules_patterns.loops.bad_handler"
    assert f"{rule} -> counter -> {rule}" in letter.failure.message
    assert "mute one of these changes" in letter.failure.message
    device = await looping.event_bus().read("device-1")
    assert device.dict() == {"temperature": 20}


async def test_the_subject_goes_on_after_a_loop() -> None:
    """Later changes are handled, each with a dead letter of its own."""
    letters = [(await change(looping, "device-2", temperature)).dead[0] for temperature in (20, 21)]
    assert letters[0].id != letters[1].id
    assert (await looping.event_bus().read("device-2")).dict() == {"temperature": 21}


@pytest.mark.parametrize("container", [muted, filtered])
async def test_a_muted_or_a_filtered_counter_counts_once(container: Container) -> None:
    """No further run follows from counting."""
    receipt = await change(container, "device-1")
    assert receipt.ok
    device = await container.event_bus().read("device-1")
    assert device.dict() == {"temperature": 20, "counter": 1}


async def test_the_filter_is_seen_to_skip_its_own_change() -> None:
    """The receipt tells the run that fired from the one that a condition skipped."""
    receipt = await change(filtered, "device-4")
    assert [(run.property, run.status) for run in receipt.runs] == [("temperature", "fired"), ("counter", "skipped")]


async def test_an_extended_property_counts_without_an_event() -> None:
    """It is stored with the subject, beside its properties."""
    receipt = await change(extended, "device-1")
    assert len(receipt.runs) == 1
    device = await extended.event_bus().read("device-1")
    assert device.dict() == {"temperature": 20}
    assert device.get_ext("internal_counter") == 1
