"""Form submissions: held against the version of the form, told by field, whatever the form is up to."""

import asyncio
import socket
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from multidb import (
    AlreadyExistsError,
    DataError,
    Form,
    InvalidSubmissionError,
    MultiDB,
    NewCompany,
    NewForm,
    NewFormSubmission,
    NotFoundError,
    uuid7,
)

pytestmark = pytest.mark.mongo

SURVEY = {
    "type": "object",
    "required": ["name", "address"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 2, "pattern": "^[A-Z][a-z]+$"},
        "age": {"type": "integer", "minimum": 18},
        "mail": {"type": "string", "format": "email"},
        "born": {"type": "string", "format": "date-time"},
        "colour": {"enum": ["red", "blue"]},
        "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        "address": {"$ref": "#/$defs/address"},
    },
    "$defs": {
        "address": {"type": "object", "required": ["street"], "properties": {"zip": {"type": "string"}}}
    },
}
FITTING = {"name": "Ada", "age": 36, "address": {"street": "S", "zip": "1"}, "tags": ["a", "b"]}


@pytest.fixture
async def company(db: MultiDB):
    return (await db.companies.add(NewCompany(name="A", slug="a"))).id


@pytest.fixture
def make_form(db: MultiDB, company):
    async def made(definition: dict[str, Any]) -> Form:
        return await db.forms.add(NewForm(company_id=company, name=str(uuid7()), definition=definition))

    return made


def answers(form: Form, given: dict[str, Any], **fields: Any) -> NewFormSubmission:
    return NewFormSubmission(form_id=form.id, answers=given, **fields)


async def test_what_fits_is_stored_with_the_version_it_was_held_against(db: MultiDB, company, make_form):
    form = await make_form(SURVEY)
    first = await db.form_submissions.add(answers(form, FITTING))
    assert (first.form_version, first.company_id, first.answers) == (1, company, FITTING)
    form = await db.forms.update(form.id, definition={"required": ["email"]})
    with pytest.raises(InvalidSubmissionError) as caught:
        await db.form_submissions.add(answers(form, FITTING))
    assert caught.value.errors == {"email": ("must be answered",)}
    second = await db.form_submissions.add(answers(form, {"email": "a@b"}))
    assert second.form_version == 2
    page = await db.form_submissions.find(form_id=form.id)
    assert page.items == (second, first)
    with pytest.raises(AlreadyExistsError):
        await db.form_submissions.add(answers(form, {"email": "a@b"}, id=first.id))
    assert await db.form_submissions.delete(first.id)
    assert not await db.form_submissions.delete(first.id)
    assert await db.form_submissions.delete_many(form_id=form.id) == 1


async def test_each_field_is_told_what_is_wrong_and_no_value(db: MultiDB, make_form):
    form = await make_form(SURVEY)
    given = {
        "name": "hunter2",
        "age": 3,
        "mail": "hunter2",
        "born": "2026-01-01",
        "colour": "hunter2",
        "tags": ["hunter2", 7, "hunter2"],
        "address": {"zip": 5},
        "hunter2": 1,
    }
    with pytest.raises(InvalidSubmissionError) as caught:
        await db.form_submissions.add(answers(form, given))
    assert caught.value.errors == {
        "": ("has fields that the form does not ask for",),
        "name": ("does not have the form that is asked for",),
        "age": ("must be 18 or more",),
        "mail": ("must be a valid email",),
        "born": ("must be a valid date-time",),
        "colour": ("must be one of the values the form offers",),
        "tags": ("must not have an item twice",),
        "tags.1": ("must be of type string",),
        "address.street": ("must be answered",),
        "address.zip": ("must be of type string",),
    }
    assert "hunter2" not in str(caught.value) + repr(caught.value.errors)
    assert await db.form_submissions.count() == 0


async def test_python_values_are_held_and_stored_as_json_has_them(db: MultiDB, make_form):
    form = await make_form({"properties": {"at": {"format": "date-time"}, "who": {"format": "uuid"}}})
    moment, id = datetime(2026, 1, 1, tzinfo=UTC), uuid7()
    stored = await db.form_submissions.add(answers(form, {"at": moment, "who": id, "in": (1, 2)}))
    assert stored.answers == {"at": "2026-01-01T00:00:00Z", "who": str(id), "in": [1, 2]}
    assert await db.form_submissions.get(stored.id) == stored


