"""What the three stores have in common: opened once, on one event loop, and closed."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from multidb.errors import NotOpenError, StoreName
from multidb.models.health import PoolUsage, Role
from multidb.settings import Settings
from multidb.stores.batching import Batcher

__all__ = ["Answer", "Store", "UnderWay"]

ClientT = TypeVar("ClientT")
K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Answer(NamedTuple):
    """What a server tells of itself."""

    version: str
    role: Role
    #: What is not as it should be although it answers.
    detail: str | None = None


class UnderWay:
    """Counts the calls under way, `with store.under_way:`, so that closing can wait for them."""

    __slots__ = ("_count", "_none")

    def __init__(self) -> None:
        self._count = 0
        self._none: asyncio.Event | None = None

    def __enter__(self) -> None:
        self._count += 1

    def __exit__(self, *_: object) -> None:
        self._count -= 1
        if self._none is not None and not self._count:
            self._none.set()

    async def none(self) -> None:
        """Wait until none is."""
        if self._count:
            self._none = asyncio.Event()
            await self._none.wait()
            self._none = None


class Store(ABC, Generic[ClientT]):
    """One database's client: made by `open`, gone after `close`, and open again after that.

    Making the client needs no server; `ask` does. So a store that is away when the
    application starts can be used once it is back.
    """

    name: ClassVar[StoreName]

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._client: ClientT | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.under_way = UnderWay()
        self._batchers: list[Batcher[Any, Any]] = []

    async def open(self) -> None:
        """Make the client on the running event loop. Idempotent."""
        if self._client is None:
            self._loop = asyncio.get_running_loop()
            self.under_way = UnderWay()
            self._client = await self._connect()

    async def close(self) -> None:
        """Refuse new calls, finish those under way, and close every connection. Idempotent.

        Calls that take longer than `Settings.close_timeout` lose their connection.
        """
        if self._client is None:
            return
        deadline = asyncio.get_running_loop().time() + self.settings.close_timeout.total_seconds()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                # What waits to depart together goes out by this client, so before it is taken away.
                for batcher in self._batchers:
                    await batcher.answered()
        client, self._client = self._client, None
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                await self.under_way.none()
        await self._disconnect(client)
        for batcher in self._batchers:
            await batcher.close()

    def forget(self) -> None:
        """Let go of a client whose event loop is gone, and its connections with it."""
        self._client = None
        for batcher in self._batchers:
            batcher.forget()

    def batcher(
        self,
        one: Callable[[K, Any], Awaitable[V | None]],
        many: Callable[[Sequence[K], Any], Awaitable[Mapping[K, V | Exception]]],
        *,
        own: Callable[[V], V] | None = None,
    ) -> Batcher[K, V]:
        """Return a batcher whose round trips have ended when `close` returns."""
        batcher = Batcher(one, many, own=own, check=lambda: self.opened)
        self._batchers.append(batcher)
        return batcher

    @property
    def opened(self) -> ClientT:
        """The client.

        Raises: NotOpenError before `open`, after `close`, or on another event loop.
        """
        if self._client is None:
            raise NotOpenError(
                "not open: use `async with MultiDB(...) as db`, or await db.open() first", store=self.name
            )
        if asyncio.get_running_loop() is not self._loop:
            raise NotOpenError(
                "opened on another event loop: its connections belong to that one; "
                "open one MultiDB in each loop",
                store=self.name,
            )
        return self._client

    @abstractmethod
    async def ask(self, *, operation: str) -> Answer:
        """Make one round trip and return what the server says of itself. Raises StoreError."""

    @abstractmethod
    def pool_usage(self) -> PoolUsage | None:
        """Return how many connections are open and at work; None before `open`."""

    @abstractmethod
    async def _connect(self) -> ClientT: ...

    @abstractmethod
    async def _disconnect(self, client: ClientT) -> None: ...
