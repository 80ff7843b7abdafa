"""A network between multidb and MongoDB that loses answers when it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from multidb.settings import Settings

__all__ = ["Network", "lossy"]

#: How a message that inserts begins its command.
_INSERT = b"\x02insert\x00"


class Network:
    """Passes on what either side sends; of the next `losses` inserts it keeps the answer and hangs up."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self.losses = 0
        #: How many inserts went through.
        self.inserts = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._server)
        lost = asyncio.Event()

        async def to_server() -> None:
            while data := await reader.read(1 << 20):
                if _INSERT in data:
                    self.inserts += 1
                    if self.losses:
                        self.losses -= 1
                        lost.set()
                there_writer.write(data)
                await there_writer.drain()

        async def to_client() -> None:
            while data := await there_reader.read(1 << 20):
                if lost.is_set():
                    return
                writer.write(data)
                await writer.drain()

        ways = [asyncio.create_task(to_server()), asyncio.create_task(to_client())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for each in (writer, there_writer):
                each.close()
                with suppress(OSError):
                    await each.wait_closed()


@asynccontextmanager
async def lossy(settings: Settings, **options: str) -> AsyncIterator[tuple[Settings, Network]]:
    """Yield settings that lead to MongoDB through a network of one's own, and the network."""
    parts = urlsplit(settings.mongo_url.get_secret_value())
    network = Network(parts.hostname or "", parts.port or 27017)
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
        await server.wait_closed()
