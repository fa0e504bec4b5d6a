"""A worker whose store fails, is silent, or answers late; whose lease runs out; that is stopped, cancelled or stuck."""

import asyncio
from typing import Any

import pytest

from onwhen import Context, Limits, RuleSet
from onwhen.errors import StoreFormatError, WorkerStalled
from tests.engine.fleets import LEASE, Fleet, Member, Notes, name, until, virtual


async def handles(fleet: Fleet, seconds: float, *subjects: str) -> None:
    """Check that events of these subjects are handled within so many seconds."""
    before = {subject: fleet.value(subject, "order") or [] for subject in subjects}
    for subject in subjects:
        fleet.post("noted", subject, "more")
    await until(lambda: all(fleet.value(one, "order") == [*before[one], "more"] for one in subjects), seconds)


# -- leases


@virtual
async def test_a_worker_that_stood_still_past_its_lease_commits_nothing() -> None:
    """Its turn was under way; when it goes on, somebody else has handled the event, and its own commit is fenced."""
    fleet, notes, others = Fleet(1), Notes(), Notes()
    notes.gates["s"] = asyncio.Event()
    still = await fleet.member(notes.rules).start()
    fleet.post("noted", "s", 1)
    fleet.post("noted", "s", 2)
    await until(lambda: notes.runs)
    still.stand_still()
    await fleet.member(others.rules).start()
    await until(lambda: fleet.value("s", "order") == [1, 2], LEASE + 3)
    version = fleet.server.partitions[0].state.subjects["s"].version
    notes.gates["s"].set()
    still.go_on()
    await asyncio.sleep(5)
    assert still.worker.status().turns == 0
    assert notes.runs == [("s", 1)]
    assert fleet.server.partitions[0].state.subjects["s"].version == version


@virtual
async def test_nothing_is_begun_past_sixty_percent_of_a_lease_that_is_not_renewed() -> None:
    """Also while the lease still runs by the store's clock: that of another machine may be faster."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    await asyncio.sleep(20)
    member.wire.fail_always("renew")
    failed = fleet.loop.time()
    begun: list[float] = []
    member.bus.observe(lambda outcome: begun.append(fleet.loop.time()))
    acquired = member.wire.counts["acquire"]
    while member.wire.counts["acquire"] == acquired:
        fleet.post("noted", "s", 1)
        await asyncio.sleep(0.1)
    trusted = [time for time in begun if time < failed + LEASE]
    assert failed + 0.6 * LEASE - 1.5 < max(trusted) < failed + 0.6 * LEASE + 0.1


@virtual
async def test_a_lease_is_renewed_though_nobody_hears_that_the_worker_lives() -> None:
    """What is kept of workers may be on another server than the partitions: one that is away costs no lease."""
    fleet, notes = Fleet(), Notes()
    member = await fleet.member(notes.rules).start()
    tokens = [part.state.token for part in fleet.server.partitions]
    member.wire.fail_always("beat")
    member.wire.fail_always("partition_states")
    await asyncio.sleep(40)
    assert [part.state.token for part in fleet.server.partitions] == tokens
    await handles(fleet, 1, "a", "b", "c")


@virtual
async def test_a_partition_whose_server_is_away_costs_no_other_its_lease() -> None:
    """All leases are renewed at once; if that fails, each is by itself."""
    fleet, notes = Fleet(), Notes()
    member = await fleet.member(notes.rules).start()
    tokens = [part.state.token for part in fleet.server.partitions]
    member.wire.fail_always("renew", when=lambda tokens, _: 2 in tokens)
    await asyncio.sleep(40)
    assert [number for number in range(4) if fleet.server.partitions[number].state.token == tokens[number]] == [0, 1, 3]
    for called in ("acquire", "tail"):
        member.wire.fail_always(called, when=lambda partition, *_: partition == 2)
    await asyncio.sleep(20)
    assert member.owned == {0, 1, 3}
    await handles(fleet, 1, name(0, 4), name(1, 4), name(3, 4))
    assert member.worker.status().reason.startswith("it owns 3 of its share of 4 partitions")
    member.wire.heal()
    await until(lambda: len(member.owned) == 4, 10)
    await handles(fleet, 1, name(2, 4))


@virtual
async def test_a_worker_that_loses_its_partitions_says_that_the_server_is_away() -> None:
    """At once, and not only when it has been away for a lease."""
    fleet, notes = Fleet(), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.down = 0.1
    await until(lambda: not member.owned, LEASE)
    await asyncio.sleep(0.5)
    reason = member.worker.status().reason
    assert reason.startswith("it owns 0 of its share of 4 partitions")
    assert "the server is away" in reason
    assert "partition 0: partition 0" not in reason
    member.wire.down = None
    await until(lambda: member.worker.status().is_ready, 10)


@virtual
@pytest.mark.parametrize("outcome", ["hung", "held"])
async def test_a_renewal_whose_answer_is_lost_costs_no_lease(outcome: str) -> None:
    """It is asked again while the lease is still trusted."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    token = fleet.server.partitions[0].state.token
    await asyncio.sleep(3)
    member.wire.fail("renew", outcome)
    await asyncio.sleep(30)
    assert fleet.server.partitions[0].state.token == token


