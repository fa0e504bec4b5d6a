"""Whether a worker lives and is ready, over HTTP: for an orchestrator, a load balancer or a person with curl.

Belongs here: the answers, and a small server for them. It must not know what a worker does, nor of signals and
processes; those belong to the command that starts it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route

if TYPE_CHECKING:
    from onwhen.engine.status import WorkerStatus

__all__ = ["Watched", "health_app", "listen", "serve", "url_of"]

_GRACE: Final = 1  # seconds for requests that are under way when the server stops


class Watched(Protocol):
    """What is asked for its health: a `Worker`."""

    def status(self) -> WorkerStatus:
        """Return how it is."""
        ...


def health_app(worker: Callable[[], Watched | str], routes: Sequence[BaseRoute] = ()) -> Starlette:
    """Return the ASGI application that answers for a worker.

    `/live` answers 200 as long as the event loop turns; a rule that blocks it keeps the answer waiting. `/ready`
    answers 200 if the worker owns its share of the partitions and its oldest pending event is not too old, and else
    503; both as JSON that says how it is and, with 503, why.

    Args:
        worker: returns the worker; while it is not ready for reasons of its own, such as its end, what these are.
        routes: further ones, such as one for metrics.
    """

    async def live(_: Request) -> JSONResponse:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> JSONResponse:
        asked = worker()
        facts = {"ready": False, "reason": asked} if isinstance(asked, str) else _facts(asked.status())
        return JSONResponse(facts, status_code=200 if facts["ready"] else 503)

    return Starlette(routes=[Route("/live", live), Route("/ready", ready), *routes])


def _facts(status: WorkerStatus) -> dict[str, Any]:
    return {
        "ready": status.is_ready,
        "reason": "" if status.is_ready else status.reason,
        "worker": status.id,
        "owned": sorted(status.owned),
        "share": status.share,
        "partitions": status.partitions,
        "backlog": status.backlog,
        "oldest_age_seconds": None if status.oldest_age is None else round(status.oldest_age, 3),
        "turns": status.turns,
        "last_progress_age_seconds": round(status.last_progress_age, 3),
    }


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens, so that what is wrong with the address is known before anything is begun.

    Args:
        host: name or address of one of the machine's interfaces; an empty one or `0.0.0.0` for all of them.
        port: which; 0 for one that is free.

    Raises:
        OSError: it cannot be: the port is taken, say.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


class _Server(uvicorn.Server):
    """A server that leaves signals alone: they are for the worker, whose health it tells."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(app: Starlette, listening: socket.socket) -> None:
    """Serve an application on the running event loop until this is cancelled.

    Args:
        app: what answers.
        listening: socket to serve on, see `listen`; closed at the end.
    """
    config = uvicorn.Config(
        app,
        log_config=None,  # whose program this is decides what is logged
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        timeout_graceful_shutdown=_GRACE,
    )
    server = _Server(config)
    try:
        await server.serve([listening])
    except asyncio.CancelledError:
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * _GRACE):
                await server.shutdown([listening])
        for connection in tuple(server.server_state.connections):  # one that has just come, or holds on
            connection.transport.abort()
        await asyncio.sleep(0)  # now they are closed
        raise
    finally:
        listening.close()


def url_of(listening: socket.socket) -> str:
    """Return the address of a socket that listens, as that of a web site."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
