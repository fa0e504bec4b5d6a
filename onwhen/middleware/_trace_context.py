"""Trace context in the extension attributes of events: what of it may be believed, and what may be passed on.

Belongs here: pure functions on names and texts. It must not know of spans, nor of a library for them.

Source: W3C Trace Context (traceparent, tracestate); CloudEvents "Distributed Tracing" extension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["carrier_of", "stamps_of"]

_PARENT: Final = "traceparent"
_STATE: Final = "tracestate"
_MAX_PARENT: Final = 512  # characters; a version to come may be longer than ours, which has 55
_MAX_STATE: Final = 512  # characters, and
_MAX_MEMBERS: Final = 32
_MAX_VALUE: Final = 8192  # characters of what another propagator writes

_IDS: Final = r"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACEPARENT: Final = re.compile(f"00{_IDS}|(?!00|ff)[0-9a-f]{{2}}{_IDS}(?:-.*)?")
_MEMBER: Final = re.compile(
    r"(?P<key>[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
_NAME: Final = re.compile("[a-z0-9]{1,20}")


def carrier_of(extensions: Mapping[str, str | int | bool]) -> dict[str, str]:
    """Return what a propagator may read of an event's extension attributes: texts, and sound ones.

    They come from outside. A `traceparent` that is not as it must be is left out, and `tracestate` with it; a
    `tracestate` that is malformed, longer than 512 characters or of more than 32 members is left out alone.
    """
    carrier = {name: value for name, value in extensions.items() if isinstance(value, str)}
    parent = carrier.get(_PARENT)
    if parent is not None and (len(parent) > _MAX_PARENT or not _TRACEPARENT.fullmatch(parent)):
        del carrier[_PARENT]
        parent = None
    state = carrier.get(_STATE)
    if state is not None and (parent is None or not _is_state(state)):
        del carrier[_STATE]
    return carrier


def stamps_of(carrier: Mapping[str, str]) -> dict[str, str]:
    """Return what a propagator has written, as far as it can be extension attributes of an event.

    A `tracestate` that has grown too long loses members: those of more than 128 characters first, then the oldest.
    """
    stamps = {name: value for name, value in carrier.items() if _NAME.fullmatch(name) and _is_value(value)}
    state = stamps.get(_STATE)
    if state is not None and len(state) > _MAX_STATE:
        stamps[_STATE] = _shortened(state)
    return stamps


def _is_state(state: str) -> bool:
    if len(state) > _MAX_STATE:
        return False
    members = [member.strip(" \t") for member in state.split(",")]
    found = [_MEMBER.fullmatch(member) for member in members if member]
    keys = {match["key"] for match in found if match}
    return 0 < len(keys) == len(found) <= _MAX_MEMBERS


def _is_value(value: str) -> bool:
    return 0 < len(value) <= _MAX_VALUE and value.isascii() and value.isprintable()


def _shortened(state: str) -> str:
    members = state.split(",")
    for index in [*(i for i, one in reversed([*enumerate(members)]) if len(one) > 128), *reversed(range(len(members)))]:
        if sum(len(one) + 1 for one in members if one) - 1 <= _MAX_STATE:
            break
        members[index] = ""
    return ",".join(one for one in members if one)
