"""Events: the frozen CloudEvents 1.0 envelope, its ids and its JSON form, and the types that onwhen emits itself.

An event knows its own attributes and the event that caused it. It must not know of rules, subjects, stores or the
clock: who makes it passes the time.
"""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from types import NoneType
from typing import Any, Final, final

import msgspec

from onwhen.engine import _attributes as check
from onwhen.engine._attributes import NO_EXTENSIONS, REQUIRED, text
from onwhen.engine.values import MAX_DEPTH, encode, freeze, freeze_sound, loads_strict, thaw
from onwhen.errors import EventTooLarge, InvalidEvent

__all__ = [
    "DEFAULT_SOURCE",
    "SUBJECT_DELETED",
    "SUBJECT_PROPERTY_CHANGED",
    "SUBJECT_PROPERTY_DELETED",
    "Event",
]

SUBJECT_PROPERTY_CHANGED: Final = "subject-property-changed"
SUBJECT_PROPERTY_DELETED: Final = "subject-property-deleted"
SUBJECT_DELETED: Final = "subject-deleted"

DEFAULT_SOURCE: Final = "onwhen"

_SPECVERSION: Final = "1.0"
_ARGUMENTS: Final = {  # attribute in the JSON form -> argument of Event
    **{name: name for name in (*REQUIRED, "time", "datacontenttype", "dataschema")},
    "correlationid": "correlation_id",
    "causationid": "causation_id",
    "cascadedepth": "depth",
}
_KNOWN: Final = frozenset({"specversion", "data", "data_base64", *_ARGUMENTS})
_SMALL: Final = frozenset({NoneType, bool, float})  # whatever the limit, these are below it
_ID_LOCK: Final = threading.Lock()


