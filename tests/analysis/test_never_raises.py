"""Whatever code there is, reading it ends, and does not raise."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import linecache
import tarfile
import textwrap
import typing
from types import FunctionType, ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onwhen.analysis import _calls
from onwhen.analysis._conditions import filter_of
from onwhen.analysis._reader import Known, read
from onwhen.engine.rules import Condition
from tests.analysis.looking import Ticket


@pytest.mark.parametrize("module", [argparse, ast, dataclasses, tarfile, textwrap, typing])
def test_the_standard_library_can_be_read(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were somebody's rules, and all that it calls too."""
    monkeypatch.setattr(_calls, "is_foreign", lambda function: False)
    functions = [one for one in vars(module).values() if isinstance(one, FunctionType)]
    functions += [
        one
        for cls in vars(module).values()
        if isinstance(cls, type)
        for one in vars(cls).values()
        if isinstance(one, FunctionType)
    ]
    assert len(functions) > 5
    for function in functions[:150]:
        read(function, Known(Ticket))
        filter_of([Condition(function)], Known(Ticket))


names = st.sampled_from(["ctx", "a", "b", "ctx.subject", "ctx.emit", "print", "NOWHERE"])
atoms = st.one_of(names, st.sampled_from(["1", "'x'", "f'y{a}'", "(1, 2)", "[]", "{}", "{'k': a}", "None", "..."]))
expressions = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]} + {two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"{two[0]}({two[1]}, *{two[1]}, **{two[0]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]})[{two[1]}]"),
        inner.map(lambda one: f"({one}).emit"),
        inner.map(lambda one: f"({one}).name.append({one})"),
        inner.map(lambda one: f"(lambda a=1, *b, **c: {one})"),
        inner.map(lambda one: f"[{one} for a, *b in ({one}) if {one}]"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} if {two[1]} else (b := {two[0]}))"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]} in {two[1]} and not {two[0]})"),
    ),
    max_leaves=6,
)
TEMPLATES = (
    "{0}",
    "a = b = {0}",
    "a, (b, *c) = {0}",
    "ctx.subject.x += {0}",
    "ctx.subject[{0}] = {1}",
    "del a, ctx.subject.x, b[{0}]",
    "if {0}:\n  return {1}\nelse:\n  raise {0}",
    "for a, *ctx.subject.y in {0}:\n  a = a + {1}\n  continue",
    "while {0}:\n  a = (a, b)\n  break",
    "try:\n  {0}\nexcept Exception as b:\n  {1}\nelse:\n  a = 1\nfinally:\n  {0}",
    "with {0} as (a, b):\n  {1}",
    "def a(x=(1), *, y={0}):\n  nonlocal b\n  b = {1}\n  return a(b)",
    "class A({0}):\n  x = ctx",
    "match {0}:\n  case [a, *b] if {1}:\n    {0}\n  case {{'k': a, **b}}:\n    pass\n  case str(x=1) as a:\n    {1}",
    "import os.path as a, nowhere\nfrom . import b",
    "global a\na = {0}",
    "assert {0}, {1}",
    "a: int = {0}",
)
statements = st.tuples(st.sampled_from(TEMPLATES), expressions, expressions).map(lambda one: one[0].format(*one[1:]))


@settings(max_examples=300, deadline=None)
@given(st.lists(statements, min_size=1, max_size=4))
def test_generated_functions_can_be_read(body: list[str]) -> None:
    """All kinds of statements and expressions, in any order."""
    source = "def outer(a, b=None):\n  def rule(ctx, a=a, *c, **d):\n" + textwrap.indent("\n".join(body), "    ")
    source += "\n  return rule\n"
    try:
        code = compile(source, "<generated>", "exec")
    except SyntaxError:
        return  # such as a name that is global and a parameter
    namespace: dict[str, Any] = {"__name__": "generated"}
    exec(code, namespace)
    linecache.cache["<generated>"] = (len(source), None, source.splitlines(keepends=True), "<generated>")
    reading = read(namespace["outer"](1), Known(Ticket))
    assert not any("source is not there" in one.what for one in reading.unseen if one.place.line < 2)
