"""Events to and from the `cloudevents` SDK (2.x, `cloudevents.core`), without loss.

What belongs here is the mapping of one envelope to the other; what is legal in an event is decided by `Event` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onwhen.engine.events import Event

if TYPE_CHECKING:
    from cloudevents.core.base import BaseCloudEvent
    from cloudevents.core.v1.event import CloudEvent

__all__ = ["from_cloudevents", "to_cloudevents"]


def to_cloudevents(event: Event) -> CloudEvent:
    """Make an event of the SDK.

    Args:
        event: the event to convert.

    Returns:
        A CloudEvent 1.0 with the same attributes, extensions and data; its data is plain and may be changed.

    Raises:
        ImportError: the SDK is not installed.
    """
    try:
        from cloudevents.core.v1.event import CloudEvent
    except ImportError as exc:
        raise ImportError(
            "the cloudevents SDK 2.x is needed for this; install it with: pip install 'onwhen[cloudevents]'"
        ) from exc

    attributes = event.to_dict()
    data = attributes.pop("data", event.data)
    attributes.pop("data_base64", None)
    if event.time is not None:
        attributes["time"] = event.time
    converted = CloudEvent(attributes, data)
    if event.time is None:
        del converted.get_attributes()["time"]  # the SDK makes up a time where there is none
    return converted


def from_cloudevents(event: BaseCloudEvent) -> Event:
    """Make an event of one that the SDK has read or made.

    Args:
        event: a CloudEvent of the SDK, version 1.0, with a subject.

    Returns:
        An event with the same attributes, extensions and data.

    Raises:
        InvalidEvent: it has no subject, is not version 1.0, or holds what the SDK lets through and CloudEvents does
            not, such as NaN in the data.
    """
    return Event.from_dict({**event.get_attributes(), "data": event.get_data()})
