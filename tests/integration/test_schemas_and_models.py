"""Each model and its collection's validator say the same, held against each other on documents of all kinds.

A document fits a model if the model reads it and would store it again as it is, to the byte. The
validator must let in those documents and no others; whoever reads then never meets one that does
not fit, and whoever writes past the repositories is refused what they would refuse.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import bson
import pytest
from bson.binary import UuidRepresentation
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError

from multidb import uuid7
from multidb.models import ApiRequestLog, Entity, UserActivityLog
from multidb.models.outbox import StreamPosition
from multidb.ops.schemas import CollectionSchema, load
from multidb.registry import BUILT_IN
from multidb.repositories.mongo_reader import MongoReader
from multidb.settings import MongoSettings, Settings

from .places import place

pytestmark = pytest.mark.mongo

#: Those that no repository serves yet, and those that one does.
MODELS: dict[str, type[Entity]] = {
    "api_request_logs": ApiRequestLog,
    "user_activity_logs": UserActivityLog,
    "outbox_streams": StreamPosition,
    **{each.collection: each.model for each in BUILT_IN if issubclass(each, MongoReader)},
}

SCHEMAS = {
    each.collection: each for each in load(MongoSettings(_env_file=None, mongo_url="mongodb://none/none"))
}

every_schema = pytest.mark.parametrize("name", sorted(SCHEMAS))

#: Deterministic, and few: each is many documents.
FEW = settings(
    derandomize=True,
    max_examples=3,
    deadline=None,
    # Each example says itself which document it is about; to look for a smaller one takes minutes.
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

OPTIONS = bson.CodecOptions[dict[str, Any]](tz_aware=True, uuid_representation=UuidRepresentation.STANDARD)

#: Of longer texts a few are enough, and of those beyond the next none are made.
LONG, LONGEST = 1_000, 200_000

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
)
WORDS = st.text("abcdefgh_", min_size=1, max_size=6)


class Validated:
    """A collection with one file's validator, and none of its indexes."""

    def __init__(self, collection: Collection[dict[str, Any]]) -> None:
        self._collection = collection

    def refused(self, documents: list[dict[str, Any]]) -> set[int]:
        """Store them, and return which of them were not let in."""
        try:
            self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            # One that is there already was let in.
            return {each["index"] for each in error.details["writeErrors"] if each["code"] != 11000}
        return set()


@pytest.fixture
def validated(name: str, multidb_servers: Settings, tmp_path: Path) -> Iterator[Validated]:
    with place(multidb_servers, tmp_path) as here:
        yield Validated(here.database.create_collection("validated", **SCHEMAS[name].validation()))


def stored(entity: Entity) -> dict[str, Any]:
    """Return an entity as a repository stores it: without what is None by default."""
    absent = {name for name, field in type(entity).model_fields.items() if field.default is None}
    document = {
        name: value for name, value in entity.model_dump().items() if value is not None or name not in absent
    }
    return {"_id": document.pop("id"), **document}


def fits(model: type[Entity], document: dict[str, Any]) -> bool:
    """Tell whether the model reads the document, and would store it as it is."""
    values = {"id" if name == "_id" else name: value for name, value in document.items()}
    try:
        again = stored(model.model_validate(values))
    except ValidationError:
        return False
    if again.keys() != document.keys():
        return False
    return all(
        bson.encode({"": again[name]}, codec_options=OPTIONS)
        == bson.encode({"": value}, codec_options=OPTIONS)
        for name, value in document.items()
    )


# --- documents that fit


