"""The databases that tests get: emptied and lent again, unless what they are like has changed."""

import pytest

from multidb import MultiDB, NewCompany, SystemLog
from multidb.ops.disposable import Databases
from multidb.settings import Settings

pytestmark = pytest.mark.mongo


async def test_a_database_is_lent_again_with_nothing_in_it(multidb_servers: Settings):
    lent = []
    async with Databases(multidb_servers) as databases:
        for _ in range(3):
            async with databases.lend() as settings, MultiDB(settings) as db:
                lent.append(settings.key_prefix)
                assert not await db.companies.exists()
                assert not await db.system_logs.exists()
                await db.companies.add(NewCompany(name="A", slug="a"))
                await db.system_logs.append(SystemLog(level="info", service="a", message="m"))
    assert len(set(lent)) == 1


async def test_a_changed_one_is_not(multidb_servers: Settings):
    lent = []
    async with Databases(multidb_servers) as databases:
        for collection in ("more", None):
            async with databases.lend() as settings, MultiDB(settings) as db:
                lent.append(settings.key_prefix)
                assert "more" not in await db.mongo.database.list_collection_names()
                if collection:
                    await db.mongo.database.create_collection(collection)
    assert len(set(lent)) == 2
