"""What every store owes the engine, as tests: subclass `StoreContract` and say how your store is made.

A store that several processes share is tested by `SharedStoreContract` besides, in the same class.

Belongs here: a test for each sentence of `onwhen.engine.store` and `onwhen.engine.shared`, and nothing that only one
kind of store does. They need pytest, but no plugin for async tests: each runs on an event loop of its own.
"""

from __future__ import annotations

import pytest

_PARTS = (
    *("_bench", "_cells", "_commits", "_explanations", "_fleet", "_life", "_log", "_outbox", "_shared", "_subjects"),
    *("_timers", "_waiting"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))  # a failing test shows what it compared

from onwhen.testing.store_contract._cells import CellContract  # noqa: E402
from onwhen.testing.store_contract._commits import CommitContract  # noqa: E402
from onwhen.testing.store_contract._explanations import ExplanationContract  # noqa: E402
from onwhen.testing.store_contract._fleet import FleetContract  # noqa: E402
from onwhen.testing.store_contract._life import ConcurrencyContract, LifeContract  # noqa: E402
from onwhen.testing.store_contract._log import LogContract  # noqa: E402
from onwhen.testing.store_contract._outbox import OutboxContract  # noqa: E402
from onwhen.testing.store_contract._shared import OwnershipContract  # noqa: E402
from onwhen.testing.store_contract._subjects import SubjectContract  # noqa: E402
from onwhen.testing.store_contract._timers import TimerContract  # noqa: E402
from onwhen.testing.store_contract._waiting import HistoryContract, LetterContract, RetryContract  # noqa: E402

__all__ = ["SharedStoreContract", "StoreContract"]


class StoreContract(
    LogContract,
    CommitContract,
    SubjectContract,
    TimerContract,
    RetryContract,
    LetterContract,
    HistoryContract,
    ExplanationContract,
    CellContract,
    LifeContract,
    ConcurrencyContract,
):
    """All that a store has to do; a subclass is collected by pytest if its name begins with `Test`.

    It defines `make_store`; `make_again` too if the data outlive the store that has written them; and
    `step`, `now` and `pass_time` if the store does not take the time from the clock that it is opened with.
    """


class SharedStoreContract(OwnershipContract, OutboxContract, FleetContract):
    """What a store has to do besides that several processes share; mixed into a class that has `StoreContract` too.

    `make_again` has to return another store over the same data, also while the first one is open. Leases are tested
    with `step`: two of them have to be long enough for a few calls, and a lease of as many is over after three.
    """
