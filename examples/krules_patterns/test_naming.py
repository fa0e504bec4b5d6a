"""Names of the form `{entity}.{action}` let rules hear families of events; all examples here keep to it."""

import re

import pytest

from examples.krules_patterns import (
    batches,
    circuit_breaker,
    concurrency,
    error_events,
    isolation,
    load_balancing,
    loops,
    naming,
    observability,
    orders,
    partitioning,
    retries,
)
from examples.krules_patterns.naming import ALERT_EVENTS, ENTITY_EVENTS, ERROR_EVENTS, container, emit
from onwhen import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, Container

CONVENTION = re.compile(r"[a-z]+\.([a-z_]+|\*)")
BUILT_IN = {SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, SUBJECT_DELETED}


async def test_one_rule_hears_all_that_happens_to_an_entity() -> None:
    """A glob on the entity; other entities are not concerned."""
    async with container.event_bus() as bus:
        for event_type in ENTITY_EVENTS:
            await emit(event_type, "user-1")
        assert (await bus.read("user-1")).dict() == {"last_action": "deleted", "actions": 3}


async def test_errors_and_alerts_reach_the_operator() -> None:
    """One rule for two families."""
    async with container.event_bus() as bus:
        for event_type in (*ERROR_EVENTS, *ALERT_EVENTS):
            await emit(event_type, "ops")
        assert (await bus.read("ops")).get("pages") == 4


@pytest.mark.parametrize(
    "container",
    [
        container
        for module in (
            batches,
            circuit_breaker,
            concurrency,
            error_events,
            isolation,
            load_balancing,
            loops,
            naming,
            observability,
            orders,
            partitioning,
            retries,
        )
        for container in vars(module).values()
        if container is not Container and hasattr(container, "event_bus")
    ],
)
def test_every_example_keeps_to_the_convention(container: Container) -> None:
    """Built-in events excepted, which have names that nobody else uses."""
    patterns = [trigger.pattern for rule in container.event_bus().rulebook.rules() for trigger in rule.triggers]
    assert patterns
    for pattern in patterns:
        assert pattern in BUILT_IN or CONVENTION.fullmatch(pattern)
