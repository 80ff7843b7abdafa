"""Jobs: work to be done once, later. PostgreSQL `ai_processing_jobs`, not cached."""

from collections.abc import AsyncIterable, Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from graphlib import CycleError, TopologicalSorter
from typing import Any
from uuid import UUID

from multidb.errors import DataError, NotFoundError
from multidb.models.fields import utc_now
from multidb.models.jobs import Job, JobState, NewJob, QueueStats
from multidb.repositories import job_statements as sql
from multidb.repositories.chunks import Progress, chunks
from multidb.repositories.declaration import unique_index
from multidb.repositories.job_claims import JobClaims
from multidb.repositories.job_endings import Ending, checked_word
from multidb.repositories.job_wakeups import CANCEL
from multidb.repositories.repository import (
    Resources,
    checked_class,
    checked_id,
    page_size,
    validated,
)
from multidb.repositories.shared_adds import SharedAdds
from multidb.stores.postgres.engine import Record
from multidb.stores.postgres.listening import Heard, Listening

__all__ = ["JobRepository"]

#: Rows a round trip, and in memory.
_CHUNK = 5000
_KEY = "ai_processing_jobs_idempotency_key_key"
#: How often a job whose key was held just now, and by nobody just after, is tried again.
_TRIES = 5
_ENDED: frozenset[JobState] = frozenset({"completed", "failed", "cancelled", "dead"})