@virtual
async def test_a_store_whose_calls_are_cut_off_leaves_no_partition_unattended() -> None:
    """Whoever reads the log ends without an error then, and nobody would miss him: the partition is taken anew."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    tail, cut = member.wire.tail, asyncio.get_running_loop().create_future()
    cut.cancel()
    member.wire.tail = lambda *_: cut  # type: ignore[method-assign,assignment]
    fleet.post("noted", "s", 1)
    await asyncio.sleep(6)
    member.wire.tail = tail  # type: ignore[method-assign]
    fleet.post("noted", "s", 2)
    await until(lambda: fleet.value("s", "order") == [1, 2], 20)


@virtual
async def test_a_worker_whose_life_sign_is_not_answered_stops_soon() -> None:
    """It does not wait for a lease before it hands over."""
    fleet, notes = Fleet(), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.fail_always("beat", "hung")
    await asyncio.sleep(30)
    assert len(member.owned) == 4
    await member.stop(0.8 * LEASE)
    assert fleet.owners() == {None: 4}


@virtual
async def test_after_a_commit_that_was_fenced_nothing_more_is_begun() -> None:
    """Somebody else owns the partition, though by this worker's clock its lease still runs."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.fail_always("renew", "held")
    await until(lambda: member.wire.held("renew"))
    state = fleet.server.partitions[0].state
    state.token, state.owner = "other", "w9"
    fleet.post("noted", "s", 1, 2)
    fleet.post("noted", "t", 1, 2)
    await asyncio.sleep(3)
    assert sorted(notes.runs) == [("s", 1), ("t", 1)]
    assert member.worker.status().turns == 0
    assert member.owned == frozenset()


# -- errors


@pytest.mark.parametrize("outcome", ["before", "after"])
@pytest.mark.parametrize(
    "called", ["load", "commit", "tail", "fire", "retries", "outgoing", "renew", "beat", "acquire"]
)
def test_after_an_error_of_the_store_all_goes_on(called: str, outcome: str) -> None:
    """Each event is applied once and in order, whichever call fails, and whether it had its effect."""

    @virtual
    async def check() -> None:
        fleet, notes = Fleet(2), Notes()
        member = await fleet.member(notes.rules).start()
        subjects = [name(0, 2), name(1, 2)]
        for number in range(30):
            if number % 3 == 0:
                member.wire.fail(called, outcome)
            for subject in subjects:
                fleet.post("passed", subject, [[subject, number]])
            if number % 7 == 0:
                await asyncio.sleep(0.5)
        await fleet.rest()
        for subject in subjects:
            assert fleet.value(subject, "order") == list(range(30))
        await member.stop()
        assert fleet.owners() == {None: 2}

    check()


