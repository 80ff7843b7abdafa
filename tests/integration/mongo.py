"""A network between multidb and MongoDB that loses answers when it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from multidb.settings import Settings

__all__ = ["Network", "lossy"]


class Network:
    """Passes on what either side sends; of the next `losses` commands it keeps the answer and hangs up."""

    def __init__(self, host: str, port: int, command: bytes) -> None:
        self._server = (host, port)
        self._command = command
        self.losses = 0
        #: How many of these commands went through.
        self.sent = 0
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the client's."""
        self._connections[asyncio.create_task(self._serve(reader, writer))] = writer

    async def close(self) -> None:
        """End the connections that are left."""
        for writer in self._connections.values():
            writer.close()
        await asyncio.gather(*self._connections)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._server)
        lost = asyncio.Event()
        ways = [
            asyncio.create_task(self._to_server(reader, there_writer, lost)),
            asyncio.create_task(self._to_client(there_reader, writer, lost)),
        ]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)
        for each in (writer, there_writer):
            each.close()
            with suppress(OSError):
                await each.wait_closed()

    async def _to_server(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 20):
            if self._command in data:
                self.sent += 1
                if self.losses:
                    self.losses -= 1
                    lost.set()
            writer.write(data)
            await writer.drain()

    async def _to_client(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lost: asyncio.Event
    ) -> None:
        while (data := await reader.read(1 << 20)) and not lost.is_set():
            writer.write(data)
            await writer.drain()


@asynccontextmanager
async def lossy(
    settings: Settings, *, command: str = "insert", **options: str
) -> AsyncIterator[tuple[Settings, Network]]:
    """Yield settings that lead to MongoDB through a network of one's own, and the network.

    What it loses are answers to `command`.
    """
    parts = urlsplit(settings.mongo_url.get_secret_value())
    # Every command begins with its name, an int or a text.
    network = Network(parts.hostname or "", parts.port or 27017, command.encode() + b"\0")
    server = await asyncio.start_server(network.connected, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    query = [each for each in parts.query.split("&") if each]
    query += ["directConnection=true", *(f"{name}={value}" for name, value in options.items())]
    netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}"
    url = urlunsplit(parts._replace(netloc=netloc, query="&".join(dict.fromkeys(query))))
    try:
        yield settings.model_copy(update={"mongo_url": SecretStr(url)}), network
    finally:
        server.close()
        await network.close()