def values_of(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values as this part of a model's JSON Schema describes them."""
    match schema:
        case {"$ref": ref}:
            return values_of(root["$defs"][ref.rpartition("/")[2]], root)
        case {"anyOf": parts} | {"oneOf": parts}:
            return st.one_of(*(values_of(part, root) for part in parts))
        case {"const": value}:
            return st.just(value)
        case {"enum": values}:
            return st.sampled_from(values)
        case {"type": "array"}:
            sizes = {"min_size": schema.get("minItems", 0), "max_size": min(schema.get("maxItems", 4), 4)}
            return st.lists(values_of(schema.get("items", {}), root), **sizes)
        case {"type": "object"}:
            return objects(schema, root)
        case _:
            return plain_values(schema)


def objects(schema: dict[str, Any], root: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "properties" not in schema:
        more = schema.get("additionalProperties", True)
        values = values_of(more, root) if isinstance(more, dict) else PLAIN | st.lists(PLAIN, max_size=2)
        return st.dictionaries(WORDS, values, max_size=3)
    fields = {name: values_of(each, root) for name, each in schema["properties"].items()}
    required = schema.get("required", ())
    return st.fixed_dictionaries(
        {name: values for name, values in fields.items() if name in required},
        optional={name: values for name, values in fields.items() if name not in required},
    )


def plain_values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match schema:
        case {"type": "null"}:
            return st.none()
        case {"type": "boolean"}:
            return st.booleans()
        case {"type": "integer"}:
            return st.integers(*bounds(schema))
        case {"type": "number"}:
            low, high = schema.get("minimum"), schema.get("maximum")
            return st.floats(low, high, allow_nan=False, allow_infinity=False)
        case {"format": "uuid"}:
            return st.uuids()
        case {"format": "date-time"}:
            ends = (datetime(year, 1, 1) for year in (1970, 2100))  # noqa: DTZ001 - as hypothesis wants them
            return st.datetimes(*ends, timezones=st.just(UTC))
        case {"type": "string"}:
            return texts(schema)
        case _:
            return PLAIN


def bounds(schema: dict[str, Any]) -> tuple[int, int]:
    low = schema.get("minimum", schema.get("exclusiveMinimum", -(2**63) - 1) + 1)
    high = schema.get("maximum", schema.get("exclusiveMaximum", 2**63) - 1)
    return low, high


def texts(schema: dict[str, Any]) -> st.SearchStrategy[str]:
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 60)
    if "pattern" in schema:
        return (
            st.from_regex(schema["pattern"])
            .map(str.strip)
            .filter(lambda text: shortest <= len(text) <= longest)
        )
    # With what takes several bytes, or two units of UTF-16.
    some = st.text(min_size=shortest, max_size=min(longest, 60))
    if longest > LONG:
        return some
    return some | st.sampled_from("xé\U0001f600").map(lambda each: each * longest)


def entities(model: type[Entity]) -> st.SearchStrategy[Entity]:
    """Return a model's entities."""
    root = model.model_json_schema()
    values = values_of({**root, "required": list(root["properties"])}, root)

    def made(given: dict[str, Any]) -> list[Entity]:
        try:
            return [model.model_validate(given)]
        except ValidationError:
            return []

    return values.map(made).filter(bool).map(lambda one: one[0])


# --- documents that fit but for one field


def odd_values(schema: dict[str, Any], value: Any) -> Iterator[Any]:
    """Yield what a field may be given: values of every type, and those at and beyond its bounds."""
    yield from (None, True, False, "", " ", "x", "x\n", "\n", "é", [], [1], ["x"], {}, {"x": 1}, [{}])
    yield from (0, 1, -1, 2**31, 2**63 - 1, -(2**63), 0.0, 1.5, -0.5, float("nan"), float("inf"))
    yield from (datetime(2026, 1, 1, tzinfo=UTC), bson.ObjectId(), bson.Regex("x"))
    if not isinstance(value, UUID):
        yield uuid4()
        yield b"bytes"
    if isinstance(value, str):
        yield from (value + "\n", value + "!", value.upper(), value.lower(), "!" + value, value[:-1])
    for part in (schema, *schema.get("anyOf", ())):
        for length in (part.get("minLength"), part.get("maxLength")):
            if length is not None and length <= LONGEST:
                letters = "xé\U0001f600" if length <= LONG else "é"
                yield from (each * max(0, length + by) for each in letters for by in (-1, 0, 1))
        if part.get("type") == "integer":
            yield from (
                bound + by for bound in bounds(part) for by in (-1, 0, 1) if -(2**63) <= bound + by < 2**63
            )
        if part.get("type") == "number":
            yield from (float(bound) + by for bound in bounds(part) for by in (-0.5, 0.0, 0.5))
        for key in ("minItems", "maxItems"):
            if (size := part.get(key)) is not None and isinstance(value, list) and value:
                yield from ([*value * size][: max(0, size + by)] for by in (-1, 0, 1))


def variations(model: type[Entity], document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the document with one field left out, added, or of another value."""
    schema = model.model_json_schema()
    root = {**schema, "properties": {"_id": schema["properties"]["id"], **schema["properties"]}}
    fresh = document if "_id" not in document else {**document, "_id": uuid7()}
    yield {**fresh, "extra": 1}
    yield {**fresh, "id": uuid7()}
    for field in root["properties"]:
        if field == "id":
            continue
        part = root["properties"][field]
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rpartition("/")[2]]
        yield {name: value for name, value in fresh.items() if name != field}
        for odd in odd_values(part, example(part, document.get(field), schema)):
            yield {**fresh, "_id": uuid7(), field: odd}


def example(part: dict[str, Any], value: Any, root: dict[str, Any]) -> Any:
    """Return the field's value, or an id where the document has none and it would be one."""
    if value is None and any(each.get("format") == "uuid" for each in (part, *part.get("anyOf", ()))):
        return uuid4()
    return value


def told(name: str, schema: CollectionSchema, document: dict[str, Any]) -> str:
    fields = schema.validator["$jsonSchema"].get("properties", {})
    return f"{name}: { ({field: (value, fields.get(field)) for field, value in document.items()}) }"


class TestEverySchema:
    def test_it_has_a_model(self) -> None:
        assert SCHEMAS.keys() == MODELS.keys()

    @every_schema
    def test_it_knows_the_models_fields_and_no_others(self, name: str) -> None:
        known = SCHEMAS[name].validator["$jsonSchema"]
        assert set(known["properties"]) == {"_id", *MODELS[name].model_fields} - {"id"}
        assert known["additionalProperties"] is False

    @every_schema
    def test_what_the_model_makes_is_let_in(self, name: str, validated: Validated) -> None:
        @FEW
        @given(st.lists(entities(MODELS[name]), min_size=20, max_size=40))
        def hold(made: list[Entity]) -> None:
            documents = [{**stored(each), "_id": uuid7()} for each in made]
            refused = validated.refused(documents)
            assert not refused, told(name, SCHEMAS[name], documents[min(refused)])

        hold()

    @every_schema
    def test_what_the_model_would_not_make_is_not_let_in(self, name: str, validated: Validated) -> None:
        model = MODELS[name]

        @FEW
        @given(entities(model))
        def hold(made: Entity) -> None:
            documents = list(variations(model, stored(made)))
            refused = validated.refused(documents)
            for number, document in enumerate(documents):
                if fits(model, document) is (number in refused):
                    verdict = "is refused" if number in refused else "is let in"
                    changed = {field: value for field, value in document.items() if field != "_id"}
                    pytest.fail(f"{verdict}, and the model says otherwise: {str(changed)[:600]}")

        hold()
