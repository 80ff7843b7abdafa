from collections.abc import Iterator
from pathlib import Path

import pytest

from multidb.ops import environment
from multidb.settings import Settings
from multidb.testing import empty_database

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
