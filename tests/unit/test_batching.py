"""The batcher: who shares a round trip with whom, and what happens when one of them goes."""

import asyncio
from collections.abc import Mapping, Sequence
from contextvars import ContextVar

import pytest

from multidb import UnavailableError
from multidb.stores.batching import Batcher

caller: ContextVar[str] = ContextVar("caller", default="nobody")


class Store:
    """Answers when told to, and remembers what it was asked. Odd keys have no value."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.groups: list[object] = []
        self.callers: list[str] = []
        self.open = asyncio.Event()
        self.error: Exception | None = None

    async def one(self, key: int, _: object) -> str | None:
        return (await self._trip([key])).get(key)

    async def many(self, keys: Sequence[int], group: object) -> Mapping[int, str]:
        self.groups.append(group)
        return await self._trip(list(keys))

    async def _trip(self, keys: list[int]) -> dict[int, str]:
        self.trips.append(keys)
        self.callers.append(caller.get())
        await turns(3)
        await self.open.wait()
        if self.error is not None:
            raise self.error
        return {key: str(key) for key in keys if key % 2 == 0}

    def batcher(self, *, lanes: int = 2, enough: int = 100, limit: int = 1000) -> Batcher[int, str]:
        return Batcher(self.one, self.many, lanes=lanes, enough=enough, limit=limit)


async def turns(count: int = 9) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def ask(batcher: Batcher[int, str], keys: range | list[int]) -> list[asyncio.Task[str | None]]:
    return [asyncio.create_task(batcher.get(key)) for key in keys]


async def test_alone_a_call_goes_out_at_once_in_its_own_task():
    store = Store()
    store.open.set()
    caller.set("me")
    assert await store.batcher().get(2) == "2"
    assert store.callers == ["me"]


async def test_keys_of_different_groups_never_share_a_trip():
    store = Store()
    batcher = store.batcher(lanes=1)
    first = asyncio.create_task(batcher.get(0, "a"))
    await turns()
    others = [asyncio.create_task(batcher.get(key, group)) for key, group in [(2, "a"), (2, "b"), (4, "b")]]
    await turns()
    store.open.set()
    assert await asyncio.gather(first, *others) == ["0", "2", "2", "4"]
    assert sorted(store.trips) == [[0], [2], [2, 4]]
    assert store.groups == ["a", "b"]


async def test_those_who_find_the_lanes_taken_share_one_trip():
    store = Store()
    tasks = ask(store.batcher(lanes=2), range(10))
    await turns()
    assert store.trips == [[0], [1]]
    store.open.set()
    assert await asyncio.gather(*tasks) == [str(n) if n % 2 == 0 else None for n in range(10)]
    assert store.trips == [[0], [1], [2, 3, 4, 5, 6, 7, 8, 9]]


async def test_a_batch_belongs_to_nobody():
    store = Store()
    caller.set("me")
    tasks = ask(store.batcher(lanes=1), range(3))
    await turns()
    store.open.set()
    await asyncio.gather(*tasks)
    assert store.callers == ["me", "nobody"]


async def test_one_key_asked_by_many_is_fetched_once_and_told_to_all():
    store = Store()
    tasks = ask(store.batcher(lanes=1), [0, 2, 2, 2, 4])
    await turns()
    store.open.set()
    assert await asyncio.gather(*tasks) == ["0", "2", "2", "2", "4"]
    assert store.trips == [[0], [2, 4]]


async def test_enough_who_wait_take_a_lane_of_their_own():
    store = Store()
    tasks = ask(store.batcher(lanes=3, enough=4), range(20))
    await turns()
    # Three alone; then no lane is free for the four who would be enough.
    assert store.trips == [[0], [1], [2]]
    store.open.set()
    await asyncio.gather(*tasks)
    assert store.trips[3] == list(range(3, 20))

    store = Store()
    batcher = store.batcher(lanes=3, enough=4)
    first = ask(batcher, range(1))
    await turns()
    batcher._waiting[None] = {98: [asyncio.get_running_loop().create_future()]}  # one who waits already
    rest = ask(batcher, range(1, 8))
    await turns()
    assert store.trips == [[0], [98, 1, 2, 3], [4, 5, 6, 7]]
    store.open.set()
    await asyncio.gather(*first, *rest)


async def test_a_batch_is_bounded():
    store = Store()
    tasks = ask(store.batcher(lanes=1, limit=3), range(8))
    await turns()
    store.open.set()
    await asyncio.gather(*tasks)
    assert store.trips == [[0], [1, 2, 3], [4, 5, 6], [7]]


async def test_nobody_starves_behind_callers_who_never_stop():
    store = Store()
    store.open.set()
    batcher = store.batcher(lanes=2)
    stopped = False

    async def endless(key: int) -> None:
        while not stopped:
            await batcher.get(key)

    busy = []
    for key in range(2):
        busy.append(asyncio.create_task(endless(key)))
        await turns(1)  # out of step, so that one lane or the other is always taken
    async with asyncio.timeout(30):
        assert await asyncio.gather(*ask(batcher, range(100, 200, 2))) == [str(n) for n in range(100, 200, 2)]
    stopped = True
    await asyncio.gather(*busy)


async def test_a_cancelled_caller_leaves_the_others_their_answer():
    store = Store()
    tasks = ask(store.batcher(lanes=1), [0, 2, 4, 4, 6])
    await turns()
    tasks[1].cancel()
    tasks[2].cancel()
    store.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(each) for each in outcomes[1:3]] == [asyncio.CancelledError] * 2
    assert [outcomes[0], *outcomes[3:]] == ["0", "4", "6"]


async def test_a_cancelled_lone_call_frees_its_lane_for_those_who_wait():
    store = Store()
    tasks = ask(store.batcher(lanes=1), [0, 2, 4])
    await turns()
    tasks[0].cancel()
    await turns()
    assert store.trips == [[0], [2, 4]]
    store.open.set()
    assert await asyncio.gather(*tasks[1:]) == ["2", "4"]


async def test_a_caller_cancelled_while_the_batch_is_under_way_takes_nothing_from_it():
    store = Store()
    tasks = ask(store.batcher(lanes=1), [0, 2, 4])
    await turns()
    tasks[0].cancel()
    await turns()
    tasks[1].cancel()
    store.open.set()
    assert await tasks[2] == "4"


async def test_when_all_who_wait_are_cancelled_no_trip_is_made():
    store = Store()
    batcher = store.batcher(lanes=1)
    tasks = ask(batcher, [0, 2, 4])
    await turns()
    for task in tasks[1:]:
        task.cancel()
    store.open.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert store.trips == [[0]]
    assert await batcher.get(6) == "6"


async def test_those_cancelled_in_the_way_do_not_hold_up_the_rest():
    store = Store()
    tasks = ask(store.batcher(lanes=1, limit=2), [0, 2, 4, 6, 8])
    await turns()
    for task in tasks[1:3]:
        task.cancel()
    store.open.set()
    assert await asyncio.gather(*tasks[3:]) == ["6", "8"]
    assert store.trips == [[0], [6, 8]]


async def test_an_error_reaches_each_caller_as_its_own():
    store = Store()
    store.error = UnavailableError("gone", store="postgres", operation="users.get")
    store.error.__cause__ = OSError()
    batcher = store.batcher(lanes=1)
    tasks = ask(batcher, [0, 2, 4])
    await turns()
    store.open.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, UnavailableError)
        assert (str(error), error.store, error.retryable) == ("users.get: gone", "postgres", True)
        assert isinstance(error.__cause__, OSError)
    store.error = None
    assert await batcher.get(6) == "6"


async def test_an_error_in_a_values_place_is_for_those_who_asked_for_it():
    async def one(key: int, _: object) -> str | None:
        await turns(3)
        return str(key)

    async def many(keys: Sequence[int], _: object) -> Mapping[int, str | Exception]:
        return {key: KeyError(key) if key == 4 else str(key) for key in keys}

    zero, two, four, also_four, six = ask(Batcher(one, many, lanes=1), [0, 2, 4, 4, 6])
    assert await asyncio.gather(*[zero, two, six]) == ["0", "2", "6"]
    for asked in (four, also_four):
        with pytest.raises(KeyError):
            await asked


async def test_one_slow_answer_does_not_keep_everybody():
    hung = asyncio.Event()

    async def one(key: int, _: object) -> str | None:
        await hung.wait()
        return str(key)

    async def many(keys: Sequence[int], _: object) -> Mapping[int, str]:
        return {key: str(key) for key in keys}

    batcher = Batcher(one, many, lanes=2)
    slow = ask(batcher, [0])
    await turns()
    batcher._waiting[None] = {1: [asyncio.get_running_loop().create_future()]}  # one who waits already
    async with asyncio.timeout(30):
        assert await asyncio.gather(*ask(batcher, [2, 4, 6])) == ["2", "4", "6"]
    assert not slow[0].done()
    hung.set()
    assert await slow[0] == "0"


async def test_close_waits_for_the_batches_under_way():
    store = Store()
    batcher = store.batcher(lanes=1)
    before = asyncio.all_tasks()
    tasks = ask(batcher, [0, 2, 4])
    await turns()
    tasks[0].cancel()
    await turns()
    closing = asyncio.create_task(batcher.close())
    await turns()
    assert not closing.done()
    store.open.set()
    await closing
    assert await asyncio.gather(*tasks[1:]) == ["2", "4"]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("tasks", [1, 3, 10, 100])
async def test_every_caller_gets_its_own_answer_under_load(tasks: int):
    store = Store()
    store.open.set()
    batcher = store.batcher(lanes=3, enough=8, limit=16)

    async def work(start: int) -> None:
        for key in range(start, start + 100):
            assert await batcher.get(key) == (str(key) if key % 2 == 0 else None)

    await asyncio.gather(*(work(7 * n) for n in range(tasks)))


async def test_a_batch_cancelled_before_it_began_frees_its_lane():
    """As the end of an event loop cancels whatever there is."""
    store = Store()
    batcher = store.batcher(lanes=2, enough=2)
    first = ask(batcher, [0])
    await turns()
    batcher._waiting[None] = {98: [asyncio.get_running_loop().create_future()]}  # one who waits already
    rest = ask(batcher, [2])

    async def cancel() -> None:
        for task in batcher._batches:
            task.cancel()

    await asyncio.create_task(cancel())
    async with asyncio.timeout(30):
        (outcome,) = await asyncio.gather(*rest, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    store.open.set()
    await asyncio.gather(*first)
    assert store.trips == [[0]]
    assert batcher._busy == 0
    assert await batcher.get(4) == "4"


def test_it_serves_another_loop_after_one_that_ended_under_it():
    hung = asyncio.Event()

    async def one(key: int, _: object) -> str | None:
        await hung.wait()
        return str(key)

    async def many(keys: Sequence[int], _: object) -> Mapping[int, str]:
        return {key: str(key) for key in keys}

    batcher = Batcher(one, many, lanes=2)

    async def abandon() -> list[asyncio.Task[str | None]]:
        tasks = ask(batcher, range(10))
        await turns()
        return tasks

    async def use() -> None:
        slow = ask(batcher, [0])
        await turns()
        batcher._waiting[None] = {1: [asyncio.get_running_loop().create_future()]}  # one who waits already
        async with asyncio.timeout(30):
            assert await asyncio.gather(*ask(batcher, [2, 4, 6])) == ["2", "4", "6"]
            hung.set()
            await asyncio.gather(*slow)
            await batcher.close()

    asyncio.run(abandon())
    hung = asyncio.Event()
    batcher.forget()
    asyncio.run(use())
