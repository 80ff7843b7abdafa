"""One attempt at a job: its handler called, and what became of it stored."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import BaseModel, ValidationError

from multidb.client import MultiDB
from multidb.errors import DataError, MultiDBError
from multidb.models.ai_processing_results import NewAiProcessingResult
from multidb.models.jobs import Backoff
from multidb.models.system_logs import LogLevel
from multidb.repositories.job_endings import LOST, Ending, checked_delay, error_text
from multidb.stores.pauses import Pauses
from multidb.worker.handlers import Discard, Handler, Snooze
from multidb.worker.held import Held
from multidb.worker.run import Run

__all__ = ["Attempt"]

_log = logging.getLogger("multidb.worker")


class Attempt:
    """An attempt at a job that the worker holds. Whatever the handler does, `finish` is told in the end.

    - What it returns is recorded in MongoDB first, under the lease, then the job is completed.
    - Of a kind that has no handler here, after an error or a timeout: the job is tried again, and dead
      after its last attempt.
    - A payload that is not what the handler takes, a result that cannot be stored, and `Discard`: the job
      has failed, for a further attempt would end so too.
    """

    __slots__ = ("_backoff", "_db", "_ended", "_finish", "_handler", "_held", "_job", "_run")

    def __init__(
        self,
        db: MultiDB,
        held: Held,
        handler: Handler | None,
        *,
        ended: Callable[[float], None],
        finish: Callable[[Held, Ending], None],
    ) -> None:
        self._db = db
        self._held = held
        self._job = held.job
        self._handler = handler
        self._backoff = Backoff() if handler is None else handler.backoff
        self._ended = ended
        self._finish = finish
        self._run = Run(db, held.job)

    async def make(self) -> None:
        """Make it. `ended` is told how many seconds the handler took, before anything is stored."""
        if self._job.company_id is None:
            await self._make()
        else:
            with self._db.tenant(self._job.company_id):
                await self._make()

    async def _make(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            ending, result = await self._called()
        finally:
            self._held.working = False
            took = loop.time() - began
            self._ended(took)
        if ending.error is not None:
            self._run.log(ending.error, level=LogLevel.ERROR)
        if result is not None or self._run.lines:
            ending = await self._recorded(ending, result, took)
        self._finish(self._held, ending)

    async def _called(self) -> tuple[Ending, Any]:
        """Call the handler, and return how the attempt ended, and the result if there is one."""
        job, handler = self._job, self._handler
        if handler is None:
            return self._failed(f"no handler of {job.kind!r} here", self._backoff), None
        try:
            result = await self._within_timeout(handler)
        except asyncio.CancelledError:
            return self._stopped(), None
        except Snooze as snooze:
            return self._snoozed(snooze.delay), None
        except Discard as error:
            return self._failed(error, None), None
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            _log.warning("job %s, %r, attempt %d failed", job.id, job.kind, job.attempt, exc_info=error)
            return self._failed(error, self._backoff), None
        return Ending(job, "completed"), result

    async def _within_timeout(self, handler: Handler) -> Any:
        try:
            arguments = handler.arguments(self._job, self._run)
        except ValidationError as error:
            raise Discard(f"the payload is not what {self._job.kind!r} takes: {_misfit(error)}") from error
        timeout = self._job.timeout or handler.timeout
        if timeout is None:
            return await self._called_with(handler, arguments)
        deadline = asyncio.timeout(timeout.total_seconds())
        try:
            async with deadline:
                self._held.overdue = deadline.when()
                return await self._called_with(handler, arguments)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise TimeoutError(f"the handler took longer than {timeout}") from error

    async def _called_with(self, handler: Handler, arguments: Sequence[Any]) -> Any:
        self._held.begin()
        result = await handler.function(*arguments)
        self._held.working = False
        return result

    def _stopped(self) -> Ending:
        """Return the ending of an attempt that was cancelled."""
        match self._held.reason:
            case "cancelled":
                return Ending(self._job, "cancelled", error="cancelled on request")
            case "stopping":
                return Ending(self._job, "put back")
            case "lost":
                # If nobody has found it yet. It counts: what blocks its worker would do so for ever.
                return Ending(self._job, "retried", error=LOST, delay=timedelta(0))
        # Nobody of ours did: the handler cancelled itself.
        return self._failed("the handler was cancelled", self._backoff)

    def _snoozed(self, delay: timedelta) -> Ending:
        try:
            return Ending(self._job, "put back", delay=checked_delay(delay, "jobs.snooze"))
        except DataError as error:
            return self._failed(error, None)

    def _failed(self, error: str | BaseException, backoff: Backoff | None) -> Ending:
        """Return the ending of a failure; without a backoff, it is final."""
        if backoff is None:
            return Ending(self._job, "failed", error=error_text(error))
        return Ending(self._job, "retried", error=error_text(error), delay=backoff.delay(self._job.attempt))

    async def _recorded(self, ending: Ending, result: Any, took: float) -> Ending:
        """Store the result, the error and the log, and return the ending that follows from it."""
        finished = datetime.now(UTC)
        began = finished - timedelta(seconds=took)
        pauses = Pauses()
        while True:
            try:
                await self._record(ending, result, began, finished)
            except Exception as error:
                if not getattr(error, "retryable", False):
                    _log.warning("the result of job %s cannot be stored: %s", self._job.id, error)
                    told = error_text(error) if isinstance(error, MultiDBError) else type(error).__name__
                    return self._failed(f"the result cannot be stored: {told}", None)
                _log.warning("the result of job %s is stored later: %s", self._job.id, error)
            else:
                return ending
            if ending.error is not None:
                return ending  # which the job itself keeps too, and which must not wait for MongoDB
            if self._held.reason is not None:
                return self._stopped()
            await asyncio.sleep(pauses.next())

    async def _record(self, ending: Ending, result: Any, began: datetime, finished: datetime) -> None:
        await self._run.store_log()
        if result is None and ending.error is None:
            return
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json")
        if result is not None and not isinstance(result, Mapping):
            raise DataError(f"a handler returns a model, a mapping or None, not {type(result).__name__}")
        new = NewAiProcessingResult(
            id=self._job.id,
            company_id=self._job.company_id,
            lease=self._job.lease,
            result=None if result is None else dict(result),
            error=ending.error,
            started_at=began,
            finished_at=finished,
        )
        await self._db.ai_processing_results.record(new)


def _misfit(error: ValidationError) -> str:
    """Return what does not fit, without the values."""
    told = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}" for each in told[:5])
