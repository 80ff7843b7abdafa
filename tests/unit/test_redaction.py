"""What the redactor takes out of log entries, and what it leaves."""

import time
from typing import Annotated, Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multidb import PERSONAL, SECRET, DataError, Entity, LogLevel, Model, SystemLog
from multidb.repositories.redaction import REDACTED, Redactor
from multidb.repositories.snapshots import snapshot


def redacted(context: dict[str, Any], *keys: str) -> Any:
    return Redactor(keys)({"context": context})["context"]


@pytest.mark.parametrize(
    "key",
    [
        "password", "PASSWORD", "user_password", "userPassword", "new-password", "passwords", "pwd", "pin",
        "token", "access_token", "accessToken", "refreshTokens", "Authorization", "HTTP_AUTHORIZATION",
        "cookie", "Set-Cookie", "cookies", "api_key", "apiKey", "X-API-Key", "x-api-keys", "apikey",
        "client_secret", "clientSecret", "private_key", "secret_access_key", "credentials", "card_number",
        "CardNumber", "cvv", "email", "userEmail", "iban", "ssn", "session_id", "csrf",
    ],
)  # fmt: skip
def test_the_value_of_a_telling_key_is_taken_out_at_any_depth(key: str):
    assert redacted({key: "x"}) == {key: REDACTED}
    assert redacted({"a": [{"b": {key: {"c": 1}}}]}) == {"a": [{"b": {key: REDACTED}}]}
    assert redacted({"headers": [[key, "x"], ["host", "y"]]}) == {"headers": [[key, REDACTED], ["host", "y"]]}
    assert redacted({"headers": [[key.encode(), b"x"]]}) == {"headers": [[key.encode(), REDACTED]]}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_tokens", 500), ("token_count", 3), ("password_changed_at", "2026"), ("primary_key", 7),
        ("opinion", "x"), ("secretary", "Ada"), ("spin", 2), ("monkey", "x"), ("is_password", True),
        ("password", None), ("path", "/a"), ("", "x"), ("keys", ["a"]), ("cookies", 2), ("id", "x"),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_secret_stays(key: str, value: object):
    assert redacted({key: value}) == {key: value}


def test_an_application_adds_its_own_keys():
    assert redacted({"tax_file": "1", "TaxFile": "2", "file": "3"}, "tax-file") == {
        "tax_file": REDACTED,
        "TaxFile": REDACTED,
        "file": "3",
    }
    # Of however many words, at the end of a key as the others; and of whatever script.
    own = redacted(
        {"users_tax_file_numbers": "1", "имя": "2", "старый_пароль": "3"}, "tax_file_number", "пароль"
    )
    assert own == {"users_tax_file_numbers": REDACTED, "имя": "2", "старый_пароль": REDACTED}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("postgres://ada:hunter2@db/x failed", f"postgres://ada:{REDACTED}@db/x failed"),
        ("redis://:hunter2@db:1/0", f"redis://:{REDACTED}@db:1/0"),
        ("Authorization: Bearer eyJhbGciOi.x-y_z", f"Authorization: Bearer {REDACTED}"),
        ("GET /?token=abc&page=2", f"GET /?token={REDACTED}&page=2"),
        ("password=hunter2, retrying", f"password={REDACTED}, retrying"),
        ("api_key: abc", f"api_key: {REDACTED}"),
        ("paid by 4111 1111 1111 1111.", f"paid by {REDACTED}."),
        ("card 5555555555554444", f"card {REDACTED}"),
        ("the shortest there is: 4-222222222222", f"the shortest there is: {REDACTED}"),
        # No card has this check digit; and these are a time and an id.
        ("order 4111111111111112", "order 4111111111111112"),
        ("took 1234567890123456.5 ns", "took 1234567890123456.5 ns"),
        ("01a21220-bf1a-751c-82ff-11c0a8140310", "01a21220-bf1a-751c-82ff-11c0a8140310"),
        ("see https://example.com/a:b@c", "see https://example.com/a:b@c"),
    ],
)
def test_secrets_within_texts_are_taken_out(text: str, left: str):
    assert Redactor()({"message": text, "context": {"a": [text]}}) == {
        "message": left,
        "context": {"a": [left]},
    }


def test_an_entrys_own_fields_are_its_models_choice():
    entry = {"session_id": "x", "level": "info"}
    assert Redactor()(dict(entry)) == entry


@pytest.mark.parametrize(
    "text",
    [
        "1" * 100_000, "1-" * 50_000, "://" + "a:" * 50_000 + "@", "://" * 30_000 + "@", "bearer " * 15_000,
        "a-" * 50_000 + "=", "password" * 12_000 + "=", "_" * 100_000 + "=", "token " * 16_000 + "=:",
        "password =" * 10_000, "1 " * 50_000, "basic  " * 15_000,
    ],
)  # fmt: skip
def test_no_text_makes_it_slow(text: str):
    began = time.process_time()
    Redactor()({"message": text})
    assert time.process_time() - began < 2  # what grew with its square would take minutes


_VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), _VALUES, max_size=5))
def test_it_keeps_the_form_of_everything_and_twice_is_as_once(context: dict[str, Any]):
    entry = SystemLog(level="info", service="t", message="m", context=context)
    document = snapshot(entry, "t").document
    redactor = Redactor()
    once = redactor(document)
    assert once.keys() == document.keys()
    assert list(once["context"]) == list(context)
    assert redactor(snapshot(entry.model_copy(update={"context": once["context"]}), "t").document) == once


# --- the copy of an entry


class _Inner(Model):
    name: Annotated[str, PERSONAL]
    city: str = "Paris"


class _Entry(Entity):
    note: Annotated[str, SECRET]
    key: Annotated[str, SECRET] | None = None
    ip: Annotated[str, PERSONAL] | None = None
    context: dict[str, Any] = {}


def test_marked_fields_are_taken_out_of_an_entry_and_of_the_models_in_it():
    """But for what is personal in a field of the entry itself: that was declared to be stored."""
    entry = _Entry(id=uuid4(), note="s", key="k", ip="::1", context={"who": [_Inner(name="Ada")]})
    assert snapshot(entry, "t").document == {
        "_id": entry.id,
        "note": REDACTED,
        "ip": "::1",
        "context": {"who": [{"name": REDACTED, "city": "Paris"}]},
    }


def test_nothing_of_the_callers_is_kept():
    inner: dict[str, Any] = {"n": 1, "list": [1]}
    entry = SystemLog(level="info", service="t", message="m", context={"inner": inner})
    document = snapshot(entry, "t").document
    inner["password"] = "x"
    inner["list"].append(2)
    assert document["context"] == {"inner": {"n": 1, "list": [1]}}


def test_what_contains_itself_ends():
    loop: list[Any] = []
    loop += [loop, loop]
    entry = SystemLog.model_construct(
        id=uuid4(), level=LogLevel.INFO, service="t", message="m", context={"a": loop}
    )
    with pytest.raises(DataError, match="`context`: nested more than 100 deep"):
        snapshot(entry, "t")


def test_the_size_grows_with_what_is_held():
    def size(**context: Any) -> int:
        return snapshot(SystemLog(level="info", service="t", message="m", context=context), "t").size

    assert size(a="x" * 100_000) - size() > 100_000
    assert size(a="\N{SNOWMAN}" * 100_000) - size() > 200_000
    assert size(a=[b"x" * 100_000]) - size() > 100_000
    assert size(a=list(range(10_000))) - size() > 300_000
