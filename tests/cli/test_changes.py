"""What a worker tells of itself while it runs: no more than is worth knowing."""

from __future__ import annotations

import msgspec

from onwhen.cli._changes import Changes
from onwhen.engine.status import WorkerStatus

ALL = WorkerStatus(
    id="desk",
    owned=frozenset({0, 1, 2, 3}),
    share=4,
    partitions=4,
    backlog=0,
    oldest_age=None,
    is_ready=True,
    reason="",
    turns=0,
    last_progress_age=0.0,
)
HALF = msgspec.structs.replace(ALL, owned=frozenset({1, 3}), share=2)
LATE = msgspec.structs.replace(ALL, is_ready=False, reason="the oldest pending event is 61 s old, more than 60 s")
LATER = msgspec.structs.replace(LATE, reason="the oldest pending event is 62 s old, more than 60 s")


def test_what_it_owns_is_told_once() -> None:
    """And again when it has changed; with its share, while it owns another number."""
    changes = Changes()
    assert changes.of(ALL, 0.0) == ["owns 4 of 4 partitions: 0-3"]
    assert changes.of(ALL, 1.0) == []
    moving = msgspec.structs.replace(ALL, share=2)
    assert changes.of(moving, 2.0) == ["owns 4 of 4 partitions: 0-3; its share is 2"]
    assert changes.of(HALF, 3.0) == ["owns 2 of 4 partitions: 1,3"]
    nothing = msgspec.structs.replace(ALL, owned=frozenset(), share=0)
    assert changes.of(nothing, 4.0) == ["owns 0 of 4 partitions: none"]


def test_that_it_does_not_keep_up_is_told_once() -> None:
    """With the reason as it was then; and that it does again."""
    changes = Changes()
    changes.of(ALL, 0.0)
    assert changes.of(LATE, 1.0) == []
    assert changes.of(LATER, 3.0) == [f"is not ready: {LATER.reason}"]
    assert changes.of(LATE, 9.0) == []
    assert changes.of(ALL, 10.0) == ["is ready again"]
    assert changes.of(ALL, 11.0) == []


def test_what_is_over_soon_is_not_told() -> None:
    """A partition that comes or goes makes it unready for a moment."""
    changes = Changes()
    changes.of(ALL, 0.0)
    assert changes.of(LATE, 1.0) == []
    assert changes.of(ALL, 2.0) == []
    assert changes.of(LATE, 3.0) == []
    assert changes.of(LATE, 4.0) == []
    assert changes.of(ALL, 4.5) == []