@virtual
async def test_a_commit_whose_answer_is_lost_is_sent_again_unchanged_and_then_the_partition_acquired_anew() -> None:
    """The outcome is settled with the old token; only after that a new one is made."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    token = fleet.server.partitions[0].state.token
    member.wire.fail("commit", "after")
    fleet.post("noted", "s", 1)
    fleet.post("noted", "s", 2)
    await fleet.rest()
    commits = [args[0] for called, args in member.wire.calls if called == "commit"]
    assert commits[0] is commits[1]
    assert commits[0].token == token != commits[2].token
    order = [called for called, _ in member.wire.calls if called in ("commit", "release", "acquire")]
    assert order[-5:] == ["commit", "commit", "release", "acquire", "commit"]
    assert notes.runs == [("s", 1), ("s", 2)]


@virtual
async def test_a_commit_that_is_never_answered_leaves_the_event_to_the_next_tenure() -> None:
    """Nobody knows what it has come to, so the partition is acquired anew; until then nothing more is begun."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.fail("commit", *["before"] * 5)
    fleet.post("noted", "s", 1)
    fleet.post("noted", "s", 2)
    await fleet.rest()
    assert fleet.value("s", "order") == [1, 2]
    assert notes.runs == [("s", 1), ("s", 1), ("s", 2)]


@virtual
async def test_a_release_that_is_not_answered_is_repeated() -> None:
    """Handing over is worth a few tries: else somebody waits for the lease."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.fail("release", "before", "after")
    await member.stop()
    assert fleet.owners() == {None: 1}


@virtual
async def test_timers_that_cannot_be_fired_end_the_tenure_and_not_a_timer() -> None:
    """The worker takes the partition anew, and the timer comes late; the store is not asked without a pause."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    fleet.post("timed", "s", ["s", 10, "x"])
    await asyncio.sleep(5)
    member.wire.fail_always("fire")
    fires = member.wire.counts["fire"]
    await asyncio.sleep(25)
    assert member.wire.counts["fire"] - fires < 40
    assert "fire was not done" in member.worker.status().reason
    member.wire.heal()
    await until(lambda: fleet.value("s", "order") == ["x"], 6)


