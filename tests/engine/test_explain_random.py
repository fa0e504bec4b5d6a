"""Invariant: a turn does the same whether it is explained or not. Random rules, conditions and events try it out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from onwhen import Event, RuleSet, changed, when
from onwhen.engine.explaining import Account, account_of_outcome
from onwhen.engine.outcomes import Outcome
from onwhen.engine.store import Commit
from tests.engine.turning import Thing, begin, committed, run


class Odd:
    """What is no JSON value."""

    def __repr__(self) -> str:
        return "odd"


def append(ctx: Any) -> bool:
    ctx.subject.tags.append(len(ctx.subject.tags))
    return True


def spoil(ctx: Any) -> bool:
    ctx.subject.tags.append(Odd())
    return len(ctx.subject.tags) > 0


def write(ctx: Any) -> bool:
    ctx.subject.m += 1
    return bool(ctx.subject.m > 1)


def emit(ctx: Any) -> bool:
    ctx.emit("told", {"by": "condition"})
    return True


CONDITIONS: Final[list[Callable[[Any], Any]]] = [
    append,
    spoil,
    write,
    emit,
    lambda ctx: ctx.subject.n > 1,
    lambda ctx: ctx.subject.tags and ctx.subject.tags[0] == 0,
    lambda ctx: ctx.payload["x"] > 1 or ctx.subject.get("m"),
    lambda ctx: ctx.new_value != ctx.old_value,
    lambda ctx: ctx.event.id and ctx.idempotency_key and ctx.subject.price < 1,
    lambda ctx: ctx.subject.nothing,
    lambda ctx: ctx.subject.tags.append("x") or ctx.subject.tags[-1] == "x",
    lambda ctx: ctx.subject.ext.get("x") == 1 and len(ctx.subject.tags) < 3,
    lambda ctx: (tags := ctx.subject.tags) is not None and tags.clear() is None,
    lambda ctx: ctx.subject.set("n", 9, muted=True),
    lambda ctx: 1 / ctx.subject.n > 0.2 and 1 / ctx.subject.m,
    lambda ctx: ctx.subject.delete("n") is None or ctx.subject.has("n"),
]


@dataclass(frozen=True)
class Plan:
    """One rule: what it reacts to, when, and what it does."""

    trigger: str
    conditions: tuple[int, ...]
    effect: str
    fails: bool
    guarded: bool


PLANS: Final = st.lists(
    st.builds(
        Plan,
        trigger=st.sampled_from(["go", "n", "m", "tags"]),
        conditions=st.lists(st.integers(0, len(CONDITIONS) - 1), max_size=3).map(tuple),
        effect=st.sampled_from(["n", "m", "tags", "emit", "ext", "flush", "none"]),
        fails=st.booleans(),
        guarded=st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def rules_of(plans: list[Plan]) -> RuleSet:
    rules = RuleSet("rules", Thing)
    for number, plan in enumerate(plans):
        trigger: Any = plan.trigger
        if plan.trigger != "go":
            trigger = changed(plan.trigger, to=lambda value: bool(value)) if plan.guarded else changed(plan.trigger)

        @rules.on(trigger, name=f"rule-{number}")
        @when(*(CONDITIONS[at] for at in plan.conditions))
        def rule(ctx: Any, plan: Plan = plan) -> None:
            match plan.effect:
                case "n" if ctx.subject.n < 6:
                    ctx.subject.n += 1
                case "m" if ctx.subject.m < 6:
                    ctx.subject.m += 1
                case "tags" if len(ctx.subject.tags) < 6:
                    ctx.subject.tags.append("t")
                case "emit":
                    ctx.emit("told", {"n": ctx.subject.n})
                case "ext":
                    ctx.subject.set_ext("seen", ctx.subject.n)
                case "flush":
                    ctx.subject.flush()
            if plan.fails:
                raise ValueError("no")

    return rules


def run_it(plans: list[Plan], data: Any, stored: dict[str, bytes], *, explains: bool) -> tuple[Commit, Outcome]:
    turn = run(begin(rules_of(plans), event=Event("go", "thing:1", data, id="e1"), stored=stored, explains=explains))
    return committed(turn), turn.outcome()


def plain(commit: Commit) -> Any:
    """Return what a commit does, without tracebacks, in which the engine's own lines differ."""
    told = msgspec.structs.asdict(commit)
    del told["explanation"]
    for name in ("retries", "dead"):
        told[name] = [(one.event, one.rule, one.failure.type, one.failure.message) for one in told[name]]
    return told


def ends(outcome: Outcome) -> Any:
    return [
        (
            run.rule,
            run.status,
            run.condition and run.condition.test,
            run.changes,
            run.messages,
            type(run.error),
            run.retry_at,
        )
        for run in outcome.runs
    ], type(outcome.error)


@given(
    plans=PLANS,
    data=st.sampled_from([None, {"x": 1}, {"x": 2}, {"x": "text"}, b"bytes"]),
    stored=st.sampled_from([{}, {"n": b"2"}, {"tags": b'["a"]', "m": b"1"}]),
)
def test_explaining_changes_nothing(plans: list[Plan], data: Any, stored: dict[str, bytes]) -> None:
    """The same rules run, in the same order, with the same end; what is stored is the same to the byte."""
    commit, outcome = run_it(plans, data, stored, explains=False)
    told_commit, told_outcome = run_it(plans, data, stored, explains=True)
    assert plain(told_commit) == plain(commit)
    assert ends(told_outcome) == ends(outcome)
    # What is told agrees with what was: a rule that was skipped says where, and one that fired says that all held.
    for ran in told_outcome.runs:
        results = [one.result for one in ran.tests if one.kind == "condition"]
        if ran.status == "fired":
            assert set(results) <= {"held"}
        elif ran.status == "skipped" and ran.condition is not None:
            assert results.count("did not hold") == 1
    assert told_commit.explanation is not None
    assert str(Account(events=(account_of_outcome(told_outcome),)))
