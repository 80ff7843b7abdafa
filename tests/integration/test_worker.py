"""The worker: whatever a handler does, its job ends in a stated state, and the worker goes on."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any, Self
from uuid import UUID

import pytest
from pydantic import BaseModel, computed_field

from multidb import (
    Backoff,
    ConfigurationError,
    Discard,
    Handlers,
    Job,
    MultiDB,
    NewCompany,
    NewJob,
    NotOpenError,
    Run,
    Snooze,
    UnavailableError,
    Worker,
)
from multidb.stores.completion import complete
from multidb.stores.scope import current_scope
from multidb.worker import worker as worker_module
from multidb.worker.schedule import Schedule

from .postgres import raw

pytestmark = pytest.mark.mongo

SOON = Backoff(first=timedelta(milliseconds=10), jitter=0)
handlers = Handlers()
#: Whose rows the handlers saw, by job.
scopes: dict[UUID, Any] = {}


class Sum(BaseModel):
    numbers: list[int]
    day: datetime | None = None


class Total(BaseModel):
    total: int
    share: Decimal = Decimal("0.5")  # which MongoDB would not take as it is


class Broken(BaseModel):
    @computed_field  # type: ignore[prop-decorator]
    @property
    def share(self) -> float:
        return 1 / 0


class UnspeakableError(BaseException):
    def __str__(self) -> str:
        raise LookupError


@handlers.job("add")
async def add(payload: Sum, run: Run) -> Total:
    run.log("adding")
    scopes[run.job.id] = current_scope()
    await run.progress(0.5)
    run.log("added\0", level="warning")  # type: ignore[arg-type]
    return Total(total=sum(payload.numbers))


@handlers.job("raises", backoff=SOON)
async def raises(job: Job) -> None:
    raise LookupError(f"attempt {job.attempt}")


@handlers.job("ends all", backoff=SOON)
async def ends_all() -> None:
    sys.exit("now")


@handlers.job("unspeakable", backoff=SOON)
async def unspeakable() -> None:
    raise UnspeakableError


@handlers.job("hangs", timeout=timedelta(milliseconds=50), backoff=SOON)
async def hangs() -> None:
    await asyncio.sleep(3600)


@handlers.job("gives up", backoff=SOON)
async def gives_up(job: Any) -> None:
    raise Discard("no use")


@handlers.job("later")
async def later(job: Job) -> dict[str, Any]:
    if job.lease == 1:
        raise Snooze(timedelta(milliseconds=10))
    return {"lease": job.lease, "attempt": job.attempt}


@handlers.job("cancels itself", backoff=SOON)
async def cancels_itself() -> None:
    raise asyncio.CancelledError


@handlers.job("returns")
async def returns(payload: dict[str, str]) -> Any:
    bottomless: list[Any] = []
    bottomless.append(bottomless)
    return {
        "object": {"it": object()},
        "number": 7,
        "bottomless": {"it": bottomless},
        "large": {"it": "x" * 17_000_000},
        "big": {"it": 2**70},
        "broken": Broken(),
    }[payload["what"]]


def new(kind: str, payload: dict[str, Any] | None = None, **fields: Any) -> NewJob:
    return NewJob(queue="q", kind=kind, payload=payload or {}, **fields)


@asynccontextmanager
async def working(db: MultiDB, given: Any = handlers, **options: Any) -> AsyncIterator[Worker]:
    worker = Worker(db, queues=["q"], handlers=given, **options)
    task = asyncio.create_task(worker.run())
    try:
        yield worker
    finally:
        worker.stop()
        async with asyncio.timeout(20):
            await task
        assert not len(worker._hold)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110 - a store tells nobody who waits
            await asyncio.sleep(0.01)


async def ended(db: MultiDB, *, count: int) -> dict[str, Job]:
    async def all_ended() -> bool:
        return await db.jobs.count(db.jobs.c.finished_at.is_not_null()) == count

    await until(all_ended)
    return {job.kind + str(job.payload.get("what", "")): job async for job in db.jobs.stream()}


async def test_whatever_a_handler_does_its_job_ends_and_the_worker_goes_on(db: MultiDB):
    scopes.clear()
    company = await db.companies.add(NewCompany(name="C", slug="c"))
    again = ("raises", "ends all", "unspeakable", "hangs", "cancels itself")
    unstorable = ("object", "number", "bottomless", "large", "big", "broken")
    bad = [
        *(new(kind, max_attempts=2) for kind in (*again, "gives up")),
        *(new("returns", {"what": what}) for what in unstorable),
        new("nobody's", max_attempts=1),
        new("later"),
        NewJob(queue="q", kind="add", payload={"numbers": ["one"]}),
    ]
    for each in bad:
        await db.jobs.enqueue(each)
    async with working(db, concurrency=4):
        good = await db.jobs.enqueue(
            new(
                "add",
                Sum(numbers=[1, 2], day=datetime.now(UTC)).model_dump(mode="json"),
                company_id=company.id,
            )
        )
        jobs = await ended(db, count=len(bad) + 1)

    told = {name: (job.state, job.attempt) for name, job in jobs.items()}
    assert told == {
        **dict.fromkeys(again, ("dead", 2)),
        "gives up": ("failed", 1),
        **{f"returns{what}": ("failed", 1) for what in unstorable},
        "nobody's": ("dead", 1),
        "later": ("completed", 1),
        "add": told["add"],
    }
    states = {job.id: job for job in jobs.values()}
    misfit = await db.jobs.fetch(bad[-1].id)
    assert (misfit.state, "numbers.0" in (misfit.error or "")) == ("failed", True)
    assert "one" not in (misfit.error or "").split("numbers")[1]
    errors = {job.kind: job.error or "" for job in states.values()}
    assert errors["raises"] == "LookupError: attempt 2"
    assert errors["ends all"] == "SystemExit: now"
    assert errors["unspeakable"] == "UnspeakableError"
    assert "0:00:00.05" in errors["hangs"]
    assert errors["gives up"] == "Discard: no use"
    assert "no handler" in errors["nobody's"]
    unstored = [job.error or "" for job in states.values() if job.kind == "returns"]
    assert all("cannot be stored" in error for error in unstored)

    done = await db.jobs.fetch(good.id)
    assert (done.state, done.progress, done.error) == ("completed", 0.5, None)
    assert scopes == {good.id: company.id}
    with db.tenant(company.id):
        result = await db.ai_processing_results.fetch(good.id)
    assert (result.result, result.lease, result.company_id) == ({"total": 3, "share": "0.5"}, 1, company.id)
    assert [line.message for line in result.logs] == ["adding", "added\ufffd"]
    dead = next(job for job in jobs.values() if job.kind == "raises")
    result = await db.ai_processing_results.fetch(dead.id)
    assert (result.lease, result.error, len(result.logs)) == (2, "LookupError: attempt 2", 2)


async def test_a_handler_is_cancelled_once_its_job_is_lost_or_not_wanted(db: MultiDB):
    ends: list[str] = []
    began = asyncio.Event()

    async def waits(job: Job) -> None:
        began.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ends.append(job.kind)
            raise

    async with working(db, {"unwanted": waits, "lost": waits}, lease=timedelta(seconds=1)):
        unwanted = await db.jobs.enqueue(new("unwanted"))
        await began.wait()
        assert (await db.jobs.cancel(unwanted.id)).state == "running"
        await until(lambda: db.jobs.exists(id=unwanted.id, state="cancelled"))
        assert ends == ["unwanted"]

        began.clear()
        lost = await db.jobs.enqueue(new("lost", max_attempts=1))
        await began.wait()
        async with raw(db.settings) as connection:
            # Somebody else has it.
            await connection.execute("UPDATE ai_processing_jobs SET lease = 7 WHERE id = $1", lost.id)
        await until(lambda: asyncio.sleep(0, len(ends) == 2))
        job = await db.jobs.fetch(lost.id)
        assert (job.state, job.lease, job.error) == ("running", 7, None)


async def test_a_job_outlives_its_lease_while_its_worker_lives(db: MultiDB):
    async def slow(job: Job) -> None:
        await asyncio.sleep(0.7)

    await db.jobs.enqueue(new("slow"))
    async with working(db, {"slow": slow}, lease=timedelta(milliseconds=400)):
        (job,) = (await ended(db, count=1)).values()
    assert job.state == "completed"


async def test_an_attempt_whose_claim_could_not_be_kept_up_counts(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    """What keeps its worker from sending heartbeats must not do so for ever."""

    async def unanswered(_: object) -> None:
        raise UnavailableError("away")

    monkeypatch.setattr(db.jobs, "heartbeat", unanswered)
    await db.jobs.enqueue(new("k", max_attempts=2))

    async def waits(job: Job) -> None:
        await asyncio.sleep(3600)

    async with working(db, {"k": waits}, lease=timedelta(milliseconds=200)):
        (job,) = (await ended(db, count=1)).values()
    assert (job.state, job.attempt, job.lease) == ("dead", 2, 2)
    assert "lease ended" in (job.error or "")


async def test_a_handler_is_cancelled_with_its_lease_while_nobody_answers(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    """Also where what is given up goes on waiting, as for a server that is cut off."""
    stopped, answers, heartbeat = asyncio.Event(), asyncio.Event(), db.jobs.heartbeat

    async def unanswered(jobs: Any) -> Any:
        await complete(answers.wait())
        return await heartbeat(jobs)

    async def waits() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    monkeypatch.setattr(db.jobs, "heartbeat", unanswered)
    await db.jobs.enqueue(new("k", max_attempts=1))
    async with working(db, {"k": waits}, lease=timedelta(milliseconds=300)):
        try:
            async with asyncio.timeout(30):
                await stopped.wait()
        finally:
            answers.set()
        (job,) = (await ended(db, count=1)).values()
    assert job.state == "dead"


async def test_told_to_stop_it_finishes_what_it_can_and_puts_the_rest_back(db: MultiDB):
    began: list[str] = []

    async def takes(job: Job) -> None:
        began.append(job.kind)
        await asyncio.sleep(0.2 if job.kind == "short" else 3600)

    await db.jobs.enqueue_many([new("short"), new("long"), *(new("short", priority=1) for _ in range(5))])
    async with working(
        db, {"short": takes, "long": takes}, concurrency=2, stop_within=timedelta(seconds=0.4)
    ) as worker:
        await until(lambda: asyncio.sleep(0, len(began) == 2))
        worker.stop()
    jobs = [job async for job in db.jobs.stream()]
    assert sorted((job.kind, job.state, job.attempt) for job in jobs) == [
        ("long", "available", 0),
        *[("short", "available", 0)] * 5,
        ("short", "completed", 1),
    ]
    # And cancelled it gives them no time.
    task = asyncio.create_task(Worker(db, queues=["q"], handlers={"short": takes, "long": takes}).run())
    await until(lambda: asyncio.sleep(0, len(began) > 2))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await db.jobs.count(state="running") == 0


async def test_a_worker_starts_a_job_soon_after_it_was_enqueued(db: MultiDB):
    """By NOTIFY, for it polls once an hour; what it cannot hear of, it finds by polling."""
    started: dict[Any, datetime] = {}

    async def note(job: Job) -> None:
        started[job.id] = datetime.now(UTC)

    async with working(db, {"k": note}, poll=timedelta(hours=1)):
        await db.jobs.enqueue(new("k"))
        await ended(db, count=1)
        enqueued = {}
        for _ in range(20):
            enqueued[(await db.jobs.enqueue(new("k"))).id] = datetime.now(UTC)
        await ended(db, count=21)
        assert min(started[id] - at for id, at in enqueued.items()) < timedelta(milliseconds=100)
    async with working(db, {"k": note}, poll=timedelta(milliseconds=50)):
        await db.jobs.enqueue(new("k", run_at=datetime.now(UTC) + timedelta(milliseconds=200)))
        await ended(db, count=22)


async def test_a_time_of_a_schedule_is_one_job_whatever_number_of_workers(db: MultiDB):
    periodic = Handlers()
    calls: list[Job] = []

    @periodic.periodic("* * * * * *", queue="q", kind="tick")
    async def tick(job: Job) -> None:
        calls.append(job)

    async with working(db, periodic), working(db, periodic), working(db, periodic):
        await until(lambda: asyncio.sleep(0, len(calls) >= 2))
    jobs = [job async for job in db.jobs.stream()]
    assert len({job.run_at for job in jobs}) == len(jobs) >= 2
    assert all(job.lease <= 1 for job in jobs)


async def test_a_time_that_was_made_up_for_is_not_made_up_for_again(db: MultiDB):
    """However long the schedule gives its workers to do so."""
    weekly = Schedule("0 0 * * MON", queue="q", kind="k", timezone="UTC", grace=timedelta(days=6))
    at = weekly.before(datetime.now(UTC))
    job = await db.jobs.enqueue(weekly.job(at))
    await db.jobs.complete((await db.jobs.claim("q", worker="w"))[0])
    async with raw(db.settings) as connection:
        await connection.execute("UPDATE ai_processing_jobs SET created_at = created_at - interval '5 days'")
    assert (await db.jobs.enqueue(weekly.job(at))).id == job.id


def test_schedules_follow_their_time_zone_and_refuse_what_says_nothing() -> None:
    nine = Schedule("0 9 * * *", queue="q", kind="k", timezone="Europe/Oslo", grace=timedelta(minutes=1))
    assert nine.after(datetime(2026, 3, 28, 12, tzinfo=UTC)) == datetime(2026, 3, 29, 7, tzinfo=UTC)
    assert nine.before(datetime(2026, 3, 28, 12, tzinfo=UTC)) == datetime(2026, 3, 28, 8, tzinfo=UTC)
    for cron, zone in (("61 * * * *", "UTC"), ("nonsense", "UTC"), ("* * * * *", "Nowhere/Else")):
        with pytest.raises(ConfigurationError):
            Handlers().periodic(cron, queue="q", kind="k", timezone=zone)


def test_what_cannot_be_a_handler_is_refused_when_it_is_declared() -> None:
    given = Handlers()

    def plain(job: Job) -> None: ...

    async def keyword(*, job: Job) -> None: ...

    class Unreadable: ...

    async def odd(payload: Unreadable) -> None: ...

    for function in (plain, keyword, odd):
        with pytest.raises(ConfigurationError, match="'k'"):
            given.job("k")(function)  # type: ignore[type-var]

    class Called:
        async def __call__(self, payload: dict[str, Any]) -> None: ...

    given.job("k")(Called())
    with pytest.raises(ConfigurationError, match="two"):
        given.job("k")(Called())
    assert list(given) == ["k"]


async def test_a_worker_is_declared_rightly(db: MultiDB):
    refused: dict[str, list[Any]] = {
        "queues": ["q", [], [5], [" "], 5, None],
        "handlers": [None, [hangs]],
        "concurrency": [0, True, "4"],
        "lease": [5, timedelta(0), timedelta(days=2)],
        "poll": [5, timedelta(0)],
        "stop_within": [5, timedelta(-1)],
        "fair": ["no"],
        "retention": [5, timedelta(-1)],
        "name": [5, "", "w" * 201],
    }
    given: dict[str, Any]
    for name, wrong in [(name, each) for name, several in refused.items() for each in several]:
        given = {"queues": ["q"], "handlers": {}, name: wrong}
        with pytest.raises(ConfigurationError, match=f"`{name}`"):
            Worker(db, **given)
    for name, wrong in (("kind", 5), ("kind", ""), ("timeout", 5), ("timeout", timedelta(0)), ("backoff", 5)):
        given = {"kind": "k", name: wrong}
        with pytest.raises(ConfigurationError, match=f"`{name}`"):
            Handlers().job(**given)(hangs)
    for name, wrong in (
        ("cron", 5),
        ("timezone", None),
        ("queue", " "),
        ("grace", 5),
        ("grace", timedelta(-1)),
    ):
        given = {"cron": "* * * * *", "queue": "q", "kind": "k", name: wrong}
        with pytest.raises(ConfigurationError, match=f"`{name}`"):
            Handlers().periodic(**given)(hangs)


async def test_a_limited_queue_goes_on_as_its_jobs_end(db: MultiDB):
    async def nothing(job: Job) -> None: ...

    await db.jobs.limit("q", at_most=1)
    await db.jobs.enqueue_many(new("k") for _ in range(10))
    async with working(db, {"k": nothing}, poll=timedelta(hours=1)):
        await ended(db, count=10)


async def test_wherever_a_worker_is_cancelled_no_job_stays_with_it(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch
):
    """Before and after each statement that it sends, until it has done all there is."""
    done: list[Job] = []

    async def does(job: Job) -> None:
        done.append(job)
        if len(done) == 3:
            worker.stop()

    worker = Worker(db, queues=["q"], handlers={"k": does}, concurrency=2)
    fetch, left = db.postgres.fetch, 0
    task = asyncio.create_task(asyncio.sleep(0))

    async def counted(*given: Any, **options: Any) -> Any:
        nonlocal left
        before, left = left, left - 2
        if before == 0:
            task.cancel()
        rows = await fetch(*given, **options)
        if before == 1:
            task.cancel()
        return rows

    for place in count():
        await db.jobs.enqueue_many(new("k") for _ in range(3))
        done.clear()
        left = place
        with monkeypatch.context() as patched:
            patched.setattr(db.postgres, "fetch", counted)
            task = asyncio.create_task(worker.run())
            await asyncio.wait([task])
        jobs = [job async for job in db.jobs.stream()]
        assert {(job.state, job.attempt) for job in jobs} <= {("available", 0), ("completed", 1)}, place
        assert not len(worker._hold)
        assert not left_behind()
        await db.jobs.delete_many(queue="q")
        if not task.cancelled():
            assert [job.state for job in jobs] == ["completed"] * 3
            assert place > 6
            break


async def test_what_a_worker_winds_up_it_winds_up_to_the_end(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    finish, finishing, go_on = db.jobs.finish, asyncio.Event(), asyncio.Event()

    async def slowly(endings: Any) -> Any:
        finishing.set()
        await go_on.wait()
        return await finish(endings)

    async def nothing(job: Job) -> None: ...

    monkeypatch.setattr(db.jobs, "finish", slowly)
    job = await db.jobs.enqueue(new("k"))
    worker = Worker(db, queues=["q"], handlers={"k": nothing})
    task = asyncio.create_task(worker.run())
    await finishing.wait()
    worker.stop()
    for _ in range(2):
        stopped, _ = await asyncio.wait([task], timeout=0.1)
        assert not stopped
        task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not left_behind()
    assert (await db.jobs.fetch(job.id)).state == "completed"


def left_behind() -> list[str]:
    """Return the tasks of workers."""
    names = [repr(each.get_coro()) for each in asyncio.all_tasks()]
    ours = ("Hold.", "Finisher.", "Worker.", "Attempt.", "keep_time")
    return [name for name in names if any(own in name for own in ours)]


class Stubborn:
    """A handler whose first attempt heeds no cancellation, until it is let go with the block."""

    def __init__(self) -> None:
        self.began, self.let_go = asyncio.Event(), asyncio.Event()

    async def __call__(self, job: Job) -> dict[str, Any]:
        self.began.set()
        while job.attempt == 1 and not self.let_go.is_set():
            with suppress(asyncio.CancelledError):
                await self.let_go.wait()
        return {"attempt": job.attempt}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()


async def test_what_does_not_heed_its_cancellation_is_left_behind(db: MultiDB):
    """And changes nothing more, neither of the job, which is another's, nor of the worker."""
    job = await db.jobs.enqueue(new("k"))
    lease = timedelta(milliseconds=200)
    with Stubborn() as stubborn:
        async with working(db, {"k": stubborn}, lease=lease, stop_within=timedelta(0)) as worker:
            await stubborn.began.wait()
            worker.stop()
        (task,) = [each for each in asyncio.all_tasks() if "Attempt.make" in repr(each.get_coro())]
    await task

    async def given_back() -> bool:
        await db.jobs.rescue()
        return (await db.jobs.fetch(job.id)).state == "available"

    await until(given_back)
    assert (await db.jobs.fetch(job.id)).attempt == 1
    assert worker._working == 0


