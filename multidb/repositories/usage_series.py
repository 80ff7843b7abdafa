"""What usage is counted for, and the ids of the documents that add it up: the same in all processes."""

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated
from uuid import UUID, uuid5

import pydantic

from multidb.models.entity import Model
from multidb.models.usage_analytics import DIMENSIONS, Dimension, Granularity, Metric, Value
from multidb.repositories.windows import begin

__all__ = ["REQUESTS", "Series"]

#: The metric that `api_request_logs` is rolled up to: a record a request, its microseconds the amount.
REQUESTS = "api_requests"

_NAMESPACE = UUID("0198f2f0-5d3c-7b60-9c1e-6d0b7f4a2e11")


class Series(Model):
    """A metric, for one company, one user and one set of dimensions."""

    metric: Metric
    company_id: UUID | None = None
    user_id: UUID | None = None
    dimensions: Annotated[dict[Dimension, Value], pydantic.Field(max_length=DIMENSIONS)] = {}

    def part_of(self, moment: datetime, granularities: Iterable[Granularity]) -> dict[str, UUID]:
        """Return the ids of the documents that add up what is counted at a moment, by granularity."""
        owner = [self.metric, str(self.company_id), str(self.user_id), sorted(self.dimensions.items())]
        return {
            by: uuid5(_NAMESPACE, json.dumps([by, begin(moment, by).isoformat(), *owner]))
            for by in granularities
        }
