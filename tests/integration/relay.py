"""A wire to a server that a test can cut."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from pydantic import SecretStr

from multidb.settings import Settings

__all__ = ["Relay", "mongo_relay"]

T = TypeVar("T")


class Relay:
    """Passes bytes on between whoever connects to `port` and the server.

    On an event loop of its own: Motor blocks the test's when it closes.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self._wires: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection there is, with whatever is under way in it."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Break every connection, and each new one, until `allow`."""
        self._refusing = True
        self.cut()

    def allow(self) -> None:
        self._refusing = False

    def close(self) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=30)

    async def _cut(self) -> None:
        for wire in self._wires:
            wire.transport.abort()

    async def _close(self) -> None:
        self._server.close()
        # One that was accepted just now is a task that makes another.
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            await self._cut()
            await asyncio.wait(others, timeout=0.1)  # one that connects just now is not cut yet
            await asyncio.sleep(0)  # what was aborted is closed in the next turn

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._target)
        wires = {writer, far_writer}
        self._wires |= wires
        try:
            await asyncio.gather(self._pass_on(reader, far_writer), self._pass_on(far_reader, writer))
        finally:
            self._wires -= wires

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        except OSError:
            pass  # it was cut
        finally:
            target.transport.abort()


@contextmanager
def mongo_relay(settings: Settings) -> Iterator[tuple[Relay, Settings]]:
    """Yield a wire to MongoDB, and settings that lead through it."""
    url = urlsplit(settings.mongo_url.get_secret_value())
    relay = Relay(url.hostname or "", url.port or 27017)
    # Not by the replica set's own list of its members, which leads past the relay.
    query = {name: value for name, value in parse_qsl(url.query) if name != "replicaSet"}
    login, at, _ = url.netloc.rpartition("@")
    moved = url._replace(
        netloc=f"{login}{at}127.0.0.1:{relay.port}", query=urlencode({**query, "directConnection": "true"})
    )
    try:
        yield relay, settings.model_copy(update={"mongo_url": SecretStr(urlunsplit(moved))})
    finally:
        relay.close()
