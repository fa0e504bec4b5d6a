"""Coroutines that are started now: what they see, how they suspend, and what happens when they are cancelled."""

import asyncio
import gc
import sys
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any

import pytest

from onwhen.engine._eager import EagerStarter

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


class Starter:
    """An `EagerStarter` on the running loop that notes what it started."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.eager = EagerStarter(self.loop)

    def start(self, coroutine: Coroutine[Any, Any, None], context: Context | None = None) -> None:
        self.eager.start(coroutine, context or copy_context())


@pytest.fixture
async def starter() -> Starter:
    return Starter()


@pytest.fixture(params=["fresh", "used"])
async def either(request: pytest.FixtureRequest) -> Starter:
    """A starter whose next task has not run yet, or one whose next task has."""
    starter = Starter()
    if request.param == "used":
        starter.start(asyncio.sleep(0))
        await settled(starter)
    return starter


async def settled(starter: Starter) -> None:
    """Wait until nothing that was started is under way."""
    async with asyncio.timeout(5):
        while starter.eager._busy:
            await asyncio.sleep(0)


# -- in one go


async def test_runs_to_its_end_before_start_returns(starter: Starter) -> None:
    """A coroutine that never suspends is done when `start` returns; the event loop has no part in it."""
    said = []

    async def work() -> None:
        said.append("done")

    starter.start(work())
    assert said == ["done"]


async def test_awaiting_what_is_done_does_not_suspend(starter: Starter) -> None:
    """A future that has its result already is no reason to wait."""
    future = starter.loop.create_future()
    future.set_result(7)
    said = []

    async def work() -> None:
        said.append(await future)

    starter.start(work())
    assert said == [7]


async def test_the_current_task_is_another_inside_and_the_caller_again_outside(either: Starter) -> None:
    """Inside, there is a task of its own; the caller's is back afterwards, however the coroutine ended."""
    caller = asyncio.current_task()
    seen = []

    async def work(then: Awaitable[None] | None = None) -> None:
        seen.append(asyncio.current_task())
        if then is not None:
            await then

    async def fail() -> None:
        seen.append(asyncio.current_task())
        raise ValueError("wrong")

    either.start(work())
    assert asyncio.current_task() is caller
    either.start(work(asyncio.sleep(0)))
    assert asyncio.current_task() is caller
    with pytest.raises(ValueError, match="wrong"):
        either.start(fail())
    assert asyncio.current_task() is caller
    assert None not in seen
    assert caller not in seen
    await settled(either)


async def test_starts_from_a_callback_that_belongs_to_no_task(starter: Starter) -> None:
    """A plain callback of the loop may start coroutines, and has no current task afterwards."""
    said: list[Any] = []
    done = starter.loop.create_future()

    async def work() -> None:
        said.append("start")
        await asyncio.sleep(0)
        said.append("end")
        done.set_result(None)

    def callback() -> None:
        starter.start(work())
        said.append(asyncio.current_task())

    starter.loop.call_soon(callback)
    await done
    assert said == ["start", None, "end"]


async def test_starting_nests(starter: Starter) -> None:
    """What was started may start others, whether it has suspended or not; each has its own task."""
    tasks: list[Any] = []

    async def inner() -> None:
        tasks.append(asyncio.current_task())
        await asyncio.sleep(0)
        tasks.append(asyncio.current_task())

    async def outer() -> None:
        mine = asyncio.current_task()
        starter.start(inner())
        assert asyncio.current_task() is mine
        await asyncio.sleep(0)
        assert asyncio.current_task() is mine
        starter.start(inner())
        assert asyncio.current_task() is mine
        tasks.append(mine)

    starter.start(outer())
    await settled(starter)
    assert len(tasks) == 5
    assert len(set(tasks)) >= 2


async def test_tasks_are_used_again(starter: Starter) -> None:
    """A thousand that do not suspend cost one task; the task of one that does ends with it."""
    before = asyncio.all_tasks()

    async def work() -> None: ...

    for _ in range(1000):
        starter.start(work())
    assert len(asyncio.all_tasks() - before) == 1

    for _ in range(1000):
        starter.start(asyncio.sleep(0))
    await settled(starter)
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0)


