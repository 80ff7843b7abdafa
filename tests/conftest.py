import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import count

import pytest

from multidb.settings import Settings

from .integration.pooler import pgbouncer
from .integration.redis_topologies import cluster, sentinels

pytest_plugins = ["multidb.testing"]

_numbers = count()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked `redis` on each kind of servers that the store speaks to."""
    if metafunc.definition.get_closest_marker("redis") and "redis_kind" in metafunc.fixturenames:
        metafunc.parametrize("redis_kind", ["server", "sentinel", "cluster"], indirect=True)


@pytest.fixture(scope="session")
def redis_urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Tells the URL of Sentinels and of a cluster, which are started when the first test needs them."""
    with ExitStack() as stack:

        @cache
        def url_of(kind: str) -> str:
            home = tmp_path_factory.mktemp(kind)
            if kind == "cluster":
                return stack.enter_context(cluster(home)).url
            return stack.enter_context(sentinels(home)).url

        yield url_of


@pytest.fixture
def redis_kind(request: pytest.FixtureRequest) -> str:
    """What kind of Redis servers this test is for."""
    return str(getattr(request, "param", "server"))


@pytest.fixture
def multidb_settings(
    multidb_settings: Settings, redis_kind: str, redis_urls: Callable[[str], str]
) -> Settings:
    """Settings of this test's own, with the kind of Redis servers that it is for."""
    if redis_kind == "server":
        return multidb_settings
    url = type(multidb_settings.redis_url)(redis_urls(redis_kind))
    # A prefix comes back to another test once its keys are gone, and from these servers nobody deletes them.
    prefix = f"{multidb_settings.key_prefix}{next(_numbers)}:"
    return multidb_settings.model_copy(update={"redis_url": url, "key_prefix": prefix})


def pytest_collection_finish() -> None:
    """Leave what there is by now out of the collections: the fixture below makes many."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Have what a test has left open fail this test, and not the one during which it is collected.

    What outlives a test stays as a rule, and is not looked at again: it would be once for each of
    thousands, at a hundred times the cost.
    """
    yield
    gc.collect()
    gc.freeze()


def pytest_report_header() -> str:
    return (
        f"PgBouncer: {pgbouncer() or 'none to be had, its tests are left out; `make pgbouncer` fetches it'}"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long forms to `make torture`: deselected and not skipped, for nothing is missing.

    So are the tests of a PgBouncer where there is none, which the header says.
    """
    left_out = set() if os.environ.get("MULTIDB_TORTURE") else {"torture"}
    left_out |= set() if pgbouncer() else {"pgbouncer"}
    if out := [item for item in items if any(map(item.get_closest_marker, left_out))]:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if item not in out]
