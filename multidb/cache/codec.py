"""Values as bytes and back, by the type they are declared to have.

A stored value begins with the fingerprint of its type's schema. One written by another version of
the application, whose type had other fields, does not match and is loaded anew: a changed model
is a miss, not a crash and not a half-filled object.
"""

import hashlib
import json
from typing import Any

from pydantic import (
    ConfigDict,
    PydanticSchemaGenerationError,
    PydanticUserError,
    TypeAdapter,
    ValidationError,
)
from pydantic.errors import PydanticInvalidForJsonSchema

from multidb.errors import ConfigurationError, DataError

__all__ = ["Codec"]

_FINGERPRINT_SIZE = 8


class Codec:
    """Encodes what pydantic can validate: models, dataclasses, TypedDicts, builtins and containers of them.

    Raises: ConfigurationError if pydantic cannot tell the type's values from their JSON.
    """

    def __init__(self, type_: Any) -> None:
        try:
            self._adapter = _adapter(type_)
            schema = self._adapter.json_schema(mode="serialization")
        except (PydanticSchemaGenerationError, PydanticUserError, PydanticInvalidForJsonSchema) as error:
            raise ConfigurationError(
                f"{type_!r} cannot be cached: it must be a pydantic model, a dataclass, a TypedDict, "
                f"a builtin, or a container of these ({error.message})"
            ) from error
        text = json.dumps(schema, sort_keys=True, separators=(",", ":"))
        self._fingerprint = hashlib.sha256(text.encode()).hexdigest()[:_FINGERPRINT_SIZE].encode()

    def encode(self, value: Any) -> bytes:
        """Return the bytes of `value`.

        Raises: DataError if it would not come back as it is: it is not of the declared type, or
        JSON forgets something of it, as it does of a datetime declared as Any, or of a secret.
        """
        try:
            # By their own names, so that a model with aliases reads what it wrote.
            body = self._adapter.dump_json(value, by_alias=False, round_trip=True, warnings="error")
            survives = bool(self._read(body) == value)
        except (ValueError, TypeError) as error:
            raise DataError("the value does not fit its declared type, so it cannot be cached") from error
        if not survives:
            raise DataError("the value would not come back from its JSON as it is, so it cannot be cached")
        return self._fingerprint + body

    def decode(self, stored: bytes) -> Any:
        """Return the value.

        Raises: ValueError if the bytes were written for another type or are damaged: a miss.
        """
        if not stored.startswith(self._fingerprint):
            raise ValueError("written for another schema")
        try:
            return self._read(stored[_FINGERPRINT_SIZE:])
        except ValidationError:
            # Without pydantic's text, which quotes the value.
            raise ValueError("does not fit the schema") from None

    def _read(self, body: bytes) -> Any:
        return self._adapter.validate_json(body, by_alias=False, by_name=True)


def _adapter(type_: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(
            type_,
            config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", ser_json_inf_nan="constants"),
        )
    except PydanticUserError as error:
        if error.code != "type-adapter-config-unused":
            raise
        return TypeAdapter(type_)  # a model, which says itself how it is written
