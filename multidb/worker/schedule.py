"""Jobs that are due at certain times, told in the language of cron."""

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from multidb.client import MultiDB
from multidb.errors import ConfigurationError, MultiDBError
from multidb.models.jobs import NewJob, is_word
from multidb.worker.declared import check, is_span

__all__ = ["Schedule", "keep_time"]

_log = logging.getLogger("multidb.worker")

#: For so long no other job of a time is enqueued, whatever becomes of the first: the clocks of workers
#: differ by less.
_WINDOW = timedelta(days=2)
_LONGEST = timedelta(days=366)
#: Seconds until the clock is looked at again, for it may have been set.
_GLANCE = 30.0
_PAUSE = 1.0


class Schedule:
    """Times at which a job of a kind is due."""

    def __init__(self, cron: str, *, queue: str, kind: str, timezone: str, grace: timedelta) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ModuleNotFoundError as error:
            raise ConfigurationError(
                "periodic jobs need another package: pip install 'multidb[jobs]'"
            ) from error
        check(
            f"the schedule of {kind!r}",
            ("cron", "a text, as in '0 3 * * *'", isinstance(cron, str)),
            ("queue", "a text of 1 to 200 characters", is_word(queue)),
            ("timezone", "a text, as in 'Europe/Oslo'", isinstance(timezone, str)),
            ("grace", "a timedelta from zero to 364 days", is_span(grace, most=_LONGEST - _WINDOW)),
        )
        self.queue = queue
        self.kind = kind
        self.grace = grace
        self._cron = cron
        self._simulate = CronSim
        try:
            self._zone = ZoneInfo(timezone)
            self.after(datetime.now(UTC))
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ConfigurationError(f"{timezone!r} is no time zone, such as 'Europe/Oslo'") from error
        except (CronSimError, StopIteration) as error:
            raise ConfigurationError(
                f"{cron!r} is no cron expression that ever comes true: {error}"
            ) from error

    def after(self, moment: datetime) -> datetime:
        """Return the first time after a moment, in UTC."""
        return next(self._simulate(self._cron, moment.astimezone(self._zone))).astimezone(UTC)

    def before(self, moment: datetime) -> datetime:
        """Return the last time before a moment, in UTC."""
        times = self._simulate(self._cron, moment.astimezone(self._zone), reverse=True)
        return next(times).astimezone(UTC)

    def job(self, at: datetime) -> NewJob:
        """Return the job of a time: the same to whoever makes it."""
        return NewJob(
            queue=self.queue,
            kind=self.kind,
            payload={},
            run_at=at,
            idempotency_key=f"{self.kind} at {at:%Y-%m-%dT%H:%M:%SZ}"[-200:],
            # And none that was made up for already.
            idempotency_window=_WINDOW + self.grace,
        )


async def keep_time(db: MultiDB, schedules: Sequence[Schedule]) -> None:
    """Enqueue the jobs of the schedules, each when its time has come; without end.

    Every worker does it. The job of one time has one key, so the first to come stores it.
    """
    if not schedules:
        return
    reached = {schedule: datetime.now(UTC) - schedule.grace for schedule in schedules}
    while True:
        now = datetime.now(UTC)
        for schedule, since in reached.items():
            due = schedule.before(now + timedelta(microseconds=1))
            if due > since and await _enqueued(db, schedule.job(due)):
                reached[schedule] = due
        soonest = min(schedule.after(now) for schedule in schedules)
        seconds = (soonest - datetime.now(UTC)).total_seconds()
        # A little late rather than early: a time that has not come would be looked for again at once.
        await asyncio.sleep(min(max(seconds, 0.0) + 0.001, _GLANCE))


async def _enqueued(db: MultiDB, job: NewJob) -> bool:
    try:
        await db.jobs.enqueue(job)
    except MultiDBError as error:
        _log.warning("a periodic job could not be enqueued, and is tried again: %s", error)
        await asyncio.sleep(_PAUSE)
        return False
    return True
