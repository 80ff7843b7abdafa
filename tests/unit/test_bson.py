"""Documents are written as the driver writes them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from bson import encode

from multidb import uuid7
from multidb.stores.mongo.documents import _OPTIONS, decoded, encoded


@pytest.mark.parametrize(
    "document",
    [
        {"_id": uuid7()},
        {"_id": uuid7(), "text": "é", "at": datetime(2026, 1, 2, tzinfo=UTC), "deep": {"a": [1, None, 1.5]}},
        {"text": "x", "_id": uuid7(), "user_id": uuid7()},
        {"_id": "a metric, an hour"},
        {"_id": {"of": 1}, "count": 2**40},
        {"no": "id"},
    ],
)  # fmt: skip
def test_documents_are_written_as_the_driver_writes_them(document: dict[str, Any]):
    given = dict(document)
    written = encoded(document, operation="x")
    assert written.raw == encode(document, codec_options=_OPTIONS)
    assert decoded(written) == document == given
