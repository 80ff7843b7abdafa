"""`MongoRepository`: the calls every collection has."""

from typing import Generic

from typing_extensions import TypeVar

from multidb.models.entity import Entity
from multidb.repositories.mongo_reader import MongoReader

__all__ = ["MongoRepository"]

ModelT = TypeVar("ModelT", bound=Entity)


class MongoRepository(MongoReader[ModelT], Generic[ModelT]):
    """Documents of one collection, as `ModelT`. The model's `id` is the document's `_id`."""
