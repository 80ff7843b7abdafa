"""What is asked of the schemas: how the server differs, and to make it as the files say."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

from multidb.errors import AlreadyExistsError, ConfigurationError, MultiDBError
from multidb.ops.schemas.comparing import compare
from multidb.ops.schemas.differences import Difference, Permission
from multidb.ops.schemas.files import CollectionSchema, load
from multidb.ops.schemas.lock import Lease, alone
from multidb.ops.schemas.obstacles import Look, Misfits
from multidb.ops.schemas.server import Command, Server, connected
from multidb.settings import MongoSettings
from multidb.stores.completion import complete

__all__ = ["apply", "check", "plan"]

#: How long a killed `apply` keeps the next one waiting; less than MULTIDB_SCHEMA_TIMEOUT as it is by default.
_LEASE = timedelta(seconds=15)

#: Others' work may come between: an application that makes a collection by writing to it.
_ROUNDS = 3


async def plan(settings: MongoSettings) -> list[Difference]:
    """Return how the server differs from the files, and what `apply` would do about each.

    Changes nothing. Where a validator or a unique index is to come, the collection is read whole,
    and the documents in its way are counted.

    Raises: ConfigurationError for a wrong file; UnavailableError.
    """
    schemas = load(settings)
    async with connected(settings) as server:
        return [await _probed(server, each) for each in await _differences(server, settings, schemas)]


async def check(settings: MongoSettings) -> list[str]:
    """Return how the server differs from the files, a line each; none if it does not.

    Changes nothing, and reads no documents. Raises: as `plan`.
    """
    schemas = load(settings)
    async with connected(settings) as server:
        return list(map(str, await _differences(server, settings, schemas)))


async def apply(
    settings: MongoSettings,
    *,
    drop_indexes: bool = False,
    accept_misfits: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[str]:
    """Make the server's collections as the files say, and return what was changed, a line each.

    Idempotent, and any number of processes may do it at once: one does the work, the others wait
    for it. What is not possible, or must be told, is left, and the rest done. `drop_indexes`
    drops indexes that no file names, and those whose definition changed. `accept_misfits`
    puts a validator in place although there are documents which do not fit it, and can be changed
    from then on only so that they do. `say` is called with each change as it is made.

    Raises: ConfigurationError for a wrong file, and in the end if anything the files ask for was
    left; LockNotAcquiredError, retryable, if another `apply` was not done within `schema_timeout`;
    LockLostError if this one was stopped for so long that another took over; UnavailableError.
    """
    schemas = load(settings)
    permissions: set[Permission] = set()
    if drop_indexes:
        permissions.add("drop_indexes")
    if accept_misfits:
        permissions.add("accept_misfits")
    async with connected(settings) as server:
        # Most of those who ask find nothing to do, and need no lock.
        left = await _differences(server, settings, schemas)
        changes: list[str] = []
        if any(each.may_be_done(permissions) for each in left):
            async with alone(server, wait=settings.schema_timeout, length=_LEASE) as lease:
                work = _Work(server, lease, permissions, say)
                left, changes = await work.do(settings, schemas), work.changes
    if left := [each for each in left if not each.harmless]:
        raise ConfigurationError(
            "MongoDB is not as its schemas say: " + "; ".join(map(str, left)), operation="schemas.apply"
        )
    return changes


async def _differences(
    server: Server, settings: MongoSettings, schemas: Iterable[CollectionSchema]
) -> list[Difference]:
    standing = await server.standing(each.collection for each in schemas)
    return [
        difference
        for schema in schemas
        for difference in compare(schema, standing.get(schema.collection), schema.kept_for(settings))
    ]


async def _probed(server: Server, difference: Difference) -> Difference:
    if difference.probe is None:
        return difference
    return replace(difference, obstacle=await difference.probe.look(server))


@dataclass(frozen=True, slots=True)
class _Work:
    """What one `apply` does while it holds the lock."""

    server: Server
    lease: Lease
    permissions: Collection[Permission]
    say: Callable[[str], None] | None
    changes: list[str] = field(default_factory=list)
    #: What could not be done for the documents that are there.
    in_the_way: dict[tuple[str, str], Difference] = field(default_factory=dict)

    async def do(self, settings: MongoSettings, schemas: list[CollectionSchema]) -> list[Difference]:
        """Make what differs as the files say; return what is left."""
        for _ in range(_ROUNDS):
            left = await self._left(settings, schemas)
            todo: defaultdict[str, list[Difference]] = defaultdict(list)
            for each in left:
                if each.may_be_done(self.permissions):
                    todo[each.collection].append(each)
            if not todo:
                return left
            # At once: to create collections one after the other takes several times as long.
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._do_all(each)) for each in todo.values()]
            if failed := next((error for task in tasks if (error := task.result()) is not None), None):
                raise failed
        return await self._left(settings, schemas)

    async def _left(self, settings: MongoSettings, schemas: list[CollectionSchema]) -> list[Difference]:
        found = await _differences(self.server, settings, schemas)
        left = {(each.collection, each.problem): each for each in found}
        return list((left | self.in_the_way).values())

    async def _do_all(self, differences: list[Difference]) -> MultiDBError | None:
        try:
            for difference in differences:
                if await self._do(difference):
                    self.changes.append(
                        f"{difference.collection}: {difference.problem}; it {_done(difference)}"
                    )
                    if self.say is not None:
                        self.say(self.changes[-1])
        except MultiDBError as error:
            return error
        return None

    async def _do(self, difference: Difference) -> bool:
        """Do it, unless documents are in its way; tell whether it was done."""
        if difference.probe is None:
            await self._run(difference.commands)
            return True
        if await self._is_barred(difference, difference.probe.look):
            return False
        try:
            await self._run(difference.preparation)
            if barred := await self._is_barred(difference, difference.probe.look_again):
                await self._run(difference.undoing)
            else:
                await self._run(difference.commands)
        except BaseException:
            # Half done it would stay until the next `apply`, which goes on from there all the same.
            with suppress(MultiDBError):
                await complete(self._run(difference.undoing))
            raise
        if not barred:
            await self._look_back(difference)
        return not barred

    async def _is_barred(self, difference: Difference, look: Look) -> bool:
        found = replace(difference, obstacle=await look(self.server))
        if barred := not found.may_be_done(self.permissions):
            self.in_the_way[difference.collection, difference.problem] = found
        return barred

    async def _look_back(self, difference: Difference) -> None:
        """Tell of documents that were written while nothing refused them yet."""
        if isinstance(difference.probe, Misfits) and "accept_misfits" not in self.permissions:
            found = await difference.probe.look(self.server)
            if found is not None:
                problem = "documents were written meanwhile that do not fit"
                late = Difference(difference.collection, problem, "is for you to change them", obstacle=found)
                self.in_the_way[difference.collection, problem] = late

    async def _run(self, commands: Iterable[Command]) -> None:
        for command in commands:
            await self.lease.confirm()
            # Another may have made the collection meanwhile, by writing to it: the next round sees it.
            with suppress(AlreadyExistsError) if "create" in command else nullcontext():
                await self.server.run({**command, "writeConcern": {"w": "majority"}})


def _done(difference: Difference) -> str:
    return difference.remedy.replace("is ", "was ", 1)
