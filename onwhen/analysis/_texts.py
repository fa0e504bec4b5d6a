"""Texts that are known in part: what a string in somebody's code can be, and which event types that may meet.

Belongs here: pure functions on texts with holes and on globs. It must not know of code, rules or events.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, TypeAlias

__all__ = ["HOLE", "Meeting", "Text", "is_glob", "meets", "meets_prefix"]

HOLE: Final = None
"""Stands for any characters, or none."""

Meeting: TypeAlias = Literal["always", "maybe", "never"]
"""Whether a text fits a glob: whatever is in its holes, for something that could be in them, or in no case."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string, as far as it is known.

    Attributes:
        parts: what is known of it, in order, with `HOLE` for what is not.
    """

    parts: tuple[str | None, ...]

    @classmethod
    def of(cls, *parts: str | None) -> Text:
        """Return a text of these parts, put together where they can be."""
        joined: list[str | None] = []
        for part in parts:
            if part is HOLE:
                if not joined or joined[-1] is not HOLE:
                    joined.append(HOLE)
            elif part and joined and (last := joined[-1]) is not HOLE:
                joined[-1] = last + part
            elif part:
                joined.append(part)
        return cls(tuple(joined))

    @classmethod
    def concat(cls, texts: Iterable[Text]) -> Text:
        """Return several texts as one."""
        return cls.of(*(part for text in texts for part in text.parts))

    @classmethod
    def between(cls, known: Iterable[str]) -> Text:
        """Return a text of which some parts are known, with a hole between each two."""
        return cls.of(*[part for one in known for part in (HOLE, one)][1:])

    @property
    def is_exact(self) -> bool:
        """Whether all of it is known."""
        return HOLE not in self.parts

    @property
    def is_unknown(self) -> bool:
        """Whether nothing of it is known."""
        return self.parts == (HOLE,)

    @property
    def prefix(self) -> str:
        """What it begins with, as far as that is known."""
        return self.parts[0] or "" if self.parts else ""

    def __str__(self) -> str:
        if self.is_unknown:
            return "?"
        return "".join("*" if part is HOLE else part for part in self.parts)


def is_glob(pattern: str) -> bool:
    """Tell whether a pattern stands for more than one text."""
    return any(sign in pattern for sign in "*?[")


def meets(text: Text, glob: str) -> Meeting:
    """Tell whether a text fits a pattern of the kind that triggers take.

    Args:
        text: what there is.
        glob: exact, or with `*`, `?` and `[...]`, as `fnmatch` has them.
    """
    if text.is_exact:
        return "always" if _is_fitting(str(text), glob) else "never"
    if glob == "*":
        return "always"
    start, star, rest = glob.partition("*")
    if star and not rest and not is_glob(start) and text.prefix.startswith(start):
        return "always"
    return "maybe" if _overlap(text.parts, _tokens(glob)) else "never"


def meets_prefix(text: Text, prefix: str) -> Meeting:
    """Tell whether a text begins with a prefix."""
    known = text.prefix
    if known.startswith(prefix):
        return "always"
    return "maybe" if not text.is_exact and prefix.startswith(known) else "never"


def _is_fitting(text: str, glob: str) -> bool:
    return fnmatch.fnmatchcase(text, glob) if is_glob(glob) else text == glob


@lru_cache(maxsize=1024)
def _tokens(glob: str) -> tuple[re.Pattern[str] | None, ...]:
    """Return what a glob asks of each character, None for any number of any."""
    if not is_glob(glob):
        return tuple(re.compile(re.escape(sign)) for sign in glob)
    tokens = re.findall(r"\[!?\]?[^\]]*\]|.", glob, re.DOTALL)
    return tuple(None if token == "*" else re.compile(fnmatch.translate(token)) for token in tokens)


def _overlap(parts: Sequence[str | None], tokens: Sequence[re.Pattern[str] | None]) -> bool:
    """Tell whether some text is one of both."""
    signs = [sign for part in parts for sign in (part if part is not HOLE else (HOLE,))]
    reached = _past_stars({0}, tokens)  # how far in the tokens one can be after the signs so far
    for sign in signs:
        after: set[int] = set()
        for at in reached:
            if sign is HOLE:
                after.update(range(at, len(tokens) + 1))
            elif at < len(tokens) and ((token := tokens[at]) is None or token.match(sign)):
                after.add(at if token is None else at + 1)
        reached = _past_stars(after, tokens)
        if not reached:
            return False
    return len(tokens) in reached


def _past_stars(reached: set[int], tokens: Sequence[re.Pattern[str] | None]) -> set[int]:
    for at in sorted(reached):
        step = at
        while step < len(tokens) and tokens[step] is None:
            step += 1
            reached.add(step)
    return reached
