"""A thousand operations in any order: what is read through the cache is always what is committed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from multidb import MultiDB, NewUser, User
from multidb.settings import Settings

PLACES = st.integers(0, 3)
NAMES = st.sampled_from(["Ada", "Grace", "Edsger", "Barbara"])


class _UndoneError(Exception):
    pass


def _undo(undone: bool) -> None:
    if undone:
        raise _UndoneError


class Transaction:
    """A transaction in a task of its own, that does what it is told."""

    def __init__(self, db: MultiDB) -> None:
        self._db = db
        self._orders: asyncio.Queue[Callable[[], Awaitable[Any]] | None] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.ensure_future(self._run())
        self.commits = True

    async def _run(self) -> None:
        async with self._db.transaction():
            while (order := await self._orders.get()) is not None:
                await self._answers.put(await order())
            if not self.commits:
                raise _UndoneError

    async def do(self, order: Callable[[], Awaitable[Any]]) -> Any:
        await self._orders.put(order)
        return await self._answers.get()

    async def end(self, *, commits: bool) -> None:
        self.commits = commits
        await self._orders.put(None)
        try:
            await self._task
        except _UndoneError:
            assert not commits


class SlowRead:
    """A read that has loaded a row, and has not stored it yet."""

    def __init__(self, db: MultiDB, id: UUID) -> None:
        self._let_on = asyncio.Event()
        self.loaded = asyncio.Event()
        self._db = db
        self.task = asyncio.ensure_future(self._run(id))

    async def _run(self, id: UUID) -> User | None:
        shared = self._db.users._shared
        load = type(shared).load

        async def slow(id: UUID, company: UUID | None) -> User | None:
            del shared.load
            row = await load(shared, id, company)
            self.loaded.set()
            await self._let_on.wait()
            return row

        shared.load = slow  # type: ignore[method-assign]
        try:
            return await self._db.users.get(id)
        finally:
            shared.__dict__.pop("load", None)
            self.loaded.set()

    async def end(self) -> User | None:
        self._let_on.set()
        return await self.task


class Cache(RuleBasedStateMachine):
    """Users in three processes, and a plain dictionary that says how it should be."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    processes: tuple[MultiDB, MultiDB]
    #: Where reads are slow: whoever meets one there waits for it.
    slow_process: MultiDB

    def __init__(self) -> None:
        super().__init__()
        self.db, self.other = self.processes
        new = [NewUser(email=f"{n}@example.com", name="Ada") for n in range(4)]
        self.ids = [user.id for user in new]
        self.run(self.clean())
        self.run(self.db.users.add_many(new))
        self.model: dict[UUID, str | None] = dict.fromkeys(self.ids, "Ada")
        self.transaction: Transaction | None = None
        self.inside: dict[UUID, str | None] = {}
        self.slow: tuple[UUID, str | None, SlowRead] | None = None

    async def clean(self) -> None:
        async with self.db.postgres.engine.begin() as connection:
            await connection.exec_driver_sql("TRUNCATE users CASCADE")

    def free(self, place: int) -> bool:
        """Whether nobody has locked the row."""
        return self.ids[place] not in self.inside

    # --- outside

    @rule(place=PLACES, name=NAMES)
    def update(self, place: int, name: str) -> None:
        if self.free(place) and self.model[self.ids[place]] is not None:
            self.run(self.db.users.update(self.ids[place], name=name))
            self.model[self.ids[place]] = name

    @rule(place=PLACES, name=NAMES)
    def change_by_filter(self, place: int, name: str) -> None:
        if self.free(place):
            self.run(self.other.users.update_many(email=f"{place}@example.com", changes={"name": name}))
            if self.model[self.ids[place]] is not None:
                self.model[self.ids[place]] = name

    @rule(place=PLACES)
    def delete_or_restore(self, place: int) -> None:
        id = self.ids[place]
        if self.free(place):
            if self.model[id] is None:
                self.model[id] = self.run(self.db.users.restore(id)).name
            else:
                self.run(self.other.users.delete(id))
                self.model[id] = None

    @rule(place=PLACES)
    def evict(self, place: int) -> None:
        key = self.db.users._key(self.ids[place])
        self.run(self.db.redis.delete([key], operation="test"))

    # --- a transaction

    @precondition(lambda self: self.transaction is None)
    @rule()
    def begin(self) -> None:
        async def begun() -> Transaction:
            return Transaction(self.db)

        self.transaction = self.run(begun())

    @precondition(lambda self: self.transaction is not None)
    @rule(place=PLACES, name=NAMES, undone=st.booleans())
    def update_inside(self, place: int, name: str, undone: bool) -> None:
        id = self.ids[place]
        if self.inside.get(id, self.model[id]) is None:
            return

        async def write() -> None:
            with suppress(_UndoneError):
                async with self.db.transaction():
                    await self.db.users.update(id, name=name)
                    _undo(undone)

        assert self.transaction is not None
        self.run(self.transaction.do(write))
        # Undone too it keeps the row locked, as far as this needs to know.
        self.inside[id] = self.inside.get(id, self.model[id]) if undone else name

    @precondition(lambda self: self.transaction is not None)
    @rule(place=PLACES)
    def read_inside(self, place: int) -> None:
        id = self.ids[place]
        assert self.transaction is not None
        row = self.run(self.transaction.do(lambda: self.db.users.get(id)))
        assert (row and row.name) == self.inside.get(id, self.model[id])

    @precondition(lambda self: self.transaction is not None)
    @rule(commits=st.booleans())
    def end(self, commits: bool) -> None:
        assert self.transaction is not None
        self.run(self.transaction.end(commits=commits))
        if commits:
            self.model |= self.inside
        self.transaction, self.inside = None, {}

    # --- reading

    @precondition(lambda self: self.slow is None)
    @rule(place=PLACES)
    def read_slowly(self, place: int) -> None:
        id = self.ids[place]

        async def begun() -> SlowRead:
            await self.db.redis.delete([self.db.users._key(id)], operation="test")
            slow = SlowRead(self.slow_process, id)
            await slow.loaded.wait()
            return slow

        self.slow = id, self.model[id], self.run(begun())

    @precondition(lambda self: self.slow is not None)
    @rule()
    def store_late(self) -> None:
        assert self.slow is not None
        _, name, slow = self.slow
        row = self.run(slow.end())
        assert (row and row.name) == name
        self.slow = None

    @rule(places=st.lists(PLACES, unique=True, min_size=1))
    def read_many(self, places: list[int]) -> None:
        ids = [self.ids[place] for place in places]
        for process in self.processes:
            found = self.run(process.users.get_many(ids))
            assert {id: row.name for id, row in found.items()} == {
                id: self.model[id] for id in ids if self.model[id] is not None
            }

    @invariant()
    def every_read_is_right(self) -> None:
        async def read() -> list[User | None]:
            one_by_one = await asyncio.gather(*map(self.db.users.get, self.ids))
            together = await self.other.users.get_many(self.ids)
            return [*one_by_one, *map(together.get, self.ids)]

        names = [row and row.name for row in self.run(read())]
        assert names == [self.model[id] for id in self.ids] * 2

    def teardown(self) -> None:
        if self.slow is not None:
            self.store_late()
        if self.transaction is not None:
            self.end(commits=False)


@pytest.mark.parametrize("examples", [5, pytest.param(20, marks=pytest.mark.torture)])
def test_reads_are_always_what_is_committed(multidb_settings: Settings, examples: int):
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()

        async def opened() -> list[MultiDB]:
            processes = [await stack.enter_async_context(MultiDB(multidb_settings)) for _ in range(3)]
            for process in processes:
                # Who finds another process's load does not wait for it.
                process.cache._leases._patience = 0
            return processes

        try:
            Cache.run = staticmethod(runner.run)
            Cache.slow_process, *others = runner.run(opened())
            Cache.processes = others[0], others[1]
            run_state_machine_as_test(
                Cache,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=50,
                    derandomize=True,
                    deadline=None,
                    database=None,
                    # What went wrong depends on what happened before: a shorter story is another one.
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())
