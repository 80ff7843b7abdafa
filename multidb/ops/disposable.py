"""Databases for tests: empty ones, copies of a template, and copies used again and again."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr
from pymongo.errors import AutoReconnect

from multidb.client import MultiDB
from multidb.connections import ConnectionManager
from multidb.ops import schemas
from multidb.settings import Settings
from multidb.stores.postgres.engine import connect

__all__ = ["Databases", "emptied", "empty_database", "isolated"]

T = TypeVar("T")

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


class _Likeness(NamedTuple):
    """What differs between two states if emptying the one does not make it the other."""

    schema: Any
    collections: dict[str, Any]
    indexes: dict[str, Any]


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
        async with ConnectionManager(settings) as stores:
            await _dropped(settings, stores)


class Databases:
    """Copies of a template that are used again, emptied, by one test after the other. An async context.

    To make them anew takes several times as long. One whose schema a test has changed, or that
    has grown large, is not used again. Collections of a test's own are dropped.
    """

    def __init__(self, template: Settings) -> None:
        self._template = template
        #: Open as long as the databases are there, for to open it takes longer than what it is for.
        #: And not to the template, of which copies are made only while nobody is connected to it.
        self._stores = ConnectionManager(_on_database(template, "postgres"))
        #: Those nobody has, and what they were like when they were new.
        self._free: list[tuple[Settings, _Likeness | None]] = []

    async def __aenter__(self) -> Self:
        await self._stores.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        while self._free:
            settings, _new = self._free.pop()
            await _dropped(settings, self._stores)
        await self._stores.close()

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Settings]:
        """Yield the settings of databases and a key prefix with nothing in them."""
        if self._free:
            settings, new = self._free.pop()
        else:
            settings = await _copied(self._template)
            await schemas.apply(settings)
            async with _connected(settings) as connection:
                new = await _likeness(connection, self._collections(settings))
        try:
            yield settings
        finally:
            async with _connected(settings) as connection:
                collections = self._collections(settings)
                if again := new is not None and await _is_like(new, connection, collections):
                    await connection.execute(_ALONE)
                    await _emptied(connection, collections, self._stores.redis.client, settings.key_prefix)
            if again:
                self._free.append((settings, new))
            else:
                await _dropped(settings, self._stores)

    def _collections(self, settings: Settings) -> Any:
        return self._stores.mongo.opened[_database(settings)]


async def emptied(db: MultiDB) -> None:
    """Leave nothing in its databases, and no key with its prefix. Takes a superuser of PostgreSQL."""
    async with db.postgres.opened.acquire() as connection:
        await _emptied(connection, db.mongo.database, db.redis.client, db.settings.key_prefix)


async def _emptied(connection: Any, database: Any, redis: Any, prefix: str) -> None:
    tables = [row[0] for row in await connection.fetch(_TABLES)]
    deletes = "".join(f"DELETE FROM {table};" for table in tables)  # noqa: S608 - quoted by the server
    # Whatever refers to the rows, and whoever is told of it.
    await connection.execute(f"BEGIN; SET LOCAL session_replication_role = replica; {deletes} COMMIT")
    await asyncio.gather(*(_surely(database[name].delete_many, {}) for name in await _collections(database)))
    await _without_keys(redis, prefix)


async def _copied(template: Settings) -> Settings:
    name = f"multidb_test_{secrets.token_hex(8)}"
    create = f"CREATE DATABASE {name} TEMPLATE {_database(template)} STRATEGY wal_log"
    await _sql(_on_database(template, "postgres"), create)
    return _on_database(template, name)


async def _dropped(settings: Settings, stores: ConnectionManager) -> None:
    await _surely(stores.mongo.opened.drop_database, _database(settings))
    await _without_keys(stores.redis.client, settings.key_prefix)
    await _sql(_on_database(settings, "postgres"), f"DROP DATABASE {_database(settings)} WITH (FORCE)")


async def _without_keys(redis: Any, prefix: str) -> None:
    if keys := [key async for key in redis.scan_iter(f"{prefix}*", count=1000)]:
        await redis.delete(*keys)


async def _likeness(connection: Any, database: Any) -> _Likeness | None:
    """Return what it is like when new.

    None if it cannot be emptied, which takes a superuser, or is not empty: what a migration put there,
    emptying would not bring back.
    """
    tables = [row[0] for row in await connection.fetch(_TABLES)]
    filled = " OR ".join(["false", *(f"EXISTS (SELECT FROM {table})" for table in tables)])
    may_empty = "current_setting('is_superuser')::bool"
    if not await connection.fetchval(f"SELECT {may_empty} AND NOT ({filled})"):
        return None
    return await _seen(connection, database)


async def _is_like(new: _Likeness, connection: Any, database: Any) -> bool:
    """Drop collections that were not there when it was new, and tell whether it could be emptied to that."""
    for name in await _collections(database):
        if name not in new.collections:
            await _surely(database.drop_collection, name)
    return await _seen(connection, database) == new


async def _seen(connection: Any, database: Any) -> _Likeness:
    schema = await connection.fetchrow(_SCHEMA)
    collections = await _collections(database)
    indexes = await asyncio.gather(*(_surely(database.command, "listIndexes", name) for name in collections))
    # Of the answers only this: the rest of them tells the time.
    return _Likeness(
        schema, collections, dict(zip(collections, (each["cursor"] for each in indexes), strict=True))
    )


async def _collections(database: Any) -> dict[str, Any]:
    """Return the collections that are there, by name, and their options."""
    listed = await _surely(database.command, "listCollections")
    return {
        each["name"]: each["options"]
        for each in listed["cursor"]["firstBatch"]
        if each["type"] != "view" and not each["name"].startswith("system.")
    }


async def _surely(call: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Make a call on MongoDB that may be made twice: once more if its connection broke.

    The driver drops connections when it has not heard of the server for long, and while a test of
    another event loop runs, it hears of nothing.
    """
    try:
        return await call(*arguments)
    except AutoReconnect:
        return await call(*arguments)


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
    async with _connected(settings) as connection:
        await connection.execute(statement)


@asynccontextmanager
async def _connected(settings: Settings) -> AsyncIterator[Any]:
    connection = await connect(settings)
    try:
        yield connection
    finally:
        await connection.close()
