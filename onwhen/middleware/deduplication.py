"""De-duplication: of several events that mean the same, one takes effect.

Belongs here: the middleware around a rule or an event, and what a subject remembers of the keys that it has seen. It
must not know how workers agree on a key of several subjects (`_claims`).
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final

from onwhen.engine.chain import Next
from onwhen.engine.context import DEFERRED, Context
from onwhen.engine.endings import ends_the_program
from onwhen.engine.store import key_of
from onwhen.errors import MiddlewareError, RuleDefinitionError
from onwhen.middleware._claims import Claims
from onwhen.middleware._moments import micros
from onwhen.middleware._options import Duration, Key, key_function, microseconds, one_of, plain_name, positive_int

__all__ = ["Deduplication"]

_EVENTS: Final = "events"  # what stands for a rule where this is around whole events
_LENGTH: Final = 20  # characters of a digest
_MOMENT: Final = 14  # characters of a moment: microseconds, in hexadecimal digits
_WIDTH: Final = _LENGTH + _MOMENT


class Deduplication:
    """Stops a rule for an event that means the same as an earlier one; the outcome says so.

        @orders.on("order.paid", middleware=[Deduplication(lambda ctx: ctx.payload["receipt"], window=86_400)])

    The store already takes no event twice by its source and id. This is for senders that give a new id each time, by a
    key of the payload; or, without a key, for ids that come again when the store has forgotten them.

    By default a key is remembered on its subject, in an extended property, and stored with what the rule did: together
    or not at all. So of all events of one subject with one key, one takes effect within the window, whichever process
    dies and whenever. A run that failed, was put off, or stopped further in is not remembered, and may be repeated.
    Deleting the subject forgets its keys.

    With `shared=True` a key counts for all subjects and workers of the store. An event claims its key, for two calls to
    the store per run, and keeps it for all of its own attempts, also after its worker has died. While it is not decided
    what becomes of it, others with the same key are put off, for a second at a time: they are stopped once it has
    succeeded, or one of them runs if it has failed. A claim that nobody decides is over when a run has taken longer
    than it may; the run that loses it so is undone, and run again. If the store does not answer, a run is put off. The
    same source and id counts as the same event here, so that a turn can be run again. If that, after a crash or a lost
    answer between the claim and the commit, fails for good, it is a dead letter, and others were stopped for it.

    Around events (`scope="event"`) an event is stopped as a whole. What one that was let through has left to be done
    passes: retries of its rules, and what `Debounce` and `Throttle` run later.

    Args:
        key: function of the context that returns what has to differ, as a text. By default source and id of the event.
        window: how long a key is remembered (seconds or a timedelta).
        name: what it is remembered under, where there are two of these around one rule; they must not be equal.
        shared: among all subjects and workers of the store; needs a key.
        limit: how many keys a subject remembers for a rule (a count); the oldest are forgotten first. With `shared`
            there is no limit.

    Raises:
        RuleDefinitionError: an option is not what it must be.
    """

    def __init__(
        self,
        key: Key | None = None,
        window: Duration = 3600.0,
        *,
        name: str | None = None,
        shared: bool = False,
        limit: int = 1_000,
    ) -> None:
        self._key = None if key is None else key_function(key, "Deduplication: key")
        self._window = microseconds(window, "Deduplication: window")
        self._suffix = f":{name}" if plain_name(name, "Deduplication: name") else ""
        self._limit = positive_int(limit, "Deduplication: limit")
        if one_of(shared, "Deduplication: shared", True, False) and key is None:
            raise RuleDefinitionError(
                "Deduplication: key=None cannot be shared: the store knows events by source and id already; give a key"
            )
        self._claims = Claims(self._window / 1e6) if shared else None

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on if the key is new."""
        if ctx.rule is None and _is_left_over(ctx):
            await next()
            return
        place = (ctx.rule.id if ctx.rule is not None else _EVENTS) + self._suffix
        key = f"{ctx.event.source} {ctx.event.id}" if self._key is None else self._key(ctx)
        if self._claims is None:
            await self._by_subject(ctx, next, f"onwhen.deduplication/{place}", _digest(key))
        else:
            await self._by_claim(ctx, next, self._claims, place, key)

    def _check_alone(self, ctx: Context[Any], place: str) -> None:
        """Refuse two that would take each other's keys for their own, and stop what nobody has seen."""
        if ctx.get_metadata(place):
            around = ctx.rule or "events"
            raise MiddlewareError(f"there are two Deduplication around {around}: tell them apart by name='...'")
        ctx.set_metadata(place, True)

    # -- on the subject

    async def _by_subject(self, ctx: Context[Any], next: Next, place: str, digest: str) -> None:
        now = micros(ctx.now)
        if _Memory(ctx.subject.get_ext(place, "")).holds(digest, now):
            return
        self._check_alone(ctx, place)
        await next()
        state = ctx._effects.state
        is_deleted = state.flushed and not state.properties.written() and not state.ext.written()
        if not ctx._stopped_by and not is_deleted:  # a subject that is deleted is not to come to life again for this
            memory = _Memory(ctx.subject.get_ext(place, ""))
            ctx.subject.set_ext(place, memory.with_one_more(digest, now, self._window, self._limit))

    # -- among all

    async def _by_claim(self, ctx: Context[Any], next: Next, claims: Claims, place: str, key: str) -> None:
        self._check_alone(ctx, f"onwhen.deduplication/{place}")
        owner = f"{key_of(ctx.event, place)}/{ctx.subject.name}"
        claim = await claims.make(ctx, f"{place}/{key}", owner)
        if claim is None:
            return
        try:
            await next()
        except BaseException as error:
            if not ends_the_program(error):
                await claim.give_up()
            raise
        if ctx._stopped_by:
            await claim.give_up()
        else:
            await claim.keep()


class _Memory:
    """Keys that a subject has seen, in one text: of each its digest, and until when it counts.

    One text is many times cheaper to read, to search and to store than as many entries of a mapping.

    Args:
        text: as it is stored, oldest first.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def holds(self, digest: str, now: int) -> bool:
        """Tell whether a key was seen, and still counts."""
        at = self._text.rfind(digest)  # the latest; there may be one that does not count any more
        while at > 0 and at % _WIDTH:
            at = self._text.rfind(digest, 0, at + _LENGTH - 1)
        return at >= 0 and self._until(at) > now

    def with_one_more(self, digest: str, now: int, window: int, limit: int) -> str:
        """Return what is to be stored: without what does not count any more, and no more than `limit` keys."""
        first = max(len(self._text) - (limit - 1) * _WIDTH, 0)
        while first < len(self._text) and self._until(first) <= now:
            first += _WIDTH
        return f"{self._text[first:]}{digest}{now + window:0{_MOMENT}x}"

    def _until(self, at: int) -> int:
        return int(self._text[at + _LENGTH : at + _WIDTH], 16)


def _is_left_over(ctx: Context[Any]) -> bool:
    """Tell whether this is what was left to be done of an event that was let through: a single rule."""
    retry = ctx.turn.retry
    return (retry is not None and retry.rule != "") or DEFERRED in ctx.event.extensions


def _digest(key: str) -> str:
    return blake2b(key.encode(errors="surrogatepass"), digest_size=_LENGTH // 2).hexdigest()
