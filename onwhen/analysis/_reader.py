"""Reading the code of rules: which events it sends, which properties it looks at and changes.

Belongs here: how functions are gone through, and what is noted on the way. It must not run any of that code, and must
not raise, whatever the code is: what cannot be told is noted as unseen.

A name stands for all that may have been assigned to it when a line is reached. So what is found is what may happen;
`is_certain` says of what is known to.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, Final

from onwhen.analysis import _calls
from onwhen.analysis._effects import Effect, Read, Reading, Unseen, Write, passed_on, uncertain
from onwhen.analysis._expressions import EXPRESSIONS
from onwhen.analysis._frames import Arguments, Frame
from onwhen.analysis._shapes import asks, may_leave, refuses
from onwhen.analysis._sources import Place, innermost, place_of, shown
from onwhen.analysis._statements import STATEMENTS, store
from onwhen.analysis._texts import Text
from onwhen.analysis._values import CTX, NOTHING, UNKNOWN, Closure, Mark, Property, SubjectOf, Values, of, union
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.subjects import Subject

__all__ = ["Known", "Reader", "read"]

_DEEPEST: Final = 16  # calls within calls (a count)
_MOST: Final = 300  # functions that are read for one rule (a count)


class Known:
    """What is known of the runs of a function before it is read.

    Args:
        subject: class of the subject.
        book: what knows the classes of subjects by their names.
        event_types: what `ctx.event_type` may be.
        properties: what `ctx.property_name` may be.
    """

    def __init__(
        self,
        subject: type[Subject] = Subject,
        book: Rulebook | None = None,
        event_types: Values = UNKNOWN,
        properties: Values = UNKNOWN,
    ) -> None:
        self.subject = subject
        self.book = book or Rulebook()
        self.attributes = {
            "event_type": event_types,
            "property_name": properties,
            "new_value": frozenset({Mark.NEW_VALUE}),
            "old_value": frozenset({Mark.OLD_VALUE}),
        }


def read(function: Any, known: Known, *, is_middleware: bool = False) -> Reading:
    """Return what is seen in a function that is called with a context, and in what it calls.

    Args:
        function: a rule's, a condition, or a middleware.
        known: what is known of its runs.
        is_middleware: it is called with the rest of the chain, too.
    """
    reader = Reader(known)
    arguments = Arguments((CTX, frozenset({Mark.NEXT})) if is_middleware else (CTX,))
    try:
        reader.call(of(function), arguments, "")
        wrapped = innermost(function)
        if isinstance(wrapped, FunctionType) and wrapped.__code__ not in reader.seen:  # a decorator hides it
            with reader.maybe():
                reader.call(of(wrapped), arguments, "")
    except RecursionError:
        place = place_of(function) or Place("?", 0)
        reader.effects.append(Unseen(what="is nested too deeply to be read", place=place))
    return Reading.of(reader.effects, refuses=reader.refuses, goes_on=reader.goes_on)


class Reader:
    """Goes through functions.

    Attributes:
        known: what is known before.
        effects: what was seen, in order.
        seen: code objects that were read.
        goes_on: the rest of the chain was run, certainly.
        refuses: a function that was read may raise of its own accord.
    """

    def __init__(self, known: Known) -> None:
        self.known = known
        self.effects: list[Effect] = []
        self.seen: set[Any] = set()
        self.goes_on = False
        self.refuses = False
        self.frame: Frame | None = None
        self.at: ast.AST | None = None
        self.is_certain = True
        self.is_reached = True
        self._is_doubtful = False
        self._summaries: dict[Any, tuple[list[Effect], Values, bool]] = {}
        self._kept: list[Any] = []  # what keys of summaries are made of the ids of
        self._stack: list[Any] = []

    # -- noting

    @property
    def place(self) -> Place:
        """Where the reader is."""
        function = self.frame
        if function is None:
            return Place("?", 0)
        return Place(shown(function.file), getattr(self.at, "lineno", function.node.lineno))

    @property
    def current(self) -> Frame:
        """The function that is read."""
        assert self.frame is not None
        return self.frame

    @contextmanager
    def maybe(self, is_maybe: bool = True, *, is_reached: bool = False, is_doubtful: bool = False) -> Iterator[None]:
        """Take what is seen in here as something that may as well not happen.

        Args:
            is_maybe: False changes nothing.
            is_reached: it is begun all the same, but may be cut short.
            is_doubtful: what it names may as well not be what is meant, or be meant to fail.
        """
        before = self.is_certain, self.is_reached, self._is_doubtful
        if is_maybe:
            self.is_certain, self.is_reached = False, self.is_reached and is_reached
            self._is_doubtful |= is_doubtful
        try:
            yield
        finally:
            self.is_certain, self.is_reached, self._is_doubtful = before

    def note(self, effect: Effect) -> None:
        """Keep something that was seen."""
        self.effects.append(effect if self.is_certain else uncertain(effect))

    def unseen(self, what: str) -> None:
        """Keep something that cannot be told."""
        self.note(Unseen(what=what, place=self.place))

    def look(self, subject: SubjectOf, name: Text, *, is_question: bool = False) -> Values:
        """Note a look at a property, and return what it gives."""
        self.note(
            Read(
                subject=subject.cls,
                property=name,
                is_question=is_question,
                is_narrowed=self.is_narrowed,
                is_doubtful=self.is_doubtful,
                place=self.place,
            )
        )
        return frozenset({Property(name)}) if subject.is_own else UNKNOWN

    def write(self, name: Text, verb: Any, **facts: Any) -> None:
        """Note a change of the subject."""
        self.note(
            Write(
                property=name,
                verb=verb,
                is_certain=True,
                is_narrowed=self.is_narrowed,
                is_doubtful=self.is_doubtful,
                place=self.place,
                **facts,
            )
        )

    @property
    def is_narrowed(self) -> bool:
        """Whether the code asks what the subject is."""
        return self.frame is not None and self.frame.is_narrowed

    @property
    def is_doubtful(self) -> bool:
        """Whether nobody can tell if it is meant: in a function that is called, and not always done there, for one."""
        return self._is_doubtful or (len(self._stack) > 1 and not self.is_certain)

    # -- functions

    def call(self, functions: Values, arguments: Arguments, shown: str) -> Values:
        """Return what calling one of these gives."""
        with self.maybe(len(functions) > 1):
            return union(_calls.call(self, one, arguments, shown) for one in functions)

    def follow(self, key: Any, make: Callable[[], Frame], defaults: dict[str, Values], arguments: Arguments) -> Values:
        """Read a function that is called, once for the same arguments, and return what it returns."""
        key = (key, arguments)
        if key in self._stack:
            return NOTHING  # it calls itself, as it was called
        if key not in self._summaries:
            if len(self._stack) >= _DEEPEST or len(self._summaries) >= _MOST:
                self.unseen("calls more functions than are followed")
                return UNKNOWN
            self._kept.append(arguments)
            self._summaries[key] = self._summary(key, make(), defaults, arguments)
        effects, returned, goes_on = self._summaries[key]
        for effect in effects:
            self.note(passed_on(effect, is_narrowed=self.is_narrowed, is_doubtful=not self.is_certain))
        self.goes_on |= goes_on and self.is_reached
        return returned

    def _summary(
        self, key: Any, frame: Frame, defaults: dict[str, Values], arguments: Arguments
    ) -> tuple[list[Effect], Values, bool]:
        outside = self.frame, self.at, self.effects, self.is_certain, self.is_reached, self.goes_on
        self._stack.append(key)
        self.frame = frame
        try:
            frame.bind(arguments, defaults)
            frame.is_narrowed = asks(frame.node)
            self.refuses |= refuses(frame.node)
            self._through(frame)
            while unread := [one for number, one in frame.closures.items() if number not in frame.called]:
                with self.maybe():
                    self.call(frozenset({unread[0]}), Arguments(is_open=True), "")
            return self.effects, union(frame.returned), self.goes_on
        finally:
            self._stack.pop()
            self.frame, self.at, self.effects, self.is_certain, self.is_reached, self.goes_on = outside

    def _through(self, frame: Frame) -> None:
        self.effects, self.is_certain, self.is_reached, self.goes_on = [], True, True, False
        frame.returned.clear()
        if isinstance(frame.node, ast.Lambda):
            frame.returned.append(self.value(frame.node.body))
        else:
            self.block(frame.node.body)

    # -- statements

    def block(self, body: list[ast.stmt]) -> None:
        """Go through statements."""
        before = self.is_certain, self.is_reached
        for statement in body:
            self.at = statement
            self._statement(statement)
            if may_leave(statement):
                self.is_certain = self.is_reached = False
        self.is_certain, self.is_reached = before

    def _statement(self, node: ast.stmt) -> None:
        handler = STATEMENTS.get(type(node))
        if handler is not None:
            handler(self, node)
        else:
            self.children(node)

    def children(self, node: ast.AST) -> None:
        """Go through the parts of something, whatever it is."""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
            elif isinstance(child, ast.stmt):
                self.block([child])
            else:
                self.children(child)

    def closure(self, node: Any) -> Closure:
        """Return a function that stands in the one that is read."""
        return self.current.closures.setdefault(id(node), Closure(node, self.current))

    def store(self, target: ast.expr, values: Values, source: ast.expr | None) -> None:
        """Give something to what stands on the left of an assignment."""
        store(self, target, values, source)

    # -- expressions

    def value(self, node: ast.expr) -> Values:
        """Return what an expression may stand for, and note what evaluating it does."""
        handler = EXPRESSIONS.get(type(node))
        if handler is not None:
            return handler(self, node)
        self.children(node)
        return UNKNOWN

    def argument(self, at: int, name: str) -> ast.expr | None:
        """Return what stands in the code for an argument of the call that is looked at."""
        node = self.at
        if not isinstance(node, ast.Call):
            return None
        if at < len(node.args):
            return node.args[at]
        return next((keyword.value for keyword in node.keywords if keyword.arg == name), None)
