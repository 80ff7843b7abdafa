"""A way to a server that can be cut, and held up."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self
from urllib.parse import urlsplit, urlunsplit

from multidb.settings import Settings

_PORTS = {"postgres": 5432, "redis": 6379}


class Proxy:
    """Passes on what clients send, and of the answers what `answer` makes of them; None cuts the line."""

    def __init__(self, host: str, port: int) -> None:
        self._to = host, port
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self.answer: Callable[[bytes], bytes | None] = lambda data: data
        #: Cleared, it lets no answer through.
        self.flowing = asyncio.Event()
        self.flowing.set()
        #: It passes nothing on: what is sent never arrives.
        self.deaf = False
        self.accepted = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.accepted += 1
        back: asyncio.StreamWriter | None = None
        try:
            there, back = await asyncio.open_connection(*self._to)
            done, pending = await asyncio.wait(
                [
                    asyncio.ensure_future(self._pass_on(reader, back)),
                    asyncio.ensure_future(self._return(there, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
            for each in pending:
                each.cancel()
            await asyncio.gather(*done, *pending, return_exceptions=True)
        except asyncio.CancelledError:
            pass  # asyncio would report it, for a server's own tasks are not to be cancelled
        finally:
            if back is not None:
                back.close()
            writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if not self.deaf:
                writer.write(data)

    async def _return(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self.flowing.wait()
            answer = self.answer(data)
            if answer is None:
                return
            writer.write(answer)
            if len(answer) < len(data):
                await writer.drain()
                return


@asynccontextmanager
async def behind_proxy(settings: Settings, store: str = "redis") -> AsyncIterator[tuple[Proxy, Settings]]:
    """Yield a proxy before the server of a store, and settings that go through it."""
    name = f"{store}_url"
    url = getattr(settings, name)
    parts = urlsplit(url.get_secret_value())
    async with Proxy(parts.hostname or "", parts.port or _PORTS[store]) as proxy:
        netloc = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"
        through = type(url)(urlunsplit(parts._replace(netloc=netloc)))
        yield proxy, settings.model_copy(update={name: through})
