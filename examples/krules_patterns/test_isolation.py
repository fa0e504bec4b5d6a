"""What one rule fails at, the others do not notice; and nobody hides it."""

import pytest

from examples.krules_patterns.isolation import container, emit


async def test_an_error_in_one_handler_does_not_affect_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    """The second one runs, and what it did is kept; what the first one did before it failed is not."""
    async with container.event_bus() as bus:
        await emit("user.action", "user-1")
        assert capsys.readouterr().out == "Still runs!\n"
        assert (await bus.read("user-1")).dict() == {"seen": True}


async def test_the_error_is_in_the_receipt_and_kept() -> None:
    """Unlike in KRules, where it is written to a log and gone."""
    async with container.event_bus() as bus:
        receipt = await emit("user.action", "user-2")
        assert [(rule.rpartition(".")[2], str(error)) for rule, error in receipt.failures] == [("handler1", "Error!")]
        letters = [letter async for letter in bus.dead_letters() if letter.subject == "user-2"]
        assert [letter.rule for letter in letters] == ["examples.krules_patterns.isolation.handler1"]