@virtual
async def test_a_partition_that_was_thrown_away_leaves_nothing_that_rings() -> None:
    """The store was just asked for timers when it ended; the next one that the answer names wakes nobody."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    fleet.post("timed", "s", ["s", 5, "x"])
    fleet.post("timed", "t", ["t", 30, "y"])
    await asyncio.sleep(3)
    member.wire.fail("fire", "held")
    await until(lambda: member.wire.held("fire"))
    member.worker.stop()
    await asyncio.sleep(2)
    member.wire.heal()
    await member.ended()
    fires = member.wire.counts["fire"]
    await asyncio.sleep(60)
    assert member.wire.counts["fire"] == fires


@virtual
async def test_a_format_that_does_not_fit_ends_the_worker() -> None:
    """A newer deployment has taken over: the error says so, whichever call hears it first."""
    for called in ("beat", "tail", "outgoing"):
        fleet, notes = Fleet(2), Notes()
        member = await fleet.member(notes.rules).start()

        async def refuse(*_: Any) -> Any:
            raise StoreFormatError("written by a newer version")

        setattr(member.wire, called, refuse)
        fleet.post("passed", name(0, 2), [[name(1, 2), 1]])
        with pytest.raises(StoreFormatError, match="newer"):
            await member.ended(20)


# -- no progress


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_store_that_is_silent_for_too_long_stalls_the_worker(how: str) -> None:
    """It is not ready after a lease, and ends after `stall`; it does not before."""

    @virtual
    async def check() -> None:
        fleet, notes = Fleet(), Notes()
        member = await fleet.member(notes.rules, stall=40.0).start()
        await asyncio.sleep(5)
        if how == "fails":
            member.wire.down = 2.0
        else:
            for called in ("beat", "renew", "tail", "acquire", "partition_states", "fire", "outgoing", "release"):
                member.wire.fail_always(called, "hung")
        began = fleet.loop.time()
        await asyncio.sleep(30)
        assert not member.worker.status().is_ready
        with pytest.raises(WorkerStalled, match="the store has not answered for"):
            await member.ended(200)
        assert 38 < fleet.loop.time() - began < 120

    check()


@virtual
async def test_turns_that_never_end_stall_the_worker_and_are_named() -> None:
    """A rule that swallows its time-out is not a turn that ends: past both limits somebody has to look."""
    rules = RuleSet("r")
    is_over = False

    @rules.on("stuck")
    async def stick(ctx: Context) -> None:
        while not is_over:
            try:
                await asyncio.sleep(1)
            except asyncio.CancelledError:
                continue

    fleet = Fleet(1)
    member = await fleet.member(rules, stall=20.0, limits=Limits(turn_timeout=10.0), grace=2.0).start()
    fleet.post("stuck", "s", 1)
    began = fleet.loop.time()
    with pytest.raises(WorkerStalled, match=r"no turn was committed for 3. s; under way: stuck to s"):
        await member.ended()
    assert fleet.loop.time() - began < 60
    is_over = True


@virtual
async def test_a_partition_that_fails_again_and_again_stalls_a_worker_that_does_nothing_else() -> None:
    """It says which one and why, first in its status, then as it ends."""
    fleet, notes = Fleet(2), Notes()
    member = await fleet.member(notes.rules, stall=20.0, limits=Limits(turn_timeout=10.0)).start()
    member.wire.fail_always("tail", when=lambda partition, *_: partition == 1)
    await asyncio.sleep(15)
    assert "partition 1: tail was not done" in member.worker.status().reason
    with pytest.raises(WorkerStalled, match="partition 1: tail was not done"):
        await member.ended()


@virtual
async def test_a_partition_that_fails_again_and_again_does_not_stall_a_worker_that_gets_on() -> None:
    """The other partitions are handled, so nothing is won by ending it."""
    fleet, notes = Fleet(2), Notes()
    member = await fleet.member(notes.rules, stall=20.0, limits=Limits(turn_timeout=10.0)).start()
    member.wire.fail_always("tail", when=lambda partition, *_: partition == 1)
    for _ in range(20):
        await handles(fleet, 2, name(0, 2))
        await asyncio.sleep(5)
    member.wire.heal()
    await handles(fleet, 10, name(1, 2))
    await until(lambda: member.worker.status().is_ready, 20)


@virtual
async def test_a_worker_that_has_nothing_to_do_is_not_stalled() -> None:
    """Hours without an event are no trouble, nor is a failure that is over."""
    fleet, notes = Fleet(2), Notes()
    member = await fleet.member(notes.rules, stall=20.0, limits=Limits(turn_timeout=10.0)).start()
    member.wire.fail("tail", "before", "before")
    await asyncio.sleep(600)
    status = member.worker.status()
    assert (status.is_ready, status.reason) == (True, "")
    assert status.last_progress_age < 3


@virtual
async def test_an_idle_partition_whose_lease_cannot_be_renewed_is_let_go_of() -> None:
    """Nobody begins anything there that would notice; it is not said to be owned all the same."""
    fleet, notes = Fleet(2), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.fail_always("renew")
    member.wire.fail_always("acquire")
    await asyncio.sleep(LEASE)
    assert member.owned == frozenset()
    assert not member.worker.status().is_ready
    member.wire.heal()
    await handles(fleet, 10, name(0, 2), name(1, 2))


@virtual
async def test_a_committed_turn_is_told_once_though_its_answer_was_lost() -> None:
    """Whether the subject was in memory or had to be loaded; and it is counted."""
    fleet, notes = Fleet(1), Notes()
    member = fleet.member(notes.rules)
    seen: list[Any] = []
    member.bus.observe(lambda outcome: seen.append(outcome.event.data))
    await member.start()
    for number in range(6):
        fleet.post("noted", "s", number)
        await fleet.rest()
        if number % 2:
            member.wire.fail("commit", "after")
    await asyncio.sleep(1)
    assert seen == list(range(6))
    assert member.worker.status().turns == 6


# -- its life


@virtual
async def test_a_worker_beside_other_things() -> None:
    """`async with` starts it, and on leaving all is handed over; it can be entered again."""
    fleet, notes = Fleet(2), Notes()
    member = fleet.member(notes.rules)
    for _ in range(2):
        async with member.worker as worker:
            assert fleet.owners() == {"w1": 2}
            assert worker.status().is_ready
            await handles(fleet, 1, "a", "b")
        assert fleet.owners() == {None: 2}
        assert not worker.status().is_ready


@virtual
async def test_a_worker_stopped_while_it_starts_ends() -> None:
    """Whether it was asked to before it ran, while it opens its store, or while it looks around."""
    for called in (None, "open", "beat", "acquire"):
        fleet, notes = Fleet(2), Notes()
        member = fleet.member(notes.rules)
        if called is None:
            member.worker.stop()
        else:
            member.wire.fail(called, "held")
        member.begin()
        if called is not None:
            await until(lambda called=called, member=member: member.wire.held(called))
            member.worker.stop()
            member.wire.heal()
        await member.ended(5)
        assert fleet.owners() == {None: 2}, called


@virtual
async def test_a_worker_cancelled_while_it_starts_leaves_nothing_running() -> None:
    """`async with` is left before it was entered; the worker ends with it."""
    fleet, notes = Fleet(2), Notes()
    member = fleet.member(notes.rules)
    member.wire.fail_always("beat", "hung")

    async def enter() -> None:
        async with member.worker:
            raise AssertionError("never")

    task = asyncio.create_task(enter())
    await until(lambda: member.wire.held("beat"))
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    await asyncio.sleep(1)
    assert others() == []


def others() -> list[asyncio.Task[Any]]:
    """Return the tasks that run besides this one."""
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


async def cancel(member: Member) -> None:
    """Cancel the run of a worker, and wait for its end."""
    assert member.task is not None
    member.task.cancel()
    await asyncio.wait([member.task], timeout=20)
    assert member.task.cancelled()


@virtual
async def test_a_run_that_is_cancelled_leaves_nothing_running_and_nothing_owned() -> None:
    """Its turns are cancelled too, the one that was being committed excepted; it may run again."""
    fleet, notes = Fleet(2), Notes()
    slow, quick = name(0, 2), name(1, 2)
    notes.gates[slow] = asyncio.Event()
    member = await fleet.member(notes.rules).start()
    fleet.post("noted", slow, 1)
    member.wire.fail("commit", "held")
    fleet.post("noted", quick, 1)
    await until(lambda: member.wire.held("commit"))
    assert member.task is not None
    member.task.cancel()
    await asyncio.sleep(1)
    member.wire.heal()
    await asyncio.wait([member.task], timeout=20)
    assert member.task.cancelled()
    assert others() == []
    assert fleet.owners() == {None: 2}
    assert fleet.value(quick, "order") == [1]
    assert fleet.value(slow, "order") is None
    notes.gates.clear()
    await member.start()
    await until(lambda: fleet.value(slow, "order") == [1], 2)
    await member.stop()


@virtual
async def test_a_run_may_be_cancelled_at_any_moment() -> None:
    """Whatever it was about to do, nothing of it is left running or half begun, and it may run again."""
    fleet, notes = Fleet(2), Notes()
    member = fleet.member(notes.rules)
    async with member.bus:
        before = {*others()}
        for steps in range(200):
            run = fleet.loop.create_task(member.worker.run())
            last = fleet.loop.steps + steps
            while fleet.loop.steps < last:
                await asyncio.sleep(0 if steps % 2 else 0.0001)
            run.cancel()
            await asyncio.wait([run])
            assert {*others()} <= before
    await asyncio.sleep(LEASE)  # what it was just acquiring
    await member.start()
    await until(lambda: len(member.owned) == 2, 3)


@virtual
async def test_a_run_that_is_cancelled_while_the_store_is_away_ends_soon() -> None:
    """It does not wait for a store that may never come back."""
    fleet, notes = Fleet(4), Notes()
    member = await fleet.member(notes.rules).start()
    member.wire.down = 5.0
    began = fleet.loop.time()
    await cancel(member)
    assert fleet.loop.time() - began < 12
    assert others() == []


@virtual
async def test_two_workers_on_one_event_loop() -> None:
    """Each has a bus of its own, and neither is in the other's way."""
    fleet, notes = Fleet(4), Notes()
    async with fleet.member(notes.rules).worker as first, fleet.member(notes.rules).worker as second:
        await until(lambda: len(first.status().owned) == len(second.status().owned) == 2, 5)
        await handles(fleet, 1, *(name(number, 4) for number in range(4)))


