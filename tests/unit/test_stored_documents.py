"""Documents become models as validation would make them, whether or not it is asked."""

from datetime import UTC, datetime
from typing import Annotated, Any

import pytest
from bson import decode, encode
from bson.int64 import Int64
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, field_validator

from multidb import ApiRequestLog, DataError, Entity, FormSubmission, SystemLog, UserActivityLog, uuid7
from multidb.repositories import stored_documents
from multidb.repositories.repository import validated
from multidb.repositories.stored_documents import document_reader
from multidb.stores.mongo.documents import _OPTIONS
from tests.collections import Paper

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)

#: What a field may hold, of every type there is, and within the bounds of all.
VALUES = st.sampled_from(
    [
        None, True, 200, Int64(200), 200.5, "x", "error", "GET", "200", b"x", NOW, uuid7(), str(uuid7()),
        {}, {"a": [1, {"b": NOW}]}, [], ["x"], [1],
    ]
)  # fmt: skip


def validating(model: type[BaseModel], document: dict[str, Any]) -> BaseModel:
    values = dict(document)
    values["id"] = values.pop("_id")
    return validated(model, values, "read")


def outcome(read: Any, *args: Any) -> Any:
    try:
        made = read(*args)
    except DataError as error:
        return str(error)
    # Their types and zones too, and the order of the fields.
    return made, repr(made)


GIVEN: dict[type[Entity], dict[str, Any]] = {
    SystemLog: {"timestamp": NOW, "level": "error", "service": "s", "message": "m", "context": {"a": 1}},
    ApiRequestLog: {
        "timestamp": NOW, "service": "s", "method": "GET", "endpoint": "/", "status": 200, "duration_ms": 1.0,
    },
    Paper: {"created_at": NOW, "updated_at": NOW, "version": 1, "slug": "s", "title": "t"},
}  # fmt: skip


READERS = {model: document_reader(model, "read") for model in GIVEN}


@pytest.mark.parametrize("model", [*GIVEN, UserActivityLog, FormSubmission])
def test_no_validation_is_needed_for_these(model: type[Entity]):
    assert stored_documents._parts(model) is not None


@pytest.mark.parametrize("model", GIVEN)
@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_is_stored_it_is_read_as_validation_reads_it(model: type[Entity], data: st.DataObject):
    document: dict[str, Any] = {"_id": uuid7(), **GIVEN[model]}
    names = st.sampled_from(["_id", "id", "unknown", *model.model_fields])
    document |= data.draw(st.dictionaries(names, VALUES, max_size=2))
    # Not the timestamp, whose default is another each time.
    for name in data.draw(st.sets(st.sampled_from(list(document)), max_size=1)) - {"_id", "timestamp"}:
        del document[name]
    document = decode(encode(document, codec_options=_OPTIONS), codec_options=_OPTIONS)
    assert outcome(READERS[model], document) == outcome(validating, model, document)


def test_what_others_wrote_out_of_bounds_is_returned_as_it_is():
    document = {"_id": uuid7(), **GIVEN[SystemLog], "service": ""}
    assert document_reader(SystemLog, "read")(document).service == ""


def test_the_document_stays_as_it_was():
    document = {"_id": uuid7(), **GIVEN[SystemLog], "level": "unknown"}
    before = dict(document)
    with pytest.raises(DataError, match="`level` of SystemLog"):
        READERS[SystemLog](document)
    assert document == before


class Shouted(Entity):
    text: Annotated[str, AfterValidator(str.upper)]


class Whispered(Entity):
    text: str

    @field_validator("text")
    @classmethod
    def whisper(cls, text: str) -> str:
        return text.lower()


def test_a_model_that_changes_values_is_validated():
    document = {"_id": uuid7(), "text": "Xy"}
    assert document_reader(Shouted, "read")(document).text == "XY"
    assert document_reader(Whispered, "read")(document).text == "xy"
