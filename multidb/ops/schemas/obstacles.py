"""What a change of the schema would meet: documents that do not fit, values that are there twice.

They are counted, and a few are named: by id and by field, never by value.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from pymongo.errors import OperationFailure

from multidb.errors import StoreError
from multidb.ops.schemas.server import Server

__all__ = ["Duplicates", "Look", "Misfits", "Obstacle", "Probe"]

#: CannotConvertIndexToUnique.
_CANNOT_CONVERT = 359

#: How many documents are named.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Documents in the way."""

    count: int
    #: What of them, such as "documents do not fit".
    problem: str
    #: The first of them: their ids, each with the fields it is about.
    samples: tuple[str, ...]

    def __str__(self) -> str:
        more = ", …" if self.count > len(self.samples) else ""
        return f"{self.count} {self.problem}: {', '.join(self.samples)}{more}"


#: Returns what is in the way, or None.
Look: TypeAlias = Callable[[Server], Awaitable[Obstacle | None]]


class Probe(Protocol):
    """Looks for what is in the way of a change. Reads the whole collection, and changes nothing."""

    async def look(self, server: Server) -> Obstacle | None:
        """Return what is in the way, or None."""
        ...

    async def look_again(self, server: Server) -> Obstacle | None:
        """Return what is in the way once all has been prepared, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Misfits:
    """Documents that a validator would refuse."""

    collection: str
    validator: Mapping[str, Any]

    async def look(self, server: Server) -> Obstacle | None:
        """Return how many there are, or None if there are none."""
        unfit = {"$match": {"$nor": [self.validator]}}
        counted = await _aggregate(server, self.collection, [unfit, {"$count": "count"}])
        if not counted:
            return None
        (facets,) = await _aggregate(
            server, self.collection, [unfit, {"$limit": _NAMED}, {"$facet": self._facets()}]
        )
        return Obstacle(counted[0]["count"], "documents do not fit", tuple(self._samples(facets)))

    async def look_again(self, server: Server) -> Obstacle | None:
        """Look once more: documents may have come since."""
        return await self.look(server)

    @property
    def _schema(self) -> Mapping[str, Any]:
        schema: Mapping[str, Any] = self.validator.get("$jsonSchema", {})
        return schema

    def _facets(self) -> dict[str, Any]:
        """Return a pipeline for each field, of the documents in which it does not fit."""
        # Their fields' names alone: no value leaves the server.
        names = {"$map": {"input": {"$objectToArray": "$$ROOT"}, "in": "$$this.k"}}
        facets: dict[str, Any] = {"names": [{"$project": {"names": names}}]}
        for number, (name, schema) in enumerate(self._schema.get("properties", {}).items()):
            alone = {"$jsonSchema": {"properties": {name: schema}}}
            facets[f"field{number}"] = [{"$match": {"$nor": [alone]}}, {"$project": {"_id": 1}}]
        return facets

    def _samples(self, facets: Mapping[str, Any]) -> list[str]:
        known: Mapping[str, Any] = self._schema.get("properties", {})
        required = self._schema.get("required", ())
        closed = self._schema.get("additionalProperties") is False
        wrong: defaultdict[str, list[str]] = defaultdict(list)
        for number, name in enumerate(known):
            for document in facets[f"field{number}"]:
                wrong[str(document["_id"])].append(name)
        samples: list[str] = []
        for document in facets["names"]:
            there = document["names"]
            fields = [
                *wrong[str(document["_id"])],
                *(name for name in required if name not in there),
                *(name for name in there if closed and name not in known),
            ]
            about = f" ({', '.join(dict.fromkeys(fields))})" if fields else ""
            samples.append(f"{document['_id']}{about}")
        return samples


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Values that more than one document has in the fields of an index which is to be unique."""

    collection: str
    index: Mapping[str, Any]

    async def look(self, server: Server) -> Obstacle | None:
        """Return how many values there are more than once, or None if there are none."""
        fields = list(self.index["key"])
        covered: dict[str, Any] = dict(self.index.get("partialFilterExpression", {}))
        if self.index.get("sparse"):
            covered = {"$and": [covered, {"$or": [{field: {"$exists": True}} for field in fields]}]}
        # An absent field counts as null there.
        value = {f"key{n}": {"$ifNull": [f"${field}", None]} for n, field in enumerate(fields)}
        group = {"_id": value, "count": {"$sum": 1}, "ids": {"$firstN": {"input": "$_id", "n": 2}}}
        found = await _aggregate(
            server,
            self.collection,
            [
                {"$match": covered},
                {"$group": group},
                {"$match": {"count": {"$gt": 1}}},
                {
                    "$facet": {
                        "all": [{"$count": "count"}],
                        "some": [{"$limit": _NAMED}, {"$project": {"ids": 1}}],
                    }
                },
            ],
            collation=self.index.get("collation"),
        )
        if not found[0]["all"]:
            return None
        return self._obstacle(found[0]["all"][0]["count"], [each["ids"] for each in found[0]["some"]])

    async def look_again(self, server: Server) -> Obstacle | None:
        """Let the server look: it refuses new duplicates by now, and also knows those inside lists."""
        trial = {"name": self.index["name"], "unique": True}
        try:
            await server.run({"collMod": self.collection, "index": trial, "dryRun": True})
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, OperationFailure) or cause.code != _CANNOT_CONVERT:
                raise
            violations = (cause.details or {}).get("violations", ())
            return self._obstacle(len(violations), [each["ids"] for each in violations])
        return None

    def _obstacle(self, count: int, ids: Sequence[Sequence[object]]) -> Obstacle:
        fields = ", ".join(self.index["key"])
        samples = [f"{' and '.join(map(str, each[:2]))} ({fields})" for each in ids[:_NAMED]]
        return Obstacle(count, "values are there more than once", tuple(samples))


async def _aggregate(
    server: Server, collection: str, pipeline: list[dict[str, Any]], *, collation: object = None
) -> list[dict[str, Any]]:
    command: dict[str, Any] = {
        "aggregate": collection,
        "pipeline": pipeline,
        "cursor": {},
        "allowDiskUse": True,
    }
    if collation is not None:
        command["collation"] = collation
    batch: list[dict[str, Any]] = (await server.run(command))["cursor"]["firstBatch"]
    return batch