@final
class Event:
    """One thing that happened, addressed to one subject: an immutable CloudEvents 1.0 envelope.

    Events are equal when all their attributes and their data are; they hash by source and id, which together name
    an event. All strings are CloudEvents Strings: no control characters, noncharacters or lone surrogates; that
    `source` and `dataschema` are URIs is not checked.

    Args:
        type: what happened, for example `ticket.taken`.
        subject: name of the subject that the event is addressed to, for example `ticket:3608`. CloudEvents leaves
            it optional, onwhen does not.
        data: a JSON value, copied and frozen; or bytes, which JSON carries as `data_base64`. None is no data.
        id: unique for the source; by default a UUIDv7, made when it is first read.
        source: who sends it, a URI reference.
        time: when it happened, an aware datetime; written in UTC, with microseconds.
        datacontenttype: media type of the data; None means application/json, as in CloudEvents.
        dataschema: URI of the schema of the data.
        extensions: further attributes by name (1 to 20 of a-z, 0-9). Boolean, Integer (32 bits) and String values
            are kept as they are; write a URI, a Timestamp (RFC 3339) or Binary (base64) as the string that JSON has.
        correlation_id: id of the event at the root of the cascade, extension attribute `correlationid`; by default
            the event's own id.
        causation_id: id of the event that caused this one, extension attribute `causationid`; None at the root.
        depth: how many events lie between this one and the root, a count, extension attribute `cascadedepth`.

    Raises:
        InvalidEvent: an attribute or the data is not as it must be; its `attribute` says which.

    Source: CloudEvents 1.0.2, sections "Context Attributes" and "Type System".
    """

    __slots__ = (
        "_causation_id",
        "_correlation_id",
        "_data",
        "_datacontenttype",
        "_dataschema",
        "_depth",
        "_extensions",
        "_id",
        "_origin",
        "_source",
        "_subject",
        "_time",
        "_type",
    )

    def __init__(
        self,
        type: str,
        subject: str,
        data: Any = None,
        *,
        id: str | None = None,
        source: str = DEFAULT_SOURCE,
        time: datetime | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, str | int | bool] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
        depth: int = 0,
    ) -> None:
        # One is made for every emit: what is plainly good is let through here, without a call.
        plain = type.__class__ is str and type and type.isprintable()
        self._type = type if plain else text(type, "type")
        plain = subject.__class__ is str and subject and subject.isprintable()
        self._subject = subject if plain else text(subject, "subject")
        self._data = None if data is None else _frozen(data)
        self._id = None if id is None else text(id, "id")
        self._source = source if source is DEFAULT_SOURCE else text(source, "source")
        plain = time is None or (time.__class__ is datetime and time.tzinfo is UTC)
        self._time = time if plain else check.aware(time)
        self._datacontenttype = None if datacontenttype is None else text(datacontenttype, "datacontenttype")
        self._dataschema = None if dataschema is None else text(dataschema, "dataschema")
        self._extensions = NO_EXTENSIONS if extensions is None else check.extensions(extensions)
        self._correlation_id = None if correlation_id is None else text(correlation_id, "correlationid")
        self._causation_id = None if causation_id is None else text(causation_id, "causationid")
        if depth.__class__ is not int or not 0 <= depth < 2**31:
            raise check.bad_depth(depth)
        self._depth = depth
        self._origin: tuple[Event, str, int, int] | None = None

    @classmethod
    def caused_by(
        cls,
        parent: Event,
        rule_id: str,
        attempt: int,
        index: int,
        type: str,
        subject: str,
        data: Any = None,
        *,
        source: str = DEFAULT_SOURCE,
        time: datetime | None = None,
        datacontenttype: str | None = None,
        dataschema: str | None = None,
        extensions: Mapping[str, str | int | bool] | None = None,
        depth: int | None = None,
    ) -> Event:
        """Make an event that a rule emits while it handles another one.

        Its id follows from the first four arguments and the parent's source (two sources may use the same ids), so a
        turn that is run again emits the same ids. Ids are worked out when one is first read; until then the event
        keeps its parent alive, see `detach`.

        Args:
            parent: the event that is handled.
            rule_id: the rule that emits, as `ruleset.function`.
            attempt: which attempt of the rule this is, a count.
            index: which event of this attempt it is, a count.
            type: as for `Event`, like all that follow.
            subject: name of the subject that the event is addressed to.
            data: a JSON value or bytes.
            source: who sends it, a URI reference.
            time: when it happened, an aware datetime.
            datacontenttype: media type of the data.
            dataschema: URI of the schema of the data.
            extensions: further attributes by name.
            depth: a count; by default one more than the parent's.

        Returns:
            An event with a derived id (UUIDv8), the parent's correlation id, and the parent's id as its causation id.

        Raises:
            InvalidEvent: as `Event` does.
        """
        event = cls(
            type,
            subject,
            data,
            source=source,
            time=time,
            datacontenttype=datacontenttype,
            dataschema=dataschema,
            extensions=extensions,
            depth=parent._depth + 1 if depth is None else depth,
        )
        event._origin = (parent, rule_id, attempt, index)
        return event

    # -- attributes --------------------------------------------------------------------------------------------

    @property
    def type(self) -> str:
        """What happened."""
        return self._type

    @property
    def subject(self) -> str:
        """Name of the subject that the event is addressed to."""
        return self._subject

    @property
    def data(self) -> Any:
        """The payload: None, bytes, or a JSON value whose dicts and lists are frozen."""
        return self._data

    @property
    def id(self) -> str:
        """Unique for the source."""
        return self._id or self._resolve()

    @property
    def has_id(self) -> bool:
        """Whether the id is there already; one that is yet to be made is like no other."""
        return self._id is not None

    @property
    def source(self) -> str:
        """Who sends the event, a URI reference."""
        return self._source

    @property
    def time(self) -> datetime | None:
        """When it happened, an aware datetime as it was given."""
        return self._time

    @property
    def datacontenttype(self) -> str | None:
        """Media type of the data; None means application/json."""
        return self._datacontenttype

    @property
    def dataschema(self) -> str | None:
        """URI of the schema of the data."""
        return self._dataschema

    @property
    def extensions(self) -> Mapping[str, str | int | bool]:
        """Further attributes by name, without the three that have a property of their own."""
        return self._extensions

    @property
    def correlation_id(self) -> str:
        """Id of the event at the root of the cascade; the event's own id when it is the root."""
        if self._origin is not None:
            self._resolve()
        return self._correlation_id or self.id

    @property
    def causation_id(self) -> str | None:
        """Id of the event that caused this one; None at the root."""
        if self._origin is not None:
            self._resolve()
        return self._causation_id

    @property
    def depth(self) -> int:
        """How many events lie between this one and the root, a count; 0 at the root."""
        return self._depth

    def detach(self) -> None:
        """Work out all ids now and let go of the parent; do so before an event is kept for long."""
        if self._id is None:
            self._resolve()

    def _resolve(self) -> str:
        origin = self._origin
        if origin is not None:
            parent, rule_id, attempt, index = origin
            self._id = id = _derived_id(f"{parent.source}\0{parent.id}\0{rule_id}\0{attempt}\0{index}")
            self._correlation_id = parent.correlation_id
            self._causation_id = parent.id
            self._origin = None  # last: a thread that sees it gone sees all the ids
            return id
        with _ID_LOCK:  # two threads must not be told two ids
            if self._id is None:
                self._id = _new_id()
            return self._id

    def check_size(self, max_bytes: int) -> None:
        """Refuse an event whose data is too large.

        Args:
            max_bytes: how much is allowed, in bytes; JSON is measured as it is written, compact UTF-8.

        Raises:
            EventTooLarge: there is more.
        """
        data = self._data
        if data.__class__ in _SMALL:
            return
        size = len(data) if data.__class__ is bytes else len(encode(data))
        if size > max_bytes:
            raise EventTooLarge(size=size, limit=max_bytes)

    # -- as a value --------------------------------------------------------------------------------------------

    def replace(self, **changes: Any) -> Event:
        """Copy the event with some of its attributes changed; the id stays unless it is among them.

        Args:
            **changes: arguments of `Event` by name.

        Raises:
            InvalidEvent: as `Event` does.
            TypeError: a name is not an argument of `Event`.
        """
        return Event(**{**self._arguments(), **changes})

    def _arguments(self) -> dict[str, Any]:
        self.detach()
        return {name.removeprefix("_"): getattr(self, name) for name in self.__slots__ if name != "_origin"}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return self is other or self._comparable() == other._comparable()

    def _comparable(self) -> dict[str, Any]:
        return {**self._arguments(), "correlation_id": self.correlation_id}

    def __hash__(self) -> int:
        return hash((self._source, self.id))

    def __repr__(self) -> str:
        return f"<Event {self._type} to {self._subject}, id {self.id}>"

    def __copy__(self) -> Event:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Event:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._arguments(),)

    # -- JSON --------------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Put the event into a dict of plain JSON values that the caller may change; attributes not set are left out.

        Source: CloudEvents 1.0.2, JSON Event Format.
        """
        envelope = self._envelope()
        if "data" in envelope:
            envelope["data"] = thaw(self._data)
        return envelope

    def to_json(self) -> bytes:
        """Write the event in the CloudEvents JSON format: compact, UTF-8, on one line.

        Source: CloudEvents 1.0.2, JSON Event Format.
        """
        return encode(self._envelope())

    def _envelope(self) -> dict[str, Any]:
        envelope: dict[str, Any] = {
            "specversion": _SPECVERSION,
            "id": self.id,
            "source": self._source,
            "type": self._type,
            "subject": self._subject,
        }
        if self._time is not None:
            envelope["time"] = check.format_time(self._time)
        if self._datacontenttype is not None:
            envelope["datacontenttype"] = self._datacontenttype
        if self._dataschema is not None:
            envelope["dataschema"] = self._dataschema
        if self._correlation_id is not None:
            envelope["correlationid"] = self._correlation_id
        if self._causation_id is not None:
            envelope["causationid"] = self._causation_id
        if self._depth:
            envelope["cascadedepth"] = self._depth
        envelope.update(self._extensions)
        if isinstance(self._data, bytes):
            envelope["data_base64"] = b64encode(self._data).decode("ascii")
        elif self._data is not None:
            envelope["data"] = self._data
        return envelope

    @classmethod
    def from_dict(cls, envelope: Mapping[str, Any]) -> Event:
        """Make an event of what `to_dict` returns, or of another envelope in the CloudEvents JSON format.

        Args:
            envelope: attributes by name; None counts as not set. `time` may also be an aware datetime, and `data`
                may be bytes.

        Raises:
            InvalidEvent: the specversion is not 1.0, an attribute is missing, unknown (not a legal name for an
                extension) or has a wrong value, or there are both `data` and `data_base64`.

        Source: CloudEvents 1.0.2, JSON Event Format.
        """
        if not isinstance(envelope, Mapping):
            raise InvalidEvent(f"event: a JSON object is needed, not {envelope.__class__.__name__}")
        attributes = {name: value for name, value in envelope.items() if value is not None}
        version = attributes.pop("specversion", None)
        if version != _SPECVERSION:
            found = "missing" if version is None else f"{version!r:.40}"
            raise InvalidEvent(f'specversion: {found}; it must be "{_SPECVERSION}"', attribute="specversion")
        for name, advice in REQUIRED.items():
            if name not in attributes:
                raise InvalidEvent(f"{name}: missing; {advice}", attribute=name)
        data = attributes.pop("data", None)
        if "data_base64" in attributes:
            if "data" in envelope:
                raise InvalidEvent("data_base64: there is data as well; send one of them", attribute="data_base64")
            data = check.from_base64(attributes.pop("data_base64"))
        if isinstance(attributes.get("time"), str):
            attributes["time"] = check.parse_time(attributes["time"])
        arguments = {_ARGUMENTS[name]: attributes.pop(name) for name in _ARGUMENTS if name in attributes}
        return cls(data=data, extensions=attributes or None, **arguments)

    @classmethod
    def from_json(cls, data: bytes | str, *, max_bytes: int | None = None) -> Event:
        """Read one event in the CloudEvents JSON format.

        Args:
            data: one JSON object; bytes are UTF-8.
            max_bytes: how long it may be, in bytes of UTF-8; None is no limit.

        Raises:
            EventTooLarge: it is longer than `max_bytes`.
            InvalidEvent: it is not strict JSON (see `loads_strict`), or refused by `from_dict`.

        Source: CloudEvents 1.0.2, JSON Event Format.
        """
        if not isinstance(data, bytes | str):
            raise InvalidEvent(f"event: JSON as bytes or str is needed, not {data.__class__.__name__}")
        if max_bytes is not None:
            size = len(data if isinstance(data, bytes) else data.encode(errors="surrogatepass"))
            if size > max_bytes:
                raise EventTooLarge(size=size, limit=max_bytes)
        try:
            envelope = loads_strict(data, "event", max_depth=MAX_DEPTH + 1)  # one for the envelope itself
        except ValueError as exc:
            raise InvalidEvent(str(exc)) from None
        return cls.from_dict(envelope)

    @classmethod
    def restored(cls, data: bytes | str) -> Event:
        """Read an event that `to_json` has written; what was checked when it was made is not looked at again.

        Raises:
            InvalidEvent: it was written by something else; see `from_json`.
        """
        try:
            envelope: dict[str, Any] = msgspec.json.decode(data)
            get, event = envelope.get, cls.__new__(cls)
            event._type, event._subject = envelope["type"], envelope["subject"]
            event._id, event._source = envelope["id"], envelope["source"]
            time = get("time")
            event._time = None if time is None else datetime.fromisoformat(time)
            found = get("data")
            if found is not None:
                found = freeze_sound(found)
            elif (text := get("data_base64")) is not None:
                found = check.from_base64(text)
            event._data = found
            event._datacontenttype, event._dataschema = get("datacontenttype"), get("dataschema")
            event._correlation_id, event._causation_id = get("correlationid"), get("causationid")
            event._depth = get("cascadedepth", 0)
            if envelope.keys() <= _KNOWN:
                event._extensions = NO_EXTENSIONS
            else:
                more = {name: value for name, value in envelope.items() if name not in _KNOWN}
                event._extensions = check.extensions(more)
            event._origin = None
        except (ValueError, KeyError, TypeError, AttributeError):
            return cls.from_json(data)
        return event


def _frozen(data: Any) -> Any:
    if data.__class__ is bytes:
        return data
    try:
        return freeze(data, "data")
    except (TypeError, ValueError) as exc:
        if isinstance(data, bytearray | memoryview):
            return bytes(data)
        raise InvalidEvent(str(exc), attribute="data") from None


def _restored(arguments: dict[str, Any]) -> Event:
    return Event(**arguments)


# -- ids -------------------------------------------------------------------------------------------------------


def _new_id() -> str:
    import uuid_utils  # 10 ms that a process without new events does not spend

    return str(uuid_utils.uuid7())


def _derived_id(seed: str) -> str:
    """A UUIDv8 of a hash: the layout of RFC 9562 section 5.8, its free bits from BLAKE2b."""
    bits = int.from_bytes(blake2b(seed.encode(), digest_size=16, person=b"onwhen.event").digest())
    bits = bits & ~(0xF << 76) | 0x8 << 76  # version
    bits = bits & ~(0x3 << 62) | 0x2 << 62  # variant
    digits = f"{bits:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
