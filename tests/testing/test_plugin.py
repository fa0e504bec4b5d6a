"""The pytest plugin, seen from a project that has onwhen installed: each test runs pytest on a small one."""

from importlib.metadata import entry_points

import pytest

import onwhen.testing.harness  # noqa: F401 - else each inner run would import it anew, with rules of its own

RULES = """
    from onwhen import RuleSet, Subject

    class Lamp(Subject, prefix="lamp:"):
        power: int = 0

    lamps = RuleSet("lamps", subject=Lamp)

    @lamps.on("lamp.switched")
    def switch(ctx):
        ctx.subject.power = ctx.payload["power"]

    houses = RuleSet("houses")

    @houses.on("lamp.switched")
    async def tell(ctx):
        await ctx.emit("house.lit", subject="house:1")
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A project with rules, and with warnings as errors; on somebody's desk, because pytest says more in CI."""
    for name in ("CI", "BUILD_NUMBER"):
        monkeypatch.delenv(name, raising=False)
    pytester.makeini(
        """
        [pytest]
        asyncio_mode = auto
        asyncio_default_fixture_loop_scope = function
        filterwarnings = error
        addopts = --strict-markers
        """
    )
    pytester.makepyfile(rules=RULES)
    return pytester


# -- the fixture


@pytest.mark.parametrize("mode", ["auto", "strict"])
def test_the_fixture_works_in_both_modes_of_pytest_asyncio(project: pytest.Pytester, mode: str) -> None:
    """It is synchronous itself, so it does not matter how tests become asynchronous."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        @pytest.mark.asyncio
        @pytest.mark.onwhen(lamps)
        async def test_it(harness):
            await harness.when("lamp.switched", "lamp:1", {"power": 60})
            harness.then.state("lamp:1", power=60)
        """
    )
    project.runpytest(f"--asyncio-mode={mode}").assert_outcomes(passed=1)


def test_an_async_test_that_no_plugin_runs_says_what_it_lacks(project: pytest.Pytester) -> None:
    """In pytest-asyncio's default mode; failures of other tests are left alone."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        pytestmark = pytest.mark.onwhen(lamps)

        async def test_it(harness): ...

        def test_other(harness):
            pytest.fail("by itself")
        """
    )
    result = project.runpytest("--asyncio-mode=strict")
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(['this test is async, * asyncio_mode = "auto" * @pytest.mark.asyncio', "*by itself"])
    result.stdout.no_fnmatch_line("*natively*")
    assert result.stdout.str().count("nothing happened") == 1


def test_synchronous_fixtures_can_set_state(project: pytest.Pytester) -> None:
    """`given` needs no event loop."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        pytestmark = pytest.mark.onwhen(lamps)

        @pytest.fixture
        def bright(harness):
            return harness.given("lamp:1", power=900)

        def test_it(bright, harness):
            assert bright is harness
            assert harness.then.state("lamp:1").power == 900
        """
    )
    project.runpytest().assert_outcomes(passed=1)


def test_each_test_has_a_harness_of_its_own(project: pytest.Pytester) -> None:
    """Nothing is left over from the test before."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        @pytest.mark.onwhen(lamps)
        @pytest.mark.parametrize("_", range(2))
        async def test_it(harness, _):
            assert harness.then.subjects() == []
            await harness.when("lamp.switched", "lamp:1", {"power": 60})
        """
    )
    project.runpytest().assert_outcomes(passed=2)


# -- the marker


def test_rule_sets_of_all_markers_add_up(project: pytest.Pytester) -> None:
    """Module, class and function, the outer ones first; a rule set may be named twice."""
    project.makepyfile(
        """
        import pytest
        from rules import houses, lamps

        pytestmark = pytest.mark.onwhen(lamps)

        @pytest.mark.onwhen(houses)
        class TestIt:
            @pytest.mark.onwhen(lamps)
            async def test_it(self, harness):
                receipt = await harness.when("lamp.switched", "lamp:1", {"power": 60})
                assert receipt.fired == ("lamps.switch", "houses.tell")

        async def test_outside(harness):
            receipt = await harness.when("lamp.switched", "lamp:1", {"power": 60})
            assert receipt.fired == ("lamps.switch",)
        """
    )
    project.runpytest().assert_outcomes(passed=2)


def test_options_of_the_closest_marker_count(project: pytest.Pytester) -> None:
    """Start and limits are passed to the harness."""
    project.makepyfile(
        """
        import pytest
        from datetime import datetime, timezone
        from onwhen import Limits

        pytestmark = pytest.mark.onwhen(start=datetime(2020, 1, 1, tzinfo=timezone.utc), limits=Limits(max_depth=5))

        @pytest.mark.onwhen(start=datetime(2021, 1, 1, tzinfo=timezone.utc))
        def test_it(harness):
            assert harness.now.year == 2021
            assert harness.bus.limits.max_depth == 5
        """
    )
    project.runpytest().assert_outcomes(passed=1)