async def test_the_draft_is_the_forms_own(db: MultiDB, make_form):
    # In draft 4 `exclusiveMinimum` is a boolean.
    four = await make_form(
        {
            "$schema": "http://json-schema.org/draft-04/schema#",
            "properties": {"n": {"minimum": 1, "exclusiveMinimum": True}},
        }
    )
    with pytest.raises(InvalidSubmissionError):
        await db.form_submissions.add(answers(four, {"n": 1}))
    await db.form_submissions.add(answers(four, {"n": 2}))
    for draft in ("http://example.com/mine", 7):
        form = await make_form({"$schema": draft})
        with pytest.raises(DataError, match="schema"):
            await db.form_submissions.add(answers(form, {}))


DOUBLING = {
    "$ref": "#/$defs/0",
    "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(60)} | {"60": {}},
}


NAMES = """
keyword nesting reference cycle doubling unreadable ahead names long large operator class
"""


@pytest.mark.parametrize(
    ("definition", "given"),
    [
        ({"type": "nonsense"}, {}),
        ({"properties": 5}, {}),
        ({"$ref": "#/$defs/missing"}, {}),
        ({"$ref": "#"}, {}),
        (DOUBLING, {}),
        ({"properties": {"a": {"pattern": "("}}}, {"a": "a"}),
        ({"properties": {"a": {"pattern": "(?=a)"}}}, {"a": "a"}),
        ({"patternProperties": {"^(a*)*$": {}}}, {"a" * 60 + "!": 1}),
        ({"description": "x" * 200_000}, {}),
        ({}, {"a": "x" * 2_000_000}),
        ({}, {"a": {"$gt": 1}}),
        ({}, {"a": object()}),
    ],
    ids=NAMES.split(),
)
async def test_a_form_or_answers_that_would_harm_are_refused_soon(
    db: MultiDB, make_form, definition: dict[str, Any], given: dict[str, Any]
):
    form = await make_form(definition)
    start = time.process_time()
    with pytest.raises(DataError) as caught:
        await db.form_submissions.add(answers(form, given))
    assert not isinstance(caught.value, InvalidSubmissionError)
    assert time.process_time() - start < 20  # and not for ever
    assert await db.form_submissions.count() == 0


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|a)*$", "a*a*a*a*b$"])
async def test_a_pattern_takes_no_longer_than_its_text(db: MultiDB, make_form, pattern: str):
    """Python's `re` would not be done with these before the test's time is over."""
    form = await make_form({"properties": {"a": {"pattern": pattern}}})
    with pytest.raises(InvalidSubmissionError):
        await db.form_submissions.add(answers(form, {"a": "a" * 50_000 + "!"}))


async def test_many_items_are_soon_told_apart(db: MultiDB, make_form):
    form = await make_form({"properties": {"rows": {"uniqueItems": True}}})
    rows: list[object] = [{"n": [n]} for n in range(5000)]
    begun = time.process_time()
    await db.form_submissions.add(answers(form, {"rows": [*rows, 1, True, "1", [1], [True]]}))
    assert time.process_time() - begun < 5
    for twice in ([*rows, {"n": [4.0]}], [1, 1.0], [[{"a": True}], [{"a": True}]]):
        with pytest.raises(InvalidSubmissionError, match="twice"):
            await db.form_submissions.add(answers(form, {"rows": twice}))


async def test_nothing_is_fetched(db: MultiDB, make_form, monkeypatch: pytest.MonkeyPatch):
    form = await make_form({"$ref": "http://127.0.0.1:9/schema.json"})
    await db.forms.get(form.id)  # connected by now

    def connect(*_: object) -> None:
        pytest.fail("it went out")

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(DataError, match="leads nowhere"):
        await db.form_submissions.add(answers(form, {}))


async def test_a_form_of_nobody_or_of_others_is_not_found(db: MultiDB, company, make_form):
    form = await make_form({})
    async with db.tenant(uuid7()):
        with pytest.raises(NotFoundError):
            await db.form_submissions.add(answers(form, {}))
    async with db.tenant(company):
        stored = await db.form_submissions.add(answers(form, {}))
    async with db.tenant(uuid7()):
        assert await db.form_submissions.get(stored.id) is None
        assert not await db.form_submissions.delete(stored.id)
    await db.forms.delete(form.id)
    with pytest.raises(NotFoundError):
        await db.form_submissions.add(answers(form, {}))


async def test_submissions_that_meet_share_and_each_has_its_own_error(db: MultiDB, make_form):
    form = await make_form({"properties": {"n": {"type": "integer"}}})
    outcomes = await asyncio.gather(
        *(db.form_submissions.add(answers(form, {"n": n if n % 2 else "x"})) for n in range(40)),
        return_exceptions=True,
    )
    assert [isinstance(each, InvalidSubmissionError) for each in outcomes] == [True, False] * 20
    assert await db.form_submissions.count() == 20
