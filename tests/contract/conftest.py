from collections.abc import AsyncIterator

import pytest

from multidb import MultiDB
from multidb.settings import Settings
from tests.collections import open_with_collections


@pytest.fixture
async def db(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """A `MultiDB` with collections of an application's own besides the built-in repositories."""
    async with open_with_collections(multidb_settings) as opened:
        yield opened
