"""Subjects, and records of them, that several tests use."""

from decimal import Decimal
from typing import Any

from pydantic import BaseModel

from onwhen.engine import values
from onwhen.engine.store import SubjectRecord
from onwhen.engine.subjects import Subject


class Address(BaseModel):
    city: str
    lines: list[str] = []


class Order(Subject, prefix="order:"):
    count: int = 0
    rate: float = 1.0
    price: Decimal = Decimal("0.00")
    note: str | None = None
    tags: list[str] = []
    labels: set[str] = set()
    by_day: dict[str, list[int]] = {}
    address: Address | None = None
    required: int


def record(version: int | None = None, schema: int = 1, name: str = "ticket:1", **properties: Any) -> SubjectRecord:
    """A subject as a store would return it; with properties it is stored."""
    return SubjectRecord(
        name=name,
        properties={key: values.encode(value) for key, value in properties.items()},
        ext={},
        version=version or (1 if properties else None),
        schema=schema,
    )