async def test_a_job_whose_handler_does_not_heed_its_timeout_goes_to_another(db: MultiDB):
    job = await db.jobs.enqueue(new("k", timeout=timedelta(milliseconds=50)))
    with Stubborn() as stubborn:
        async with working(db, {"k": stubborn}, lease=timedelta(milliseconds=200)) as worker:
            try:
                await ended(db, count=1)
                assert worker._working > 0
            finally:
                stubborn.let_go.set()
            await until(lambda: asyncio.sleep(0, worker._working == 0))
    done = await db.jobs.fetch(job.id)
    assert done.state == "completed"
    assert done.attempt > 1
    assert (await db.ai_processing_results.fetch(job.id)).result == {"attempt": done.attempt}


async def test_a_handler_that_finishes_although_it_is_cancelled_has_finished(db: MultiDB):
    began = asyncio.Event()

    async def finishes(job: Job) -> dict[str, Any]:
        began.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return {"finished": True}

    job = await db.jobs.enqueue(new("k"))
    async with working(db, {"k": finishes}, lease=timedelta(minutes=5)):
        await began.wait()
        await db.jobs.cancel(job.id)
        async with asyncio.timeout(30):  # long before the next heartbeat
            await ended(db, count=1)
    assert (await db.jobs.fetch(job.id)).state == "completed"