# -- suspending


async def test_goes_on_by_itself_after_it_suspends(either: Starter) -> None:
    """Values and errors of what is awaited arrive, and the task is the same from the first step to the last."""
    values, tasks = [], set()
    good, bad = either.loop.create_future(), either.loop.create_future()

    async def work() -> None:
        tasks.add(asyncio.current_task())
        values.append(await good)
        tasks.add(asyncio.current_task())
        try:
            await bad
        except LookupError as error:
            values.append(error)
        tasks.add(asyncio.current_task())

    either.start(work())
    assert values == []
    good.set_result(1)
    await asyncio.sleep(0)
    error = LookupError()
    bad.set_exception(error)
    await settled(either)
    assert values == [1, error]
    assert len(tasks) == 1


async def test_a_future_that_others_wait_for_as_well(either: Starter) -> None:
    """What was started may share a future with others that were started, and tasks that come to it in between."""
    future = either.loop.create_future()
    got = []

    async def wait(name: str) -> None:
        got.append((name, await future))

    either.start(wait("started"))
    either.start(wait("started"))
    others = [asyncio.create_task(wait("other")) for _ in range(3)]
    await asyncio.sleep(0)
    future.set_result(1)
    await asyncio.gather(*others)
    await settled(either)
    assert sorted(got) == [("other", 1)] * 3 + [("started", 1)] * 2


async def test_is_not_cancelled_with_whoever_started_it(either: Starter) -> None:
    """Cancelling the starting task leaves the coroutine alone."""
    gate, said = either.loop.create_future(), []

    async def work() -> None:
        await gate
        said.append("done")

    async def caller() -> None:
        either.start(work())
        await asyncio.sleep(3600)

    task = asyncio.create_task(caller())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.set_result(None)
    await settled(either)
    assert said == ["done"]


async def test_nobody_else_has_to_hold_on_to_it() -> None:
    """A coroutine whose future nothing but itself refers to is not collected as garbage half-way."""
    starter, said = Starter(), []

    async def work() -> None:
        future = starter.loop.create_future()
        reference = weakref.ref(future)
        starter.loop.call_later(0.01, lambda: (found := reference()) and found.set_result(None))
        await future
        said.append("done")

    starter.start(work())
    await asyncio.sleep(0)
    gc.collect()
    await settled(starter)
    assert said == ["done"]


# -- context variables


async def test_context_variables_are_those_it_was_given(either: Starter) -> None:
    """It sees its context at every step, keeps what it sets there, and the caller sees nothing of that."""
    seen = []

    async def work() -> None:
        seen.append(COLOUR.get())
        COLOUR.set("red")
        await asyncio.sleep(0)
        seen.append(COLOUR.get())

    token = COLOUR.set("blue")
    either.start(work())
    COLOUR.set("green")
    assert COLOUR.get() == "green"
    await settled(either)
    assert seen == ["blue", "red"]
    assert COLOUR.get() == "green"
    COLOUR.reset(token)


async def test_idle_tasks_keep_nothing_of_the_first_caller(starter: Starter) -> None:
    """What the first caller had in its context can be collected while the tasks live on."""

    class Request: ...

    current: ContextVar[Request] = ContextVar("current")
    request = Request()
    gone = weakref.ref(request)
    context = copy_context()
    context.run(current.set, request)
    context.run(starter.start, asyncio.sleep(0), context.copy())
    await settled(starter)
    del context, request
    gc.collect()
    assert gone() is None
    starter.start(asyncio.sleep(0))
    await settled(starter)


# -- time-outs, task groups and cancellation


