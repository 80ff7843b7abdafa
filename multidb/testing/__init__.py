"""pytest fixtures for applications that use multidb. Needs `multidb[testing]`.

In the application's `conftest.py`::

    pytest_plugins = ["multidb.testing"]

Then a test that asks for `db` gets a `MultiDB` of its own, open, on real servers: a PostgreSQL
database and a MongoDB database that hold nothing but the schema, and a Redis key prefix. Tests
see nothing of each other, in whatever order or number of workers they run.

The servers are those that MULTIDB_TEST_POSTGRES_URL, MULTIDB_TEST_MONGO_URL and
MULTIDB_TEST_REDIS_URL name; else containers, where a Docker engine answers; else processes
started from the wheels of `multidb[embedded]`. Where there are none, the tests fail: a test that
is skipped has shown nothing.
"""

import os
import secrets
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from multidb.client import MultiDB
from multidb.errors import ConfigurationError
from multidb.ops import migrations
from multidb.ops.disposable import Databases, empty_database, isolated
from multidb.settings import Settings
from multidb.stack import EmbeddedStack, docker_engine_answers
from multidb.testing.race_subjects import RaceSubject
from multidb.testing.races import Race, StaleRead, cache_race

__all__ = [
    "Race",
    "RaceSubject",
    "StaleRead",
    "cache_race",
    "db",
    "empty_database",
    "isolated",
    "multidb_databases",
    "multidb_servers",
    "multidb_settings",
    "servers",
]

_URLS = ("postgres_url", "mongo_url", "redis_url")


@pytest.fixture(scope="session")
def multidb_servers() -> Iterator[Settings]:
    """The servers of this run, and on them one migrated PostgreSQL database, the tests' template."""
    with servers() as admin, empty_database(admin) as template:
        migrations.upgrade(template)
        yield template


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def multidb_databases(multidb_servers: Settings) -> AsyncIterator[Databases]:
    """The databases that the tests of this run get, one test at a time."""
    async with Databases(multidb_servers) as databases:
        yield databases


@pytest_asyncio.fixture(loop_scope="session")
async def multidb_settings(multidb_databases: Databases) -> AsyncIterator[Settings]:
    """Settings of databases and a key prefix that this test has to itself, with nothing in them."""
    async with multidb_databases.lend() as settings:
        yield settings


@pytest_asyncio.fixture
async def db(multidb_settings: Settings) -> AsyncIterator[MultiDB]:
    """A `MultiDB` that this test has to itself, open."""
    async with MultiDB(multidb_settings) as opened:
        yield opened


@contextmanager
def servers() -> Iterator[Settings]:
    """Yield the settings of real servers, and stop afterwards what was started for it.

    Raises: ConfigurationError if only some MULTIDB_TEST_*_URL are set, or no server can be had.
    """
    given = {name: os.environ.get(f"MULTIDB_TEST_{name.upper()}") for name in _URLS}
    if any(given.values()):
        if missing := [f"MULTIDB_TEST_{name.upper()}" for name, url in given.items() if not url]:
            raise ConfigurationError(f"{', '.join(missing)} must be set too")
        yield _settings(given)
    elif docker_engine_answers():
        with _containers() as urls:
            yield _settings(urls)
    else:
        # Data of tests need not survive the machine, only its processes.
        with tempfile.TemporaryDirectory(prefix="multidb-test-") as directory:
            stack = EmbeddedStack(Path(directory), durable=False)
            stack.start()
            try:
                yield _settings({name: stack.env[f"MULTIDB_{name.upper()}"] for name in _URLS})
            finally:
                stack.stop()


def _settings(urls: dict[str, str] | dict[str, str | None]) -> Settings:
    """Return settings of these URLs, whatever `.env` says; the driver is MULTIDB_MONGO_DRIVER's."""
    return Settings(
        _env_file=None,
        open_timeout=30,
        secret_key="a key that only tests have, and no secret",  # noqa: S106
        **urls,
    )


@contextmanager
def _containers() -> Iterator[dict[str, str]]:
    """Start the three servers by testcontainers, in the versions of `docker-compose.yml`."""
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.wait_strategies import LogMessageWaitStrategy

    password = secrets.token_urlsafe(16)
    postgres = (
        DockerContainer("postgres:18")
        .with_env("POSTGRES_PASSWORD", password)
        .with_exposed_ports(5432)
        .waiting_for(LogMessageWaitStrategy("PostgreSQL init process complete"))
    )
    mongo = (
        DockerContainer("mongo:8")
        .with_command("mongod --replSet rs0 --bind_ip_all")
        .with_exposed_ports(27017)
        .waiting_for(LogMessageWaitStrategy("Waiting for connections"))
    )
    redis = (
        DockerContainer("redis:8")
        .with_command(f"redis-server --requirepass {password}")
        .with_exposed_ports(6379)
        .waiting_for(LogMessageWaitStrategy("Ready to accept connections"))
    )
    with ExitStack() as stack:
        for container in (postgres, mongo, redis):
            stack.enter_context(container)
        initiate = "rs.initiate({_id: 'rs0', members: [{_id: 0, host: '127.0.0.1:27017'}]})"
        code, output = mongo.exec(["mongosh", "--quiet", "--eval", initiate])
        if code != 0:
            raise subprocess.SubprocessError(f"the replica set could not be initiated: {output!r}")

        def address(container: DockerContainer, port: int) -> str:
            return f"{container.get_container_host_ip()}:{container.get_exposed_port(port)}"

        yield {
            "postgres_url": f"postgresql://postgres:{password}@{address(postgres, 5432)}/postgres",
            "mongo_url": f"mongodb://{address(mongo, 27017)}/test?directConnection=true",
            "redis_url": f"redis://:{password}@{address(redis, 6379)}/0",
        }
