"""A task behind the callers' backs."""

import asyncio
from contextvars import ContextVar

import pytest

from multidb.stores.background import Background

CALL: ContextVar[str] = ContextVar("call", default="nobody's")


class Work:
    """Waits until it is let go, and notes what it has seen."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled = 0
        self.gate = asyncio.Event()

    async def __call__(self) -> None:
        self.begun.append(CALL.get())
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def test_one_at_a_time_in_nobodys_context():
    work = Work()
    background = Background(work)
    CALL.set("mine")
    assert background.begin()
    assert not background.begin()
    work.gate.set()
    await background.over()
    assert background.begin()
    assert await background.end()
    assert not await background.end()
    assert (work.begun, work.cancelled) == (["nobody's", "nobody's"], 0)


async def test_none_is_begun_beside_one_that_is_to_end():
    work = Work()
    background = Background(work)
    background.begin()
    ending = [asyncio.create_task(background.end()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not background.begin()
    work.gate.set()
    assert await asyncio.gather(*ending) == [True, True]
    assert len(work.begun) == 1
    assert background.begin()
    assert await background.end()


@pytest.mark.parametrize("within", [0, 0.01])
async def test_what_takes_too_long_is_cancelled(within: float):
    work = Work()
    background = Background(work)
    background.begin()
    await asyncio.sleep(0)
    assert await background.end(within=within)
    assert work.cancelled == 1


async def test_who_waits_may_be_cancelled_and_who_ends_it_too():
    work = Work()
    background = Background(work)
    background.begin()
    waiting = asyncio.create_task(background.over())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert (waiting.cancelled(), work.cancelled) == (True, 0)
    ending = asyncio.create_task(background.end())
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait([ending])
    await asyncio.sleep(0)
    assert (ending.cancelled(), work.cancelled) == (True, 1)


def test_one_whose_loop_is_gone_is_begun_anew():
    work = Work()
    background = Background(work)

    async def begin() -> bool:
        await background.over()
        begun = background.begin()
        await asyncio.sleep(0)
        return begun

    assert asyncio.run(begin())
    assert asyncio.run(begin())
    assert len(work.begun) == 2


async def test_who_is_woken_pauses_no_more_than_once_less():
    told: list[bool] = []

    async def work() -> None:
        told.append(await background.pause(60))
        told.append(await background.pause(0.001))

    background = Background(work)
    background.wake()  # nobody is there
    background.begin()
    await asyncio.sleep(0)
    background.wake()
    await background.over()
    background.begin()
    background.wake()  # before it pauses
    await background.over()
    assert told == [True, False] * 2