class JobRepository(JobClaims):
    """The calls on jobs: enqueueing them and looking after them. What workers call is `JobClaims`."""

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._adds_now = SharedAdds(resources.postgres, self._crud, self._run, self._read)

    # --- enqueueing

    async def enqueue(self, new: NewJob) -> Job:
        """Enqueue a job and return it; workers hear of it once it is committed.

        If another job holds its `idempotency_key`, that one is returned, and nothing stored. A job
        with `depends_on` waits until all of those have completed, and is cancelled with any of them.
        Inside `db.tenant(...)` it is that company's. Calls that meet share one statement.

        Raises: AlreadyExistsError if the id is taken; NotFoundError if it depends on a job there is
        not; ConstraintError, as for a document of another company; DataError, also if it depends on itself.
        """
        operation = self._operation("enqueue")
        company = self._company(operation)
        values = self._queued(new, operation, company)
        if new.depends_on:
            async with self._resources.postgres.transactions.begin():
                job, _ = await self._enqueued(values, company)
                await self._await({new.id: new.depends_on}, operation, company)
                job = await self._get(job.id, company)
        else:
            job, _ = await self._enqueued(values, company)
        self._tell([new])
        return job

    async def enqueue_many(
        self, new: Iterable[NewJob] | AsyncIterable[NewJob], *, progress: Progress | None = None
    ) -> int:
        """Enqueue jobs, all of them or, on any error, none; return how many were stored.

        Those are left out whose `idempotency_key` is held, also by one given before. They may depend
        on each other. Takes any number, also from an iterator or an async iterator, 5,000 a round trip:
        by COPY, unless they have keys or the login is subject to row level security.

        Raises: AlreadyExistsError; NotFoundError; ConstraintError; DataError, also if they depend on each
        other in a circle.
        """
        operation = self._operation("enqueue_many")
        company = self._company(operation)
        count = 0
        waiting: dict[UUID, tuple[UUID, ...]] = {}
        async with self._resources.postgres.transactions.begin():
            how = (await self._fetch(sql.HOW, {}, operation))[0]
            async for chunk in chunks(new, _CHUNK):
                count += await self._enqueue_chunk(chunk, how, operation, company)
                waiting |= {each.id: each.depends_on for each in chunk if each.depends_on}
                self._tell(chunk)
                if progress is not None:
                    progress(count)
            await self._await(waiting, operation, company)
        return count

    async def _enqueue_chunk(
        self, chunk: Sequence[NewJob], how: Record, operation: str, company: UUID | None
    ) -> int:
        rows = [self._queued(each, operation, company) for each in chunk]
        keyed = [each for each in chunk if each.idempotency_key is not None]
        names = list(dict.fromkeys(name for row in rows for name in row))
        rows = [{name: row.get(name, how["now"]) for name in names} for row in rows]
        crud = self._crud(company)
        stored = len(rows)
        if keyed:
            await self._expire_keys(keyed, operation, company)
            # Of an id that is taken it must be told, and of a key that is held not.
            statement = crud.insert_new(names, unique_index(self.table, _KEY))
            stored = len(await self._run("enqueue_many", statement, crud.arrays(rows), company))
        elif company is None and how["copies"]:
            await self._resources.postgres.copy(
                self.table.name, names, crud.records(rows), operation=operation, columns_of=self.unique
            )
        else:
            await self._run("enqueue_many", crud.insert_many(names), crud.arrays(rows), company)
        return stored

    async def _enqueued(self, values: dict[str, Any], company: UUID | None) -> tuple[Job, bool]:
        """Return the job with these values, or the one that holds its key, and whether it is new."""
        if values["idempotency_key"] is None:
            # Those that share a statement give the same columns.
            adds = self._adds if "run_at" in values else self._adds_now
            return await adds.add(values, company), True
        crud = self._crud(company)
        once = crud.insert_new(values, unique_index(self.table, _KEY))
        key = {"queue": values["queue"], "key": values["idempotency_key"], "company": values["company_id"]}
        for _ in range(_TRIES):
            if rows := await self._run("enqueue", once, crud.arrays([values]), company):
                return self._read(rows[0]), True
            many = {"queues": [key["queue"]], "keys": [key["key"]], "companies": [key["company"]]}
            if await self._run("enqueue", sql.EXPIRE_KEYS, many, company):
                continue
            if rows := await self._run("enqueue", sql.HOLDER, key, company):
                return self._read(rows[0]), False
        # Somebody is faster each time; what is wrong, if anything is, this will tell.
        return self._read((await self._run("enqueue", crud.insert(values), values, company))[0]), True

    async def _expire_keys(self, keyed: Sequence[NewJob | Job], operation: str, company: UUID | None) -> None:
        given = {
            "queues": [each.queue for each in keyed],
            "keys": [each.idempotency_key for each in keyed],
            "companies": [company or each.company_id for each in keyed],
        }
        await self._run("enqueue_many", sql.EXPIRE_KEYS, given, company)

    async def _await(
        self, waiting: Mapping[UUID, tuple[UUID, ...]], operation: str, company: UUID | None
    ) -> None:
        """Have the jobs that others depend on tell how they end; those that have are told of at once."""
        if not waiting:
            return
        try:
            TopologicalSorter(waiting).prepare()
        except CycleError as error:
            circle = ", ".join(map(str, error.args[1][1:]))
            raise DataError(
                f"`depends_on`: these wait for each other, and none would begin: {circle}",
                operation=operation,
            ) from error
        needed = sorted({id for ids in waiting.values() for id in ids})
        there = await self._run("enqueue", sql.AWAIT, {"ids": needed}, company)
        if missing := set(needed) - {row["id"] for row in there}:
            raise NotFoundError(
                f"`depends_on`: no Job has the id {min(missing)}", store="postgres", operation=operation
            )
        await self._settle(needed)

    def _queued(self, new: NewJob, operation: str, company: UUID | None) -> dict[str, Any]:
        """Return a new job by column. Where it says nothing of when, the server's clock does."""
        checked_class(NewJob, new, operation)
        if company is not None and new.company_id is None:
            new = new.model_copy(update={"company_id": company})
        values = super()._new_values(new, operation, company)
        if "run_at" not in new.model_fields_set:
            del values["run_at"]
        return values

    def _new_values(self, new: NewJob, operation: str, company: UUID | None) -> dict[str, Any]:
        values = super()._new_values(new, operation, company)
        if new.depends_on:
            # Nobody would tell it that they have ended.
            raise DataError(
                "`depends_on`: give a job that waits for others to `enqueue` or `enqueue_many`",
                operation=operation,
            )
        return values

    def _columns_of(self, values: dict[str, Any], operation: str, company: UUID | None) -> dict[str, Any]:
        values = super()._columns_of(values, operation, company)
        if "depends_on" in values:
            values["state"] = "waiting" if values["depends_on"] else "available"
        return values

    def _tell(self, new: Iterable[NewJob]) -> None:
        """Wake the workers, but for what is due later."""
        soon = utc_now() + timedelta(milliseconds=50)
        self._wakeups.tell({each.queue for each in new if not each.depends_on and each.run_at <= soon})

    # --- looking after them

    async def cancel(self, job: Job | UUID) -> Job:
        """Cancel a job, and return it as it is then; one that has ended is returned as it is.

        By its id: one that waits is cancelled at once, and a running one is told to stop. A claimed
        job, from `claim`, is cancelled by its worker. Those that depend on it are cancelled with it.

        Raises: NotFoundError; ConflictError if it was given as claimed, and the claim is over.
        """
        operation = self._operation("cancel")
        company = self._company(operation)
        if isinstance(job, Job):
            await self._held(job, operation, Ending(job, "cancelled", error=job.error))
            return await self._get(job.id, None)
        cancelled = await self._change("cancel", sql.CANCEL, job, company)
        if cancelled.state == "running":
            self._wakeups.tell({f"{CANCEL}{job}"})
        return cancelled

    async def retry(self, id: UUID) -> Job:
        """Give a job that is dead, failed or cancelled all its attempts again, and return it; others stay.

        It waits again for those that it depends on, but for what was cancelled or is gone.

        Raises: NotFoundError; AlreadyExistsError if another job holds its idempotency key by now.
        """
        operation = self._operation("retry")
        company = self._company(operation)
        checked_id(id, operation)
        async with self._resources.postgres.transactions.begin():
            if (before := await self._get(id, company, "retry")).idempotency_key is not None:
                await self._expire_keys([before], operation, company)
            job = await self._change("retry", sql.RETRY, id, company)
            if job.state == "waiting" and before.state != "waiting":
                # Those whose end was told have forgotten that anybody waits.
                await self._await({job.id: job.depends_on}, operation, None)
                job = await self._get(job.id, company)
        return job

    async def discard(self, id: UUID) -> Job:
        """Give up a job that is dead or failed: it is cancelled then, its error stays. Others stay.

        Those that depend on it are cancelled with it. Raises: NotFoundError.
        """
        return await self._change("discard", sql.DISCARD, id, self._company(self._operation("discard")))

    async def limit(
        self, queue: str, *, at_most: int | None = None, at_most_per_key: int | None = None
    ) -> None:
        """Let no more jobs of a queue run at a time, on all workers together; None for any number.

        `at_most_per_key` is for those of one `concurrency_key`, each. What is running stays so; 0
        stops the queue. Of a queue with limits, one worker claims at a time.

        Raises: DataError.
        """
        operation = self._operation("limit")
        limits = {"at_most": at_most, "at_most_per_key": at_most_per_key}
        for name, value in limits.items():
            if value is not None and (type(value) is not int or not 0 <= value < 2**31):
                raise DataError(f"`{name}` must be a whole number from 0, or None", operation=operation)
        values = {"queue": checked_word(queue, "queue", operation), **limits}
        unlimited = at_most is None and at_most_per_key is None
        await self._fetch(sql.UNLIMIT if unlimited else sql.LIMIT, values, operation)
        self._wakeups.tell({queue})

    async def prune(
        self,
        older_than: timedelta,
        *,
        states: Collection[JobState] = ("completed", "cancelled"),
        batch: int = 1000,
        most: int | None = None,
    ) -> int:
        """Delete jobs that ended so long ago, `batch` a statement and `most` in all; return how many.

        Those stay that hold their idempotency key, or that others wait for. Their results in
        `ai_processing_results` stay too.

        Raises: DataError.
        """
        operation = self._operation("prune")
        _check_pruned(older_than, states, operation)
        if most is not None and (type(most) is not int or most < 0):
            raise DataError("`most` must be a whole number from 0, or None", operation=operation)
        size = page_size(batch, operation)
        company = self._company(operation)
        gone = 0
        while most is None or gone < most:
            limit = size if most is None else min(size, most - gone)
            given = {"age": older_than, "states": list(states), "limit": limit}
            pruned = int((await self._run("prune", sql.PRUNE, given, company))[0][0])
            gone += pruned
            if pruned < limit:
                break
        return gone

    async def stats(self) -> list[QueueStats]:
        """Return how each queue stands that has jobs under way, some that ended of late, or limits.

        The cost grows with those jobs, not with how many are kept.
        """
        operation = self._operation("stats")
        company = self._company(operation)
        # As nobody's, for the limits belong to no company.
        rows = await self._fetch(sql.STATS, {"_tenant": company}, operation)
        return [self._stats_of(row, operation) for row in rows]

    def listen(self, heard: Heard) -> Listening:
        """Hear, while the block runs, which queues have something to do, and what is to be cancelled.

        `heard` is given a queue's name, `CANCEL` and a job's id, or None where it may have missed some.
        """
        return Listening(self._resources.postgres, sql.CHANNEL, heard)

    async def _change(self, name: str, statement: Any, id: UUID, company: UUID | None) -> Job:
        operation = self._operation(name)
        checked_id(id, operation)
        rows = await self._run(name, statement, {"id": id}, company)
        if not rows:
            return await self._get(id, company, name)
        await self._follow(rows)
        return self._job_of(rows[0])

    async def _get(self, id: UUID, company: UUID | None, name: str = "fetch") -> Job:
        job = await self._shared.load(id, company)
        if job is None:
            raise self._not_found(id, name)
        return job

    def _job_of(self, row: Record | Mapping[str, Any]) -> Job:
        return self._read({name: row[name] for name in Job.model_fields})

    @staticmethod
    def _stats_of(row: Record, operation: str) -> QueueStats:
        counts = dict.fromkeys(
            ("ready", "scheduled", "waiting", "running", "completed", "failed", "dead", "cancelled"), 0
        )
        counts |= {name: n for name, n in row["counts"].items() if name in counts}
        limits = {name: row[name] for name in ("at_most", "at_most_per_key")}
        return validated(
            QueueStats, {"queue": row["queue"], "lag": row["lag"], **counts, **limits}, operation
        )


def _check_pruned(older_than: object, states: object, operation: str) -> None:
    if not isinstance(older_than, timedelta) or older_than < timedelta(0):
        raise DataError("`older_than` must be a timedelta, and not negative", operation=operation)
    if not isinstance(states, Collection) or any(state not in list(_ENDED) for state in states):
        raise DataError(f"`states` may be {', '.join(sorted(_ENDED))}", operation=operation)
