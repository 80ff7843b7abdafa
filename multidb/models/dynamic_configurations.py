"""Dynamic configurations: values that change while applications run, by key."""

from typing import Annotated, Any
from uuid import UUID

import pydantic
from pydantic import AfterValidator, StringConstraints, WithJsonSchema

from multidb.models.entity import Model, VersionedDocument
from multidb.models.fields import UtcMilliseconds
from multidb.models.filters import Field, VersionedFields

__all__ = ["ConfigurationKey", "ConfigurationVersion", "DynamicConfiguration", "DynamicConfigurationFields"]


def _there(value: Any) -> Any:
    if value is None:
        raise ValueError("must not be null: remove the key instead")
    return value


#: What a value is called: words joined by dots, such as `limits.upload_bytes`.
ConfigurationKey = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$", max_length=200)
]
_KINDS = ("boolean", "integer", "number", "string", "array", "object")
_Value = Annotated[
    Any, AfterValidator(_there), WithJsonSchema({"anyOf": [{"type": kind} for kind in _KINDS]})
]
_Author = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_Version = Annotated[int, pydantic.Field(ge=1, lt=2**63)]


class ConfigurationVersion(Model):
    """One value that a key has had."""

    version: _Version
    value: _Value
    #: When it was set, and by whom.
    set_at: UtcMilliseconds
    set_by: _Author | None = None


class DynamicConfiguration(VersionedDocument):
    """A key, the value it has, and those it had."""

    key: ConfigurationKey
    #: The company whose value it is; None for everybody's.
    company_id: UUID | None = None
    value: _Value
    #: The last hundred versions, the oldest first; the last one is the present.
    history: tuple[ConfigurationVersion, ...]


class DynamicConfigurationFields(VersionedFields):
    """The fields of a configuration, for filters and orders."""

    key: Field[str]
    company_id: Field[UUID | None]