@pytest.mark.parametrize("seconds", [0, -1, 0.001])
async def test_a_timeout_entered_in_the_first_step_hits_it(either: Starter, seconds: float) -> None:
    """`asyncio.timeout`, even one of zero, cancels what was started, and nothing else."""
    said: list[Any] = []

    async def work() -> None:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.sleep(3600)
        except TimeoutError:
            said.append("late")
        task = asyncio.current_task()
        assert task is not None
        said.append(task.cancelling())
        await asyncio.sleep(0)
        said.append("went on")

    either.start(work())
    await settled(either)
    assert said == ["late", 0, "went on"]


async def test_a_timeout_hits_what_waits_for_nothing_in_particular(either: Starter) -> None:
    """`asyncio.sleep(0)` waits for no future; a time-out of zero gets through to it all the same."""
    said: list[Any] = []

    async def work() -> None:
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(0)
                await asyncio.sleep(3600)
        except TimeoutError:
            said.append("late")

    either.start(work())
    await settled(either)
    assert said == ["late"]


async def test_a_timeout_that_ends_in_time_leaves_nothing_behind(either: Starter) -> None:
    """The task that ran within a time-out is as good as new for the next one."""
    for _ in range(3):

        async def work() -> None:
            async with asyncio.timeout(0):  # noqa: ASYNC100
                pass
            async with asyncio.timeout(60):
                await asyncio.sleep(0)

        either.start(work())
        await settled(either)
    said = []

    async def last() -> None:
        await asyncio.sleep(0.01)
        said.append("done")

    either.start(last())
    await settled(either)
    assert said == ["done"]


async def test_task_groups(either: Starter) -> None:
    """A task group that is entered in the first step is joined; one whose task fails cancels the body."""
    said: list[Any] = []

    async def member(value: int) -> None:
        await asyncio.sleep(0)
        said.append(value)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(member(1))
            group.create_task(member(2))
        said.append("joined")

    async def fail() -> None:
        raise LookupError

    async def bad() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await asyncio.sleep(3600)
        except* LookupError as errors:
            said.append(len(errors.exceptions))
        await asyncio.sleep(0)
        said.append("went on")

    either.start(work())
    await settled(either)
    assert said == [1, 2, "joined"]
    either.start(bad())
    await settled(either)
    assert said[3:] == [1, "went on"]


@pytest.mark.parametrize("steps", range(4))
async def test_cancelling_its_task_raises_where_it_waits(either: Starter, steps: int) -> None:
    """Whenever its task is cancelled, before that has had a step of its own as well, the coroutine is told once."""
    said: list[Any] = []
    inner = either.loop.create_future()
    tasks: list[Any] = []

    async def work() -> None:
        tasks.append(asyncio.current_task())
        try:
            await inner
        except asyncio.CancelledError:
            said.append("cancelled")
            raise
        finally:
            said.append("cleaned up")

    either.start(work())
    for _ in range(steps):
        await asyncio.sleep(0)
    tasks[0].cancel()
    await settled(either)
    assert said == ["cancelled", "cleaned up"]
    assert inner.cancelled()
    assert tasks[0].cancelled()


async def test_cancelling_itself_is_noticed_at_the_next_wait(either: Starter) -> None:
    """A coroutine that cancels its own task in the first step gets the CancelledError where it waits next."""
    said: list[Any] = []

    async def work(wait: Callable[[], Awaitable[Any]]) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("enough")
        try:
            await wait()
        except asyncio.CancelledError as error:
            said.append((str(error), task is asyncio.current_task(), task.cancelling()))

    either.start(work(lambda: asyncio.sleep(3600)))
    either.start(work(lambda: asyncio.sleep(0)))
    await settled(either)
    assert [entry[1:] for entry in said] == [(True, 1)] * 2


async def test_a_task_that_was_cancelled_is_not_used_again(either: Starter) -> None:
    """A cancellation that nobody has waited for ends with its task; it never hits the next coroutine."""
    said = []

    async def rude() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def polite() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        said.append("done")

    either.start(rude())
    either.start(polite())
    await settled(either)
    assert said == ["done"]

    for task in asyncio.all_tasks():  # the idle ones
        if task is not asyncio.current_task():
            task.cancel()
    either.start(polite())
    await settled(either)
    assert said == ["done"] * 2


