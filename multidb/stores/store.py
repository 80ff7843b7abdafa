"""What the three stores have in common: opened once, on one event loop, and closed."""

import asyncio
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, NamedTuple, TypeVar

from multidb.errors import NotOpenError, StoreName
from multidb.models.health import PoolUsage, Role
from multidb.settings import Settings

__all__ = ["Answer", "Store"]

ClientT = TypeVar("ClientT")


class Answer(NamedTuple):
    """What a server tells of itself."""

    version: str
    role: Role


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

    async def open(self) -> None:
        """Make the client on the running event loop. Idempotent."""
        if self._client is None:
            self._loop = asyncio.get_running_loop()
            self._client = await self._connect()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        client, self._client = self._client, None
        if client is not None:
            await self._disconnect(client)

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