# -- rules that do as they like


@virtual
async def test_a_rule_that_cancels_its_own_task_is_run_again_and_at_last_refused() -> None:
    """It harms nobody else; after a few times the event is a dead letter."""
    rules, notes = RuleSet("r"), Notes()
    runs: list[int] = []

    @rules.on("selfish")
    async def cancel_myself(ctx: Context) -> None:
        runs.append(ctx.payload)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    fleet = Fleet(1)
    member = await fleet.member(rules, notes.rules).start()
    fleet.post("selfish", "s", 1)
    fleet.post("noted", "s", 2)
    await handles(fleet, 1, "other")
    await fleet.rest()
    assert 1 < len(runs) < 6
    assert [letter[1].event.type for letter in fleet.server.partitions[0].state.dead.values()] == ["selfish"]
    assert fleet.value("s", "order") == [2]
    assert len(member.owned) == 1


@virtual
async def test_a_rule_that_ends_the_program_ends_it_and_the_event_is_handled_by_the_next() -> None:
    """KeyboardInterrupt leaves the event loop, as it would without an engine."""
    rules = RuleSet("r")
    runs: list[int] = []

    @rules.on("ends")
    async def end(ctx: Context) -> None:
        runs.append(1)
        await asyncio.sleep(0.1)
        if len(runs) == 1:
            raise KeyboardInterrupt

    fleet = Fleet(1)
    complaints: list[BaseException] = []
    member = await fleet.member(rules).start()
    fleet.post("ends", "s", 1)
    real = fleet.loop.call_soon

    def call_soon(callback: Any, *args: Any, **named: Any) -> Any:
        if args and isinstance(args[0], KeyboardInterrupt):  # what would leave the loop here
            complaints.append(args[0])
            return real(lambda: None)
        return real(callback, *args, **named)

    fleet.loop.call_soon = call_soon  # type: ignore[method-assign]
    await until(lambda: complaints)
    member.kill()
    await fleet.member(rules).start()
    await fleet.rest()
    assert len(runs) == 2


