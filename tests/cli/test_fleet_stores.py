"""The commands for a store, on one that workers share: they look, or leave the rest to the workers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onwhen import Event, Settings, SystemClock, partition_of
from onwhen.engine.store import Commit, DeadLetter, Failure, key_of
from onwhen.storage import create_storage
from tests.cli.fleets import APP, Started, leave

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]


@pytest.fixture
def worker(launch: Launch) -> Started:
    """A worker that has begun."""
    started = launch("worker", APP)
    started.says("owns 4 of 4")
    return started


def emit(onwhen: Onwhen, *events: tuple[str, str]) -> None:
    """Have events handled, one after the other."""
    for type, subject in events:
        assert onwhen("emit", type, subject, "--wait", "20").code == 0


async def leave_letter(rule: str, event: Event) -> None:
    """Leave a dead letter of two attempts."""
    settings, now = Settings(), SystemClock().now()
    store = create_storage(settings.store, **settings.storage())
    await store.open(SystemClock())
    letter = DeadLetter(
        id=key_of(event, rule),
        subject=event.subject,
        event=event,
        rule=rule,
        failure=Failure(type="RuntimeError", message="it rained"),
        attempts=2,
        first_failed=now,
        time=now,
    )
    partition = partition_of(event.subject, store.partitions)
    await store.commit(Commit(partition=partition, subject=event.subject, dead=[letter], id=event.id))
    await store.close()


def lines(text: str) -> list[dict[str, Any]]:
    """What JSON lines say."""
    return [json.loads(line) for line in text.splitlines()]


def test_looking(worker: Started, onwhen: Onwhen) -> None:
    """Each command shows what there is in all partitions, while the worker is at work."""
    emit(onwhen, *(("order.placed", f"order:{number}") for number in range(6)))
    emit(onwhen, ("order.printed", "order:1"), ("order.weighed", "order:2"), ("order.called", "order:3"))
    assert onwhen("emit", "order.placed", "order:2", "--wait", "0.1").code == 1  # behind what is parked
    assert [row["subject"] for row in lines(onwhen("subjects", "list", "--json").out)] == [
        f"order:{number}" for number in range(6)
    ]
    assert json.loads(onwhen("subjects", "get", "order:1", "--json").out)["properties"]["count"] == 1
    facts = json.loads(onwhen("stats", "--json").out)
    assert {name: facts[name] for name in ("subjects", "pending", "timers", "retries", "parked", "dead_letters")} == {
        "subjects": 6,
        "pending": 1,
        "timers": 0,
        "retries": 1,
        "parked": 1,
        "dead_letters": 1,
    }
    assert (facts["partitions"], "file" in facts, facts["store"].partition("://")[0]) == (4, False, "redis")
    assert [row["event"]["subject"] for row in lines(onwhen("log", "--json").out)] == ["order:2"]
    assert [row["subject"] for row in lines(onwhen("deadletters", "list", "--json").out)] == ["order:1"]
    assert [row["subject"] for row in lines(onwhen("parked", "list", "--json").out)] == ["order:2"]
    assert [row["subject"] for row in lines(onwhen("retries", "--json").out)] == ["order:3"]
    assert onwhen("timers", "--json").out == ""
    for command in (["stats"], ["log"], ["deadletters", "list"], ["parked", "list"], ["retries"], ["timers"]):
        ended = onwhen(*command)
        assert ended.code == 0
        assert "\x1b" not in ended.out + ended.err


def test_dead_letters_are_replayed_by_the_workers(worker: Started, onwhen: Onwhen) -> None:
    """The command waits, and tells what came of each: failed again, or handled."""
    emit(onwhen, ("order.printed", "order:1"), ("order.printed", "order:2"))
    ended = onwhen("deadletters", "replay", APP, "--all")
    assert (ended.code, ended.err) == (1, "2 replayed; 2 of them with failures.\n")
    assert "shop.print_order on order:1: failed again: ConnectionError: no printer\\n\\x1b[31mcall" in ended.out
    assert [row["attempts"] for row in lines(onwhen("deadletters", "list", "--json").out)] == [2, 2]
    leave("mended")
    ended = onwhen("deadletters", "replay", APP, "--subject", "order:1")
    assert (ended.code, ended.err) == (0, "1 replayed.\n")
    assert ended.out.endswith(" shop.print_order on order:1: handled\n")
    assert [row["subject"] for row in lines(onwhen("deadletters", "list", "--json").out)] == ["order:2"]
    assert onwhen("deadletters", "discard", "--all").err == "1 discarded.\n"
    assert onwhen("deadletters", "replay", APP, "--all").err == "There was nothing to replay.\n"


def test_parked_subjects_are_resumed_by_the_workers(worker: Started, onwhen: Onwhen) -> None:
    """What waits behind them follows; one that fails again stays parked."""
    emit(onwhen, ("order.weighed", "order:1"), ("order.weighed", "order:2"))
    assert onwhen("emit", "order.placed", "order:1").code == 0
    ended = onwhen("parked", "resume", APP, "order:1")
    assert (ended.code, ended.err) == (1, "1 resumed; 1 of them with failures.\n")
    assert "order.weighed to order:1: failed again, and is parked: ConnectionError" in ended.out
    leave("mended")
    ended = onwhen("parked", "resume", APP, "order:1")
    assert (ended.code, ended.out, ended.err) == (0, "order.weighed to order:1: handled\n", "1 resumed.\n")
    emit(onwhen, ("order.placed", "order:1"))
    assert json.loads(onwhen("subjects", "get", "order:1", "--json").out)["properties"]["count"] == 2
    assert onwhen("parked", "skip", "order:2").err.startswith("1 skipped; ")
    assert onwhen("parked", "list", "--json").out == ""
    emit(onwhen, ("order.placed", "order:2"))


def test_what_is_replayed_may_wait_once_more(worker: Started, onwhen: Onwhen) -> None:
    """A rule that is tried several times has all its attempts again; when the next one is, is told."""
    asyncio.run(leave_letter("shop.call", Event("order.called", "order:1", id="c1", source="/shop")))
    ended = onwhen("deadletters", "replay", APP, "--all")
    assert (ended.code, ended.err) == (1, "1 replayed; 1 of them with failures.\n")
    assert re.search(
        r" shop.call on order:1: failed again, to be retried at 20[0-9T:-]+Z: ConnectionError: no", ended.out
    )
    [retry] = lines(onwhen("retries", "--json").out)
    assert (retry["rule"], retry["attempt"]) == ("shop.call", 4)
    ended = onwhen("parked", "resume", APP, "order:1")
    assert (ended.code, ended.err) == (
        2,
        "onwhen: order:1 is not parked; 'onwhen parked list' shows those that are\n",
    )


def test_without_workers_nothing_is_handled_yet(worker: Started, onwhen: Onwhen) -> None:
    """It is put in all the same, and done by whoever comes next."""
    emit(onwhen, ("order.printed", "order:1"))
    worker.process.terminate()
    assert worker.ends() == 0
    leave("mended")
    ended = onwhen("deadletters", "replay", APP, "--all", "--wait", "-1")
    assert (ended.code, ended.err) == (2, "onwhen: --wait -1: must be 0 seconds or more\n")
    ended = onwhen("deadletters", "replay", APP, "--all", "--wait", "0.1")
    assert ended.code == 1
    assert ended.out.endswith(" shop.print_order on order:1: not handled yet\n")
    assert ended.err.startswith("1 replayed; 1 not handled yet: the workers do it when they come to it")
    assert onwhen("deadletters", "list", "--json").out == ""
    assert [row["rule"] for row in lines(onwhen("retries", "--json").out)] == ["shop.print_order"]


def test_the_app_is_only_looked_at(worker: Started, onwhen: Onwhen) -> None:
    """No rule of it is run here, but it should be what the workers run."""
    emit(onwhen, ("order.printed", "order:1"))
    assert onwhen("deadletters", "replay", "tests.cli.fleets:nothing", "--all").code == 2
    assert len(lines(onwhen("deadletters", "list", "--json").out)) == 1


def test_subjects_are_migrated_while_workers_work(worker: Started, onwhen: Onwhen) -> None:
    """No rule is run for that, and whoever is at work reads the new state."""
    emit(onwhen, ("order.placed", "order:1"))
    ended = onwhen("migrate", APP)
    assert (ended.code, ended.out) == (0, "migrated 0, current 1, failed 0\n")


def test_commands_do_not_warn_of_the_server(worker: Started, onwhen: Onwhen) -> None:
    """That the server keeps nothing on disk is told by the worker, once; not by each look at the store."""
    assert onwhen("stats").err == ""
    worker.says("keeps no append-only file")
    assert not Path("mended").exists()
