from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from multidb import MultiDB
from multidb.ops import environment
from multidb.settings import Settings
from multidb.testing import empty_database

from .entries import Entries, OldEntries, metadata
from .schema_changes import Tree


@pytest.fixture
def empty(multidb_servers: Settings) -> Iterator[Settings]:
    """Settings of a database with nothing in it."""
    with empty_database(multidb_servers) as settings:
        yield settings


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Revisions of this test's own, which multidb takes for those it ships."""
    tree = Tree(tmp_path / "tree")
    monkeypatch.setattr(environment, "shipped", tree.file)
    return tree


@pytest.fixture
def statements(db: MultiDB, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements that went to PostgreSQL."""
    seen: list[str] = []
    fetch = db.postgres.fetch

    async def recorded(statement: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(statement.sql)
        return await fetch(statement, *args, **kwargs)

    monkeypatch.setattr(db.postgres, "fetch", recorded)
    return seen


@pytest.fixture
async def opened(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """A MultiDB with tables of the application's own, open."""
    async with MultiDB(multidb_settings, repositories=[Entries, OldEntries]) as db:
        async with db.postgres.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)
        yield db


@pytest.fixture
def entries(opened: MultiDB) -> Entries:
    """A table of the application's own."""
    return opened[Entries]
