"""What an engine allows: which values are limits at all."""

from datetime import timedelta
from typing import Any

import pytest

from onwhen.engine.limits import Limits
from onwhen.errors import SettingError


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"max_depth": 0}, "max_depth=0 must be an int of at least 1"),
        ({"max_depth": "3"}, "max_depth='3' must be an int of at least 1"),
        ({"hot_subjects": True}, "hot_subjects=True must be an int of at least 1"),
        ({"max_event_bytes": 1.5}, "max_event_bytes=1.5 must be an int of at least 1"),
        ({"rule_timeout": 0}, "rule_timeout=0 must be a number of seconds, more than 0, or None"),
        ({"rule_timeout": timedelta(seconds=1)}, "must be a number of seconds"),
        ({"retry": 3}, "retry=3 must be a RetryPolicy"),
    ],
)
def test_what_is_no_limit_is_refused(limits: dict[str, Any], problem: str) -> None:
    """When it is made, with its name and what it may be."""
    with pytest.raises(SettingError, match=problem) as caught:
        Limits(**limits)
    assert caught.value.settings == tuple(limits)
