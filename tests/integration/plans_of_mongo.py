"""How MongoDB would run the pipelines and the changes of many documents that repositories send."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from bson import CodecOptions
from bson.binary import UuidRepresentation

from multidb import MultiDB

__all__ = ["scanned"]

OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)
Scans: TypeAlias = Callable[[], Awaitable[list[dict[str, Any]]]]


@contextmanager
def scanned(db: MultiDB) -> Iterator[Scans]:
    """Yield what tells which of those sent inside the block read a collection from end to end."""
    sent: list[dict[str, Any]] = []
    aggregate, change_many = db.mongo.aggregate, db.mongo.change_many

    async def heard(collection: str, pipeline: Sequence[Mapping[str, Any]], **options: Any) -> Any:
        sent.append({"aggregate": collection, "pipeline": list(pipeline), "cursor": {}})
        return await aggregate(collection, pipeline, **options)

    async def heard_update(collection: str, query: Any, change: Any, **options: Any) -> int:
        sent.append({"update": collection, "updates": [{"q": query, "u": change, "multi": True}]})
        return await change_many(collection, query, change, **options)

    async def scans() -> list[dict[str, Any]]:
        assert sent
        found = []
        for command in sent:
            plan = await db.mongo.database.command(
                {"explain": command, "verbosity": "queryPlanner"}, codec_options=OPTIONS
            )
            if "COLLSCAN" in repr(plan):
                found.append(command)
        return found

    db.mongo.aggregate = heard  # type: ignore[method-assign]
    db.mongo.change_many = heard_update  # type: ignore[method-assign]
    try:
        yield scans
    finally:
        del db.mongo.aggregate, db.mongo.change_many
