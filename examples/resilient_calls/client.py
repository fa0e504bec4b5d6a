"""What rules call: the customer service over HTTP, its answers as values, and its failures as errors.

Belongs here: requests and answers. It must not wait, repeat or remember anything: that is for the middleware.
"""

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

__all__ = ["CallFailed", "Customer", "CustomerService", "may_pass"]


class CallFailed(Exception):
    """The service did not do what it was asked to.

    Attributes:
        status: of its answer; None if there was none, or if it made no sense.
        retry_after: how long the service asks to wait, in seconds; None if it does not say. `Retry` looks for it here.
    """

    def __init__(self, message: str, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def may_pass(error: BaseException) -> bool:
    """Whether another call may go better: 429 and 5xx, no answer or a garbled one; a 4xx is our own mistake."""
    if isinstance(error, CallFailed):
        return error.status is None or error.status == 429 or error.status >= 500
    return isinstance(error, TimeoutError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """What the service knows of a customer."""

    name: str
    level: str


class CustomerService:
    """A client of the service at an address; to be entered with `async with`."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=None, limits=httpx.Limits(max_connections=None))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def customer(self, name: str, *, backup: bool = False) -> Customer:
        """Return a customer, from the service or from its backup."""
        found = await self._call("GET", f"/backup/customers/{name}" if backup else f"/customers/{name}")
        return Customer(name=name, level=found["level"])

    async def history(self, name: str) -> int:
        """Return how many purchases a customer has made."""
        purchases: int = (await self._call("GET", f"/customers/{name}/history"))["purchases"]
        return purchases

    async def tell(self, ticket: str, step: str, *, key: str) -> None:
        """Send the customer of a ticket a notice; the service takes one of the same key once."""
        await self._call("POST", "/notices", {"ticket": ticket, "step": step}, {"Idempotency-Key": key})

    async def _call(
        self, method: str, path: str, body: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        try:
            answer = await self._http.request(method, path, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise CallFailed(f"{method} {path}: {type(error).__name__}") from error
        if answer.is_error:
            asked = answer.headers.get("retry-after")
            raise CallFailed(f"{method} {path}: {answer.status_code}", answer.status_code, asked and float(asked))
        try:
            found: dict[str, Any] = answer.json()
        except ValueError as error:
            raise CallFailed(f"{method} {path}: the answer is no JSON") from error
        return found
