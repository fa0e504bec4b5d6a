"""The example, run: what protection changes for the service and for the events, as relations between the two runs."""

import asyncio
import io
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from examples.resilient_calls.client import CallFailed, CustomerService, may_pass
from examples.resilient_calls.rules import BURST, CONCURRENT, RATE, Ticket, desk
from examples.resilient_calls.screen import mood_line, picture, verdict
from examples.resilient_calls.service import ALLOWED, Service
from examples.resilient_calls.stream import Run, run, steps
from onwhen import Event, EventBus, create_memory_storage

ROOT = Path(__file__).parents[2]
DEADLINE = 120.0  # seconds; it takes a fraction of that, also on a machine that has other things to do


# -- the whole of it -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def runs() -> tuple[Run, Run]:
    """Both runs, bare and protected, once for all tests, and side by side: they share nothing but the machine."""

    async def both() -> tuple[Run, Run]:
        async with asyncio.timeout(DEADLINE):
            return await asyncio.gather(run(protected=False), run(protected=True))

    return asyncio.run(both())


def test_both_are_given_the_same(runs: tuple[Run, Run]) -> None:
    """The stream is the same, and nothing of it is lost: everything has an end, if only as a dead letter."""
    bare, protected = runs
    assert bare.events == protected.events == len(steps())
    assert bare.resolved == protected.resolved


def test_a_service_in_trouble_is_left_alone(runs: tuple[Run, Run]) -> None:
    """It is called less on the whole, and much less while it cannot answer anyway."""
    bare, protected = runs
    assert sum(protected.seen.calls.values()) < sum(bare.seen.calls.values())
    assert protected.seen.while_unwell < bare.seen.while_unwell / 2


def test_what_the_service_allows_is_kept(runs: tuple[Run, Run]) -> None:
    """Our rate and our burst leave room for what bunches up on the way; so no call is answered with 429."""
    bare, protected = runs
    assert RATE + BURST < ALLOWED
    assert protected.seen.busiest <= ALLOWED
    assert protected.seen.busiest < bare.seen.busiest
    assert protected.seen.statuses["429"] == 0


def test_only_so_many_calls_are_under_way(runs: tuple[Run, Run]) -> None:
    """A call that we give up on the service may still be at work on, so it may see some more."""
    bare, protected = runs
    assert protected.seen.peak <= 2 * CONCURRENT < bare.seen.peak


def test_every_customer_is_told_once(runs: tuple[Run, Run]) -> None:
    """Whatever happens; bare, some are told twice, and some only when a person sees to it."""
    bare, protected = runs
    assert (protected.told, protected.seen.duplicates) == (protected.resolved, 0)
    assert bare.seen.duplicates > 0


def test_no_ticket_is_left_without_an_answer(runs: tuple[Run, Run]) -> None:
    """From the backup, from before, or by default, until they have asked again; bare there is only the service."""
    bare, protected = runs
    assert protected.levels["nowhere"] == 0
    assert protected.levels["backup"] > 0
    assert protected.levels["default"] < protected.guessed
    assert bare.levels.keys() <= {"service", "nowhere"}


def test_dead_letters_are_what_nobody_could_have_helped(runs: tuple[Run, Run]) -> None:
    """Customers that do not exist; such a call is not made again."""
    bare, protected = runs
    assert (protected.dead["failed"], bare.dead["failed"] > 0) == (0, True)
    assert bare.dead["unknown"] == bare.seen.statuses["404"]


def test_the_flag_follows_the_circuit(runs: tuple[Run, Run]) -> None:
    """It was thrown when the circuit opened, and back when it closed."""
    bare, protected = runs
    assert protected.switches >= 2
    assert bare.switches == 0


def test_they_are_shown_side_by_side(runs: tuple[Run, Run]) -> None:
    """On a terminal of any width that a terminal has; the verdict is one sentence."""
    shown = io.StringIO()
    Console(file=shown, width=80).print(mood_line(), picture(*runs))
    lines = shown.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["bare", "protected"] for line in lines)
    assert "0 customers were told twice" in verdict(*runs)


def test_it_can_be_run() -> None:
    """As the README says; it ends with the verdict, and with 0."""
    command = (sys.executable, "-m", "examples.resilient_calls")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE, check=True)
    assert "What the service saw" in done.stdout
    assert "With protection the service was called" in done.stdout
    assert done.stderr == ""