@virtual
async def test_a_rule_that_raises_what_is_no_exception_has_failed() -> None:
    """An error that derives from BaseException alone is a rule's failure like any other."""
    rules, notes = RuleSet("r"), Notes()

    class Stop(BaseException):
        pass

    @rules.on("stops")
    async def stop(ctx: Context) -> None:
        await asyncio.sleep(0)
        raise Stop

    fleet = Fleet(1)
    await fleet.member(rules, notes.rules).start()
    fleet.post("stops", "s", 1)
    fleet.post("noted", "s", 2)
    await fleet.rest()
    assert [letter[1].failure.type.rpartition(".")[2] for letter in fleet.server.partitions[0].state.dead.values()] == [
        "Stop"
    ]
    assert fleet.value("s", "order") == [2]


@virtual
async def test_observers_see_each_turn_and_their_errors_are_told_to_the_event_loop() -> None:
    """An observer that fails keeps neither the other ones nor the worker from going on."""
    fleet, notes = Fleet(2), Notes()
    member = fleet.member(notes.rules)
    seen: list[tuple[str, Any]] = []

    def fail(_: object) -> None:
        raise LookupError("observer")

    member.bus.observe(fail)
    member.bus.observe(lambda outcome: seen.append((outcome.event.subject, outcome.event.data)))
    await member.start()
    fleet.post("noted", "a", 1, 2)
    await fleet.rest()
    assert seen == [("a", 1), ("a", 2)]
    told, fleet.loop.complaints = fleet.loop.complaints, []
    assert [str(one["exception"]) for one in told] == ["observer", "observer"]


# -- what others do


