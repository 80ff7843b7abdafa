from collections.abc import AsyncIterator

import pytest_asyncio

from multidb import MultiDB
from multidb.ops.disposable import Databases, emptied
from tests.collections import open_with_collections


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def opened(multidb_databases: Databases) -> AsyncIterator[MultiDB]:
    """A `MultiDB` with collections of an application's own, opened once: there are a thousand tests."""
    async with multidb_databases.lend() as settings, open_with_collections(settings) as db:
        yield db


@pytest_asyncio.fixture(loop_scope="session")
async def db(opened: MultiDB) -> AsyncIterator[MultiDB]:
    """A `MultiDB` with nothing in it."""
    yield opened
    await emptied(opened)
