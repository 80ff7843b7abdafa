from collections.abc import AsyncIterator

import pytest

from multidb import MultiDB
from multidb.settings import Settings
from tests.collections import open_with_collections


@pytest.fixture
async def db(multidb_settings: Settings, request: pytest.FixtureRequest) -> AsyncIterator[MultiDB]:
    """A `MultiDB` with collections of an application's own, for a subject that is one of them."""
    subject = request.node.callspec.params.get("subject") if hasattr(request.node, "callspec") else None
    own = subject is not None and subject.own is not None
    async with open_with_collections(multidb_settings) if own else MultiDB(multidb_settings) as opened:
        yield opened
