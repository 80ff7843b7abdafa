"""How the indexes of a collection differ from those its file names. Asks no server."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from multidb.ops.schemas.differences import Difference
from multidb.ops.schemas.files import FOREVER, RETENTION, CollectionSchema, IndexSchema
from multidb.ops.schemas.obstacles import Duplicates
from multidb.ops.schemas.server import Command, Standing

__all__ = ["different_indexes", "expected_indexes", "spoken"]

#: What `collMod` can change of an index.
_IN_PLACE = {"expireAfterSeconds", "hidden", "unique", "prepareUnique"}


def expected_indexes(schema: CollectionSchema, kept_for: timedelta | None) -> list[IndexSchema]:
    """Return the indexes the file names, and the one that keeps its retention."""
    indexes = list(schema.indexes)
    if kept_for is not None and schema.retention is not None and schema.options.timeseries is None:
        seconds = int(kept_for.total_seconds())
        indexes.append(
            IndexSchema(name=RETENTION, key={schema.retention.field: 1}, expireAfterSeconds=seconds)
        )
    return indexes


def different_indexes(
    schema: CollectionSchema, standing: Standing, kept_for: timedelta | None
) -> Iterator[Difference]:
    """Yield the differences: those that build first, those that drop last."""
    others = {name: each for name, each in standing.indexes.items() if not _made_by_server(schema, each)}
    expected = [(each.specification(), _listed(each, schema)) for each in expected_indexes(schema, kept_for)]
    found = [(wanted, listed, others.pop(wanted["name"], None)) for wanted, listed in expected]
    replaced: list[Difference] = []
    for wanted, listed, there in found:
        if there is not None and (changed := _changed(listed, there)):
            if (ways := _in_place(schema.collection, listed, there, changed)) is not None:
                yield from ways
            else:
                replaced.append(_redefined(schema.collection, wanted, there["name"], changed))
        elif there is None:
            twin = next(
                (name for name, each in others.items() if not _changed(listed, each) - {"name"}), None
            )
            if twin is None:
                yield _missing(schema.collection, wanted)
            else:
                del others[twin]
                replaced.append(_misnamed(schema.collection, wanted, twin))
    yield from replaced
    for name, there in others.items():
        if name == RETENTION and schema.retention is not None:
            if there.get("expireAfterSeconds") != FOREVER:
                yield _kept_for_ever(schema.collection)
        else:
            yield _unknown(schema.collection, name)


def spoken(seconds: int) -> str:
    """Return a time to live the way settings write it."""
    if seconds == FOREVER:
        return "forever"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and not seconds % length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _made_by_server(schema: CollectionSchema, index: Mapping[str, Any]) -> bool:
    """Tell whether it is the index that newer servers give every time series."""
    series = schema.options.timeseries or {}
    return bool(series) and list(index["key"]) == [series.get("metaField"), series.get("timeField")]


def _listed(index: IndexSchema, schema: CollectionSchema) -> dict[str, Any]:
    listed = index.listed()
    if schema.options.collation is not None:
        listed.setdefault("collation", schema.options.collation)
    if listed.get("collation", {}).get("locale") == "simple":
        del listed["collation"]  # by bytes, which the server lists as none
    return listed


def _changed(listed: Mapping[str, Any], there: Mapping[str, Any]) -> set[str]:
    """Return in which words the index that stands there differs from the file's."""
    changed = {word for word in listed.keys() | there.keys() if listed.get(word) != there.get(word)}
    # The order of the fields is part of the key, and dicts are equal without it.
    if list(listed["key"].items()) != list(there["key"].items()):
        changed.add("key")
    # The server adds what else belongs to a collation.
    if listed.get("collation", {}).items() <= there.get("collation", {}).items() and "collation" in listed:
        changed.discard("collation")
    return changed


def _in_place(
    collection: str, listed: Mapping[str, Any], there: Mapping[str, Any], changed: set[str]
) -> list[Difference] | None:
    """Return what makes it as the file says without building it anew, or None if nothing does."""
    expires = "expireAfterSeconds" in listed and len(listed["key"]) == 1
    if (
        changed - _IN_PLACE
        or ("expireAfterSeconds" in changed and not expires)
        or ("unique" in changed and not listed.get("unique"))
    ):
        return None
    ways: list[Difference] = []
    if "expireAfterSeconds" in changed:
        ways.append(_expiring(collection, listed, there))
    if "hidden" in changed:
        ways.append(_hidden(collection, listed))
    if "unique" in changed:
        ways.append(_made_unique(collection, listed))
    elif "prepareUnique" in changed:
        ways.append(_no_more_prepared(collection, listed))
    return ways


