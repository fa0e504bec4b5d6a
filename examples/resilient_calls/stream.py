"""The same stream of events for both runs, and what each run came to.

Belongs here: which events, when the service misbehaves, and the count at the end. It must not know how it is shown.
"""

import asyncio
import gzip
import json
from collections import Counter
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final

from examples.helpdesk.__main__ import LOG
from examples.resilient_calls.client import CustomerService
from examples.resilient_calls.rules import FLAGS, Flags, Ticket, desk
from examples.resilient_calls.service import Mood, Seen, Service
from onwhen import Event, EventBus, create_memory_storage
from onwhen.engine.store import DeadLetter

__all__ = ["EVENTS", "MOODS", "Run", "run", "steps"]

EVENTS: Final = 300
PACE: Final = 70
"""Events a second."""
MOODS: Final[tuple[tuple[float, Mood], ...]] = (
    (0.0, "well"),
    (0.20, "flaky"),
    (0.35, "down"),
    (0.55, "hanging"),
    (0.70, "garbled"),
    (0.80, "well"),
)
"""When the service changes its mood, by the share of the events that were sent by then."""
_FROM: Final = 6_000  # in the log: March 2011
_SENT_AGAIN: Final = 10  # every so many steps are sent once more, under another id, as ticket systems do
_WARMED: Final = 5  # customers that are asked for beforehand
_PATIENCE: Final = 60.0  # seconds, until a run that does not come to its end is an error


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run, counted.

    Attributes:
        protected: whether there was middleware around the rules.
        seen: what the service saw.
        events: how many there were, those sent again included (a count).
        levels: tickets by where their customer's level is from.
        guessed: tickets that had to do with a guess, at least for a while (a count).
        resolved: steps of which a customer had to be told (a count).
        told: of how many one was told (a count).
        dead: dead letters, by the reason: "unknown", the service does not know the customer, or "failed".
        runs: runs of rules by their status, over all turns (counts).
        switches: how often the flag was thrown, to and fro (a count).
        seconds: from the first event to the end of the last thing that was done.
    """

    protected: bool
    seen: Seen
    events: int
    levels: Counter[str]
    guessed: int
    resolved: int
    told: int
    dead: Counter[str]
    runs: Counter[str]
    switches: int
    seconds: float


def steps(number: int = EVENTS) -> list[Event]:
    """Return what the ticket system sends: steps from the log, some of them twice."""
    with gzip.open(LOG) as lines:
        logged = [Event.from_dict(json.loads(line)) for n, line in enumerate(lines) if _FROM <= n < _FROM + number]
    sent: list[Event] = []
    for n, event in enumerate(logged):
        sent.append(event)
        if n % _SENT_AGAIN == 0:
            sent.append(event.replace(id=f"{event.id}-again"))
    return sent


async def run(*, protected: bool, moods: tuple[tuple[float, Mood], ...] = MOODS, events: int = EVENTS) -> Run:
    """Send the stream to a desk of its own, with a service of its own, and count what comes of it."""
    service, stream = Service(), steps(events)
    runs: Counter[str] = Counter()
    async with service.running() as url, CustomerService(url) as client:
        rules = desk(client, protected=protected)
        bus = EventBus(*rules.rule_sets, store=create_memory_storage())
        bus.observe(lambda outcome: runs.update(one.status for one in outcome.runs if one.rule))
        async with bus:
            await rules.directory.warm(_busiest(stream))
            began = monotonic()
            await _send(bus, stream, service, moods)
            await _settled(bus)
            seconds = monotonic() - began
            return await _counted(bus, stream, protected=protected, seen=service.seen, runs=runs, seconds=seconds)


async def _send(bus: EventBus, stream: list[Event], service: Service, moods: tuple[tuple[float, Mood], ...]) -> None:
    began, cues = monotonic(), list(moods)
    for n, event in enumerate(stream):
        while cues and cues[0][0] <= n / len(stream):
            service.cue(cues.pop(0)[1])
        await asyncio.sleep(max(0.0, began + n / PACE - monotonic()))
        await bus.append(event)


async def _settled(bus: EventBus) -> None:
    """Wait until nothing is left to do, now or later."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            await bus.idle()
            left = await bus.store.stats()
            if not (left.pending or left.timers or left.retries):
                return
            await asyncio.sleep(0.02)


async def _counted(bus: EventBus, stream: list[Event], **known: Any) -> Run:
    """Look at what is stored, and add it up."""
    resolved = {(event.subject, event.time) for event in stream if event.type == "ticket.resolve_ticket"}
    stored = [await bus.read(record.name) async for record in bus.store.subjects("ticket:")]
    tickets = [ticket for ticket in stored if isinstance(ticket, Ticket)]
    flags = await bus.read(FLAGS)
    seen: Seen = known["seen"]
    return Run(
        **known,
        events=len(stream),
        levels=Counter(ticket.level_from or "nowhere" for ticket in tickets),
        guessed=sum(ticket.guesses > 0 for ticket in tickets),
        resolved=len(resolved),
        told=len(seen.told),
        dead=Counter([_reason(letter) async for letter in bus.dead_letters()]),
        switches=flags.switches if isinstance(flags, Flags) else 0,
    )


def _reason(letter: DeadLetter) -> str:
    return "unknown" if letter.failure.message.endswith(": 404") else "failed"


def _busiest(stream: list[Event]) -> list[str]:
    counts = Counter(str(event.data["customer"]) for event in stream)
    return [name for name, _ in counts.most_common(_WARMED)]
