"""MongoDB's schemas: what the files in `mongo_schemas/` say, held against the server and made so on it."""

from multidb.ops.schemas.applying import apply, check, plan
from multidb.ops.schemas.differences import Difference
from multidb.ops.schemas.files import CollectionSchema, IndexSchema, load

__all__ = ["CollectionSchema", "Difference", "IndexSchema", "apply", "check", "load", "plan"]
