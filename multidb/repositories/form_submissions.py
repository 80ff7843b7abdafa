"""Form submissions: answers that fit their form. MongoDB `form_submissions`; the forms are PostgreSQL's."""

from typing import Any, ClassVar, cast
from uuid import UUID

from pydantic_core import PydanticSerializationError, to_jsonable_python

from multidb.errors import DataError, NotFoundError
from multidb.models.form_submissions import FormSubmission, FormSubmissionFields, NewFormSubmission
from multidb.repositories.answers import FormValidators
from multidb.repositories.collection_effects import SubmissionEffects
from multidb.repositories.criteria import some
from multidb.repositories.forms import FormRepository
from multidb.repositories.mongo_reader import MongoReader
from multidb.repositories.repository import Resources, checked_class, checked_id
from multidb.repositories.shared_inserts import SharedInserts
from multidb.stores.mongo.documents import encoded
from multidb.stores.mongo.filtering import Filter

__all__ = ["MAX_ANSWERS", "FormSubmissionRepository"]

#: The bytes that the answers of one submission may take.
MAX_ANSWERS = 1_000_000


class FormSubmissionRepository(MongoReader[FormSubmission]):
    """The calls on submissions. They are added, read and deleted, and never change."""

    c: ClassVar[FormSubmissionFields]
    collection = "form_submissions"
    order_by = "-submitted_at"
    tenant = "company_id"
    effects = SubmissionEffects

    def __init__(self, resources: Resources) -> None:
        super().__init__(resources)
        self._validators = FormValidators()
        self._inserts = SharedInserts(resources.mongo, self.collection, self._operation("add"))

    async def add(self, new: NewFormSubmission) -> FormSubmission:
        """Hold the answers against the form as it is now, store them with its version, and return them.

        They are held against its `definition` by the draft of JSON Schema that it names in `$schema`,
        2020-12 if none, formats included, and stored as JSON has them.

        Raises: NotFoundError if there is no such form; InvalidSubmissionError, whose `errors` tell for
        each field what is wrong; AlreadyExistsError if the id is stored; DataError if the form's
        definition is no JSON Schema, or one that takes too long, or the answers take more than
        1,000,000 bytes; ConfigurationError without `multidb[forms]`.
        Source: the form from PostgreSQL `forms`; MongoDB, at once, whatever becomes of a transaction of
        PostgreSQL. Calls that meet share round trips.
        """
        operation = self._operation("add")
        checked_class(NewFormSubmission, new, operation)
        answers = _as_json(new.answers, operation)
        form = await cast(FormRepository, self._resources.repository("forms")).get(new.form_id)
        if form is None:
            raise NotFoundError(f"no Form has the id {new.form_id}", store="postgres", operation=operation)
        self._validators.check(form, answers, operation)
        submission = FormSubmission(
            id=new.id,
            form_id=form.id,
            form_version=form.version,
            company_id=form.company_id,
            answers=answers,
            user_id=new.user_id,
            submitted_at=new.submitted_at,
        )
        await self._inserts.insert(self._encoded(submission, operation))
        return submission

    async def delete(self, id: UUID) -> bool:
        """Delete the submission; return whether it was there. Idempotent."""
        operation = self._operation("delete")
        checked_id(id, operation)
        query = self._scoped({"_id": id}, self._company(operation))
        return await self._resources.mongo.delete_one(self.collection, query, operation=operation)

    async def delete_many(self, *filters: Filter, **equal: Any) -> int:
        """Delete the submissions that match every filter and return how many; filters as for `find`.

        Each by itself: after an error, some may be gone. At least one filter must be given.
        """
        operation = self._operation("delete_many")
        query = self._query(some(filters, equal, "{}", operation), equal, operation)
        return await self._resources.mongo.delete_many(self.collection, query, operation=operation)


def _as_json(answers: dict[str, Any], operation: str) -> dict[str, Any]:
    """Return answers as JSON has them. Raises: DataError."""
    try:
        plain = cast(dict[str, Any], to_jsonable_python(answers, inf_nan_mode="constants"))
    except (PydanticSerializationError, ValueError) as error:
        raise DataError("`answers`: something in them has no JSON", operation=operation) from error
    size = len(encoded({"answers": plain}, operation=operation).raw)
    if size > MAX_ANSWERS:
        raise DataError(f"`answers` take {size:,} bytes, more than {MAX_ANSWERS:,}", operation=operation)
    return plain
