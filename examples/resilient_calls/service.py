"""The customer service that the rules call: a real server on this machine, which misbehaves on cue.

Belongs here: how it answers, when it is well and when it is not, and what it saw. It must not know who calls it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final, Literal, TypeAlias

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from onwhen.gateway.health import listen, serve, url_of

__all__ = ["ALLOWED", "Mood", "Seen", "Service"]

Mood: TypeAlias = Literal["well", "flaky", "down", "hanging", "garbled"]
"""Every third call fails; every one does; none is answered; what is answered makes no sense."""

ALLOWED: Final = 60
"""How many calls it takes in a second; what comes beyond is answered with 429 and Retry-After."""
_TAKES: Final = 0.02  # seconds for an answer
_BACKUP_TAKES: Final = 0.04
_GARBLED: Final = b"<html><title>Welcome to our new load balancer</title>"
_UNKNOWN: Final = "Value 16"
"""A customer whom the service does not know: a mistake of the caller's, which no second call puts right."""
_LEVELS: Final = ("standard", "silver", "gold")


@dataclass(slots=True)
class Seen:
    """What the service saw of its callers.

    Attributes:
        statuses: how each call was answered; "none" if the caller had gone by then.
        calls: how many for what (counts).
        while_unwell: how many while it was down, hanging or garbled (a count).
        peak: most calls that were under way at the same time (a count).
        busiest: most calls within one second, wherever it begins (a count).
        told: how often each notice was taken, by ticket and step.
        backup: calls of the backup (a count); they are in no other figure.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)
    while_unwell: int = 0
    peak: int = 0
    busiest: int = 0
    told: Counter[str] = field(default_factory=Counter)
    backup: int = 0

    @property
    def duplicates(self) -> int:
        """How many notices customers were sent that they had before (a count)."""
        return sum(times - 1 for times in self.told.values())


class Service:
    """One server; to be entered with `async with service.running() as url`."""

    def __init__(self) -> None:
        self.seen = Seen()
        self._mood: Mood = "well"
        self._changed = asyncio.Event()
        self._under_way = 0
        self._numbers: Counter[str] = Counter()
        self._last_second: deque[float] = deque()
        self._last_allowed: deque[float] = deque()
        self._done: dict[str, dict[str, Any]] = {}

    def cue(self, mood: Mood) -> None:
        """Behave like this from now on; calls that hang are let go, with an error."""
        self._mood = mood
        self._changed.set()
        self._changed = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve on a free port for as long as the block lasts; gives the address."""
        app = Starlette(
            routes=[
                Route("/customers/{name}", self._answering("look-ups", self._customer)),
                Route("/customers/{name}/history", self._answering("histories", self._history)),
                Route("/notices", self._answering("notices", self._notice), methods=["POST"]),
                Route("/backup/customers/{name}", self._backup),
            ]
        )
        listening = listen("127.0.0.1", 0)
        serving = asyncio.create_task(serve(app, listening))
        try:
            yield url_of(listening)
        finally:
            self.cue("well")
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving

    # -- what it is asked

    async def _customer(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name == _UNKNOWN:
            return JSONResponse({"detail": f"there is no customer {name}"}, status_code=404)
        return JSONResponse({"name": name, "level": _level(name)})

    async def _history(self, request: Request) -> Response:
        return JSONResponse({"purchases": len(request.path_params["name"]) * 3})

    async def _notice(self, request: Request) -> Response:
        """Tell a customer something; a second call with the same key is answered as the first one was."""
        notice, key = await request.json(), request.headers["idempotency-key"]
        if key not in self._done:
            self.seen.told[f"{notice['ticket']} {notice['step']}"] += 1
            self._done[key] = {"number": len(self._done) + 1}
        return JSONResponse(self._done[key], status_code=201)

    async def _backup(self, request: Request) -> Response:
        """A copy of last night in another place: slow, and it knows only levels."""
        self.seen.backup += 1
        await asyncio.sleep(_BACKUP_TAKES)
        name = request.path_params["name"]
        if name == _UNKNOWN or len(name) % 2:
            return JSONResponse({"detail": "not in the copy"}, status_code=404)
        return JSONResponse({"level": _level(name)})

    # -- how it answers

    def _answering(self, what: str, handle: Callable[[Request], Any]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            seen = self.seen
            seen.calls[what] += 1
            seen.while_unwell += self._mood in ("down", "hanging", "garbled")
            seen.busiest = max(seen.busiest, _within_a_second(self._last_second))
            self._under_way += 1
            seen.peak = max(seen.peak, self._under_way)
            status = "none"
            try:
                response = await self._in_its_mood(request, what, handle)
                if not await request.is_disconnected():
                    status = str(response.status_code)
            except ClientDisconnect:
                return Response(status_code=499)
            finally:
                self._under_way -= 1
                seen.statuses[status] += 1
            return response

        return answer

    async def _in_its_mood(self, request: Request, what: str, handle: Callable[[Request], Any]) -> Response:
        if self._mood == "down":
            return JSONResponse({"detail": "down for maintenance"}, status_code=503)
        if len(self._last_allowed) >= ALLOWED and monotonic() - self._last_allowed[-ALLOWED] < 1:
            return JSONResponse({"detail": "too many calls"}, status_code=429, headers={"Retry-After": "1"})
        _within_a_second(self._last_allowed)
        if self._mood == "hanging":
            return await self._hang(request)
        await asyncio.sleep(_TAKES)
        if self._mood == "garbled":
            return Response(_GARBLED, media_type="application/json")
        self._numbers[what] += 1
        if self._mood == "flaky" and self._numbers[what] % 3 == 0:
            return JSONResponse({"detail": "out of memory"}, status_code=500)
        answered: Response = await handle(request)
        return answered

    async def _hang(self, request: Request) -> Response:
        """Leave the caller waiting until it has gone, or until the service is restarted."""
        waits = [asyncio.ensure_future(self._changed.wait()), asyncio.ensure_future(_gone(request))]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return JSONResponse({"detail": "restarted meanwhile"}, status_code=502)


async def _gone(request: Request) -> None:
    """Wait until the caller hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _level(name: str) -> str:
    return _LEVELS[sum(name.encode()) % len(_LEVELS)]


def _within_a_second(moments: deque[float]) -> int:
    """Add now to these moments, forget those of more than a second ago, and return how many are left."""
    moments.append(monotonic())
    while moments[-1] - moments[0] >= 1:
        moments.popleft()
    return len(moments)
