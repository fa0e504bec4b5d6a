"""The pytest plugin: the `harness` fixture, the `onwhen` marker, and what a failing test says.

Belongs here: what pytest has to know. It is loaded in every pytest run of everybody who has onwhen installed, so
it must not import the engine before a test asks for the fixture, and does next to nothing for other tests.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from onwhen.testing.harness import Harness

__all__ = ["harness"]

_MARKER: Final = "onwhen(*rule_sets, bus=None, start=None, limits=None): what the `harness` fixture is made with"
_ASYNC: Final = (
    "this test is async, and no plugin runs it: with pytest-asyncio, "
    'set asyncio_mode = "auto" in the configuration of pytest, or mark the test with @pytest.mark.asyncio'
)
_HARNESS: Final = pytest.StashKey["Harness"]()


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def harness(request: pytest.FixtureRequest) -> Harness:
    """Rules under test on a virtual clock, see `onwhen.testing.Harness`; choose them with `@pytest.mark.onwhen`.

    Rule sets named by markers on module, class and function add up; of `bus`, `start` and `limits` the one
    closest to the function counts.
    """
    from onwhen.testing.harness import Harness

    rule_sets: list[Any] = []
    options: dict[str, Any] = {}
    for marker in request.node.iter_markers("onwhen"):
        rule_sets[:0] = marker.args
        options = {**marker.kwargs, **options}
    unknown = options.keys() - {"bus", "start", "limits"}
    if unknown:
        raise pytest.UsageError(f"@pytest.mark.onwhen does not take {', '.join(sorted(unknown))}; it is {_MARKER}")
    made = Harness(*rule_sets, **options)
    request.node.stash[_HARNESS] = made
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail a test that passed, but left dead letters that it never asked about; say what an async test lacks."""
    try:
        result = yield
    except pytest.fail.Exception as refusal:  # by pytest itself, which runs no async tests
        if _HARNESS not in item.stash or not str(refusal).startswith("async def function"):
            raise
        del item.stash[_HARNESS]  # there is no story to tell
        raise pytest.fail.Exception(_ASYNC, pytrace=False) from None
    made = item.stash.get(_HARNESS, None)  # only now: a test may have asked for the fixture by name
    if made is not None and (letters := made.unasked()):
        lines = [
            f"  {letter.rule or 'the event'}: {letter.failure.type}: {letter.failure.message}" for letter in letters
        ]
        pytest.fail(
            "\n".join(
                [
                    "rules failed, and the test did not ask about it (where you expect it, say so: "
                    "harness.then.failures().once())",
                    *lines,
                    "",
                    made.story(),
                ]
            ),
            pytrace=False,
        )
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell what the rules did when a test fails by an assertion of its own."""
    report = yield
    made = item.stash.get(_HARNESS, None)
    if made is not None and report.when == "call" and report.failed and not made.is_told:
        report.sections.append(("onwhen", made.story()))
    return report