# -- errors


async def test_an_error_in_the_first_step_is_raised_by_start(starter: Starter) -> None:
    """Whoever starts it gets the error, KeyboardInterrupt included, and can go on."""
    for kind in (ValueError, KeyboardInterrupt, asyncio.CancelledError):

        async def work(kind: type[BaseException] = kind) -> None:
            raise kind

        with pytest.raises(kind):
            starter.start(work())
    starter.start(asyncio.sleep(0))
    await settled(starter)


async def test_an_error_later_on_goes_to_the_exception_handler(starter: Starter) -> None:
    """Nobody is there to be told any more, so the loop's exception handler is, once."""
    told: list[Any] = []
    starter.loop.set_exception_handler(lambda loop, details: told.append(details["exception"]))

    async def work() -> None:
        await asyncio.sleep(0)
        raise LookupError("late")

    starter.start(work())
    await settled(starter)
    await asyncio.sleep(0)
    assert [str(error) for error in told] == ["late"]


async def test_awaiting_something_that_cannot_be_awaited_on_a_loop_is_its_own_error(starter: Starter) -> None:
    """A bad yield, or a future of another loop, is an error in the coroutine, as in any task."""
    other = asyncio.new_event_loop()
    errors: list[Any] = []

    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def work(what: Awaitable[Any]) -> None:
        try:
            await what
        except RuntimeError as error:
            errors.append(str(error))

    starter.start(work(Odd()))
    starter.start(work(other.create_future()))
    await settled(starter)
    other.close()
    assert "bad yield" in errors[0]
    assert "different loop" in errors[1]


# -- the end


async def test_close_ends_the_idle_tasks(starter: Starter) -> None:
    """After `close`, and once what was under way has ended, no task is left."""
    before = asyncio.all_tasks() - {asyncio.current_task()}
    gate = starter.loop.create_future()

    async def work() -> None:
        await gate

    for _ in range(3):
        starter.start(work())
    starter.start(asyncio.sleep(0))
    gate.set_result(None)
    await settled(starter)
    starter.eager.close()
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - {asyncio.current_task()} != before:
            await asyncio.sleep(0)


def test_a_loop_that_ends_cancels_what_is_under_way() -> None:
    """`asyncio.run` ends with what was started being cancelled, as tasks are; idle tasks are no reason for a word."""
    said = []

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            said.append("cleaned up")

    async def main() -> None:
        starter = EagerStarter(asyncio.get_running_loop())
        starter.start(work(), copy_context())
        starter.start(asyncio.sleep(0), copy_context())
        await asyncio.sleep(0.01)

    asyncio.run(main())
    gc.collect()
    assert said == ["cleaned up"]


def test_works_in_debug_mode() -> None:
    """The debug mode of asyncio has nothing to say about it."""
    said = []

    async def work() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(0)
        said.append(repr(asyncio.current_task()))

    async def main() -> None:
        starter = EagerStarter(asyncio.get_running_loop())
        starter.start(work(), copy_context())
        starter.start(work(), copy_context())
        while len(said) < 2:
            await asyncio.sleep(0)

    asyncio.run(main(), debug=True)
    assert "onwhen-turns" in said[0]


if sys.version_info >= (3, 12):  # which brought eager tasks

    def test_works_beside_eager_tasks() -> None:
        """A program may have asyncio start all its tasks eagerly; a task group then cancels in the first step."""
        said: list[Any] = []

        async def fail() -> None:
            raise LookupError

        async def work() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    await asyncio.sleep(3600)
            except* LookupError:
                said.append("failed")
            await asyncio.sleep(0)
            said.append("went on")

        async def main() -> None:
            loop = asyncio.get_running_loop()
            loop.set_task_factory(getattr(asyncio, "eager_task_factory"))  # noqa: B009
            starter = EagerStarter(loop)
            starter.start(work(), copy_context())
            starter.start(work(), copy_context())
            while said.count("went on") < 2:
                await asyncio.sleep(0)

        asyncio.run(main())
        assert said.count("failed") == 2
