"""The databases that tests get: emptied and lent again, unless what they are like has changed."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from multidb import MultiDB, NewCompany, SystemLog
from multidb.ops.disposable import Databases
from multidb.settings import Settings

pytestmark = pytest.mark.mongo


async def lent(servers: Settings, *uses: Callable[[MultiDB], Awaitable[None]]) -> int:
    """Lend databases to these, one after the other, and return how many there were."""
    seen = set()
    async with Databases(servers) as databases:
        for use in uses:
            async with databases.lend() as settings, MultiDB(settings) as db:
                seen.add(settings.key_prefix)
                await use(db)
    return len(seen)


async def test_a_database_is_lent_again_with_nothing_in_it(multidb_servers: Settings):
    async def fill(db: MultiDB) -> None:
        assert not await db.companies.exists()
        assert not await db.system_logs.exists()
        await db.companies.add(NewCompany(name="A", slug="a"))
        await db.system_logs.append(SystemLog(level="info", service="a", message="m"))

    assert await lent(multidb_servers, fill, fill, fill) == 1


async def test_a_changed_one_is_not(multidb_servers: Settings):
    async def change(db: MultiDB) -> None:
        logs = db.mongo.database["system_logs"]
        assert "more" not in await logs.index_information()
        await logs.create_index("more", name="more")

    assert await lent(multidb_servers, change, change) == 2


async def test_collections_of_its_own_are_dropped(multidb_servers: Settings):
    async def make(db: MultiDB) -> None:
        assert "more" not in await db.mongo.database.list_collection_names()
        await db.mongo.database.create_collection("more")

    assert await lent(multidb_servers, make, make) == 1


async def test_a_connection_that_broke_meanwhile_fails_nobody(
    multidb_servers: Settings, monkeypatch: pytest.MonkeyPatch
):
    """As those of an event loop do that did not run for as long as the test of another did."""
    async with Databases(multidb_servers) as databases, databases.lend() as settings, MultiDB(settings) as db:
        await db.mongo.database.create_collection("more")
        broken = [
            Broken(type(db.mongo.database), "drop_collection", monkeypatch),
            Broken(type(db.mongo.database), "command", monkeypatch),
            Broken(type(db.mongo.opened), "drop_database", monkeypatch),
        ]
    assert all(each.calls > 1 for each in broken)


class Broken:
    """A call of the driver's whose connection breaks the first time."""

    def __init__(self, of: type, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        call = getattr(of, name)

        def made(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise AutoReconnect
            return call(*args, **options)

        monkeypatch.setattr(of, name, made)