def test_a_mistake_in_the_marker_is_named(project: pytest.Pytester) -> None:
    """An unknown option, or something that is not a rule set."""
    project.makepyfile(
        """
        import pytest

        @pytest.mark.onwhen(rules=[])
        def test_option(harness): ...

        @pytest.mark.onwhen("lamps")
        def test_rule_set(harness): ...
        """
    )
    result = project.runpytest()
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "*@pytest.mark.onwhen does not take rules; it is onwhen(*rule_sets, *",
            "*include takes rule sets, not 'lamps'",
        ]
    )


def test_marker_and_fixture_are_documented(project: pytest.Pytester) -> None:
    """`pytest --markers` and `pytest --fixtures` show them."""
    project.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.onwhen(*rule_sets, *"])
    project.runpytest("--fixtures").stdout.fnmatch_lines(["harness -- *", "*Rules under test on a virtual clock*"])


# -- what a failing test says


def test_a_plain_assertion_that_fails_comes_with_the_story(project: pytest.Pytester) -> None:
    """In a section of its own, because the assertion does not know of rules."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        @pytest.mark.onwhen(lamps)
        async def test_it(harness):
            await harness.when("lamp.switched", "lamp:1", {"power": 60})
            assert harness.then.state("lamp:1").power == 61
        """
    )
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "E * assert 60 == 61",
            "*- onwhen -*",
            "what happened:",
            "*lamp.switched to lamp:1 {'power': 60}",
            "*fired lamps.switch",
            "*power: 0 -> 60",
        ]
    )


def test_the_story_is_told_once(project: pytest.Pytester) -> None:
    """A check of the harness has it in its message already."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        @pytest.mark.onwhen(lamps)
        async def test_it(harness):
            await harness.when("lamp.switched", "lamp:1", {"power": 60})
            harness.then.state("lamp:1", power=61)
        """
    )
    result = project.runpytest("--tb=short")
    result.assert_outcomes(failed=1)
    assert result.stdout.str().count("what happened:") == 1
    result.stdout.fnmatch_lines(
        ["E   AssertionError: lamp:1 is not as expected", "E * power: expected 61, but it is 60"]
    )


def test_a_failure_that_the_test_did_not_ask_about_fails_it(project: pytest.Pytester) -> None:
    """A rule with a mistake in it must not go unseen because a test looks elsewhere."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        pytestmark = pytest.mark.onwhen(lamps)

        async def test_unseen(harness):
            await harness.when("lamp.switched", "lamp:1")

        async def test_expected(harness):
            await harness.when("lamp.switched", "lamp:1")
            assert harness.then.failures("lamps.switch", error=KeyError).once().attempt == 1

        async def test_set_right(harness):
            await harness.when("lamp.switched", "lamp:1")
            [letter] = [letter async for letter in harness.bus.dead_letters()]
            await harness.bus.discard(letter.id)
        """
    )
    result = project.runpytest()
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_unseen*",
            "rules failed, and the test did not ask about it*harness.then.failures()*",
            "  lamps.switch: KeyError: 'power'",
            "*failed*lamps.switch*dead letter*",
        ]
    )


def test_a_harness_that_is_asked_for_by_name_is_watched_as_well(project: pytest.Pytester) -> None:
    """`getfixturevalue` in the midst of a test."""
    project.makepyfile(
        """
        import asyncio
        import pytest
        from rules import lamps

        @pytest.mark.onwhen(lamps)
        def test_unseen(request):
            harness = request.getfixturevalue("harness")
            asyncio.run(harness.when("lamp.switched", "lamp:1"))
        """
    )
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["rules failed, and the test did not ask about it*"])


def test_a_test_that_fails_by_itself_keeps_its_own_reason(project: pytest.Pytester) -> None:
    """Unseen failures are part of the story then, not a second verdict."""
    project.makepyfile(
        """
        import pytest
        from rules import lamps

        @pytest.mark.onwhen(lamps)
        async def test_it(harness):
            await harness.when("lamp.switched", "lamp:1")
            assert 1 == 2
        """
    )
    result = project.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E * assert 1 == 2", "*- onwhen -*", "*KeyError: 'power'; dead letter  (rules.py:*)"])
    result.stdout.no_fnmatch_line("*did not ask about it*")


# -- for everybody else


def test_other_projects_do_not_notice_it(pytester: pytest.Pytester) -> None:
    """No test of theirs changes, they may name a fixture `harness`, and nothing slow is imported."""
    pytester.makeini("[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function")
    pytester.makepyfile(
        """
        import sys
        import unittest
        import pytest

        @pytest.fixture
        def harness():
            return "leather"

        def test_it(harness):
            assert harness == "leather"

        class TestCase(unittest.TestCase):
            def test_case(self):
                pass

        def test_what_was_imported(request):
            assert request.config.pluginmanager.has_plugin("onwhen")
            heavy = {"onwhen.testing.harness", "dependency_injector", "pydantic", "rich"}
            assert heavy & set(sys.modules) == set()
        """
    )
    pytester.runpytest_subprocess().assert_outcomes(passed=3)


def test_the_plugin_is_found_without_being_named() -> None:
    """It is an entry point of the package."""
    (found,) = (entry for entry in entry_points(group="pytest11") if entry.name == "onwhen")
    assert found.value == "onwhen.testing.plugin"
