"""Redis's one way in: commands and scripts, of which those that meet share a round trip."""

from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis, RedisCluster

from multidb.errors import ConfigurationError, UnavailableError
from multidb.models.health import PoolUsage
from multidb.stores.redis.address import read_url
from multidb.stores.redis.cluster import Cluster
from multidb.stores.redis.commands import Argument, Command, Key, plain, scripted
from multidb.stores.redis.dedicated import Dedicated
from multidb.stores.redis.errors import told, translating
from multidb.stores.redis.keys import KeyPattern
from multidb.stores.redis.listener import Messages
from multidb.stores.redis.servers import Servers, Single
from multidb.stores.store import Answer, Store

__all__ = ["RedisStore"]


_HELLO = plain("HELLO", 3)

#: By whether the URL says that it is a cluster, and what the server says it is.
_WRONG_KIND = {
    (
        False,
        b"cluster",
    ): "the server is a node of a cluster: MULTIDB_REDIS_URL must begin with redis+cluster://",
    (False, b"sentinel"): "the server is a Sentinel: MULTIDB_REDIS_URL must begin with redis+sentinel://",
    (True, b"standalone"): "the server is no cluster: MULTIDB_REDIS_URL must begin with redis://",
    (True, b"sentinel"): "the server is a Sentinel: MULTIDB_REDIS_URL must begin with redis+sentinel://",
}


class RedisStore(Store[Servers]):
    """Runs commands and scripts. Texts are bytes in replies, as they are stored.

    Calls made at the same time leave in one pipeline; each gets its own replies and its own
    error. `operation` names the call in errors. All raise UnavailableError if Redis cannot be
    reached or the connection breaks, StoreTimeoutError after `Settings.redis_timeout`: the command
    may have run then, and is not repeated, unless it was said to be `repeatable`.
    """

    name = "redis"

    @property
    def client(self) -> Redis | RedisCluster:
        """redis-py's own client, for what the repositories do not offer. Keys are as they are stored.

        It has connections of its own, up to `Settings.redis_pool_size`.
        """
        return self.opened.client

    def pattern(self, pattern: str) -> KeyPattern:
        """Return the key pattern with the prefix of the settings in front."""
        return KeyPattern(pattern, prefix=self.settings.key_prefix)

    def get(self, key: Key, *, operation: str) -> Awaitable[bytes | None]:
        """Return the string at `key`, or None."""
        return self.execute("GET", key, operation=operation, repeatable=True)

    def get_many(self, keys: Sequence[Key], *, operation: str) -> Awaitable[list[bytes | None]]:
        """Return the string at each key, or None, in one round trip."""
        gets = [Command("GET", key, repeatable=True) for key in keys]
        return self.send(gets, operation=operation)

    async def delete(self, keys: Iterable[Key], *, operation: str) -> None:
        """Delete the keys that exist, in one round trip. Repeated if its answer is lost."""
        await self.send([Command("DEL", key, repeatable=True) for key in keys], operation=operation)

    async def execute(
        self, name: str, key: Key, *arguments: Argument, operation: str, repeatable: bool = False
    ) -> Any:
        """Run one command, `execute("INCRBY", key, 2, operation=...)`, and return its reply."""
        with translating(operation):
            command = Command(name, key, *arguments, repeatable=repeatable)
        with self.under_way:
            [reply] = await self.opened.send((command,))
        return told(reply, operation)

    async def run(
        self,
        script: str,
        keys: Iterable[Key],
        arguments: Iterable[Argument],
        *,
        operation: str,
        repeatable: bool = False,
    ) -> Any:
        """Run `scripts/<script>.lua`, atomically; all its keys must lie in one hash slot."""
        with translating(operation):
            command = scripted(script, keys, arguments, repeatable=repeatable)
        with self.under_way:
            [reply] = await self.opened.send((command,))
        return told(reply, operation)

    async def send(self, commands: Sequence[Command], *, operation: str, insist: bool = False) -> list[Any]:
        """Run commands and scripts in one round trip, and return a reply for each.

        They are not a transaction, and those of one key only run in their order if no script among
        them has to be loaded first. With `insist` they are tried also while calls fail at once, for a
        quarter of a second. Raises: what the first one that failed raises; all are sent.
        """
        with self.under_way:
            replies = await self.opened.send(tuple(commands), insist=insist)
        return [told(reply, operation) for reply in replies]

    @asynccontextmanager
    async def dedicated(self, key: Key, *, operation: str) -> AsyncIterator[Dedicated]:
        """Lend the caller a connection to where `key` lies, for commands that block, WATCH and MULTI.

        It is closed at the end. Up to `Settings.redis_pool_size` less four are lent at a time; who
        comes later waits. Raises: StoreTimeoutError after `Settings.redis_timeout`.
        """
        with translating(operation):
            node = await self.opened.locate(key)
        async with node.dedicated.lend(operation) as connection:
            yield connection

    @asynccontextmanager
    async def listen(self, *channels: str, operation: str) -> AsyncIterator[Messages]:
        """Listen to channels: what is published on them from the beginning of the block on is heard.

        All listeners share one connection. `execute("PUBLISH", channel, data, operation=...)` publishes.
        """
        async with self.opened.listener.listen(channels, operation) as messages:
            yield messages

    def incarnation(self, key: Key) -> bytes:
        """Return what tells one run of the server that has `key` from another, before it and after.

        What a server still holds after a restart or a failover may have missed writes. Empty where it
        is not known.
        """
        return self.opened.incarnation(key)

    def is_settled(self, key: Key) -> bool:
        """Tell whether that run is no new one: who could not reach the server before, can by now."""
        return self.opened.is_settled(key)

    async def ask(self, *, operation: str) -> Answer:
        servers = self.opened
        replies = [reply for [reply] in await servers.ask((_HELLO,))]
        hellos: list[dict[bytes, Any]] = [reply for reply in replies if isinstance(reply, dict)]
        if not hellos:
            try:
                told(replies[0], operation)
            except UnavailableError as error:
                if servers.refuses:
                    error.args = (f"{error.args[0]}; until it answers, calls fail at once",)
                raise
        hello = hellos[0]
        if (problem := _WRONG_KIND.get((servers.kind == "cluster", hello[b"mode"]))) is not None:
            raise ConfigurationError(problem, store="redis", operation=operation)
        silent = len(replies) - len(hellos)
        return Answer(
            hello[b"version"].decode(),
            "primary" if hello[b"role"] == b"master" else "replica",
            f"{silent} of {len(replies)} nodes do not answer" if silent else None,
        )

    def pool_usage(self) -> PoolUsage | None:
        if self._client is None:
            return None
        return self._client.pool_usage()

    async def _connect(self) -> Servers:
        target = read_url(self.settings)
        with translating("open"):
            return (Cluster if target.kind == "cluster" else Single)(self.settings, target)

    async def _disconnect(self, client: Servers) -> None:
        await client.close()
