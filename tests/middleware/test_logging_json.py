"""Records as JSON: one object per line, whatever is in a record."""

import asyncio
import io
import json
import logging
import sys
from datetime import UTC, date, datetime
from enum import IntEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import Context, EventBus, RuleSet, VirtualClock, create_memory_storage
from onwhen.middleware.logging import JsonFormatter, Logging


def record(message: str = "hello", *arguments: Any, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("shop", level, "shop.py", 7, message, arguments, None)
    vars(made).update(extra)
    return made


def read(line: str) -> dict[str, Any]:
    """Read a line as a strict reader would: one line, no names twice, no NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(pairs) == len(dict(pairs)), pairs
        return dict(pairs)

    assert line.isascii()
    assert line.isprintable()
    line.encode()
    found: dict[str, Any] = json.loads(line, parse_constant=refuse, object_pairs_hook=once)
    json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair is in there
    return found


def written(**extra: Any) -> dict[str, Any]:
    return read(JsonFormatter().format(record(**extra)))


def test_a_record_is_one_object() -> None:
    """Time, level, logger and message first, then what was given as extra, in its order."""
    made = record("%s: %d", "taken", 3, subject="order:1", duration=0.25, rule=None)
    made.created = 1_700_000_000.5
    assert JsonFormatter().format(made) == (
        '{"time": "2023-11-14T22:13:20.500000Z", "level": "INFO", "logger": "shop", "message": "taken: 3", '
        '"subject": "order:1", "duration": 0.25, "rule": null}'
    )


def test_an_exception_is_a_text() -> None:
    """With its lines inside the one line; a stack as well."""
    try:
        raise ValueError("bad\nnews")
    except ValueError:
        made = record(exc_info=sys.exc_info(), stack_info="Stack (most recent call last):\n  here")
    told = read(JsonFormatter().format(made))
    assert told["exception"].startswith("Traceback (most recent call last):\n")
    assert told["exception"].endswith("ValueError: bad\nnews")
    assert told["stack"].endswith("here")


def test_of_a_long_exception_the_end_is_kept() -> None:
    """What was raised stands there."""
    try:
        try:
            raise ValueError("first" * 10_000)
        except ValueError as error:
            raise ValueError("last") from error
    except ValueError:
        told = read(JsonFormatter().format(record(exc_info=sys.exc_info())))
    assert len(told["exception"]) <= 20_010  # one sign is escaped
    assert told["exception"].endswith("ValueError: last")


async def test_what_logging_records_is_written_with_all_its_fields() -> None:
    """The two are made for each other."""
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("shop")  # noqa: LOG001, one that no other test meets
    logger.addHandler(handler)
    rules = RuleSet("orders")

    @rules.on("order.taken")
    def charge(ctx: Context) -> None:
        raise ValueError("card\nrefused")

    bus = EventBus(rules, store=create_memory_storage(), clock=VirtualClock())
    bus.use(Logging(logger, payloads=True))
    await bus.emit("order.taken", "order:1", {"total": 7.5})
    failure, event = [read(line) for line in lines.getvalue().splitlines()]
    assert failure["exception"].endswith("| refused")
    assert (failure["level"], failure["rule"], failure["retry_at"]) == ("ERROR", "orders.charge", None)
    assert event["payload"] == {"total": 7.5}
    assert event.keys() >= {"event_type", "event_id", "subject", "correlation_id", "partition", "outcome", "attempt"}


def test_an_extra_of_a_name_of_ours_is_kept_under_another() -> None:
    """What we write ourselves cannot be replaced."""
    told = written(time="noon", logger="x", exception="none")
    assert (told["extra_time"], told["extra_logger"]) == ("noon", "x")
    assert (told["level"], told["logger"], told["exception"]) == ("INFO", "shop", "none")


def test_no_extra_replaces_another() -> None:
    """Also if the name that one is kept under has been given to another one."""
    told = written(extra_logger=1, logger=2)
    assert (told["logger"], told["extra_logger"], told["extra_extra_logger"]) == ("shop", 1, 2)


class Level(IntEnum):
    HIGH = 2


class Share(float):
    pass


class Evil:
    def __str__(self) -> str:
        raise RuntimeError("no")

    __repr__ = __str__


class Liar(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no")


def endless() -> list[Any]:
    inner: list[Any] = []
    inner.append(inner)
    return inner


def doubling() -> list[Any]:
    inner: list[Any] = ["x" * 100]
    for _ in range(30):
        inner = [inner, inner]
    return inner


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "NaN"),
        (float("inf"), "Infinity"),
        (float("-inf"), "-Infinity"),
        (b"\x00\xff", "(2 bytes)"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        ({1: {2}}, {"1": [2]}),
        ((1, (2,)), [1, [2]]),
        (10**5000, "(16610 bits)"),
        (True, True),
        (ValueError("bad"), "bad"),
        (Evil(), "(cannot be written: RuntimeError)"),
        (Liar("x"), "(cannot be written: RuntimeError)"),
        ({"a": Evil()}, {"a": "(cannot be written: RuntimeError)"}),
        ("half \ud800", "half \\ud800"),
        ("a\u2028\u202e\n", "a\u2028\u202e\n"),
        (logging.INFO, 20),
    ],
    ids=lambda value: type(value).__name__,
)
def test_values_that_json_does_not_have(value: Any, shown: Any) -> None:
    """Become what a reader can make something of; none of them is refused."""
    assert written(value=value)["value"] == shown


@pytest.mark.parametrize(
    "value", [endless(), doubling(), ["x" * 100_000] * 10, list(range(100_000)), {i: i for i in range(9999)}]
)
def test_no_value_is_too_large(value: Any) -> None:
    """Nor one that contains itself."""
    assert len(JsonFormatter().format(record(value=value))) < 250_000


def test_an_exception_whose_story_cannot_be_told() -> None:
    """Is said to be one."""
    made = record(exc_info=("no", "exception"))
    assert read(JsonFormatter().format(made))["exception"].startswith("(cannot be written: ")


def test_values_of_classes_that_extend_numbers_are_numbers() -> None:
    """An enumeration of integers, for instance."""
    told = written(priority=Level.HIGH, share=Share(0.5))
    assert (told["priority"], told["share"]) == (2, 0.5)


def test_what_is_nested_too_deep_is_cut() -> None:
    """Rather than to fail: readers have limits, too."""
    line = JsonFormatter().format(record(value=endless()))
    assert line.endswith("[" * 32 + '"\\u2026"' + "]" * 32 + "}")


def test_a_record_that_is_broken_is_written_all_the_same() -> None:
    """Arguments that do not fit the message, a moment that is none, names that are no texts."""
    made = record("%d items", "three", level=logging.ERROR)
    vars(made)[7] = made.created = float("inf")  # type: ignore[index]
    told = read(JsonFormatter().format(made))
    assert told["message"] == "%d items (cannot be written: TypeError)"
    assert (told["time"], told["7"]) == ("inf", "Infinity")


def test_what_another_formatter_has_left_is_no_extra() -> None:
    """A record goes through several handlers."""
    made = record()
    logging.Formatter("%(asctime)s %(message)s").format(made)
    assert read(JsonFormatter().format(made)).keys() == {"time", "level", "logger", "message"}


async def test_records_of_tasks_have_no_attributes_of_the_interpreter() -> None:
    """Whatever a version of Python puts into every record stays out."""
    told: list[dict[str, Any]] = []

    async def log() -> None:
        told.append(read(JsonFormatter().format(record())))

    await asyncio.create_task(log(), name="of mine")
    assert told[0].keys() == {"time", "level", "logger", "message"}


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.binary()
    | st.datetimes()
    | st.decimals()
    | st.complex_numbers()
    | st.builds(Evil)
    | st.builds(object),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters()) | st.integers() | st.builds(Evil), inner, max_size=5)
        | st.tuples(inner)
    ),
    max_leaves=30,
)


@given(st.text(st.characters()), st.dictionaries(st.text(st.characters()), anything, max_size=4))
def test_any_record_is_one_line_of_json(message: str, extra: dict[str, Any]) -> None:
    """Whatever the message, whatever the extras."""
    made = record("%s", message)
    for name, value in extra.items():
        if name not in vars(made):
            vars(made)[name] = value
    read(JsonFormatter().format(made))
