"""One attempt at a job: its handler called, and what became of it stored."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from pydantic import BaseModel, ValidationError

from multidb.client import MultiDB
from multidb.errors import ConflictError, DataError, MultiDBError
from multidb.models.ai_processing_results import NewAiProcessingResult
from multidb.models.jobs import Backoff
from multidb.models.system_logs import LogLevel
from multidb.repositories.job_claims import error_text
from multidb.worker.handlers import Discard, Handler, Snooze
from multidb.worker.held import Held
from multidb.worker.run import Run

__all__ = ["Attempt"]

_log = logging.getLogger("multidb.worker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0

#: What is to be told of an attempt.
_Ending = Callable[[], Awaitable[None]]


class Attempt:
    """An attempt at a job that the worker holds. Whatever the handler does, a call tells of it in the end.

    - What it returns is recorded in MongoDB first, under the lease, then the job is completed.
    - Of a kind that has no handler here, after an error or a timeout: the job is tried again, and dead
      after its last attempt.
    - A payload that is not what the handler takes, a result that cannot be stored, and `Discard`: the job
      has failed, for a further attempt would end so too.
    """

    def __init__(
        self, db: MultiDB, held: Held, handler: Handler | None, ended: Callable[[float], None]
    ) -> None:
        self._db = db
        self._held = held
        self._job = held.job
        self._handler = handler
        self._ended = ended
        self._run = Run(db, held.job)
        self._began = datetime.now(UTC)

    async def make(self) -> None:
        """Make it. `ended` is told how many seconds the handler took, before anything is stored."""
        loop = asyncio.get_running_loop()
        job = self._job
        began = loop.time()
        scope = self._db.unscoped() if job.company_id is None else self._db.tenant(job.company_id)
        with scope:
            try:
                ending = await self._called()
            finally:
                self._held.working = False
                self._ended(loop.time() - began)
            if self._held.reason != "lost":
                await self._tell(ending)

    async def _called(self) -> _Ending:
        """Call the handler, and return how to tell what became of it."""
        job, handler = self._job, self._handler
        if handler is None:
            return self._failed(f"no handler of {job.kind!r} here", Backoff().delay(job.attempt))
        retry_in = handler.backoff.delay(job.attempt)
        try:
            result = await self._within_timeout(handler)
        except asyncio.CancelledError:
            return self._stopped(retry_in)
        except Snooze as snooze:
            return partial(self._db.jobs.snooze, job, snooze.delay)
        except Discard as error:
            return self._failed(error, None)
        except Exception as error:
            _log.warning("job %s, %r, attempt %d failed", job.id, job.kind, job.attempt, exc_info=error)
            return self._failed(error, retry_in)
        return partial(self._completed, result)

    async def _within_timeout(self, handler: Handler) -> Any:
        try:
            arguments = handler.arguments(self._job, self._run)
        except ValidationError as error:
            raise Discard(f"the payload is not what {self._job.kind!r} takes: {_misfit(error)}") from error
        timeout = self._job.timeout or handler.timeout
        deadline = asyncio.timeout(None if timeout is None else timeout.total_seconds())
        try:
            async with deadline:
                self._held.overdue = deadline.when()
                self._held.begin()
                result = await handler.function(*arguments)
                self._held.working = False
                return result
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimeoutError(f"the handler took longer than {timeout}") from error

    def _stopped(self, retry_in: timedelta) -> _Ending:
        """Return how to tell of a handler that was cancelled."""
        match self._held.reason:
            case "cancelled":
                return self._failed("cancelled on request", retry_in)
            case "stopping" | "lost":
                return partial(self._db.jobs.release, self._job)
        # Nobody of ours did: the handler cancelled itself.
        return self._failed("the handler was cancelled", retry_in)

    def _failed(self, error: str | BaseException, retry_in: timedelta | None) -> _Ending:
        """Return how to tell of a failure; without `retry_in`, it is final."""

        async def tell() -> None:
            final = retry_in is None
            self._run.log(error_text(error), level=LogLevel.ERROR)
            try:
                await self._recorded(None, error_text(error))
            except MultiDBError as unrecorded:
                # The job itself keeps the error too, and must not wait for MongoDB to be told of it.
                _log.warning("the log of job %s could not be stored: %s", self._job.id, unrecorded)
            await self._db.jobs.fail(self._job, error, retry_in=retry_in, final=final)

        return tell

    async def _completed(self, result: Any) -> None:
        if isinstance(result, BaseModel):
            result = result.model_dump()
        if result is not None and not isinstance(result, Mapping):
            raise DataError(f"a handler returns a model, a mapping or None, not {type(result).__name__}")
        await self._recorded(result, None)
        await self._db.jobs.complete(self._job)

    async def _recorded(self, result: Mapping[str, Any] | None, error: str | None) -> None:
        await self._run.store_log()
        if result is None and error is None:
            return
        new = NewAiProcessingResult(
            id=self._job.id,
            company_id=self._job.company_id,
            lease=self._job.lease,
            result=None if result is None else dict(result),
            error=error,
            started_at=self._began,
            finished_at=datetime.now(UTC),
        )
        await self._db.ai_processing_results.record(new)

    async def _tell(self, ending: _Ending) -> None:
        """Tell what became of it, again and again while a store is away and the claim may still stand."""
        loop = asyncio.get_running_loop()
        pause = _FIRST_PAUSE
        while True:
            try:
                await ending()
            except ConflictError as error:
                if not error.retryable:
                    _log.warning("job %s is another worker's by now: %s", self._job.id, error)
                    return
            except MultiDBError as error:
                if not error.retryable:
                    _log.warning("the result of job %s cannot be stored: %s", self._job.id, error)
                    ending = self._failed(f"what became of it cannot be stored: {error}", None)
            except (ValidationError, TypeError, ValueError, RecursionError) as error:
                ending = self._failed(f"what became of it cannot be stored: {type(error).__name__}", None)
            else:
                return
            if self._held.reason == "lost" or loop.time() > self._held.until:
                return
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


def _misfit(error: ValidationError) -> str:
    """Return what does not fit, without the values."""
    told = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}" for each in told[:5])