def _modified(collection: str, index: Mapping[str, Any], word: str, value: object) -> Command:
    return {"collMod": collection, "index": {"name": index["name"], word: value}}


def _expiring(collection: str, listed: Mapping[str, Any], there: Mapping[str, Any]) -> Difference:
    name, seconds = listed["name"], listed["expireAfterSeconds"]
    before: int = there.get("expireAfterSeconds", FOREVER)
    what = "the retention is" if name == RETENTION else f"index {name} keeps documents for"
    return Difference(
        collection,
        f"{what} {spoken(before)}, not {spoken(seconds)}",
        "is changed",
        (_modified(collection, listed, "expireAfterSeconds", seconds),),
        danger="what is older is deleted" if seconds < before else "",
    )


def _hidden(collection: str, listed: Mapping[str, Any]) -> Difference:
    hidden = listed.get("hidden", False)
    problem = f"index {listed['name']} is {'not ' * hidden}hidden"
    return Difference(collection, problem, "is changed", (_modified(collection, listed, "hidden", hidden),))


def _made_unique(collection: str, listed: Mapping[str, Any]) -> Difference:
    return Difference(
        collection,
        f"index {listed['name']} is not unique",
        "is made so",
        (_modified(collection, listed, "unique", True),),
        probe=Duplicates(collection, listed),
        preparation=(_modified(collection, listed, "prepareUnique", True),),
        undoing=(_modified(collection, listed, "prepareUnique", False),),
    )


def _no_more_prepared(collection: str, listed: Mapping[str, Any]) -> Difference:
    problem = f"index {listed['name']} refuses new duplicates"
    return Difference(
        collection, problem, "is changed", (_modified(collection, listed, "prepareUnique", False),)
    )


def _missing(collection: str, wanted: dict[str, Any]) -> Difference:
    name = wanted["name"]
    problem = f"index {name} is missing"
    danger = ""
    if "expireAfterSeconds" in wanted:
        danger = "documents that are due are deleted"
        if name == RETENTION:
            problem = f"the retention is forever, not {spoken(wanted['expireAfterSeconds'])}"
    if not wanted.get("unique"):
        return Difference(collection, problem, "is built", (_create(collection, wanted),), danger=danger)
    plain = {word: value for word, value in wanted.items() if word != "unique"}
    return Difference(
        collection,
        problem,
        "is built, then made unique",
        ({"collMod": collection, "index": {"name": name, "unique": True}},),
        probe=Duplicates(collection, wanted),
        # From here on it refuses new duplicates.
        preparation=(_create(collection, {**plain, "prepareUnique": True}),),
        undoing=(_drop(collection, name),),
    )


def _redefined(collection: str, wanted: dict[str, Any], name: str, changed: set[str]) -> Difference:
    return Difference(
        collection,
        f"index {name} differs ({', '.join(sorted(changed))})",
        "is dropped and built anew, unless the file gives the new one another name",
        (_drop(collection, name), _create(collection, wanted)),
        needs="drop_indexes",
        danger="meanwhile queries do without it",
    )


def _misnamed(collection: str, wanted: dict[str, Any], twin: str) -> Difference:
    return Difference(
        collection,
        f"index {wanted['name']} is there as {twin}",
        "is dropped and built under its name",
        (_drop(collection, twin), _create(collection, wanted)),
        needs="drop_indexes",
        danger="meanwhile queries do without it",
    )


def _unknown(collection: str, name: str) -> Difference:
    return Difference(
        collection,
        f"index {name} is in no file",
        "is dropped",
        (_drop(collection, name),),
        needs="drop_indexes",
        harmless=True,
    )


def _kept_for_ever(collection: str) -> Difference:
    modified = {"collMod": collection, "index": {"name": RETENTION, "expireAfterSeconds": FOREVER}}
    return Difference(
        collection, "documents are deleted in time, not kept forever", "is changed", (modified,)
    )


def _create(collection: str, index: Mapping[str, Any]) -> Command:
    return {"createIndexes": collection, "indexes": [index]}


def _drop(collection: str, name: str) -> Command:
    return {"dropIndexes": collection, "index": name}