async def test_a_second_signal_stops_it_at_once(db: MultiDB):
    began, let_go = asyncio.Event(), asyncio.Event()

    async def waits(job: Job) -> None:
        began.set()
        await let_go.wait()

    for second, state in ((True, "available"), (False, "completed")):
        began.clear()
        job = await db.jobs.enqueue(new("k"))
        main = asyncio.create_task(Worker(MultiDB(db.settings), queues=["q"], handlers={"k": waits})._main())
        async with asyncio.timeout(20):
            await began.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        stopped, _ = await asyncio.wait([main], timeout=0.2)
        assert not stopped  # the handler may finish
        if second:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            let_go.set()
        stopped, _ = await asyncio.wait([main], timeout=10)
        assert stopped
        assert (await db.jobs.fetch(job.id)).state == state
        await db.jobs.delete(job.id)


async def test_a_worker_stops_where_it_cannot_go_on(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """By a database that is closed, or an error of its own: without heartbeats, say, no job is safe."""
    closed = MultiDB(db.settings)
    with pytest.raises(NotOpenError):
        await Worker(closed, queues=["q"], handlers={}).run()

    async def broken(_: object) -> None:
        raise LookupError

    monkeypatch.setattr(db.jobs, "heartbeat", broken)
    async with asyncio.timeout(30):
        with pytest.raises(LookupError):
            await Worker(db, queues=["q"], handlers={}).run()


async def test_what_cannot_be_stored_now_is_stored_later(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """An answer of PostgreSQL or MongoDB that does not come costs no job."""
    away = Counter[str]()

    def away_at_first(of: Any, name: str) -> None:
        call = getattr(of, name)

        async def called(*given: Any, **options: Any) -> Any:
            away[name] += 1
            if away[name] == 1:
                raise UnavailableError("away")
            return await call(*given, **options)

        monkeypatch.setattr(of, name, called)

    away_at_first(db.jobs, "claim")
    away_at_first(db.jobs, "finish")
    away_at_first(db.jobs, "rescue")
    away_at_first(db.ai_processing_results, "record")
    job = await db.jobs.enqueue(new("add", {"numbers": [1]}))
    async with working(db):
        await ended(db, count=1)
    assert min(away.values()) > 0
    assert len(away) == 4
    done = await db.jobs.fetch(job.id)
    assert (done.state, done.attempt, done.lease) == ("completed", 1, 1)
    assert (await db.ai_processing_results.fetch(job.id)).result == {"total": 1, "share": "0.5"}


@pytest.mark.parametrize("away", [False, True])
async def test_what_was_claimed_ahead_goes_back_once_jobs_are_slower(
    db: MultiDB, monkeypatch: pytest.MonkeyPatch, away: bool
):
    """For other workers to take; if it cannot go back at first, it does later."""
    released: list[Job] = []
    ahead: list[int] = []
    release, go_on = db.jobs.release, asyncio.Event()

    async def releases(job: Job) -> None:
        released.append(job)
        if away and len(released) <= 10:
            raise UnavailableError("away")
        await release(job)

    async def quick() -> None: ...

    async def slow() -> None:
        ahead.append(len(worker._ahead))
        await go_on.wait()

    async def one_runs() -> bool:
        return await db.jobs.count(kind="slow", state="running") == 1

    monkeypatch.setattr(worker_module, "_AHEAD", 0.4)  # enough, however slow the machine
    monkeypatch.setattr(db.jobs, "release", releases)
    await db.jobs.enqueue_many([*(new("quick") for _ in range(50)), *(new("slow") for _ in range(100))])
    async with working(db, {"quick": quick, "slow": slow}, concurrency=1) as worker:
        await until(lambda: asyncio.sleep(0, len(ahead) == 1))
        await until(one_runs)
        assert len(released) >= ahead[0] + 10 * away > 10
        assert await db.jobs.count(kind="slow", state="available", attempt=0) == 99
        go_on.set()
        await ended(db, count=150)


async def test_of_two_claims_at_a_time_one_may_fail(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    """What the other gives is not forgotten, however late it comes."""
    claim, under_way, failed = db.jobs.claim, list[int](), asyncio.Event()

    async def claims(*given: Any, **options: Any) -> list[Job]:
        under_way.append(1)
        try:
            if len(under_way) == 2 and not failed.is_set():
                failed.set()
                raise UnavailableError("away")
            await asyncio.sleep(0)
            if failed.is_set() and not worker._stopping.is_set():
                worker.stop()
                await asyncio.sleep(0.3)
            return await claim(*given, **options)
        finally:
            under_way.pop()

    async def quick() -> None: ...

    monkeypatch.setattr(db.jobs, "claim", claims)
    await db.jobs.enqueue_many(new("quick") for _ in range(1000))
    async with working(db, {"quick": quick}, concurrency=2) as worker:
        await failed.wait()
    assert not under_way
    assert await db.jobs.count(state="running") == 0


async def test_old_jobs_are_deleted_as_fast_as_they_come(db: MultiDB, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker_module, "_PRUNED", 2)
    await db.jobs.enqueue_many(new("k") for _ in range(7))
    for job in await db.jobs.claim("q", worker="w", limit=6):
        await db.jobs.complete(job)
    async with working(db, {}, retention=timedelta(0)):
        await until(lambda: none_completed(db))


async def none_completed(db: MultiDB) -> bool:
    return not await db.jobs.exists(state="completed")
