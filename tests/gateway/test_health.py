"""Whether a worker lives and is ready, as an orchestrator asks for it."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from onwhen.engine.status import WorkerStatus
from onwhen.gateway.health import Watched, health_app, listen, serve, url_of

WELL = WorkerStatus(
    id="desk-0",
    owned=frozenset({3, 1}),
    share=2,
    partitions=4,
    backlog=7,
    oldest_age=0.5,
    is_ready=True,
    reason="",
    turns=12,
    last_progress_age=0.25,
)


class Worker:
    """Says of itself what it is told to."""

    def __init__(self, status: WorkerStatus) -> None:
        self._status = status

    def status(self) -> WorkerStatus:
        return self._status


@asynccontextmanager
async def asking(worker: Watched | str, *routes: Route) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a server that tells how a worker is."""
    listening = listen("127.0.0.1", 0)
    serving = asyncio.create_task(serve(health_app(lambda: worker, routes), listening))
    async with httpx.AsyncClient(base_url=url_of(listening), timeout=10, trust_env=False) as client:
        yield client
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert listening.fileno() == -1


async def test_a_loop_that_turns_lives() -> None:
    """Whatever the worker says of itself: to be restarted would not help it."""
    async with asking("it is about to start") as client:
        answer = await client.get("/live")
    assert (answer.status_code, answer.json()) == (200, {"live": True})


async def test_a_worker_that_is_well_is_ready() -> None:
    """And says how it is, for people and monitors."""
    async with asking(Worker(WELL)) as client:
        answer = await client.get("/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "reason": "",
        "worker": "desk-0",
        "owned": [1, 3],
        "share": 2,
        "partitions": 4,
        "backlog": 7,
        "oldest_age_seconds": 0.5,
        "turns": 12,
        "last_progress_age_seconds": 0.25,
    }


async def test_a_worker_that_is_not_says_why() -> None:
    """With 503, so that nobody has to read it who only asks."""
    unwell = msgspec.structs.replace(WELL, is_ready=False, reason="it owns 1 of its share of 2 partitions")
    async with asking(Worker(unwell)) as client:
        answer = await client.get("/ready")
    assert answer.status_code == 503
    assert (answer.json()["ready"], answer.json()["reason"]) == (False, "it owns 1 of its share of 2 partitions")


async def test_without_a_worker_nothing_is_ready() -> None:
    """Before it starts, and while it ends."""
    async with asking("it ends") as client:
        answer = await client.get("/ready")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "reason": "it ends"})


async def test_other_routes_are_on_the_same_port() -> None:
    """So that metrics need no server of their own; what is not there is not found."""

    async def metrics(_: Request) -> PlainTextResponse:
        return PlainTextResponse("events_total 3")

    async with asking("it ends", Route("/metrics", metrics)) as client:
        assert (await client.get("/metrics")).text == "events_total 3"
        assert (await client.get("/")).status_code == 404


async def test_signals_are_left_to_the_worker() -> None:
    """A server that took them would keep the worker from ending in peace."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    async with asking("it ends") as client:
        await client.get("/live")
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


async def test_it_ends_though_a_client_holds_on() -> None:
    """A connection that is kept open, or was never used, keeps nobody waiting."""
    async with asking("it ends") as client:
        idle = socket.create_connection((client.base_url.host, client.base_url.port))
        await client.get("/live")  # which came later
    idle.close()


def test_a_port_that_is_taken_is_noticed_at_once() -> None:
    """Before a worker is started that nobody could ask."""
    with listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])


def test_addresses_are_those_of_web_sites() -> None:
    """Of IPv6 too."""
    with listen("127.0.0.1", 0) as four:
        assert url_of(four) == f"http://127.0.0.1:{four.getsockname()[1]}"
    with listen("::1", 0) as six:
        assert url_of(six) == f"http://[::1]:{six.getsockname()[1]}"
