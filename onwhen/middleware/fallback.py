"""Fallback: what is done in place of a rule that has failed: something else, the last good values, or defaults.

Belongs here: which failures are dealt with, in which order the alternatives are asked, and how the outcome tells of it.
It must not know how what has failed is undone (`engine.chain`).
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

from onwhen.engine.chain import Next, name_of, undone_if_it_fails
from onwhen.engine.context import Context
from onwhen.engine.endings import ends_the_turn
from onwhen.errors import RuleDefinitionError, RuleError
from onwhen.middleware._options import Duration, Errors, Key, error_test, key_function, positive_int, rule_of, seconds

__all__ = ["Alternative", "Default", "Fallback", "LastGood", "NothingGood"]

Alternative: TypeAlias = "Callable[[Context[Any]], Awaitable[None] | None]"
"""What is run in place of a rule: a function like a rule's, or a `LastGood` or `Default`."""

_HALF: Final = 0.5  # what is known of an alternative that was never asked
_WEIGHT: Final = 0.2  # of the latest answer in the share of good ones: some ten answers are remembered


class NothingGood(RuleError):
    """There is no last good value for this, or it is too old."""


class Fallback:
    """Does something else in place of a rule that has failed; the first alternative that works is kept.

    An alternative is run as the rule would be: what it changes, sends and sets is stored with the turn, and undone if
    it fails as well. `ctx.get_metadata("error")` tells it why the rule has failed. If all of them fail, the rule has
    failed with its own error, and its retry policy is asked.

    Nothing hides the failure: the rule's run is "failed" and `handled`, its `error` is the rule's, with a note that
    says what was done instead; `ctx.get_metadata("fallback")` says it to middleware that is further out. It is not
    retried: the event counts as handled.

        Fallback(ask_the_other_bank, LastGood("rate", key=currency, max_age=3600), Default(rate=1.0))

    Args:
        *alternatives: in the order in which they are tried: functions of the context, sync or async; `LastGood`;
            `Default`. At least one.
        on: failures that are dealt with: an exception class, a tuple of them, or a predicate on the error. What is
            no `Exception` never is. A `Postponed` is one too, so an open circuit further in is answered at once; say
            `on=lambda error: not isinstance(error, Postponed)` to let it wait.
        adaptive: of functions next to each other, ask those first that have worked most often of late.

    Raises:
        RuleDefinitionError: there is no alternative, or something that cannot be one.
    """

    scopes = ("rule",)

    def __init__(self, *alternatives: Alternative, on: Errors = Exception, adaptive: bool = False) -> None:
        if not alternatives:
            raise RuleDefinitionError("Fallback needs something to fall back on: a function, LastGood or Default")
        for one in alternatives:
            if not callable(one) or isinstance(one, type) or _is_generator(one):
                raise RuleDefinitionError(
                    f"Fallback: {one!r:.80} must be a function of the context, LastGood(...) or Default(...)"
                )
        self._alternatives = alternatives
        self._is_meant = error_test(on, "Fallback: on")
        self._adaptive = adaptive
        self._shares: dict[int, float] = {}

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, and if that fails do something else."""
        rule_of(ctx, "Fallback")
        try:
            await next.attempt()
        except Exception as error:
            if not self._is_meant(error) or not await self._instead(ctx, error):
                raise
            return
        if ctx._error is None and not ctx._stopped_by:
            for one in self._alternatives:
                if isinstance(one, LastGood):
                    one.remember(ctx)

    async def _instead(self, ctx: Context[Any], error: Exception) -> bool:
        """Run the first alternative that works; tell whether one did."""
        own = ctx._error
        if own is not None and ends_the_turn(own):
            return False  # somebody further in has swallowed that; nobody may
        ctx.set_metadata("error", error)
        for one in self._ordered():
            ctx._error = None
            try:
                await undone_if_it_fails(ctx, _calling(one))
            except Exception as worse:
                self._note(one, 0.0)
                if worse is not error:
                    _tell(error, f"Fallback has tried {_name(one)}, which failed: {worse!r:.500}")
                continue
            self._note(one, 1.0)
            _tell(error, f"Fallback has done {_name(one)} instead")
            ctx.set_metadata("fallback", _name(one))
            # An error that only a middleware has raised, of an open circuit for instance, is not to be hidden either.
            ctx._error, ctx._stopped_by = error, ""
            return True
        ctx._error = own
        return False

    def _ordered(self) -> Sequence[Alternative]:
        """Return the alternatives in the order in which they are to be tried."""
        if not self._adaptive:
            return self._alternatives
        ordered: list[Alternative] = []
        group: list[Alternative] = []
        for one in (*self._alternatives, None):
            if one is not None and not isinstance(one, Default | LastGood):
                group.append(one)
                continue
            ordered += sorted(group, key=lambda one: -self._shares.get(id(one), _HALF))
            group = []
            if one is not None:
                ordered.append(one)
        return ordered

    def _note(self, one: Alternative, worked: float) -> None:
        share = self._shares.get(id(one), _HALF)
        self._shares[id(one)] = share + _WEIGHT * (worked - share)


class Default:
    """Sets properties of the subject to given values, in place of what a rule that has failed would have set.

    Args:
        **properties: name and value of each, or a function that is given the current value.
    """

    def __init__(self, **properties: Any) -> None:
        if not properties:
            raise RuleDefinitionError("Default needs properties to set, for example Default(rate=1.0)")
        self._properties = properties

    def __call__(self, ctx: Context[Any]) -> None:
        """Set them."""
        for name, value in self._properties.items():
            ctx.subject.set(name, value)

    def __repr__(self) -> str:
        return f"Default({', '.join(f'{name}={value!r:.40}' for name, value in self._properties.items())})"


class LastGood:
    """Sets properties to what they were when the rule had last worked, on this subject or another one.

    What a rule that works leaves as it was is taken for good as well, unless it was never set. It is remembered in this
    process, for as many keys as `limit` says; the ones used longest ago are forgotten. A subject's own last good value
    needs none of this: it is what the property still has when the rule fails.

    Args:
        *properties: names of the properties that are the rule's result.
        key: function of the context; what has the same key has the same values, as the same exchange rate for all
            orders in one currency. By default one key for all that the rule is run on.
        max_age: not when the values are older (seconds, or a timedelta, by the bus's clock); None for any age.
        limit: keys that are remembered (a count).

    Raises:
        RuleDefinitionError: an option is not what it must be.
    """

    def __init__(
        self, *properties: str, key: Key | None = None, max_age: Duration | None = None, limit: int = 10_000
    ) -> None:
        if not properties or not all(isinstance(name, str) and name for name in properties):
            raise RuleDefinitionError(f"LastGood{properties!r:.80} needs the names of the properties to remember")
        self._properties = properties
        self._key = key_function(key, "LastGood: key")
        self._max_age = None if max_age is None else timedelta(seconds=seconds(max_age, "LastGood: max_age"))
        self._limit = positive_int(limit, "LastGood: limit")
        self._known: OrderedDict[tuple[str, str], tuple[datetime, dict[str, Any]]] = OrderedDict()

    def remember(self, ctx: Context[Any]) -> None:
        """Note what the rule has set.

        Raises:
            UnknownProperty: there is no such property.
        """
        key = self._place(ctx)
        bag = ctx.subject._state.properties
        values = {name: bag.copy(name) for name in self._properties}
        if not values.keys() <= set(bag.written()):
            return
        self._known[key] = ctx.now, values
        self._known.move_to_end(key)
        while len(self._known) > self._limit:
            self._known.popitem(last=False)

    def __call__(self, ctx: Context[Any]) -> None:
        """Set what was noted.

        Raises:
            NothingGood: nothing was, or it is too old.
        """
        key = self._place(ctx)
        known = self._known.get(key)
        if known is None:
            raise NothingGood(f"{self!r} knows no good value for this yet")
        self._known.move_to_end(key)
        since, values = known
        age = ctx.now - since
        if self._max_age is not None and age > self._max_age:
            raise NothingGood(f"what {self!r} knows is {age.total_seconds():.3f} s old, which is too old")
        for name, value in values.items():
            ctx.subject.set(name, value)

    def _place(self, ctx: Context[Any]) -> tuple[str, str]:
        return rule_of(ctx, "LastGood").id, self._key(ctx)

    def __repr__(self) -> str:
        return f"LastGood({', '.join(map(repr, self._properties))})"


def _calling(one: Alternative) -> Callable[[Context[Any]], Awaitable[None]]:
    async def call(ctx: Context[Any]) -> None:
        result = one(ctx)
        if inspect.isawaitable(result):
            await result

    return call


def _tell(error: Exception, note: str) -> None:
    """Leave a note on an error, once: it may be the error of several runs, which share a call."""
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)


def _name(one: Alternative) -> str:
    return repr(one) if isinstance(one, Default | LastGood) else name_of(one)


def _is_generator(one: Any) -> bool:
    return inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one)
