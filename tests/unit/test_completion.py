"""`complete`: the work ends whatever happens to its caller, and the caller learns of its cancellation."""

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from multidb.stores.completion import complete


class Work:
    """Work that waits to be let go, and tells how far it came."""

    def __init__(self, *, returns: str = "done", raises: BaseException | None = None) -> None:
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.ended = False
        self._returns = returns
        self._raises = raises

    async def run(self) -> str:
        self.begun.set()
        await self.go.wait()
        # More than one step, so that the end is not merely the next one.
        for _ in range(3):
            await asyncio.sleep(0)
        self.ended = True
        if self._raises is not None:
            raise self._raises
        return self._returns


@pytest.fixture(autouse=True)
async def _nothing_left_behind() -> AsyncIterator[None]:
    """Hold every test here to leaving no task, and no error that nobody saw."""
    reports: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: reports.append(context))
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before - {asyncio.current_task()} == set()
    gc.collect()
    await asyncio.sleep(0)
    assert reports == []


async def steps(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_result_is_returned() -> None:
    work = Work()
    work.go.set()
    assert await complete(work.run()) == "done"


async def test_an_error_of_the_work_is_raised_as_it_is() -> None:
    error = LookupError("it failed")
    work = Work(raises=error)
    work.go.set()
    with pytest.raises(LookupError) as caught:
        await complete(work.run())
    assert caught.value is error


async def test_work_that_ends_at_once_is_returned_too() -> None:
    async def at_once() -> int:
        return 1

    assert await complete(at_once()) == 1


async def test_work_that_cancels_itself_is_a_cancellation() -> None:
    work = Work(raises=asyncio.CancelledError())
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await complete(work.run())
    assert work.ended


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_the_work_ends_under_cancellations_and_the_caller_is_cancelled_after_it(times: int) -> None:
    work = Work()
    caller = asyncio.create_task(complete(work.run()))
    await work.begun.wait()
    for _ in range(times):
        assert caller.cancel()
        await steps(3)
        assert not caller.done()
        assert not work.ended
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.ended
    assert caller.cancelled()


async def test_a_cancellation_is_raised_once_and_the_caller_can_go_on() -> None:
    work = Work()
    raised = 0

    async def stubborn() -> str:
        nonlocal raised
        try:
            await complete(work.run())
        except asyncio.CancelledError:
            raised += 1
        await steps(5)
        return "went on"

    caller = asyncio.create_task(stubborn())
    await work.begun.wait()
    caller.cancel()
    await steps(3)
    caller.cancel()
    await steps(3)
    work.go.set()
    assert await caller == "went on"
    assert raised == 1
    assert work.ended


async def test_the_reason_of_a_cancellation_is_kept() -> None:
    work = Work()
    caller = asyncio.create_task(complete(work.run()))
    await work.begun.wait()
    caller.cancel("shutting down")
    await steps(3)
    work.go.set()
    with pytest.raises(asyncio.CancelledError, match="shutting down"):
        await caller


async def test_an_error_of_the_work_gives_way_to_the_cancellation_and_is_not_reported_as_lost() -> None:
    work = Work(raises=LookupError("it failed"))
    caller = asyncio.create_task(complete(work.run()))
    await work.begun.wait()
    caller.cancel()
    await steps(3)
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.ended


async def test_a_caller_cancelled_before_its_first_step_begins_nothing() -> None:
    work = Work()
    coroutine = work.run()

    async def call() -> str:
        return await complete(coroutine)

    caller = asyncio.create_task(call())
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert not work.begun.is_set()
    coroutine.close()


@pytest.mark.parametrize("fails", [False, True], ids=["work succeeds", "work fails"])
@pytest.mark.parametrize("after", range(12))
async def test_no_cancellation_is_lost_however_close_to_the_end_it_comes(after: int, fails: bool) -> None:
    work = Work(raises=LookupError("it failed") if fails else None)
    caller = asyncio.create_task(complete(work.run()))
    await work.begun.wait()
    work.go.set()
    await steps(after)
    accepted = caller.cancel()
    await asyncio.wait([caller])
    assert work.ended
    # `cancel` says whether the task will be cancelled; it must hold.
    assert caller.cancelled() == accepted
    if not accepted:
        assert (caller.exception() is not None) == fails


async def test_a_timeout_waits_for_the_work_and_is_raised_then() -> None:
    work = Work()
    loop = asyncio.get_running_loop()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout_at(loop.time()):
            loop.call_later(0.01, work.go.set)
            await complete(work.run())
    assert work.ended


async def test_a_task_group_that_fails_waits_for_the_work() -> None:
    work = Work()

    async def fail() -> None:
        await work.begun.wait()
        asyncio.get_running_loop().call_soon(work.go.set)
        raise LookupError("it failed")

    with pytest.RaisesGroup(LookupError):
        async with asyncio.TaskGroup() as group:
            group.create_task(complete(work.run()))
            group.create_task(fail())
    assert work.ended


async def test_calls_nest() -> None:
    work = Work()
    caller = asyncio.create_task(complete(complete(complete(work.run()))))
    await work.begun.wait()
    caller.cancel()
    await steps(3)
    work.go.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert work.ended
