"""Databases for tests: empty ones, copies of a template, and copies used again and again."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from multidb.connections import ConnectionManager
from multidb.ops import schemas
from multidb.settings import Settings
from multidb.stores.postgres.engine import connect

__all__ = ["Databases", "empty_database", "isolated"]

#: What a catalog holds: how many rows, and the newest transaction that wrote one; and whether a
#: table has grown large.
_CATALOGS = ("class", "attribute", "attrdef", "constraint", "index", "trigger", "policy", "proc", "type")
_SCHEMA = "SELECT " + ", ".join(  # noqa: S608 - names of our own
    f"(SELECT (count(*), max(xmin::text::bigint)) FROM pg_{name})"  # noqa: S608
    for name in (*_CATALOGS, "namespace", "extension", "rewrite", "event_trigger", "default_acl")
)
_SCHEMA += """,
    (SELECT array_agg(setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
      WHERE datname = current_database()),
    (SELECT bool_or(pg_relation_size(oid) > 1000000) FROM pg_class WHERE oid >= 16384)
"""
_TABLES = """
SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')
   AND c.relname <> 'alembic_version'
"""
_ALONE = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@contextmanager
def empty_database(settings: Settings) -> Iterator[Settings]:
    """Yield the settings of a PostgreSQL database with nothing in it, dropped afterwards. Blocks."""
    name = f"multidb_test_{secrets.token_hex(8)}"
    admin = _on_database(settings, "postgres")
    asyncio.run(_sql(admin, f"CREATE DATABASE {name}"))
    try:
        yield _on_database(settings, name)
    finally:
        asyncio.run(_sql(admin, f"DROP DATABASE {name} WITH (FORCE)"))


@asynccontextmanager
async def isolated(template: Settings) -> AsyncIterator[Settings]:
    """Yield the settings of a copy of `template`'s database, and of as much on the other stores."""
    settings = await _copied(template)
    try:
        await schemas.apply(settings)
        yield settings
    finally:
        await _dropped(settings)


class Databases:
    """Copies of a template that are used again, emptied, by one test after the other.

    To make them anew takes several times as long. One whose schema a test has changed, or that
    has grown large, is not used again.
    """

    def __init__(self, template: Settings) -> None:
        self._template = template
        #: Those nobody has, and what they were like when they were new.
        self._free: list[tuple[Settings, object]] = []

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Settings]:
        """Yield the settings of databases and a key prefix with nothing in them."""
        if self._free:
            settings, new = self._free.pop()
        else:
            settings = await _copied(self._template)
            await schemas.apply(settings)
            async with ConnectionManager(settings) as stores:
                new = await _likeness(stores)
        try:
            yield settings
        finally:
            async with ConnectionManager(settings) as stores:
                if again := new is not None and await _likeness(stores, used=True) == new:
                    await _emptied(stores)
            if again:
                self._free.append((settings, new))
            else:
                await _dropped(settings)

    async def drop(self) -> None:
        """Drop them."""
        while self._free:
            settings, _ = self._free.pop()
            await _dropped(settings)


async def _copied(template: Settings) -> Settings:
    name = f"multidb_test_{secrets.token_hex(8)}"
    create = f"CREATE DATABASE {name} TEMPLATE {_database(template)} STRATEGY wal_log"
    await _sql(_on_database(template, "postgres"), create)
    return _on_database(template, name)


async def _dropped(settings: Settings) -> None:
    async with ConnectionManager(settings) as stores:
        await stores.mongo.opened.drop_database(stores.mongo.database.name)
        await _without_keys(stores)
    await _sql(_on_database(settings, "postgres"), f"DROP DATABASE {_database(settings)} WITH (FORCE)")


async def _without_keys(stores: ConnectionManager) -> None:
    keys = [key async for key in stores.redis.client.scan_iter(f"{stores.settings.key_prefix}*")]
    if keys:
        await stores.redis.client.delete(*keys)


async def _likeness(stores: ConnectionManager, *, used: bool = False) -> object | None:
    """Return what differs between two states if emptying the one does not make it the other.

    None if it cannot be emptied, which takes a superuser, or was not empty to begin with: what a
    migration put there, emptying would not bring back.
    """
    async with stores.postgres.opened.acquire() as connection:
        if not used:
            tables = [row[0] for row in await connection.fetch(_TABLES)]
            filled = " OR ".join(["false", *(f"EXISTS (SELECT FROM {table})" for table in tables)])
            may_empty = "current_setting('is_superuser')::bool"
            if not await connection.fetchval(f"SELECT {may_empty} AND NOT ({filled})"):
                return None
        schema = await connection.fetchrow(_SCHEMA)
    database = stores.mongo.database
    listed = await database.command("listCollections")
    return schema, [
        # Of the answer only this: the rest of it tells the time.
        (each["name"], each["options"], (await database.command("listIndexes", each["name"]))["cursor"])
        for each in sorted(listed["cursor"]["firstBatch"], key=lambda each: str(each["name"]))
        if each["type"] == "collection" and not each["name"].startswith("system.")
    ]


async def _emptied(stores: ConnectionManager) -> None:
    async with stores.postgres.opened.acquire() as connection:
        tables = [row[0] for row in await connection.fetch(_TABLES)]
        deletes = "".join(f"DELETE FROM {table};" for table in tables)  # noqa: S608 - quoted by the server
        # Whatever refers to the rows, and whoever is told of it.
        await connection.execute(f"{_ALONE}; SET session_replication_role = replica; {deletes}")
    for name in await stores.mongo.database.list_collection_names():
        if not name.startswith("system."):
            await stores.mongo.database[name].delete_many({})
    await _without_keys(stores)


def _on_database(settings: Settings, name: str) -> Settings:
    def moved(url: SecretStr) -> SecretStr:
        return SecretStr(urlunsplit(urlsplit(url.get_secret_value())._replace(path=f"/{name}")))

    return settings.model_copy(
        update={
            "postgres_url": moved(settings.postgres_url),
            "migration_url": settings.migration_url and moved(settings.migration_url),
            "mongo_url": moved(settings.mongo_url),
            "key_prefix": f"{name}:",
        }
    )


def _database(settings: Settings) -> str:
    return urlsplit(settings.postgres_url.get_secret_value()).path.strip("/")


async def _sql(settings: Settings, statement: str) -> None:
    connection = await connect(settings)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
