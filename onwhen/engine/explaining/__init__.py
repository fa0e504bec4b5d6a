"""Why rules run and do not run: noted while it happens, told as data, and put into words.

From the bottom up: `_texts`, values as short texts; `_sights`, `_evaluation` and `_views`, what a condition looks at,
and its source; `_conditions`, one trigger or condition told; `telling`, all of it in words; `_accounts`, all of it as
data; `_trees`, many turns as one; `_accounting`, from outcomes to that; `_notes`, which turns, and what was asked.
"""

from __future__ import annotations

from onwhen.engine.explaining._accounting import account_of, account_of_event, account_of_outcome, explanation_of
from onwhen.engine.explaining._accounts import Account
from onwhen.engine.explaining._conditions import Asked
from onwhen.engine.explaining._notes import fits, is_sampled, note_failure
from onwhen.engine.explaining._trees import told_by

__all__ = [
    "Account",
    "Asked",
    "account_of",
    "account_of_event",
    "account_of_outcome",
    "explanation_of",
    "fits",
    "is_sampled",
    "note_failure",
    "told_by",
]
