"""Runs the code in README.md and docs/, so that what they say stays true.

Belongs here: how a page becomes tests. It must not know what the pages are about. The rules for a page:

- ```python blocks are run from top to bottom, in one namespace per page. They may `await` at top level; a page has
  one event loop. Lines that begin with `#>` are what the block prints, all of it, `...` stands for anything.
- ```python blocks that begin with `>>>` are run as a dialogue: each answer has to be the one that is shown.
- ```console blocks: commands that begin with `$ `, each followed by lines that it prints, in order, not
  necessarily all of them. They run in a folder of the page's own and have to end with exit code 0. One that ends with
  ` &` goes on while the page goes on, and is told to end with it.
- `<!-- redis -->` starts a server for the page; from there on commands have its address in `ONWHEN_STORE`.
- `<!-- file: NAME -->` above a block also writes the block to that file in the page's folder.
- Blocks in other languages are only shown.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import CodeType
from typing import Any, Final

import pytest
from hypothesis import settings
from sybil import Document, Example, Region, Sybil
from sybil.evaluators.doctest import OutputChecker
from sybil.integration.pytest import SybilFile
from sybil.parsers.abstract.doctest import DocTestStringParser
from sybil.parsers.markdown import CodeBlockParser

settings.register_profile("onwhen", settings(), deadline=None)  # a busy machine is no failure of a property
settings.load_profile("onwhen")

_PLUGIN: Final = "onwhen.testing.plugin"
_IS_INSTALLED: Final = any(point.value == _PLUGIN for point in entry_points(group="pytest11"))

pytest_plugins = ["pytester"] if _IS_INSTALLED else ["pytester", _PLUGIN]

_ROOT: Final = Path(__file__).parent
_LEFT_ALONE: Final = frozenset({"make", "pip", "python3", "git", "."})
"""Commands that change the machine or need a clone: shown, not run."""
_ONWHEN: Final = "import sys; from onwhen.cli import main; sys.argv[0] = 'onwhen'; sys.exit(main())"
_TIMEOUT: Final = 60  # seconds that one command may take
_PAUSE: Final = 0.05  # seconds between two looks at what a command has printed that goes on
_PRINTED: Final = re.compile(r"^[ \t]*#> ?(.*)$", re.MULTILINE)
_REDIS: Final = re.compile(r"^<!-- redis -->$", re.MULTILINE)
_FILE: Final = re.compile(r"^<!-- file: (\S+) -->\n(`{3,})[^\n]*\n(.*?)^\2$", re.MULTILINE | re.DOTALL)
_DIALOGUE: Final = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Page(Document):
    """One page: a namespace, an event loop and a folder for its blocks."""

    def __init__(self, text: str, path: str) -> None:
        super().__init__(text, path)
        self.namespace["__name__"] = Path(path).stem.lower()  # what rules and classes take as their module
        self.namespace["__builtins__"] = __builtins__
        self.settings: dict[str, str] = {}
        self._stack: contextlib.ExitStack | None = None

    def enter(self) -> None:
        """Make the loop and the folder."""
        self._stack = contextlib.ExitStack()
        self.runner = self._stack.enter_context(asyncio.Runner())
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="onwhen-docs-"))).resolve()
        sys.path.insert(0, str(self.folder))  # files of the page may be modules

    def with_redis(self) -> None:
        """Start a server, and let commands know of it."""
        from onwhen.testing.servers import RedisServer

        assert self._stack is not None
        server = self._stack.enter_context(RedisServer(appendonly=True))
        self.settings["ONWHEN_STORE"] = server.url

    def start(self, command: str) -> Path:
        """Start a command that goes on until the page ends; return the file of what it prints."""
        assert self._stack is not None
        printed = self.folder / f".printed-{len(list(self.folder.glob('.printed-*')))}"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                cwd=self.folder,
                env=_environment(self.folder) | self.settings,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._stack.callback(_end, process)
        return printed

    def leave(self) -> None:
        """Close the loop and remove the folder."""
        if self._stack is None:
            return
        self._stack.close()
        sys.path.remove(str(self.folder))
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(f"{self.folder}{os.sep}"):
                del sys.modules[name]

    def run(self, code: CodeType) -> str:
        """Run compiled code in the namespace of the page and return what it prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.chdir(self.folder):
            result = eval(code, self.namespace)
            if inspect.iscoroutine(result):
                self.runner.run(result)
        return printed.getvalue()

    def place(self, example: Example, error: BaseException) -> str:
        """Return file and line of what raised, as far as it is on the page, and the traceback from there on."""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == self.path]
        if isinstance(error, SyntaxError) and error.filename == self.path:
            lines.append(error.lineno)
        told = traceback.format_exception(error)
        return f"{self.path}:{lines[-1] if lines else example.line}: {error!r}\n{''.join(told)}"


