"""A store of Redis's alone, and what tests do to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection, Connection

from multidb.settings import Settings
from multidb.stores.redis.client import RedisStore
from multidb.stores.redis.node import Node


@asynccontextmanager
async def opened(settings: Settings, **changes: Any) -> AsyncIterator[RedisStore]:
    """A store, open."""
    store = RedisStore(settings.model_copy(update=changes))
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def key(store: RedisStore, name: object) -> str:
    """A key of this test's own."""
    return store.pattern("test:{name}").key({"name": str(name)})


def node_of(store: RedisStore) -> Node:
    """The one server."""
    [node] = store.opened.nodes
    return node


def in_use(store: RedisStore) -> int | None:
    """How many connections are at work."""
    usage = store.pool_usage()
    assert usage is not None
    assert usage.size <= usage.limit
    return usage.in_use


async def until_in_use(store: RedisStore, count: int) -> None:
    """Wait until so many connections are at work."""
    async with asyncio.timeout(30):
        while in_use(store) != count:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def kill(connection: AbstractConnection) -> None:
    """Make the server end a connection."""
    assert isinstance(connection, Connection)
    assert connection._writer is not None
    host, port = connection._writer.get_extra_info("sockname")
    async with Redis(host=connection.host, port=connection.port, password=connection.password) as client:
        await client.client_kill_filter(addr=f"{host}:{port}")
