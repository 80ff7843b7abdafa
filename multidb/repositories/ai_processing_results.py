"""AI processing results, and the logs of their jobs. MongoDB `ai_processing_results`, by the job's id."""

from collections.abc import Iterable
from typing import Any, ClassVar
from uuid import UUID

from multidb.models.ai_processing_results import (
    AiProcessingLog,
    AiProcessingResult,
    AiProcessingResultChanges,
    AiProcessingResultFields,
    NewAiProcessingResult,
)
from multidb.models.fields import utc_now
from multidb.repositories.collection_effects import ResultEffects, checked_lines
from multidb.repositories.mongo import MongoRepository
from multidb.repositories.repository import checked_class, checked_id
from multidb.stores.mongo.documents import Document

__all__ = ["MAX_LOGS", "AiProcessingResultRepository"]

#: The lines of log a job keeps: what MongoDB holds in one document, whatever is in them.
MAX_LOGS = 1000


class AiProcessingResultRepository(
    MongoRepository[AiProcessingResult, NewAiProcessingResult, AiProcessingResultChanges]
):
    """The calls on results.

    A job's workers write by `record` and `log`, which may be repeated, come in any order, and come
    from a worker that has lost the job meanwhile: the result of the latest claim stays.
    """

    c: ClassVar[AiProcessingResultFields]
    collection = "ai_processing_results"
    tenant = "company_id"
    effects = ResultEffects

    async def record(self, new: NewAiProcessingResult) -> AiProcessingResult:
        """Store the result of a claim, and return what is stored then.

        A claim with this lease, or a later one, that has written already keeps its result: it comes
        back, and its `lease` tells. The logs stay. Atomic; harmless to repeat.

        Raises: DataError if the lease is 0, which no claim has.
        Source: MongoDB; at once, whatever becomes of a transaction of PostgreSQL.
        """
        operation = self._operation("record")
        checked_class(NewAiProcessingResult, new, operation)
        return await self.put(new, version=new.lease)

    async def log(self, id: UUID, lines: Iterable[AiProcessingLog]) -> None:
        """Add lines to the log of the job with this id, whether or not it has a result yet.

        A line whose id is there already is not added again. Only the last 1,000 lines are kept, by
        `timestamp`. Atomic; harmless to repeat.

        Source: MongoDB; at once, whatever becomes of a transaction of PostgreSQL.
        """
        operation = self._operation("log")
        checked_id(id, operation)
        change = self._logged(checked_lines(lines, operation))
        await self._upserted({"_id": id}, change, ("id",), operation, self._company(operation))

    @staticmethod
    def _logged(lines: list[Document]) -> list[Document]:
        """Return the change that adds these lines: a pipeline, for it depends on those that are there."""
        there: dict[str, Any] = {"$ifNull": ["$logs", []]}
        missing = {
            "$filter": {
                "input": {"$literal": lines[-MAX_LOGS:]},
                "as": "line",
                "cond": {"$not": {"$in": ["$$line.id", {"$ifNull": ["$logs.id", []]}]}},
            }
        }
        ordered = {
            "$sortArray": {"input": {"$concatArrays": [there, missing]}, "sortBy": {"timestamp": 1, "id": 1}}
        }
        now = utc_now()
        return [
            {
                "$set": {
                    "logs": {"$slice": [ordered, -MAX_LOGS]},
                    "created_at": {"$ifNull": ["$created_at", now]},
                    "updated_at": {"$max": ["$updated_at", now]},
                    **{
                        name: {"$ifNull": [f"${name}", 0]}
                        for name in ("version", "lease", "input_tokens", "output_tokens", "cost_micros")
                    },
                }
            }
        ]