def _compile(source: str, path: str, line: int, mode: str) -> CodeType:
    """Compile so that tracebacks name the line on the page."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile("\n" * (line - 1) + source, path, mode, flags=flags, dont_inherit=True)
    return code


# -- python ----------------------------------------------------------------------------------------------------


def run_block(example: Example) -> str | None:
    """Run a block of Python and compare what it prints with its `#>` lines, if it has any."""
    page: Any = example.document
    try:
        printed = page.run(_compile(example.parsed, page.path, example.line + 1, "exec"))
    except Exception as error:
        return str(page.place(example, error))
    wanted, found = _PRINTED.findall(example.parsed), printed.splitlines()
    if wanted and not (len(wanted) == len(found) and all(map(_fits, wanted, found))):
        return f"{page.path}:{example.line}: shown as printed:\n{_indented(wanted)}\nprinted:\n{_indented(found)}"
    return None


def run_line(example: Example) -> str | None:
    """Run one `>>>` of a dialogue and compare the answer."""
    page: Any = example.document
    shown: doctest.Example = example.parsed
    checker = OutputChecker()
    try:
        answer = page.run(_compile(shown.source, page.path, example.line, "single"))
    except Exception as error:
        told = traceback.format_exception_only(error)[-1]
        if shown.exc_msg is None or not checker.check_output(shown.exc_msg, told, _DIALOGUE):
            return str(page.place(example, error))
        return None
    if shown.exc_msg is not None:
        return f"{page.path}:{example.line}: nothing was raised, but this is shown: {shown.exc_msg}"
    if not checker.check_output(shown.want, answer, _DIALOGUE):
        return f"{page.path}:{example.line}:\n{checker.output_difference(shown, answer, _DIALOGUE)}"
    return None


class PythonBlocks:
    """Finds blocks of Python, and takes dialogues apart."""

    def __init__(self) -> None:
        self._blocks = CodeBlockParser("python", run_block)
        self._dialogues = DocTestStringParser(run_line)  # type: ignore[arg-type]

    def __call__(self, document: Document) -> Iterator[Region]:
        """Yield each block, or each `>>>` in it."""
        for block in self._blocks(document):
            if not block.parsed.startswith(">>>"):
                yield block
                continue
            for line in self._dialogues(block.parsed, document.path):
                line.adjust(block, block.parsed)
                yield line


# -- console ---------------------------------------------------------------------------------------------------


def run_console(example: Example) -> str | None:
    """Run the commands of a block; each has to succeed, and to print the lines that are shown."""
    page: Any = example.document
    for line, command, shown in _commands(example.parsed, example.line + 1):
        if command.split()[0] in _LEFT_ALONE:
            continue
        where = f"{page.path}:{line}: $ {command}"
        if command.endswith(" &"):
            printed = page.start(command.removesuffix(" &"))
            deadline = time.monotonic() + _TIMEOUT
            while (missing := _missing(shown, printed.read_text())) is not None:
                if time.monotonic() > deadline:
                    return (
                        f"{where}\ndoes not print, or not in this order: {missing!r}\nprinted:\n{printed.read_text()}"
                    )
                time.sleep(_PAUSE)
            continue
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=page.folder,
            env=_environment(page.folder) | page.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
        if done.returncode:
            return f"{where}\nended with exit code {done.returncode}:\n{done.stdout}"
        if (missing := _missing(shown, done.stdout)) is not None:
            return f"{where}\ndoes not print, or not in this order: {missing!r}\nprinted:\n{done.stdout}"
    return None


def _missing(shown: list[str], printed: str) -> str | None:
    """Return the first line that is shown but not printed, after those before it; None if all are."""
    rest = iter(printed.splitlines())
    for wanted in shown:
        if wanted != "..." and not any(_fits(wanted, found) for found in rest):
            return wanted
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Tell a command to end, and see to it that it does."""
    process.terminate()
    try:
        process.wait(_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def _commands(block: str, line: int) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each command of a console block: its line on the page, its text, and what it is shown to print."""
    lines = block.splitlines()
    starts = [number for number, text in enumerate(lines) if text.startswith("$ ")]
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        head = start + 1
        while lines[head - 1].endswith("\\"):
            head += 1
        yield (
            line + start,
            "\n".join(lines[start:head])[2:],
            [text.rstrip() for text in lines[head:end] if text.strip()],
        )


def _environment(folder: Path) -> dict[str, str]:
    """Return an environment in which `onwhen`, `python` and `pytest` are those that run here, installed or not."""
    commands = folder / ".bin"
    if not commands.exists():
        commands.mkdir()
        for name, arguments in (("python", ""), ("pytest", " -m pytest"), ("onwhen", f' -c "{_ONWHEN}"')):
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
            script.chmod(0o755)
    known = {name: value for name, value in os.environ.items() if not name.startswith(("ONWHEN_", "PYTEST_"))}
    paths = [str(_ROOT), *filter(None, [known.get("PYTHONPATH")])]
    known |= {"PATH": f"{commands}{os.pathsep}{known.get('PATH', '')}", "PYTHONPATH": os.pathsep.join(paths)}
    if not _IS_INSTALLED:
        known["PYTEST_PLUGINS"] = _PLUGIN
    return known | {"COLUMNS": "120", "NO_COLOR": "1", "PYTHONWARNINGS": "error"}


# -- files -----------------------------------------------------------------------------------------------------


def find_files(document: Document) -> Iterator[Region]:
    """Yield the marks that say that a block is a file."""
    for match in _FILE.finditer(document.text):
        yield Region(match.start(), match.start(2) - 1, (match[1], match[3]), write_file)


def write_file(example: Example) -> None:
    """Write a block to its file."""
    page: Any = example.document
    name, text = example.parsed
    (page.folder / name).write_text(text)


# -- servers ---------------------------------------------------------------------------------------------------


def find_servers(document: Document) -> Iterator[Region]:
    """Yield the marks that say that a page needs a server."""
    for match in _REDIS.finditer(document.text):
        yield Region(match.start(), match.end(), None, start_server)


def start_server(example: Example) -> None:
    """Start the server of a page."""
    page: Any = example.document
    page.with_redis()


# -- what shown text and printed text have in common ---------------------------------------------------------------


def _fits(wanted: str, found: str) -> bool:
    """Compare two lines; any white space is one space."""
    wanted, found = " ".join(wanted.split()), " ".join(found.split())
    pattern = ".*".join(re.escape(part) for part in wanted.split("..."))
    return re.fullmatch(pattern, found) is not None


def _indented(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)


# -- pytest ----------------------------------------------------------------------------------------------------


class PageFile(SybilFile):
    """A page, collected."""

    def setup(self) -> None:
        for page in self.documents:
            page.enter()  # type: ignore[attr-defined]

    def teardown(self) -> None:
        for page in self.documents:
            page.leave()  # type: ignore[attr-defined]


_SYBIL: Final = Sybil(
    parsers=[PythonBlocks(), CodeBlockParser("console", run_console), find_files, find_servers],
    document_types={".md": Page},
)


def is_page(path: Path) -> bool:
    """Tell whether a file is a page whose code is run: the README, and docs/ without its records of the past."""
    if path == _ROOT / "README.md":
        return True
    if path.suffix != ".md" or not path.is_relative_to(_ROOT / "docs"):
        return False
    return path.name != "performance.md" and not path.is_relative_to(_ROOT / "docs" / "decisions")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> PageFile | None:
    """Collect the pages."""
    return PageFile.from_parent(parent, path=file_path, sybils=[_SYBIL]) if is_page(file_path) else None
