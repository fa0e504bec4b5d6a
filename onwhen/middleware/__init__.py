"""Middleware that comes with the engine, one file a behaviour; each is switched on with `bus.use(...)`.

What is here is wrapped around rules or events by the chain, like a user's own middleware. It must not be known to the
engine.
"""

from onwhen.middleware.logging import LoggingMiddleware

__all__ = ["LoggingMiddleware"]
