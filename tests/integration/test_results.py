"""Documents under the ids of rows: in whatever order writes arrive, the latest stays; and workers' logs."""

import asyncio
import itertools
import random
from datetime import timedelta

import pytest

from multidb import (
    AiProcessingLog,
    AiProcessingResult,
    DataError,
    MultiDB,
    NewAiProcessingResult,
    NewDocumentMetadata,
    uuid7,
)
from multidb.models import LogLevel
from multidb.models.fields import utc_now
from multidb.repositories.ai_processing_results import MAX_LOGS

pytestmark = pytest.mark.mongo


async def test_metadata_written_in_any_order_and_twice_ends_as_the_latest(db: MultiDB):
    company = uuid7()
    for order in itertools.permutations((1, 2, 3)):
        id = uuid7()
        for version in (*order, *order):
            new = NewDocumentMetadata(id=id, company_id=company, author=f"of {version}")
            stored = await db.document_metadata.put(new, version=version)
            assert stored.version >= version
        metadata = await db.document_metadata.fetch(id)
        assert (metadata.version, metadata.author) == (3, "of 3")


async def test_the_result_of_the_latest_claim_stays_whoever_comes_last(db: MultiDB):
    results = db.ai_processing_results
    for seed in range(5):
        id = uuid7()
        leases = [1, 2, 3, 4, 4, 3, 2, 1]
        random.Random(seed).shuffle(leases)
        stored = await asyncio.gather(
            *(
                results.record(NewAiProcessingResult(id=id, lease=lease, result={"by": lease}))
                for lease in leases
            )
        )
        assert all(each.lease >= lease for each, lease in zip(stored, leases, strict=True))
        last = await results.fetch(id)
        assert (last.lease, last.version, last.result) == (4, 4, {"by": 4})


async def test_a_result_replaces_what_an_earlier_claim_said_and_leaves_the_logs(db: MultiDB):
    results, id = db.ai_processing_results, uuid7()
    await results.log(id, [AiProcessingLog(lease=1, message="begun")])
    await results.record(NewAiProcessingResult(id=id, lease=1, error="out of memory", input_tokens=5))
    await results.record(NewAiProcessingResult(id=id, lease=2, result={"text": "short"}))
    stored = await results.fetch(id)
    assert (stored.error, stored.input_tokens, stored.result) == (None, 0, {"text": "short"})
    assert [line.message for line in stored.logs] == ["begun"]
    with pytest.raises(DataError, match="version"):
        await results.record(NewAiProcessingResult(id=id, lease=0))


async def test_logs_of_a_worker_that_lost_the_job_are_told_by_their_lease(db: MultiDB):
    results, id, company = db.ai_processing_results, uuid7(), uuid7()
    zombie = [AiProcessingLog(lease=1, message=f"old {n}", level=LogLevel.WARNING) for n in range(3)]
    worker = [AiProcessingLog(lease=2, message=f"new {n}") for n in range(3)]
    async with db.tenant(company):
        await results.log(id, worker[:2])
        assert (await results.fetch(id)).version == 0
        await results.record(NewAiProcessingResult(id=id, company_id=company, lease=2, result={}))
        # Late, in several pieces at once, and told twice.
        await asyncio.gather(*(results.log(id, [each]) for each in (*zombie, worker[2], *zombie)))
        stored: AiProcessingResult = await results.fetch(id)
    assert stored.company_id == company
    assert {line.id for line in stored.logs if line.lease < stored.lease} == {line.id for line in zombie}
    assert sorted(stored.logs, key=lambda line: line.id) == [*zombie, *worker]
    assert stored.lease == stored.version == 2
    async with db.tenant(uuid7()):
        assert await results.get(id) is None


async def test_a_log_keeps_its_last_lines(db: MultiDB):
    results, id = db.ai_processing_results, uuid7()
    lines = [AiProcessingLog(lease=1, message="\U0001f600" * 2000) for _ in range(MAX_LOGS + 50)]
    for start in range(0, len(lines), 350):
        await results.log(id, lines[start : start + 350])
    await results.log(id, lines[:50])
    stored = await results.fetch(id)
    assert [line.id for line in stored.logs] == [line.id for line in lines[-MAX_LOGS:]]


async def test_lines_may_come_in_any_order_and_twice(db: MultiDB):
    results, job = db.ai_processing_results, uuid7()
    now = utc_now()
    lines = [
        AiProcessingLog(lease=1, message=f"{age}", timestamp=now - timedelta(seconds=age))
        for age in range(MAX_LOGS + 5)
    ]
    await results.log(job, [lines[0], *lines])
    stored = (await results.fetch(job)).logs
    assert list(stored) == lines[MAX_LOGS - 1 :: -1]
