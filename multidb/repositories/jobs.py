"""Jobs: work to be done once, later. PostgreSQL `ai_processing_jobs`, not cached."""

from typing import ClassVar

from multidb.models.jobs import Job, JobChanges, JobFields, NewJob
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["JobRepository"]


class JobRepository(PostgresRepository[Job, NewJob, JobChanges]):
    """The calls on jobs."""

    c: ClassVar[JobFields]
    table = tables.ai_processing_jobs
    tenant = "company_id"
    unique = {
        "ai_processing_jobs_pkey": ("id",),
    }

    @classmethod
    def entity(cls) -> str:
        return "jobs"
