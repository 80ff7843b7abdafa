"""How a collection differs from its file. Asks no server: it is given what stands there."""

import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from multidb.ops.schemas.differences import Difference
from multidb.ops.schemas.files import FOREVER, CollectionSchema
from multidb.ops.schemas.indexes import different_indexes, expected_indexes, spoken
from multidb.ops.schemas.obstacles import Misfits
from multidb.ops.schemas.server import Command, Standing

__all__ = ["compare"]

_COPY = (
    "cannot be changed in place: copy the documents into a new collection, drop this one, let `schemas apply`"
    " make it anew, and copy them back"
)


def compare(
    schema: CollectionSchema, standing: Standing | None, kept_for: timedelta | None
) -> list[Difference]:
    """Return the differences, in the order in which they are made to go away."""
    name = schema.collection
    if standing is None:
        commands = tuple(_creation(schema, kept_for))
        return [Difference(name, "the collection is missing", "is created with its indexes", commands)]
    if standing.kind != ("collection" if schema.options.timeseries is None else "timeseries"):
        return [Difference(name, f"it is a {standing.kind}, and should not be", _COPY)]
    if (applied := _version(standing)) > schema.version:
        problem = f"version {applied} was applied, and this file is version {schema.version}"
        return [Difference(name, problem, "is left alone: apply the schemas of the newer release")]
    return [
        *_different_options(schema, standing),
        *_different_series_retention(schema, standing, kept_for),
        *_different_validation(schema, standing),
        *different_indexes(schema, standing, kept_for),
    ]


def _creation(schema: CollectionSchema, kept_for: timedelta | None) -> Iterator[Command]:
    create: dict[str, Any] = {
        "create": schema.collection,
        **schema.options.specification(),
        **schema.validation(),
    }
    if schema.options.timeseries is not None and kept_for is not None:
        create["expireAfterSeconds"] = int(kept_for.total_seconds())
    yield create
    if indexes := [index.specification() for index in expected_indexes(schema, kept_for)]:
        yield {"createIndexes": schema.collection, "indexes": indexes}


def _version(standing: Standing) -> int:
    """Return the version of the file that was applied last; 0 if none was, or it cannot be told."""
    comment = standing.validation["validator"].get("$comment")
    match = re.fullmatch(r"version (\d+)", comment) if isinstance(comment, str) else None
    return int(match[1]) if match else 0


def _different_options(schema: CollectionSchema, standing: Standing) -> Iterator[Difference]:
    wanted = schema.options.specification()
    # What `cappedMax: 0` takes off, the server lists as the greatest there is.
    there = {word: value for word, value in standing.options.items() if (word, value) != ("max", FOREVER)}
    for name in type(schema.options).model_fields:
        if _covers(wanted.get(name), there.get(name)):
            continue
        problem = f"`{name}` is {_told(there.get(name))}, not {_told(wanted.get(name))}"
        command = _option_change(schema.collection, name, wanted)
        if command is None or (name in {"size", "max"} and not there.get("capped")):
            yield Difference(schema.collection, problem, _COPY)
        else:
            danger = "the oldest documents may be deleted" if name in {"size", "max"} else ""
            yield Difference(schema.collection, problem, "is changed", (command,), danger=danger)


def _option_change(collection: str, name: str, wanted: Mapping[str, Any]) -> Command | None:
    """Return the command that changes an option in place, if there is one."""
    match name:
        case "changeStreamPreAndPostImages":
            return {"collMod": collection, name: wanted.get(name, {"enabled": False})}
        case "size" if wanted.get("size"):
            return {"collMod": collection, "cappedSize": wanted["size"]}
        case "max" if wanted.get("capped"):
            return {"collMod": collection, "cappedMax": wanted.get("max", 0)}
        case _:
            return None


def _covers(wanted: object, there: object) -> bool:
    """Tell whether what stands there has all that is wanted; the server adds what was left open."""
    if isinstance(wanted, dict) and not any(wanted.values()):
        wanted = None  # `{"enabled": false}` is not listed
    if isinstance(wanted, dict) and isinstance(there, Mapping):
        return all(_covers(value, there.get(key)) for key, value in wanted.items())
    return wanted == there or (not wanted and not there)


def _told(value: object) -> str:
    return "not set" if value is None else str(value)


def _different_series_retention(
    schema: CollectionSchema, standing: Standing, kept_for: timedelta | None
) -> Iterator[Difference]:
    if schema.options.timeseries is None:
        return
    there: int | None = standing.options.get("expireAfterSeconds")
    wanted = None if kept_for is None else int(kept_for.total_seconds())
    if there != wanted:
        before, after = ("forever" if each is None else spoken(each) for each in (there, wanted))
        command = {"collMod": schema.collection, "expireAfterSeconds": "off" if wanted is None else wanted}
        shorter = wanted is not None and (there is None or wanted < there)
        yield Difference(
            schema.collection,
            f"the retention is {before}, not {after}",
            "is changed",
            (command,),
            danger="what is older is deleted" if shorter else "",
        )


def _different_validation(schema: CollectionSchema, standing: Standing) -> Iterator[Difference]:
    wanted, there = schema.validation(), standing.validation
    if not wanted or wanted == there:
        return
    modified: Command = {"collMod": schema.collection, **wanted}
    changed = _changed(wanted, there)
    if not changed:
        problem = f"the schema's version is {_version(standing) or 'not set'}, not {schema.version}"
        yield Difference(schema.collection, problem, "is changed", (modified,))
        return
    problem, remedy = f"the validator differs ({', '.join(changed)})", "is changed"
    if schema.validationLevel == "off" or schema.validationAction == "warn":
        yield Difference(schema.collection, problem, remedy, (modified,))
        return
    yield Difference(
        schema.collection,
        problem,
        remedy,
        (modified,),
        probe=Misfits(schema.collection, wanted["validator"]),
        # Until the documents have been looked at once more, what does not fit is only logged.
        preparation=({"collMod": schema.collection, **schema.validation(validationAction="warn")},),
        undoing=({"collMod": schema.collection, **there},),
    )


def _changed(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """Return what differs but the version: the level, the action, fields of `$jsonSchema`, other words."""
    changed = [word for word in ("validationLevel", "validationAction") if wanted[word] != there[word]]
    ours, theirs = ({**each["validator"], "$comment": None} for each in (wanted, there))
    one, other = ours.pop("$jsonSchema", {}), theirs.pop("$jsonSchema", {})
    for mine, its in ((ours, theirs), (one.get("properties", {}), other.get("properties", {}))):
        changed += sorted(word for word in mine.keys() | its.keys() if mine.get(word) != its.get(word))
    words = (one.keys() | other.keys()) - {"properties"}
    return changed + sorted(word for word in words if one.get(word) != other.get(word))
