"""The names that a piece of code can see, and what they stand for.

Belongs here: locals, the functions around, closures, modules, builtins, and how arguments become parameters. It must
not know what expressions mean.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from types import FunctionType
from typing import Any

from onwhen.analysis._sources import Definition
from onwhen.analysis._values import NOTHING, UNKNOWN, Closure, Values, of, union
from onwhen.analysis._values import Sequence as Elements

__all__ = ["Arguments", "Frame"]


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a call passes.

    Attributes:
        positional: in order.
        named: by keyword.
        is_open: there is more that cannot be seen, by `*` or `**`.
    """

    positional: tuple[Values, ...] = ()
    named: tuple[tuple[str, Values], ...] = ()
    is_open: bool = False

    def all(self) -> Iterator[Values]:
        """Go through all of them."""
        yield from self.positional
        for _, values in self.named:
            yield values

    def bind(self, *parameters: str) -> dict[str, Values]:
        """Return what is passed for the parameters of a verb of ours; of those that are not, nothing."""
        return dict(zip(parameters, self.positional, strict=False)) | dict(self.named)

    def but_first(self) -> Arguments:
        """Return the same without the first one."""
        return Arguments(self.positional[1:], self.named, self.is_open)


@dataclass(slots=True, eq=False)
class Frame:
    """One function that is being read.

    Attributes:
        node: its definition.
        file: where it stands.
        namespace: names of its module.
        cells: names of the functions around it that are live.
        outer: the function around it that is being read, too.
        names: what its own names may stand for at the line that is read.
        local: the names that are its own.
        returned: what it may return.
        closures: functions that stand in it.
        called: those of them that were called, or returned to somebody who may call them.
        is_narrowed: it asks what the subject is.
    """

    node: Definition
    file: str
    namespace: Mapping[str, Any]
    cells: Mapping[str, Values] = field(default_factory=dict)
    outer: Frame | None = None
    names: dict[str, Values] = field(default_factory=dict)
    local: frozenset[str] = frozenset()
    returned: list[Values] = field(default_factory=list)
    closures: dict[int, Closure] = field(default_factory=dict)
    called: set[int] = field(default_factory=set)
    is_narrowed: bool = False

    @classmethod
    def of_function(cls, function: FunctionType, node: Definition) -> Frame:
        """Return a frame for a live function."""
        cells = {}
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                cells[name] = of(cell.cell_contents)
            except ValueError:  # not assigned yet
                cells[name] = UNKNOWN
        return cls(node, function.__code__.co_filename, function.__globals__, cells, local=_own_names(node))

    def inner(self, node: Definition) -> Frame:
        """Return a frame for a function that stands in this one."""
        return Frame(node, self.file, self.namespace, outer=self, local=_own_names(node))

    def lookup(self, name: str) -> Values:
        """Return what a name may stand for."""
        if name in self.local:
            return self.names.get(name, NOTHING)
        if self.outer is not None and self.outer._sees(name):
            return self.outer.lookup(name)
        if name in self.cells:
            return self.cells[name]
        assigned = self.names.get(name, NOTHING)  # as a global
        if name in self.namespace:
            return union((of(self.namespace[name]), assigned))
        return of(getattr(builtins, name)) if hasattr(builtins, name) else union((UNKNOWN, assigned))

    def _sees(self, name: str) -> bool:
        return name in self.local or name in self.cells or (self.outer is not None and self.outer._sees(name))

    def assign(self, name: str, values: Values) -> None:
        """Let a name stand for this; one of a function around it, or of the module, for this too."""
        if name in self.local:
            self.names[name] = values
        elif self.outer is not None and self.outer._sees(name):
            self.outer.assign(name, union((self.outer.lookup(name), values)))
        else:
            self.names[name] = union((self.names.get(name, NOTHING), values))

    def state(self) -> frozenset[tuple[str, Values]]:
        """Return all that names stand for here, as something to compare, with those of the functions around."""
        around = self.outer.state() if self.outer is not None else frozenset()
        return frozenset(self.names.items()) | around

    def join(self, *states: Mapping[str, Values]) -> None:
        """Let names stand for what they stand for in any of these."""
        self.names = {
            name: union(state.get(name, NOTHING) for state in states)
            for name in dict.fromkeys(name for state in states for name in state)
        }

    def bind(self, arguments: Arguments, defaults: Mapping[str, Values]) -> None:
        """Give the parameters what a call passes."""
        given = self.node.args
        names = [one.arg for one in (*given.posonlyargs, *given.args)]
        named = dict(arguments.named)
        for at, name in enumerate(names):
            if at < len(arguments.positional):
                values = arguments.positional[at]
            elif name in named:
                values = named[name]
            else:
                values = UNKNOWN if arguments.is_open else defaults.get(name, UNKNOWN)
            self.assign(name, values)
        for one in given.kwonlyargs:
            self.assign(one.arg, named.get(one.arg, UNKNOWN if arguments.is_open else defaults.get(one.arg, UNKNOWN)))
        rest = arguments.positional[len(names) :]
        if given.vararg is not None:
            self.assign(given.vararg.arg, UNKNOWN if arguments.is_open else frozenset({Elements(rest)}))
        if given.kwarg is not None:
            others = [values for name, values in named.items() if name not in names]
            self.assign(given.kwarg.arg, union((*others, UNKNOWN)) if others or arguments.is_open else NOTHING)


@lru_cache(maxsize=1024)
def _own_names(node: Definition) -> frozenset[str]:
    """Return the names that are local to a function: parameters, and all that is assigned in it."""
    given = node.args
    names = {one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)}
    names |= {one.arg for one in (given.vararg, given.kwarg) if one is not None}
    elsewhere: set[str] = set()
    body: Sequence[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else node.body
    waiting = list(body)
    while waiting:
        one = waiting.pop()
        if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store | ast.Del):
            names.add(one.id)
        elif isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(one.name)
            waiting.extend(one.decorator_list)
            continue
        elif isinstance(one, ast.Lambda):
            continue
        elif isinstance(one, ast.Global | ast.Nonlocal):
            elsewhere.update(one.names)
        elif isinstance(one, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and one.name:
            names.add(one.name)
        elif isinstance(one, ast.MatchMapping) and one.rest:
            names.add(one.rest)
        elif isinstance(one, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name.partition(".")[0]) for alias in one.names)
        waiting.extend(ast.iter_child_nodes(one))
    return frozenset(names - elsewhere)
