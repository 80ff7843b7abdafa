"""`JobClaims`: what workers call. A claim has a number, its lease, and what follows must bring it.

A lease ends by time: then the job may be claimed again, under the next number. Whoever still works under
the old one, because it stood still or was cut off, changes nothing any more: every statement compares the
number, and the database is the judge. Attempts are counted when they begin, so a job that kills its
workers ends as dead.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel

from multidb.errors import MultiDBError, NotOpenError, TransactionError, UnavailableError
from multidb.models.jobs import Backoff, Heartbeat, Job, JobChanges, JobFields, NewJob
from multidb.repositories import job_statements as sql
from multidb.repositories.job_endings import (
    Ending,
    Told,
    arrays,
    check_claimed,
    checked_delay,
    checked_error,
    checked_lease,
    checked_result,
    checked_share,
    checked_word,
    claim_over,
)
from multidb.repositories.job_wakeups import Wakeups
from multidb.repositories.postgres import PostgresRepository
from multidb.repositories.relations import BelongsTo
from multidb.repositories.repository import Resources, checked_class, page_size
from multidb.stores.postgres import tables
from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.transactions import Options

__all__ = ["JobClaims"]

_REPLAN = Options(replan=True)
#: For so many seconds claims may pass by jobs that were due before those claimed last.
_NARROW = 1.0
#: How many lost jobs are looked after in a statement.
_LOST = 1000
_FIRST = UUID(int=0)


class JobClaims(PostgresRepository[Job, NewJob, JobChanges]):
    """Claiming jobs and finishing them. Concurrent calls of a kind share a statement."""

    c: ClassVar[JobFields]
    table = tables.ai_processing_jobs
    relations = {"document": BelongsTo("documents", by="document_id")}
    tenant = "company_id"
    unique = {
        "ai_processing_jobs_pkey": ("id",),
        "ai_processing_jobs_idempotency_key_key": ("queue", "idempotency_key", "company_id"),
    }

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._wakeups = Wakeups(resources.postgres)
        resources.before_closing.append(self._wakeups.close)
        self._fenced = resources.postgres.batcher(self._end_one, self._end_several)
        #: The queues that were seen to have limits: where a job ends, another may begin.
        self._limited: set[str] = set()
        #: Behind which of those that wait the next look begins, once there are many.
        self._looked_at = _FIRST
        #: By queue and company, how urgent the job claimed last was, when it was due, until when that holds.
        self._reached: dict[tuple[str, UUID | None], tuple[int, datetime, float]] = {}

    @classmethod
    def entity(cls) -> str:
        return "jobs"

    # --- claiming

    async def claim(
        self,
        queue: str,
        *,
        worker: str,
        limit: int = 1,
        lease: timedelta = timedelta(seconds=30),
        fair: bool = False,
    ) -> list[Job]:
        """Claim up to `limit` jobs that are due, the most urgent first, for `lease` from now on.

        No job is claimed twice, and no more run than `limit(...)` allows. If `fair`, a company has its
        turn by how few of its jobs are running, whatever the others have enqueued. Fewer than `limit`
        does not mean that no more are due. Inside `db.tenant(...)`, that company's jobs alone.

        A claim whose answer is lost ends with its lease; it counts as an attempt.

        Raises: DataError; TransactionError on a queue with limits, inside a transaction whose isolation
        is above "read committed": it would not see what others have claimed.
        """
        operation = self._operation("claim")
        company = self._company(operation)
        values: dict[str, Any] = {
            "queue": checked_word(queue, "queue", operation),
            "worker": checked_word(worker, "worker", operation),
            "limit": page_size(limit, operation),
            "lease_for": checked_lease(lease, operation),
            "company": company,
        }
        rows = await self._claimed(values, fair=fair)
        if not rows:
            if await self._fetch(sql.LIMITS, values, operation):
                self._limited.add(queue)
                rows = await self._claimed_within_limits(values, fair=fair)
            else:
                self._limited.discard(queue)
        jobs = [self._read(_whole(row, values)) for row in rows]
        return sorted(jobs, key=lambda job: (job.priority, job.run_at, job.id))

    async def _claimed(self, values: Mapping[str, Any], *, fair: bool) -> list[Record]:
        """Claim where there are no limits. As a rule only what is due after what was claimed last.

        Behind it lie the dead entries of all that was, and while somewhere a transaction is held open
        they cannot be cleared away: to read past them would take longer with each claim.
        """
        here, of_one = (values["queue"], values["company"]), values["company"] is not None
        now = asyncio.get_running_loop().time()
        priority, floor, until = self._reached.get(here, (0, None, 0.0))
        if floor is not None and now < until and not fair:
            statement = sql.claim(fair=False, limited=False, company=of_one, narrow=True)
            ahead = {**values, "priority": priority, "floor": floor}
            rows = await self._planned(statement, ahead, "jobs.claim")
            self._reach(here, rows, values["limit"], until)
            if rows:
                return rows
        async with self._replanning():
            statement = sql.claim(fair=fair, limited=False, company=of_one)
            rows = await self._fetch(statement, values, "jobs.claim")
            if fair and (left := values["limit"] - len(rows)):
                # What others claim just now was passed by, and hid what comes after it.
                statement = sql.claim(fair=False, limited=False, company=of_one)
                rows += await self._fetch(statement, {**values, "limit": left}, "jobs.claim")
        if not fair:
            self._reach(here, rows, values["limit"], now + _NARROW)
        return rows

    def _reach(self, here: tuple[str, UUID | None], rows: Sequence[Record], limit: int, until: float) -> None:
        # Of a more urgent job than these, `run_at` says nothing about those that are left of the others.
        if len(rows) == limit and len({row["priority"] for row in rows}) == 1:
            self._reached[here] = rows[0]["priority"], max(row["run_at"] for row in rows), until
        else:
            self._reached.pop(here, None)

    async def _claimed_within_limits(self, values: Mapping[str, Any], *, fair: bool) -> list[Record]:
        """Claim while nobody else does: who comes next counts what was claimed here.

        The count must be a later statement than the lock. One statement would wait for the lock, and
        count what it saw before.
        """
        transactions = self._resources.postgres.transactions
        async with transactions.begin(_REPLAN) if transactions.current() is None else transactions.begin():
            locked = await self._fetch(sql.LOCK_LIMITS, values, "jobs.claim")
            if not locked:
                return []  # the limits were lifted just now
            if locked[0]["isolation"] != "read committed":
                raise TransactionError(
                    f"queue {values['queue']!r} has limits: claim outside of a transaction, or in one that "
                    "is read committed",
                    store="postgres",
                    operation="jobs.claim",
                )
            limits = {name: locked[0][name] for name in ("at_most", "at_most_per_key")}
            statement = sql.claim(fair=fair, limited=True, company=values["company"] is not None)
            return await self._fetch(statement, {**values, **limits}, "jobs.claim")

    async def rescue(self) -> int:
        """Make jobs whose lease has ended available again, or dead after their last attempt; return how many.

        Workers do it all the time. It also brings on jobs that waited for others, where the process
        that finished those died before it could, or they were deleted.
        """
        rescued = 0
        while True:
            rows = await self._fetch(sql.RESCUE, {"limit": _LOST}, "jobs.rescue")
            await self._follow(rows)
            rescued += len(rows)
            if len(rows) < _LOST:
                break
        rows = await self._fetch(sql.UNSETTLED, {"limit": _LOST}, "jobs.rescue")
        await self._settle([row["id"] for row in rows])
        rows = await self._fetch(sql.GONE, {"limit": _LOST, "after": self._looked_at}, "jobs.rescue")
        self._looked_at = rows[-1]["id"] if len(rows) == _LOST else _FIRST
        await self._settle(list({id for row in rows for id in row["gone"]}))
        return rescued

    # --- under a claim

    async def heartbeat(self, jobs: Iterable[Job]) -> Heartbeat:
        """Extend the leases of claimed jobs, each by as long as it was claimed for. One statement.

        Those lost and those to be cancelled come back; a job that is lost must be worked on no more.

        Raises: UnavailableError; then nothing is known, and the leases end when they end.
        """
        operation = self._operation("heartbeat")
        claimed = list(jobs)
        for job in claimed:
            check_claimed(job, operation)
        if not (held := {job.id: job for job in claimed}):
            return Heartbeat(frozenset(), frozenset())
        spans = [job.lease_until - job.started_at for job in held.values()]  # type: ignore[operator]
        given = {"ids": list(held), "leases": [job.lease for job in held.values()], "spans": spans}
        rows = await self._fetch(sql.BEAT, given, operation)
        kept = {row["id"] for row in rows}
        return Heartbeat(
            frozenset(held.keys() - kept), frozenset(row["id"] for row in rows if row["cancelled"])
        )

    async def progress(self, job: Job, share: float) -> None:
        """Tell how much of a claimed job is done, from 0 to 1.

        Raises: DataError; ConflictError if the claim is over.
        """
        operation = self._operation("progress")
        await self._held(job, operation, Told(job, checked_share(share, operation)))

    async def complete(self, job: Job, result: Mapping[str, Any] | BaseModel | None = None) -> None:
        """Finish a claimed job; the result is stored with it. Harmless to repeat.

        Raises: ConflictError if the claim is over; DataError if the result is not what JSON can hold.
        """
        operation = self._operation("complete")
        await self._held(job, operation, Ending(job, "completed", result=checked_result(result, operation)))

    async def fail(
        self,
        job: Job,
        error: str | BaseException,
        *,
        retry_in: timedelta | None = None,
        final: bool = False,
    ) -> None:
        """Say that an attempt failed, and why: the job is tried again after `retry_in`.

        Without it, after what `Backoff()` says of the attempt. After its last attempt it is dead; if
        `final`, because no further attempt would help, it has failed at once. If somebody wanted it to
        stop, it is cancelled.

        Raises: ConflictError if the claim is over; DataError.
        """
        operation = self._operation("fail")
        checked_class(Job, job, operation)
        later = Backoff().delay(job.attempt) if retry_in is None else retry_in
        delay, told = checked_delay(later, operation, "retry_in"), checked_error(error, operation)
        ending = Ending(job, "failed" if final else "retried", error=told, delay=delay)
        await self._held(job, operation, ending)

    async def snooze(self, job: Job, delay: timedelta) -> None:
        """Put a claimed job back for `delay`; it counts as no attempt.

        Raises: ConflictError if the claim is over; DataError.
        """
        operation = self._operation("snooze")
        await self._held(job, operation, Ending(job, "put back", delay=checked_delay(delay, operation)))

    async def release(self, job: Job) -> None:
        """Put a claimed job back, for another worker to take at once; it counts as no attempt.

        Raises: ConflictError if the claim is over.
        """
        await self._held(job, self._operation("release"), Ending(job, "put back"))

    async def finish(self, endings: Sequence["Ending"]) -> frozenset[UUID]:
        """Say of many claimed jobs how they ended, in one statement; return those whose claim was over.

        What a worker calls, for the jobs it has finished meanwhile. An ending that was stored before
        comes back as over too.

        Raises: UnavailableError; then it is not known which are stored.
        """
        operation = self._operation("finish")
        for ending in endings:
            check_claimed(ending.job, operation)
        if not endings:
            return frozenset()
        return frozenset(ending.job.id for ending in endings) - await self._end(endings)

    async def _held(self, job: Job, operation: str, call: "Ending | Told") -> None:
        """Make a call under a claim. Raises: ConflictError if the claim is over."""
        check_claimed(job, operation)
        if self._resources.postgres.transactions.current() is not None:
            done = await self._end_one(call, None)
        else:
            done = bool(await self._fenced.get(call, type(call).__name__))
        if done:
            return
        now = await self._fetch(sql.NOW, {"id": job.id}, operation)
        completed = isinstance(call, Ending) and call.outcome == "completed"
        if now and completed and now[0]["state"] == "completed" and now[0]["lease"] == job.lease:
            return  # it was done, and only the answer lost
        raise claim_over(job, dict(now[0]) if now else None, operation)

    # --- how

    async def _end_one(self, call: "Ending | Told", _: object) -> bool:
        return call.job.id in await self._end([call])

    async def _end_several(
        self, calls: Sequence["Ending | Told"], kind: object
    ) -> dict["Ending | Told", bool | Exception]:
        # What comes back tells of a job, so of two calls about one job each has a statement.
        first = {call.job.id: call for call in reversed(calls)}
        if later := [call for call in calls if first[call.job.id] is not call]:
            done_first = await self._end_several(list(first.values()), kind)
            return {**done_first, **await self._end_several(later, kind)}
        try:
            done = await self._end(calls)
        except (UnavailableError, NotOpenError):
            raise  # whether it was done is not known, of none of them
        except MultiDBError as error:
            if len(calls) == 1:
                return {calls[0]: error}
            # One of them is refused, and nothing is done: halve them until it is found.
            half = len(calls) // 2
            return {
                **await self._end_several(calls[:half], kind),
                **await self._end_several(calls[half:], kind),
            }
        return {call: call.job.id in done for call in calls}

    async def _end(self, calls: Sequence["Ending | Told"]) -> set[UUID]:
        """Make calls of one kind in one statement; return the jobs whose claim stood."""
        given: dict[str, list[Any]] = {
            "ids": [call.job.id for call in calls],
            "leases": [call.job.lease for call in calls],
        }
        if isinstance(calls[0], Told):
            given["shares"] = [call.share for call in calls if isinstance(call, Told)]
            rows = await self._fetch(sql.PROGRESS, given, "jobs.progress")
        else:
            given |= arrays([call for call in calls if isinstance(call, Ending)])
            rows = await self._planned(sql.END, given, "jobs.finish")
            await self._follow(rows)
        return {row["id"] for row in rows}

    async def _follow(self, rows: Sequence[Record]) -> None:
        """Do what follows from a change: wake those who may take the jobs, bring on what waited for them."""
        self._wakeups.tell(
            {
                row["queue"]
                for row in rows
                if (row["state"] == "available" and row["due"]) or row["queue"] in self._limited
            }
        )
        over = [row["id"] for row in rows if row["awaited"] and row["state"] in {"completed", "cancelled"}]
        if over:
            # Once it is committed: of two that end at a time, one at least then sees both.
            await self._resources.postgres.transactions.after_commit(partial(self._settle, over))

    async def _settle(self, ids: Sequence[UUID]) -> None:
        """Bring on the jobs that waited for these, and those that waited for them."""
        while ids:
            rows = await self._fetch(sql.SETTLE, {"ids": list(ids)}, "jobs.settle")
            await self._fetch(sql.SETTLED, {"ids": list(ids)}, "jobs.settle")
            self._wakeups.tell({row["queue"] for row in rows if row["state"] == "available" and row["due"]})
            ids = [row["id"] for row in rows if row["awaited"] and row["state"] == "cancelled"]

    def _replanning(self) -> AbstractAsyncContextManager[object]:
        """Have statements planned for what the table holds now: a queue fills and empties in moments.

        They are one transaction, or part of the one that is under way.
        """
        transactions = self._resources.postgres.transactions
        return transactions.begin(_REPLAN) if transactions.current() is None else nullcontext()

    async def _planned(self, statement: Any, values: Mapping[str, Any], operation: str) -> list[Record]:
        async with self._replanning():
            return await self._fetch(statement, values, operation)

    async def _fetch(self, statement: Any, values: Mapping[str, Any], operation: str) -> list[Record]:
        # As nobody's: a worker serves all companies, and limits count what all of them have running.
        return await self._resources.postgres.fetch(
            statement, values, operation=operation, columns_of=self.unique
        )


def _whole(row: Record, claim: Mapping[str, Any]) -> dict[str, Any]:
    """Return a claimed job's row with the columns that `claim` leaves out."""
    began = row["started_at"]
    return {
        **row,
        "queue": claim["queue"],
        "state": "running",
        "worker": claim["worker"],
        "progress": None,
        "lease_until": began + claim["lease_for"],
        "updated_at": began,
    }
