"""The code on our pages is really run: what is wrong on a page fails the tests, and says where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFTEST = (ROOT / "conftest.py").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
QUIET = ("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:hypothesispytest")  # none of them is needed there
RUN = {"python", "console"}
ONLY_SHOWN = {"json", "mermaid", "text", "toml"}


def run(pytester: pytest.Pytester, page: str) -> pytest.RunResult:
    """Run one page as `docs/page.md` of a project with our conftest."""
    pytester.makeconftest(CONFTEST)
    path = pytester.mkdir("docs") / "page.md"
    path.write_text(page)
    return pytester.runpytest_inprocess(*QUIET, "docs")


def told(result: pytest.RunResult) -> str:
    return "\n".join(result.outlines)


# -- python ----------------------------------------------------------------------------------------------------


def test_blocks_of_a_page_share_a_namespace_and_an_event_loop(pytester: pytest.Pytester) -> None:
    """What one block defines, imports and starts is there in the next, and `await` works outside of functions."""
    page = """\
```python
import asyncio
started = asyncio.get_running_loop().create_task(asyncio.sleep(0, "done"))
await asyncio.sleep(0)
```

Text in between.

```python
print(await started, asyncio.get_running_loop() is started.get_loop())
#> done True
```
"""
    run(pytester, page).assert_outcomes(passed=2)


def test_pages_share_nothing(pytester: pytest.Pytester) -> None:
    """A name of one page is unknown on the next."""
    pytester.makeconftest(CONFTEST)
    docs = pytester.mkdir("docs")
    (docs / "a.md").write_text("```python\nsecret = 1\n```\n")
    (docs / "b.md").write_text("```python\nsecret\n```\n")
    result = pytester.runpytest_inprocess(*QUIET, "docs")
    result.assert_outcomes(passed=1, failed=1)


def test_a_block_that_raises_fails_with_file_and_line(pytester: pytest.Pytester) -> None:
    """The line is that of the page, also when it is deep in a function of an earlier block."""
    page = "# Page\n\n```python\ndef half(n):\n    return n / 0\n```\n\n```python\nawait_me = 1\n\nhalf(2)\n```\n"
    result = run(pytester, page)
    result.assert_outcomes(passed=1, failed=1)
    assert re.search(r"docs/page\.md:5: ZeroDivisionError", told(result))
    assert 'page.md", line 11, in <module>' in told(result)


def test_an_error_after_an_await_has_its_line_too(pytester: pytest.Pytester) -> None:
    """A block with `await` is a coroutine; its lines are those of the page all the same."""
    result = run(pytester, "```python\nimport asyncio\nawait asyncio.sleep(0)\n1 / 0\n```\n")
    result.assert_outcomes(failed=1)
    assert re.search(r"docs/page\.md:4: ZeroDivisionError", told(result))


def test_a_block_that_is_no_python_fails_with_file_and_line(pytester: pytest.Pytester) -> None:
    """A syntax error is found, not skipped."""
    result = run(pytester, "```python\nx = 1\ndef f(:\n```\n")
    result.assert_outcomes(failed=1)
    assert re.search(r"docs/page\.md:3: SyntaxError", told(result))


@pytest.mark.parametrize("shown", ["#> 4", "#> 3\n#> 4", "#> ...4"])
def test_a_block_that_prints_something_else_fails(pytester: pytest.Pytester, shown: str) -> None:
    """What `#>` shows is what is printed: the same lines, and no line more or less."""
    result = run(pytester, f"```python\nprint(3)\n{shown}\n```\n")
    result.assert_outcomes(failed=1)
    assert "docs/page.md:1: shown as printed:" in told(result)


def test_dots_stand_for_what_changes(pytester: pytest.Pytester) -> None:
    """An id or a duration differs in every run, and is not shown."""
    run(pytester, "```python\nimport uuid\nprint('id', uuid.uuid4(), 'new')\n#> id ... new\n```\n").assert_outcomes(
        passed=1
    )


def test_a_dialogue_is_run_line_by_line(pytester: pytest.Pytester) -> None:
    """Each `>>>` is a test of its own: values, errors and `await`."""
    page = """\
```python
>>> import asyncio
>>> await asyncio.sleep(0, "slept")
'slept'
>>> int("x")
Traceback (most recent call last):
ValueError: invalid literal ... 'x'
>>> 1 + 1
3
>>> int("7")
Traceback (most recent call last):
ValueError: never
```
"""
    result = run(pytester, page)
    result.assert_outcomes(passed=3, failed=2)
    assert "docs/page.md:8:" in told(result)
    assert "docs/page.md:10: nothing was raised" in told(result)


# -- console ---------------------------------------------------------------------------------------------------


def test_commands_run_in_a_folder_with_the_files_of_the_page(pytester: pytest.Pytester) -> None:
    """A block under a file mark is written to that file, and Python blocks among them are run as well."""
    page = """\
<!-- file: shop.py -->
```python
def price():
    return 42
```

<!-- file: note.txt -->
```text
hello
```

```console
$ cat note.txt
hello
$ python -c "import shop; print('it costs', shop.price())"
it costs ...
```
"""
    run(pytester, page).assert_outcomes(passed=4)
    assert not (pytester.path / "note.txt").exists()


def test_a_command_that_fails_is_named_with_its_line(pytester: pytest.Pytester) -> None:
    """Any exit code but 0 fails the block, and its output is told."""
    result = run(pytester, "```console\n$ true\n$ echo oops; exit 3\noops\n```\n")
    result.assert_outcomes(failed=1)
    assert "docs/page.md:3: $ echo oops; exit 3" in told(result)
    assert "ended with exit code 3:" in told(result)


def test_a_command_may_go_on_while_the_page_does(pytester: pytest.Pytester) -> None:
    """What it shows is waited for; at the end of the page it is told to end."""
    page = """\
```console
$ python -u -c "import time; time.sleep(0.2); print('it is up'); time.sleep(100)" &
it is up
```

```console
$ echo next
next
```
"""
    run(pytester, page).assert_outcomes(passed=2)


def test_a_page_may_have_a_server(pytester: pytest.Pytester) -> None:
    """Commands know where it is from the mark on."""
    page = "```console\n$ echo [$ONWHEN_STORE]\n[]\n```\n\n<!-- redis -->\n```console\n$ echo $ONWHEN_STORE\nredis://...\n```\n"
    run(pytester, page).assert_outcomes(passed=3)


@pytest.mark.parametrize("shown", ["two\none", "three", "tw"])
def test_a_command_that_prints_something_else_fails(pytester: pytest.Pytester, shown: str) -> None:
    """Shown lines are printed in this order, each of them whole; others may come in between."""
    run(pytester, f"```console\n$ printf 'one\\ntwo\\n'\n{shown}\n```\n").assert_outcomes(failed=1)


def test_the_settings_of_who_runs_the_tests_do_not_reach_commands(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page shows what everybody sees."""
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "7")
    run(pytester, "```console\n$ echo [$ONWHEN_MAX_DEPTH]\n[]\n```\n").assert_outcomes(passed=1)


# -- our own pages ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: str(page.name))
def test_every_block_says_what_it_is(page: Path) -> None:
    """Python and commands are called `python` and `console`, so that none of them escapes being run."""
    fences = re.findall(r"^\s*(?:`{3,}|~{3,})(.*)$", page.read_text(), re.MULTILINE)
    assert len(fences) % 2 == 0
    assert set(fences[::2]) <= RUN | ONLY_SHOWN
    assert set(fences[1::2]) <= {""}


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: str(page.name))
def test_links_lead_somewhere(page: Path) -> None:
    """Links between our pages name files and headings that exist."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text()):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}
