"""Jobs: enqueued once, claimed by one, finished by whoever holds the claim and nobody else."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel

from multidb import (
    AlreadyExistsError,
    Backoff,
    ConflictError,
    ConstraintError,
    DataError,
    Job,
    MultiDB,
    NewCompany,
    NewJob,
    NotFoundError,
    TransactionError,
    UnavailableError,
    uuid7,
)
from multidb.repositories import job_claims, jobs
from multidb.repositories import job_statements as sql
from multidb.repositories.job_endings import Ending
from multidb.stores.postgres import notifying
from multidb.stores.postgres.transactions import Options

from .postgres import raw
from .test_row_security import owned

T = TypeVar("T")

MINUTE = timedelta(minutes=1)


def new(queue: str = "q", **fields: Any) -> NewJob:
    return NewJob(**{"queue": queue, "kind": "k", "payload": {}, **fields})


async def claim(db: MultiDB, limit: int = 1, queue: str = "q", **options: Any) -> list[Job]:
    return await db.jobs.claim(queue, limit=limit, worker=options.pop("worker", "w"), **options)


async def state(db: MultiDB, job: Job | NewJob) -> str:
    return (await db.jobs.fetch(job.id)).state


async def elsewhere(call: Coroutine[Any, Any, T]) -> T:
    """Make a call outside of the transaction around this."""
    return await asyncio.get_running_loop().create_task(call, context=Context())


async def let_leases_end(db: MultiDB, *jobs: Job) -> None:
    async with raw(db.settings) as connection:
        await connection.execute(
            "UPDATE ai_processing_jobs SET lease_until = now() - interval '1 second' WHERE id = ANY ($1)",
            [job.id for job in jobs],
        )


async def move(db: MultiDB, back: timedelta, *columns: str) -> None:
    """Let time go by for all jobs."""
    async with raw(db.settings) as connection:
        for name in columns:
            await connection.execute(f"UPDATE ai_processing_jobs SET {name} = {name} - $1::interval", back)


# --- enqueueing


class Page(BaseModel):
    number: int
    at: datetime


async def test_a_job_is_enqueued_with_the_transaction_around_it(db: MultiDB):
    page = Page(number=3, at=datetime(2026, 1, 2, tzinfo=UTC))
    with pytest.raises(RuntimeError):
        async with db.transaction():
            await db.jobs.enqueue(new(payload=page))
            raise RuntimeError
    async with db.transaction():
        job = await db.jobs.enqueue(new(payload=page, timeout=MINUTE, priority=2))
        assert await db.jobs.count() == 1
    assert await db.jobs.count() == 1
    stored = await db.jobs.fetch(job.id)
    assert stored == job
    assert Page.model_validate(stored.payload) == page
    assert (stored.state, stored.attempt, stored.lease, stored.timeout) == ("available", 0, 0, MINUTE)
    with pytest.raises(AlreadyExistsError):
        await db.jobs.enqueue(new(id=job.id))
    for wrong in ({"payload": {"text": "\0"}}, {"payload": {"when": object()}}):
        with pytest.raises(DataError):
            await db.jobs.enqueue(new(**wrong))
    with pytest.raises(ConstraintError):
        await db.jobs.enqueue(new(document_id=uuid7()))
    assert await db.jobs.count() == 1


async def test_a_key_is_one_jobs_while_it_is_pending_or_within_its_window(db: MultiDB):
    first, again = await db.jobs.enqueue(new(idempotency_key="a")), new(idempotency_key="a")
    assert await db.jobs.enqueue(again) == first
    others = await asyncio.gather(*(db.jobs.enqueue(new(idempotency_key="b")) for _ in range(20)))
    assert len({job.id for job in others}) == 1
    await db.jobs.enqueue(new("other", idempotency_key="a"))

    (job,) = await claim(db)
    assert job.id == first.id
    assert (await db.jobs.enqueue(again)).id == first.id  # running is pending
    await db.jobs.complete(job)
    assert (await db.jobs.enqueue(again)).id == again.id
    retried = await db.jobs.enqueue(new("r", idempotency_key="a"))
    await db.jobs.fail((await claim(db, queue="r"))[0], "once")  # and so is what is tried again
    assert (await db.jobs.enqueue(new("r", idempotency_key="a"))).id == retried.id

    kept = await db.jobs.enqueue(new("w", idempotency_key="c", idempotency_window=10 * MINUTE))
    (job,) = await claim(db, queue="w")
    await db.jobs.complete(job)
    assert (await db.jobs.enqueue(new("w", idempotency_key="c"))).id == kept.id
    assert await db.jobs.prune(timedelta(0)) == 1  # not the one whose key still holds
    await move(db, 11 * MINUTE, "created_at")
    later = await db.jobs.enqueue(new("w", idempotency_key="c"))
    assert later.id != kept.id
    # Whoever is tried again wants the key back.
    await db.jobs.cancel(later.id)
    await db.jobs.enqueue(new("w", idempotency_key="c", idempotency_window=10 * MINUTE))
    await db.jobs.complete((await claim(db, queue="w"))[0])
    with pytest.raises(AlreadyExistsError) as caught:
        await db.jobs.retry(later.id)
    assert caught.value.columns == ("queue", "idempotency_key", "company_id")
    await move(db, 11 * MINUTE, "created_at")
    assert (await db.jobs.retry(later.id)).state == "available"

    # What is given up was enqueued all the same.
    kept = await db.jobs.enqueue(new("g", idempotency_key="d", idempotency_window=10 * MINUTE))
    await db.jobs.fail((await claim(db, queue="g"))[0], "no", final=True)
    await db.jobs.discard(kept.id)
    assert (await db.jobs.enqueue(new("g", idempotency_key="d"))).id == kept.id


@pytest.mark.parametrize("login", ["superuser", "owner"])
async def test_many_are_enqueued_at_once_all_or_none(db: MultiDB, login: str):
    async with owned(db.settings) as settings, MultiDB(settings) as own:
        used = db if login == "superuser" else own
        company = await db.companies.add(NewCompany(name="C", slug="c"))
        later = datetime.now(UTC) + MINUTE

        async def stream() -> AsyncIterator[NewJob]:
            for n in range(300):
                when: dict[str, Any] = {"run_at": later} if n == 7 else {}
                yield new(payload={"n": n}, priority=n % 2, **when)

        assert await used.jobs.enqueue_many(stream()) == 300
        assert await used.jobs.count(run_at=later) == 1
        with pytest.raises(AlreadyExistsError):
            await used.jobs.enqueue_many([new(), *(new(id=UUID(int=7)) for _ in range(2))])
        assert await used.jobs.count() == 300
        keyed = [new(idempotency_key=str(n % 3), company_id=company.id) for n in range(9)]
        assert await used.jobs.enqueue_many(keyed) == 3
        with used.tenant(company.id):
            assert await used.jobs.enqueue_many(keyed) == 0
            assert await used.jobs.enqueue_many(new() for _ in range(2)) == 2
            assert await used.jobs.count() == 5
            with pytest.raises(DataError):
                await used.jobs.enqueue_many([new(company_id=uuid7())])
            assert {job.company_id for job in await claim(used, 10)} == {company.id}
        assert await used.jobs.enqueue_many([]) == 0


# --- claiming


async def test_jobs_are_claimed_in_order_each_by_one(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    now = datetime.now(UTC)
    for n, (priority, ago) in enumerate([(1, 5), (0, 1), (0, 3), (0, -60), (-1, 0)]):
        run_at = now - timedelta(seconds=ago)
        await db.jobs.enqueue(new(priority=priority, run_at=run_at, payload={"n": n}))
    first = await claim(db, 2)
    assert [job.payload["n"] for job in first] == [4, 2]
    assert [job.payload["n"] for job in await claim(db, 10)] == [1, 0]
    assert await claim(db) == []
    job = first[0]
    assert (job.state, job.attempt, job.lease, job.worker) == ("running", 1, 1, "w")
    assert job.lease_until is not None
    assert job.started_at is not None
    assert job.lease_until - job.started_at == timedelta(seconds=30)

    # What another claims just now is passed by, and not waited for.
    for fair in (False, True):
        await db.jobs.enqueue_many(new("two", payload={"n": n}) for n in range(2))
        async with asyncio.timeout(30), db.transaction():
            ours = await claim(db, 1, "two", fair=fair)
            theirs = await elsewhere(claim(db, 1, "two", fair=fair))
        assert len(ours) == len(theirs) == 1
        assert ours[0].id != theirs[0].id

    # And where the claim of what is left fails, nothing is claimed.
    await db.jobs.enqueue(kept := new("kept"))
    fetch = db.jobs._fetch

    async def lost(statement: Any, *rest: Any) -> Any:
        if statement is sql.claim(fair=False, limited=False, company=False):
            raise UnavailableError("lost")
        return await fetch(statement, *rest)

    with monkeypatch.context() as patched, pytest.raises(UnavailableError):
        patched.setattr(db.jobs, "_fetch", lost)
        await claim(db, 2, "kept", fair=True)
    assert await state(db, kept) == "available"

    await db.jobs.enqueue_many(new("many") for _ in range(400))
    claimed = await asyncio.gather(*(claim(db, 15, "many", worker=f"w{n}") for n in range(40)))
    ids = [job.id for jobs in claimed for job in jobs]
    while more := await claim(db, 100, "many"):
        ids += [job.id for job in more]
    assert len(ids) == len(set(ids)) == 400


async def test_a_claimed_job_is_what_is_stored_of_it(db: MultiDB):
    """However it was claimed, and also where another attempt went before."""
    company = await db.companies.add(NewCompany(name="C", slug="c"))
    for _ in range(5):
        await db.jobs.enqueue(
            new(payload={"a": 1}, company_id=company.id, concurrency_key="k", timeout=MINUTE, priority=1)
        )
    (first,) = await claim(db, worker="other", lease=MINUTE)
    await db.jobs.progress(first, 0.5)
    await db.jobs.fail(first, "wrong", retry_in=timedelta(0))
    jobs = await claim(db, limit=2, lease=timedelta(seconds=7))
    jobs += await claim(db, fair=True)
    with db.tenant(company.id):
        jobs += await claim(db)
    await db.jobs.limit("q", at_most=9)
    jobs += await claim(db)
    assert len(jobs) == 5
    assert {job.error for job in jobs} == {None, "wrong"}
    for job in jobs:
        assert job == await db.jobs.fetch(job.id)


async def test_what_is_of_the_wrong_type_is_refused_by_name_and_claims_nothing(db: MultiDB):
    await db.jobs.enqueue_many(new() for _ in range(2))
    (job,) = await claim(db)
    wrong: Any
    for wrong in (None, 5, " ", "w" * 201):
        with pytest.raises(DataError, match="`worker`"):
            await claim(db, worker=wrong)
        with pytest.raises(DataError, match="`queue`"):
            await claim(db, queue=wrong)
        with pytest.raises(DataError, match="`queue`"):
            await db.jobs.limit(wrong, at_most=1)
    assert await db.jobs.count(state="running") == 1
    wrong = 5
    calls: dict[str, Coroutine[Any, Any, object]] = {
        "error": db.jobs.fail(job, wrong),
        "retry_in": db.jobs.fail(job, "no", retry_in=wrong),
        "delay": db.jobs.snooze(job, wrong),
        "share": db.jobs.progress(job, True),
        "result": db.jobs.complete(job, wrong),
        "older_than": db.jobs.prune(wrong),
        "states": db.jobs.prune(MINUTE, states=wrong),
    }
    for name, call in calls.items():
        with pytest.raises(DataError, match=f"`{name}`"):
            await call
    wrong = [job.id]
    with pytest.raises(DataError, match="Job"):
        await db.jobs.heartbeat(wrong)


async def test_what_is_claimed_with_a_transaction_is_given_back_with_it(db: MultiDB):
    await db.jobs.enqueue(new())
    with pytest.raises(RuntimeError):
        async with db.transaction():
            (job,) = await claim(db)
            await db.jobs.complete(job)
            raise RuntimeError
    assert len(await claim(db)) == 1


async def test_a_job_that_became_due_late_is_found_behind_those_claimed_since(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    """Claims look ahead of what they have reached, and behind it soon enough."""
    monkeypatch.setattr(job_claims, "_NARROW", 0.2)
    now = datetime.now(UTC)
    await db.jobs.enqueue_many(new(run_at=now - timedelta(seconds=n)) for n in range(600))
    assert len(await claim(db, 10)) == 10
    urgent = await db.jobs.enqueue(new(priority=-1))
    await db.jobs.enqueue(new())
    assert urgent.id in {job.id for job in await claim(db, 10)}
    # When the urgent one was due, says nothing about the others.
    assert all(now - job.run_at > timedelta(seconds=500) for job in await claim(db, 5))
    # Nor about those that are less urgent.
    waits = [(0, 1), (1, 2), (1, 0)]
    await db.jobs.enqueue_many(new("p", priority=p, run_at=now - n * MINUTE) for p, n in waits)
    claimed = [(await claim(db, queue="p"))[0] for _ in waits]
    assert [(job.priority, (now - job.run_at) // MINUTE) for job in claimed] == waits
    old = await db.jobs.enqueue(new(run_at=now - timedelta(hours=1)))
    while await state(db, old) == "available":
        await claim(db)
    assert await db.jobs.count(state="available") > 0


async def test_limits_are_kept_exactly(db: MultiDB):
    await short_of_limits(db, rounds=5)


@pytest.mark.torture
async def test_limits_are_kept_exactly_in_200_rounds(db: MultiDB):
    await short_of_limits(db, rounds=200)


async def short_of_limits(db: MultiDB, *, rounds: int) -> None:
    """Let eight workers claim and finish at once; hold what is running, at any moment, against the limits."""
    await db.jobs.limit("q", at_most=3, at_most_per_key=1)

    async def work(n: int) -> int:
        done = 0
        while await db.jobs.exists(state="available"):
            for job in await claim(db, 1 + n % 3, worker=f"w{n}", fair=n % 2 == 0):
                running = Counter([held.concurrency_key async for held in db.jobs.stream(state="running")])
                assert running.total() <= 3
                running.pop(None, None)
                assert set(running.values()) <= {1}
                await db.jobs.complete(job)
                done += 1
        return done

    for _ in range(rounds):
        keys = [f"k{n % 2}" if n % 4 else None for n in range(12)]
        await db.jobs.enqueue_many(new(concurrency_key=key) for key in keys)
        assert sum(await asyncio.gather(*map(work, range(8)))) == len(keys)


@pytest.mark.parametrize("fair", [False, True])
async def test_a_key_without_room_holds_up_no_other(db: MultiDB, fair: bool):
    await db.jobs.limit("q", at_most_per_key=1)
    company = await db.companies.add(NewCompany(name="C", slug="c"))
    keys = ["a"] * 20 + ["b", None]
    await db.jobs.enqueue_many([new(company_id=company.id, concurrency_key=key) for key in keys])
    claimed = [await claim(db, 1, fair=fair) for _ in range(4)]
    assert Counter(job.concurrency_key for jobs in claimed for job in jobs) == {"a": 1, "b": 1, None: 1}


async def test_limits_can_be_lifted_and_stop_a_queue(db: MultiDB):
    await db.jobs.enqueue_many(new() for _ in range(5))
    await db.jobs.limit("q", at_most=0)
    assert await claim(db, 5) == []
    with pytest.raises(TransactionError, match="read committed"):
        async with db.transaction(isolation="repeatable read"):
            await claim(db)
    await db.jobs.limit("q", at_most=2)
    async with db.transaction():
        assert len(await claim(db, 5)) == 2
    assert await claim(db, 5) == []
    (stats,) = await db.jobs.stats()
    assert (stats.running, stats.ready, stats.at_most, stats.at_most_per_key) == (2, 3, 2, None)
    await db.jobs.limit("q")
    assert len(await claim(db, 5)) == 3
    with pytest.raises(DataError, match="at_most"):
        await db.jobs.limit("q", at_most=-1)


async def test_a_company_has_its_turn_whatever_others_have_enqueued(db: MultiDB):
    companies = [await db.companies.add(NewCompany(name="C", slug=f"c-{n}")) for n in range(3)]
    big, *small = (company.id for company in companies)
    await db.jobs.enqueue_many(new(company_id=big) for _ in range(50))
    await db.jobs.enqueue_many(new(company_id=id) for id in [*small, None] for _ in range(2))
    first = await claim(db, 8, fair=True)
    assert Counter(job.company_id for job in first) == {big: 2, small[0]: 2, small[1]: 2, None: 2}
    # One at a time: who has nothing running comes before who has.
    await db.jobs.enqueue(new(company_id=small[0]))
    for job in first:
        if job.company_id == small[0]:
            await db.jobs.complete(job)
    assert [job.company_id for job in await claim(db, fair=True)] == [small[0]]
    # With all others empty, the big one has all there is.
    assert {job.company_id for job in await claim(db, 20, fair=True)} == {big}


async def test_a_claim_in_turns_costs_the_same_whatever_is_enqueued(db: MultiDB):
    """Also when the server last looked, the queue was as good as empty."""
    big, small = [await db.companies.add(NewCompany(name="C", slug=f"c-{n}")) for n in range(2)]
    await db.jobs.enqueue_many(new(company_id=id) for id in (big.id, small.id, None) for _ in range(5))
    await claim(db, 15)
    async with raw(db.settings) as connection:
        await connection.execute("ANALYZE ai_processing_jobs")

    await db.jobs.enqueue_many(new(company_id=big.id if n % 10 else small.id) for n in range(10_000))
    await db.jobs.enqueue_many(new() for _ in range(10))
    assert await pages(db) < 150
    assert await pages(db, small.id) < 100


async def test_a_claim_in_turns_costs_the_same_however_many_have_run(db: MultiDB):
    async with raw(db.settings) as connection:
        await connection.execute("ALTER TABLE ai_processing_jobs SET (autovacuum_enabled = false)")
    await db.jobs.enqueue_many(new() for _ in range(4000))
    while jobs := await claim(db, 1000):
        await db.jobs.finish([Ending(job, "completed") for job in jobs])
    await db.jobs.enqueue_many(new() for _ in range(10))
    assert await pages(db) < 210


async def pages(db: MultiDB, company: UUID | None = None) -> int:
    """Return how many pages a claim of a company reads, or one in turns, where the server knows the way."""
    values = {"queue": "q", "limit": 5, "worker": "w", "lease_for": MINUTE, "company": company}
    claim = sql.claim(fair=company is None, limited=False, company=company is not None)
    async with db.postgres.transactions.begin(Options(replan=True)) as transaction:
        for _ in range(2):
            told = await transaction.connection.fetchval(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {claim.sql}", *claim.arguments(values)
            )
    read: int = told[0]["Plan"]["Shared Hit Blocks"]
    return read


# --- under a claim


async def test_what_a_claim_allows_is_over_with_it(db: MultiDB):
    """Whoever has lost a job changes nothing, whatever becomes of the job meanwhile."""

    async def refused(stale: Job) -> None:
        before = await db.jobs.fetch(stale.id)
        calls = (
            db.jobs.complete(stale, {"by": "a zombie"}),
            db.jobs.fail(stale, "a zombie"),
            db.jobs.snooze(stale, MINUTE),
            db.jobs.release(stale),
            db.jobs.cancel(stale),
            db.jobs.progress(stale, 0.5),
        )
        told = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in told] == [ConflictError] * len(calls)
        assert not any(each.retryable for each in told if isinstance(each, ConflictError))
        beat = await db.jobs.heartbeat([stale])
        assert beat.lost == {stale.id}
        assert await db.jobs.fetch(stale.id) == before

    new_ = await db.jobs.enqueue(new())
    (stale,) = await claim(db, worker="stands still")
    assert await db.jobs.rescue() == 0
    await let_leases_end(db, stale)
    assert await db.jobs.rescue() == 1
    assert await state(db, new_) == "available"
    await refused(stale)
    (held,) = await claim(db, worker="works")
    assert (held.id, held.lease, held.attempt) == (stale.id, 2, 2)
    await refused(stale)
    async with db.transaction():
        with pytest.raises(ConflictError):
            await db.jobs.complete(stale)
    await db.jobs.complete(held, {"by": "who holds it"})
    await refused(stale)
    done = await db.jobs.fetch(held.id)
    assert (done.state, done.result, done.error) == ("completed", {"by": "who holds it"}, None)
    assert done.finished_at is not None
    await db.jobs.complete(held)  # once more, after an answer that was lost
    assert await db.jobs.fetch(held.id) == done
    with pytest.raises(DataError, match="claim"):
        await db.jobs.complete(done)


async def test_a_poisonous_job_ends_as_dead_and_can_be_tried_again(db: MultiDB):
    poison = await db.jobs.enqueue(new(max_attempts=3))
    for attempt in (1, 2, 3):
        (job,) = await claim(db)
        assert job.attempt == attempt
        await let_leases_end(db, job)
        assert await db.jobs.rescue() == 1
    dead = await db.jobs.fetch(poison.id)
    assert (dead.state, dead.attempt) == ("dead", 3)
    assert "lost" in (dead.error or "")
    assert await claim(db) == []
    again = await db.jobs.retry(poison.id)
    assert (again.state, again.attempt, again.finished_at) == ("available", 0, None)
    (job,) = await claim(db)
    assert (job.attempt, job.lease) == (1, 4)
    await db.jobs.fail(job, ValueError("no\0use \ud800"), final=True)
    failed = await db.jobs.discard(job.id)
    assert (failed.state, failed.error) == ("cancelled", "ValueError: no\ufffduse \\ud800")
    assert await db.jobs.discard(job.id) == failed
    with pytest.raises(NotFoundError):
        await db.jobs.retry(uuid7())


async def test_failures_are_tried_again_after_a_while_and_counted(db: MultiDB):
    job = await db.jobs.enqueue(new(max_attempts=2))
    (held,) = await claim(db)
    await db.jobs.fail(held, "once", retry_in=MINUTE)
    waits = await db.jobs.fetch(job.id)
    assert (waits.state, waits.attempt, waits.error) == ("available", 1, "once")
    assert timedelta(seconds=50) < waits.run_at - datetime.now(UTC) <= MINUTE
    assert await claim(db) == []
    await move(db, 2 * MINUTE, "run_at")
    (held,) = await claim(db)
    await db.jobs.snooze(held, MINUTE)
    assert (await db.jobs.fetch(job.id)).attempt == 1
    await move(db, 2 * MINUTE, "run_at")
    (held,) = await claim(db)
    await db.jobs.release(held)
    (held,) = await claim(db)
    assert (held.attempt, held.lease) == (2, 4)
    await db.jobs.progress(held, 0.25)
    assert (await db.jobs.fetch(job.id)).progress == 0.25
    await db.jobs.fail(held, "twice")
    assert (await db.jobs.fetch(job.id)).state == "dead"
    for wrong in (-1, 1.5, "half", float("nan")):
        with pytest.raises(DataError, match="share"):
            await db.jobs.progress(held, wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError):
        await db.jobs.snooze(held, timedelta(seconds=-1))


async def test_calls_that_meet_share_statements_and_have_their_own_errors(db: MultiDB, statements: list[str]):
    await db.jobs.enqueue_many(new() for _ in range(60))
    jobs = await claim(db, 60)
    statements.clear()
    bad: dict[str, Any] = {"text": "\0"}
    results: Sequence[Any] = [{"n": n} if n != 30 else bad for n in range(60)]
    told = await asyncio.gather(
        *(db.jobs.complete(job, result) for job, result in zip(jobs, results, strict=True)),
        return_exceptions=True,
    )
    assert [n for n, each in enumerate(told) if each is not None] == [30]
    assert isinstance(told[30], DataError)
    assert len(statements) < 30
    assert await db.jobs.count(state="completed") == 59
    assert (await db.jobs.fetch(jobs[7].id)).result == {"n": 7}

    # Of one job one alone is told that it ended, and of two claims on it the one that stands.
    await db.jobs.enqueue_many(new() for _ in range(6))
    (stale,) = await claim(db)
    await let_leases_end(db, stale)
    await db.jobs.rescue()
    jobs = await claim(db, 6)
    (held,) = (job for job in jobs if job.id == stale.id)
    told = await asyncio.gather(
        *(db.jobs.progress(job, 0.5) for job in [*jobs, stale]), return_exceptions=True
    )
    assert [type(each) for each in told if each is not None] == [ConflictError]
    calls = [db.jobs.complete(stale), db.jobs.complete(held), db.jobs.fail(held, "no"), db.jobs.release(held)]
    jobs.remove(held)
    told = await asyncio.gather(*map(db.jobs.complete, jobs), *calls, return_exceptions=True)
    assert [type(each) for each in told].count(ConflictError) == 3
    assert type(told[5]) is ConflictError
    assert told[6] is None
    assert await state(db, held) == "completed"


async def test_a_running_job_is_told_to_stop_and_one_that_waits_stops_at_once(db: MultiDB):
    waits, runs = await db.jobs.enqueue(new("a")), await db.jobs.enqueue(new("b"))
    assert (await db.jobs.cancel(waits.id)).state == "cancelled"
    (held,) = await claim(db, queue="b")
    told = await db.jobs.cancel(runs.id)
    assert (told.state, told.finished_at) == ("running", None)
    assert (await db.jobs.heartbeat([held])).cancelled == {held.id}
    await db.jobs.fail(held, "stopped")  # a further attempt is not wanted
    done = await db.jobs.fetch(runs.id)
    assert (done.state, done.error) == ("cancelled", "stopped")
    assert await db.jobs.cancel(runs.id) == done
    # A worker that is lost tells nobody; and a worker may give a job up by itself.
    await db.jobs.retry(runs.id)
    (held,) = await claim(db, queue="b")
    await db.jobs.cancel(held.id)
    await let_leases_end(db, held)
    await db.jobs.rescue()
    assert await state(db, held) == "cancelled"
    await db.jobs.retry(runs.id)
    (held,) = await claim(db, queue="b")
    assert (await db.jobs.cancel(held)).state == "cancelled"


# --- depending on others


async def test_a_job_waits_for_those_it_depends_on(db: MultiDB):
    first, second = await db.jobs.enqueue(new("a")), await db.jobs.enqueue(new("a"))
    both = await db.jobs.enqueue(new("b", depends_on=(first.id, second.id)))
    after = await db.jobs.enqueue(new("b", depends_on=(both.id,)))
    assert (both.state, after.state) == ("waiting", "waiting")
    jobs = await claim(db, 2, "a")
    await asyncio.gather(*map(db.jobs.complete, jobs))  # at a time: one of them must see both
    assert await state(db, both) == "available"
    # Of two that end at a time, whichever is committed last sees both.
    third, fourth = await db.jobs.enqueue(new("e")), await db.jobs.enqueue(new("e"))
    late = await db.jobs.enqueue(new("f", depends_on=(third.id, fourth.id)))
    jobs = await claim(db, 2, "e")
    async with db.transaction():
        await db.jobs.complete(jobs[0])
        await elsewhere(db.jobs.complete(jobs[1]))
    assert await state(db, late) == "available"
    assert (await db.jobs.enqueue(new("b", depends_on=(first.id,)))).state == "available"
    (held,) = [job for job in await claim(db, 2, "b") if job.id == both.id]
    await db.jobs.fail(held, "no", final=True)
    assert await state(db, after) == "waiting"  # it may yet be tried again
    await db.jobs.discard(held.id)
    lost = await db.jobs.fetch(after.id)
    assert lost.state == "cancelled"
    assert "depends on" in (lost.error or "")
    with pytest.raises(NotFoundError, match="depends_on"):
        await db.jobs.enqueue(new(depends_on=(uuid7(),)))
    assert await db.jobs.count(queue="q") == 0

    parts = [new("c") for _ in range(3)]
    whole = new("c", depends_on=tuple(part.id for part in parts))
    assert await db.jobs.enqueue_many([whole, *parts]) == 4
    assert {job.id for job in await claim(db, 10, "c")} == {part.id for part in parts}
    assert await state(db, whole) == "waiting"


async def test_no_job_waits_for_what_never_comes(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    first, second, third = (new("a") for _ in range(3))
    circle = [first.model_copy(update={"depends_on": (second.id,)}), new("a", depends_on=(first.id,))]
    circle.append(second.model_copy(update={"depends_on": (third.id, circle[1].id)}))
    for wrong in ([*circle, third], [first.model_copy(update={"depends_on": (first.id,)})]):
        with pytest.raises(DataError, match=str(first.id)):
            await db.jobs.enqueue_many(wrong)
    with pytest.raises(DataError, match="depends_on"):
        await db.jobs.enqueue(wrong[0])
    assert await db.jobs.count() == 0

    # Of one that is over it is told at once; a dead one may yet be tried again.
    cancelled, dead = await db.jobs.enqueue(new("b")), await db.jobs.enqueue(new("c", max_attempts=1))
    await db.jobs.cancel(cancelled.id)
    (held,) = await claim(db, queue="c")
    await db.jobs.fail(held, "no")
    assert (await db.jobs.enqueue(new(depends_on=(cancelled.id,)))).state == "cancelled"
    waits = await db.jobs.enqueue(new(depends_on=(dead.id,)))
    assert waits.state == "waiting"
    await db.jobs.retry(dead.id)
    await db.jobs.complete((await claim(db, queue="c"))[0])
    assert await state(db, waits) == "available"

    for call in (db.jobs.add, db.jobs.upsert, lambda new: db.jobs.add_many([new])):
        with pytest.raises(DataError, match="depends_on"):
            await call(new(depends_on=(dead.id,)))

    # And one that somebody deleted is found to be gone.
    gone = await db.jobs.enqueue(new("d"))
    waits = await db.jobs.enqueue(new("d", depends_on=(gone.id,)))
    await db.jobs.delete(gone.id)
    assert (await db.jobs.retry(waits.id)).state == "waiting"  # there is nothing to try again
    await db.jobs.rescue()
    assert await state(db, waits) == "cancelled"
    # Also behind any number that wait for what there is.
    monkeypatch.setattr(job_claims, "_LOST", 2)
    there, gone = [await db.jobs.enqueue(new("e")) for _ in range(2)]
    await db.jobs.enqueue_many(new("e", depends_on=(there.id,)) for _ in range(3))
    waits = await db.jobs.enqueue(new("e", depends_on=(gone.id,)))
    await db.jobs.delete(gone.id)
    for _ in range(2):
        await db.jobs.rescue()
    assert await state(db, waits) == "cancelled"


async def test_a_job_that_is_tried_again_waits_for_what_is_and_not_for_what_was_cancelled(db: MultiDB):
    first, second = await db.jobs.enqueue(new("a")), await db.jobs.enqueue(new("b"))
    after = await db.jobs.enqueue(new("c", depends_on=(first.id, second.id)))
    await db.jobs.cancel(first.id)
    assert await state(db, after) == "cancelled"
    assert (await db.jobs.retry(after.id)).depends_on == (second.id,)
    await db.jobs.complete((await claim(db, queue="b"))[0])
    assert await state(db, after) == "available"
    # Also for one that has told of its end, and has been tried again itself.
    last = await db.jobs.enqueue(new("d", depends_on=(after.id,)))
    await db.jobs.cancel(after.id)
    await db.jobs.retry(after.id)
    assert (await db.jobs.retry(last.id)).state == "waiting"
    await db.jobs.complete((await claim(db, queue="c"))[0])
    assert await state(db, last) == "available"


async def test_jobs_may_depend_on_any_others_of_their_call(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "_CHUNK", 3)
    given = {"run_at": datetime.now(UTC) - MINUTE}
    parts = [new("parts", **({} if n == 3 else given)) for n in range(4)]
    whole = new("whole", depends_on=tuple(part.id for part in parts))
    before = datetime.now(UTC)
    with monkeypatch.context() as patched:
        patched.setattr(jobs, "utc_now", lambda: before + 60 * MINUTE)  # a clock that is fast
        assert await db.jobs.enqueue_many([whole, *parts]) == 5
    assert len(await claim(db, 10, "parts")) == 4  # the server's clock says what is due
    assert await state(db, whole) == "waiting"


async def test_whoever_dies_before_bringing_on_what_waited_leaves_it_to_others(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    first = await db.jobs.enqueue(new("a"))
    waits = await db.jobs.enqueue(new("b", depends_on=(first.id,)))
    (held,) = await claim(db, queue="a")

    async def dies(_: object) -> None:
        pass

    with monkeypatch.context() as patched:
        patched.setattr(db.jobs, "_settle", dies)
        await db.jobs.complete(held)
    assert await state(db, waits) == "waiting"
    assert await db.jobs.prune(timedelta(0)) == 0  # somebody waits for it
    await db.jobs.rescue()
    assert await state(db, waits) == "available"
    assert await db.jobs.prune(timedelta(0)) == 1


# --- keeping house


async def test_finished_jobs_are_deleted_in_batches(db: MultiDB, statements: list[str]):
    await db.jobs.enqueue_many(new() for _ in range(25))
    for job in await claim(db, 23):
        await db.jobs.complete(job)
    for job in await claim(db, 1):
        await db.jobs.fail(job, "no", final=True)
    assert await db.jobs.prune(MINUTE) == 0
    await move(db, 2 * MINUTE, "finished_at")
    statements.clear()
    assert await db.jobs.prune(MINUTE, batch=10, most=12) == 12
    assert len(statements) == 2
    assert await db.jobs.prune(MINUTE, batch=10) == 11
    assert await db.jobs.prune(MINUTE, states=["failed"]) == 1
    assert await db.jobs.count() == 1
    with pytest.raises(DataError, match="states"):
        await db.jobs.prune(MINUTE, states=["running"])


async def test_a_queue_tells_how_it_stands(db: MultiDB):
    company = await db.companies.add(NewCompany(name="C", slug="c"))
    await db.jobs.enqueue_many(new(run_at=datetime.now(UTC) - MINUTE) for _ in range(4))
    await db.jobs.enqueue(new(run_at=datetime.now(UTC) + MINUTE))
    await db.jobs.enqueue(new("other", company_id=company.id))
    jobs = await claim(db, 3)
    await db.jobs.complete(jobs[0])
    await db.jobs.fail(jobs[1], "no", final=True)
    other, q = await db.jobs.stats()
    assert (other.queue, other.ready) == ("other", 1)
    assert (q.ready, q.scheduled, q.running, q.completed, q.failed, q.dead) == (1, 1, 1, 1, 1, 0)
    assert q.lag >= MINUTE
    with db.tenant(company.id):
        assert [stats.queue for stats in await db.jobs.stats()] == ["other"]


def test_a_backoff_grows_to_its_longest_and_spreads() -> None:
    backoff = Backoff(first=timedelta(seconds=2), factor=3, longest=MINUTE, jitter=0)
    assert [backoff.delay(n).total_seconds() for n in (1, 2, 3, 4, 1000)] == [2, 6, 18, 54, 60]
    spread = {Backoff(jitter=0.5).delay(2).total_seconds() for _ in range(100)}
    assert len(spread) > 50
    assert 1 <= min(spread) < max(spread) <= 3


async def test_workers_hear_of_jobs_once_they_are_committed(db: MultiDB):
    heard: asyncio.Queue[str | None] = asyncio.Queue()
    async with db.jobs.listen(heard.put_nowait), asyncio.timeout(30):
        assert await heard.get() is None  # connected: look for yourself
        async with db.transaction():
            await db.jobs.enqueue(new("a"))
            await db.jobs.enqueue(new("later", run_at=datetime.now(UTC) + MINUTE))
            await asyncio.sleep(0.05)
            assert heard.empty()
        assert await heard.get() == "a"
        # What comes within a moment is told together.
        await asyncio.gather(*(db.jobs.enqueue(new("b")) for _ in range(50)))
        assert await heard.get() == "b"
        (job,) = await claim(db, queue="a")
        await db.jobs.cancel(job.id)
        while (told := await heard.get()) == "b":
            pass
        assert told == f"cancel\t{job.id}"
        assert heard.qsize() <= 2
        await db.postgres.engine.dispose()
        async with raw(db.settings) as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
            )
        while await heard.get() is not None:
            pass
        await db.jobs.enqueue(new("c"))
        assert await heard.get() == "c"


async def test_workers_are_not_told_of_each_job(
    db: MultiDB, statements: list[str], monkeypatch: pytest.MonkeyPatch
):
    pause = 0.05
    monkeypatch.setattr(notifying, "_PAUSE", pause)
    began = time.monotonic()
    for _ in range(20):
        await db.jobs.enqueue(new())
    took = time.monotonic() - began
    assert 0 < sum("pg_notify" in each for each in statements) <= 1 + took / pause
