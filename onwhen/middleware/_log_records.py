"""What records say of an event and of a failure, so that it cannot forge a line, and where an error was raised.

Belongs here: functions that return a record or parts of one. It must not know when something is logged, nor at which
level.
"""

from __future__ import annotations

import logging
from datetime import datetime
from types import TracebackType
from typing import Any

from onwhen.engine.events import Event
from onwhen.engine.outcomes import failure_of
from onwhen.engine.partitions import partition_of
from onwhen.middleware._safe_text import MAX_ERROR, safe

__all__ = ["of_event", "of_failure", "with_traceback"]


def of_event(event: Event, event_type: str, partitions: int) -> dict[str, Any]:
    """Return the attributes that every record has of an event.

    Args:
        event: the event.
        event_type: what it is called; for a rule that reacts to a property, the type of that property event.
        partitions: how many there are (a count).
    """
    return {
        "event_type": safe(event_type),
        "event_id": safe(event.id),
        "subject": safe(event.subject),
        "correlation_id": safe(event.correlation_id),
        "partition": partition_of(event.subject, partitions),
    }


def of_failure(error: BaseException, handled: bool = False, retry_at: datetime | None = None) -> dict[str, Any]:
    """Return the attributes that the record of a failure has."""
    failure = failure_of(error)
    return {
        "error": safe(f"{failure.type}: {failure.message}" if failure.message else failure.type, MAX_ERROR),
        "handled": handled,
        "retry_at": retry_at.isoformat() if retry_at is not None else None,
    }


def with_traceback(
    logger: logging.Logger, level: int, error: BaseException, extra: dict[str, Any], text: str
) -> logging.LogRecord:
    """Return the record of a failure; its file, line and function are those where the error was raised.

    Args:
        logger: whose record it is.
        level: of the record.
        error: what was raised; its traceback is in the record, each line marked, so that none can pretend to be another
            record.
        extra: attributes of the record, and arguments of the text.
        text: the message.
    """
    file, line, function = _raised_at(error.__traceback__)
    trace = (type(error), error, error.__traceback__)
    record = logger.makeRecord(logger.name, level, file, line, text, (extra,), trace, function, extra)
    # Formatters print this text if it is there, in place of the traceback that they would make of `exc_info`.
    record.exc_text = "\n".join(f"  | {safe(one, MAX_ERROR)}" for one in failure_of(error).traceback.splitlines())
    return record


def _raised_at(trace: TracebackType | None) -> tuple[str, int, str]:
    if trace is None:
        return "(unknown file)", 0, "(unknown function)"
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return code.co_filename, trace.tb_lineno, code.co_name