# -- its parts -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def service() -> AsyncIterator[tuple[Service, CustomerService]]:
    """A service that is well, and a client of it."""
    made = Service()
    async with made.running() as url, CustomerService(url) as client:
        yield made, client


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 - what is looked at is plain data of a server
            await asyncio.sleep(0.001)


async def failure(client: CustomerService, name: str = "Value 9") -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await client.customer(name)
    return caught.value


async def test_what_a_failed_call_says(service: tuple[Service, CustomerService]) -> None:
    """Its status, how long to wait, and so whether another call may pass."""
    there, client = service
    assert (await client.customer("Value 9")).level == (await client.customer("Value 9")).level
    unknown = await failure(client, "Value 16")
    assert (unknown.status, may_pass(unknown)) == (404, False)
    there.cue("down")
    down = await failure(client)
    assert (down.status, may_pass(down)) == (503, True)
    there.cue("garbled")
    garbled = await failure(client)
    assert (garbled.status, may_pass(garbled)) == (None, True)


async def test_too_many_calls_are_told_to_wait(service: tuple[Service, CustomerService]) -> None:
    """As RFC 9110 has it, in whole seconds."""
    there, client = service
    answers = await asyncio.gather(*(client.customer("Value 9") for _ in range(ALLOWED + 5)), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, CallFailed)]
    assert [(one.status, one.retry_after) for one in refused] == [(429, 1.0)] * 5
    assert there.seen.statuses == Counter({"200": ALLOWED, "429": 5})


async def test_a_caller_that_hangs_up_is_noticed(service: tuple[Service, CustomerService]) -> None:
    """A call that hangs ends when its caller is gone, or when the service is restarted."""
    there, client = service
    there.cue("hanging")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.customer("Value 9")
    waiting = asyncio.create_task(failure(client))
    await until(lambda: there.seen.calls["look-ups"] == 2 and there.seen.statuses["none"] == 1)
    there.cue("well")
    assert (await waiting).status == 502


async def test_a_notice_is_taken_once_for_each_key(service: tuple[Service, CustomerService]) -> None:
    """Two keys for the same step are what a customer takes for a duplicate."""
    there, client = service
    for key in ("1", "1", "2"):
        await client.tell("ticket:1", "resolved", key=key)
    assert there.seen.duplicates == 1


async def test_a_step_that_is_sent_again_is_told_of_once(service: tuple[Service, CustomerService]) -> None:
    """Under another id, and so with another key for the service: it is the rule that must not run twice."""
    there, client = service
    step = next(event for event in steps() if event.type == "ticket.resolve_ticket")
    for protected in (False, True):
        there.seen.told.clear()
        bus = EventBus(*desk(client, protected=protected).rule_sets, store=create_memory_storage())
        async with bus:
            for id in ("sent", "again"):
                await bus.emit(step.replace(id=f"{id}, {protected=}"))
        assert list(there.seen.told.values()) == [1 if protected else 2]


async def test_what_is_nice_to_have_is_left_out_while_the_flag_is_up(
    service: tuple[Service, CustomerService],
) -> None:
    """The circuit throws it, and so can a person."""
    _, client = service
    bus = EventBus(*desk(client, protected=True).rule_sets, store=create_memory_storage())
    taken = Event("ticket.take_in_charge_ticket", "ticket:1", {"customer": "Value 9"}, time=steps()[0].time)
    async with bus:
        await bus.emit("flags.degrade", "flags:desk", {"to": True})
        skipped = await bus.emit(taken.replace(id="1"))
        await bus.emit("flags.degrade", "flags:desk", {"to": False})
        fired = await bus.emit(taken.replace(id="2"))
        ticket = await bus.read("ticket:1")
    assert {run.rule: run.status for run in skipped.runs}["tickets.history"] == "skipped"
    assert "tickets.history" in fired.fired
    assert isinstance(ticket, Ticket)
    assert ticket.purchases is not None


async def test_nothing_of_the_service_is_left_when_it_ends() -> None:
    """Its port is free again, also if a call was hanging."""
    there = Service()
    async with there.running() as url, httpx.AsyncClient(base_url=url, timeout=None) as http:
        there.cue("hanging")
        hanging = asyncio.create_task(http.get("/customers/one"))
        await until(lambda: bool(there.seen.calls))
        hanging.cancel()
    async with httpx.AsyncClient(base_url=url) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get("/customers/one")
