"""The connection manager: the three stores, opened together and closed in reverse."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from multidb.errors import ConfigurationError, MultiDBError, NotOpenError, StoreTimeoutError, UnavailableError
from multidb.models.health import Health, StoreHealth
from multidb.models.outbox import OutboxStats
from multidb.settings import Settings
from multidb.stores.completion import complete
from multidb.stores.mongo.client import MongoStore
from multidb.stores.postgres.engine import PostgresStore
from multidb.stores.postgres.outbox_stats import outbox_stats
from multidb.stores.redis.client import RedisStore
from multidb.stores.store import Store

__all__ = ["ConnectionManager", "check", "waiting"]

_log = logging.getLogger("multidb.connections")


class ConnectionManager:
    """Owns every connection. Makes none before it is opened, and may be opened again once closed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.postgres = PostgresStore(settings)
        self.mongo = MongoStore(settings)
        self.redis = RedisStore(settings)
        # Closed in reverse: PostgreSQL first, whose writes still have entries of Redis to delete.
        self._stores: tuple[Store[Any], ...] = (self.redis, self.mongo, self.postgres)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changing = asyncio.Lock()
        #: What is to be done while the stores are still open; each ends by itself, and raises nothing.
        self.before_closing: list[Callable[[], Awaitable[None]]] = []
        #: What is to be ended once they are closed, for a call under way meanwhile may have begun it anew.
        self.after_closing: list[Callable[[], Awaitable[object]]] = []

    async def open(self) -> None:
        """Connect to all stores at once, within `Settings.open_timeout`. Idempotent.

        A degradable store that does not answer is logged, and used once it is back.
        Raises: UnavailableError or ConfigurationError that says which required store failed and
        how; then nothing is left open. NotOpenError if it is open on another event loop.
        """
        self._refuse_other_loop("open")
        async with self._changing:
            if self._loop is not None:
                return
            try:
                async with asyncio.TaskGroup() as group:
                    openings = [group.create_task(self._open_one(store)) for store in self._stores]
                errors = [error for each in reversed(openings) if (error := each.result()) is not None]
                if errors:
                    raise _joined(errors)  # noqa: TRY301 - closed below like after any other failure
            except BaseException:
                await complete(self._close_all())
                raise
            self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        """Finish the calls under way and close all stores, each whatever became of the others. Idempotent.

        Raises: NotOpenError if it is open on another event loop.
        """
        self._refuse_other_loop("close")
        async with self._changing:
            try:
                if self._loop is not None:
                    await asyncio.gather(*(work() for work in self.before_closing))
            finally:
                self._loop = None
                await self._close_all()

    async def _close_all(self) -> None:
        async with AsyncExitStack() as stack:
            for end in self.after_closing:
                stack.push_async_callback(end)
            for store in self._stores:
                stack.push_async_callback(store.close)

    def _refuse_other_loop(self, action: str) -> None:
        if self._loop is None or self._loop is asyncio.get_running_loop():
            return
        if not self._loop.is_closed():
            raise NotOpenError(f"open on another event loop: {action} it there", operation=action)
        # That loop ended without closing it, and its connections with it.
        for store in self._stores:
            store.forget()
        self._loop = None
        self._changing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await complete(self.close())

    async def health(self) -> Health:
        """Ask every store how it does, all at once, within `Settings.health_timeout`. Never raises."""
        async with asyncio.TaskGroup() as group:
            redis, mongo, postgres = (group.create_task(self._ask(store)) for store in self._stores)
            outbox = group.create_task(self.ask_outbox())
        # Now that its own questions are over, they count for no connection at work.
        rows = postgres.result().model_copy(update={"pool": self.postgres.pool_usage()})
        answers = {"postgres": rows, "mongo": mongo.result(), "redis": redis.result()}
        ok = all(each.ok or not each.required for each in answers.values())
        return Health(ok=ok, outbox=outbox.result(), **answers)

    async def _open_one(self, store: Store[Any]) -> MultiDBError | None:
        """Open a store; return what is wrong if it is required and does not answer."""
        try:
            await store.open()
            async with asyncio.timeout(self.settings.open_timeout.total_seconds()):
                await store.ask(operation="open")
        except TimeoutError:
            error: MultiDBError = StoreTimeoutError(
                f"no answer within {self.settings.open_timeout.total_seconds():g} s (MULTIDB_OPEN_TIMEOUT)",
                store=store.name,
                operation="open",
            )
        except MultiDBError as caught:
            error = caught
        except Exception as caught:
            # What a driver says of an option in the URL that it does not know.
            error = ConfigurationError(
                f"the driver refused MULTIDB_{store.name.upper()}_URL ({type(caught).__name__})",
                store=store.name,
                operation="open",
            )
            error.__cause__ = caught
        else:
            return None
        # A wrong setting does not heal by waiting, so it is never taken for a store being away.
        if store.name in self.settings.degradable_stores and not isinstance(error, ConfigurationError):
            _log.warning("%s is away, opening without it: %s", store.name, error)
            return None
        return error

    async def ask_outbox(self) -> tuple[OutboxStats, ...] | None:
        """Return what of the outbox waits for each store; None if PostgreSQL does not tell. Never raises."""
        try:
            async with asyncio.timeout(self.settings.health_timeout.total_seconds()):
                return tuple(await outbox_stats(self.postgres))
        except (MultiDBError, TimeoutError):
            return None  # PostgreSQL's own health says why, or that there is no such table

    async def _ask(self, store: Store[Any]) -> StoreHealth:
        required = store.name not in self.settings.degradable_stores
        start = time.perf_counter()
        try:
            async with asyncio.timeout(self.settings.health_timeout.total_seconds()):
                answer = await store.ask(operation="health")
        except TimeoutError:
            detail = f"no answer within {self.settings.health_timeout.total_seconds():g} s"
        except MultiDBError as error:
            detail = str(error)
        except Exception as error:  # a report must not fail, whatever a driver does
            _log.exception("health of %s", store.name)
            detail = f"{type(error).__name__} in the health report; see the log"
        else:
            return StoreHealth(
                ok=True,
                required=required,
                latency=timedelta(seconds=time.perf_counter() - start),
                version=answer.version,
                role=answer.role,
                pool=store.pool_usage(),
                detail=answer.detail,
            )
        return StoreHealth(ok=False, required=required, pool=store.pool_usage(), detail=detail)


async def check(settings: Settings) -> Health:
    """Return the health of the stores these settings name, opened for this once. Never raises."""
    manager = ConnectionManager(settings)
    try:
        for store in (manager.postgres, manager.mongo, manager.redis):
            try:
                await store.open()
            except MultiDBError as error:
                _log.warning("%s: %s", store.name, error)
        return await manager.health()
    finally:
        await complete(manager.close())


async def waiting(settings: Settings) -> tuple[OutboxStats, ...] | None:
    """Return what of the outbox waits for each store; None if PostgreSQL does not tell. Never raises."""
    manager = ConnectionManager(settings)
    try:
        await manager.postgres.open()
        return await manager.ask_outbox()
    except MultiDBError:
        return None
    finally:
        await complete(manager.close())


def _joined(errors: list[MultiDBError]) -> MultiDBError:
    """Return one error for all stores that failed."""
    if len(errors) == 1:
        return errors[0]
    text = "; ".join(f"{error.store}: {error.args[0]}" for error in errors)
    kind = next((type(error) for error in errors if isinstance(error, ConfigurationError)), UnavailableError)
    joined = kind(text, operation="open")
    joined.__cause__ = ExceptionGroup("the stores that failed", errors)
    return joined
