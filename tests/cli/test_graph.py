"""`onwhen graph`: an app, drawn."""

from __future__ import annotations

import json
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


@pytest.fixture
def here(shop: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the app, as the current one of this process, which forgets the app afterwards."""
    monkeypatch.chdir(shop)
    monkeypatch.syspath_prepend(shop)
    yield shop
    sys.modules.pop("shop", None)


def test_it_is_mermaid_by_default(shop: Path, cli: Cli) -> None:
    """On standard output, with every rule of the app."""
    ended = cli("graph", "shop")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("flowchart LR\n")
    assert '["orders<br>place"]:::rule' in ended.out
    assert '-.->|"timer due"|' in ended.out


@pytest.mark.parametrize(
    ("format", "begins"), [("mermaid", "flowchart"), ("dot", "digraph"), ("svg", "<svg "), ("json", "{")]
)
def test_all_formats_go_to_a_file_as_well(here: Path, onwhen: Cli, cli: Cli, format: str, begins: str) -> None:
    """The same text as on standard output; twice the same."""
    to_file = onwhen("graph", "shop", "--format", format, "--output", "out")
    assert (to_file.code, to_file.out, to_file.err) == (0, "", "")
    text = (here / "out").read_text()
    assert text.startswith(begins)
    assert text == cli("graph", "shop", "--format", format, "--output", "-", PYTHONHASHSEED="7").out


def test_a_picture_is_called_by_its_app(here: Path, onwhen: Cli) -> None:
    """In its title."""
    picture = ET.fromstring(onwhen("graph", "shop:orders", "--format", "svg").out)
    assert picture[0].text == "shop:orders"


def test_json_is_one_object(here: Path, onwhen: Cli) -> None:
    """With where each rule stands, from the current directory."""
    facts = json.loads(onwhen("graph", "shop:books", "--format", "json").out)
    assert (facts["format"], facts["version"], facts["app"]) == ("onwhen.graph", 1, "shop:books")
    rule = next(node for node in facts["nodes"] if node["kind"] == "rule")
    assert (rule["id"], rule["file"]) == ("rule:books.enter", "shop.py")
    assert (here / "shop.py").read_text().splitlines()[rule["line"] - 1] == "def enter(ctx):"


def test_a_narrow_encoding_is_no_obstacle(shop: Path, cli: Cli) -> None:
    """On standard output signs are escaped; in a file they stay."""
    (shop / "wide.py").write_text(
        "from onwhen import RuleSet\nrules = RuleSet('rules')\n@rules.on('größe')\ndef rule(ctx): pass\n",
        encoding="utf-8",
    )
    for format in ("svg", "json"):
        out = cli("graph", "wide", "--format", format, PYTHONIOENCODING="ascii").out
        assert out.isascii()
        assert "größe" in (json.dumps(json.loads(out), ensure_ascii=False) if format == "json" else _texts(out))
    cli("graph", "wide", "--format", "svg", "--output", "out.svg", PYTHONIOENCODING="ascii")
    assert "größe" in (shop / "out.svg").read_text(encoding="utf-8")


def _texts(svg: str) -> str:
    return " ".join(one.text or "" for one in ET.fromstring(svg).iter())


def test_what_cannot_be_done_is_told(here: Path, onwhen: Cli) -> None:
    """With exit code 2: no app, no such format, no such folder."""
    for arguments, problem in (
        (["nowhere"], "there is no module 'nowhere'"),
        (["shop", "--format", "png"], "png"),
        (["shop", "--output", f"no{os.sep}where"], "No such file or directory"),
        (["shop", "--output", "--strict"], "--output needs a file name"),
    ):
        ended = onwhen("graph", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert problem in ended.err