@virtual
async def test_state_that_somebody_else_writes_is_noticed_by_its_version() -> None:
    """A subject is kept in memory between turns; a commit on an older state is a conflict, and the turn run again."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    await handles(fleet, 1, "s")
    loads = member.wire.counts["load"]
    await handles(fleet, 1, "s")
    assert member.wire.counts["load"] == loads
    async with fleet.bus() as producer, producer.subject("s") as subject:
        subject.set("order", ["else"], muted=True)
    notes.runs.clear()
    await handles(fleet, 1, "s")
    assert fleet.value("s", "order") == ["else", "more"]
    assert notes.runs == [("s", "more")] * 2


@virtual
async def test_an_event_that_somebody_else_has_handled_is_done() -> None:
    """The answer DONE is no error: the worker drops what it knows of the subject, and goes on."""
    fleet, notes = Fleet(1), Notes()
    member = await fleet.member(notes.rules).start()
    notes.gates["s"] = asyncio.Event()
    (position,) = fleet.post("noted", "s", 1)
    fleet.post("noted", "s", 2)
    await until(lambda: notes.runs)
    del fleet.server.partitions[0].state.log[position]
    notes.gates["s"].set()
    await fleet.rest()
    assert fleet.value("s", "order") == [2]
    assert member.worker.status().turns == 1


@virtual
async def test_what_is_allowed_is_divided_among_the_partitions() -> None:
    """Together they run no more turns at once, and keep no more subjects, than one bus may."""
    fleet, notes = Fleet(4), Notes()
    subjects = [f"s{number}" for number in range(100)]
    notes.seconds = dict.fromkeys(subjects, 1.0)
    member = await fleet.member(notes.rules, limits=Limits(max_concurrent_turns=8, hot_subjects=40)).start()
    for subject in subjects:
        fleet.post("noted", subject, 1)
    await asyncio.sleep(0.5)
    assert len(notes.runs) == 8
    await fleet.rest()
    tenures = member.worker._tenures.values()
    assert sum(len(tenure._handling._hot) for tenure in tenures) <= 40


@virtual
async def test_what_is_kept_in_memory_shrinks_when_more_partitions_share_the_room() -> None:
    """Subjects that were kept when there was more room are let go of with the turns that follow."""
    fleet, notes = Fleet(4), Notes()
    limits = Limits(hot_subjects=40, max_concurrent_turns=4)
    first = await fleet.member(notes.rules, limits=limits).start()
    second = await fleet.member(notes.rules, limits=limits).start()
    await until(lambda: len(first.owned) == 2, 5)
    subjects = [f"s{number}" for number in range(200)]
    for after in (lambda: asyncio.sleep(0), second.stop):
        for subject in subjects:
            fleet.post("noted", subject, 1)
        await fleet.rest()
        await after()
        await until(lambda: first.worker.status().owned)
    await until(lambda: len(first.owned) == 4, 5)
    for subject in subjects:
        fleet.post("noted", subject, 1)
    await fleet.rest()
    assert [len(tenure._handling._hot) for tenure in first.worker._tenures.values()] == [10] * 4


@virtual
async def test_a_server_that_was_away_again_and_again_makes_nobody_a_suspect() -> None:
    """The owner lives, and says so as soon as it can: what waits on its partition has killed nothing."""
    fleet, notes = Fleet(1), Notes()
    notes.seconds = {"s": 3.0}
    member = await fleet.member(notes.rules).start()
    fleet.post("noted", "s", "only")
    for _ in range(5):
        await until(lambda: member.worker.status().is_ready, 60)
        await until(lambda: member.worker._tenures, 60)
        member.wire.down = 0.01
        await asyncio.sleep(3 * LEASE)
        member.wire.heal()
    await fleet.rest()
    assert fleet.value("s", "order") == ["only"]
    assert member.wire.counts["starting"] == 0


@virtual
async def test_a_partition_whose_acquisition_was_not_answered_is_handled_without_waiting_for_its_lease() -> None:
    """The answer was lost, so it is asked again with the same token, which it is ours with already."""
    fleet, notes = Fleet(1), Notes()
    member = fleet.member(notes.rules)
    member.wire.fail("acquire", "after")
    await member.start()
    await handles(fleet, LEASE / 2, "s")
