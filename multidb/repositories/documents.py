"""Documents: what companies keep. PostgreSQL `documents`, not cached."""

from typing import Any, ClassVar
from uuid import UUID

from multidb.errors import DataError
from multidb.models.documents import (
    Document,
    DocumentChanges,
    DocumentFields,
    DocumentMatch,
    NewDocument,
)
from multidb.models.page import Page
from multidb.repositories.postgres import PostgresRepository
from multidb.repositories.relations import BelongsTo
from multidb.repositories.repository import page_size
from multidb.stores.postgres import tables
from multidb.stores.postgres.filtering import Filter
from multidb.stores.postgres.search import search

__all__ = ["DocumentRepository"]


class DocumentRepository(PostgresRepository[Document, NewDocument, DocumentChanges]):
    """The calls on documents."""

    c: ClassVar[DocumentFields]
    table = tables.documents
    tenant = "company_id"
    relations = {
        "company": BelongsTo("companies", by="company_id"),
        "owner": BelongsTo("users", by="owner_id"),
    }
    unique = {
        "documents_pkey": ("id",),
        "documents_company_id_id_key": ("company_id", "id"),
    }

    async def search(
        self,
        query: str,
        *filters: Filter,
        limit: int = 20,
        after: str | None = None,
        **equal: Any,
    ) -> Page[DocumentMatch]:
        """Return a page of the documents whose title or body match, the best first, with a snippet of each.

        `query` is what people type: words that must all be there, `"a phrase"`, `or`, `-not`.
        Words are compared by their English stems; the title counts more than the body, of which
        the first 200,000 characters are searched. Filters, `limit` and `after` are as for `find`;
        a query without a word in it finds nothing.

        Raises: InvalidCursorError if `after` comes from another query.
        Source: PostgreSQL `documents`, index `documents_search_idx`; the cost grows with the number
        of documents that match. Inside `db.tenant(...)` it grows with those of the company, for
        row level security lets no index be asked for words first.
        """
        operation = self._operation("search")
        if not isinstance(query, str):
            raise DataError("`query` must be a text", operation=operation)
        size = page_size(limit, operation)
        company = self._company(operation)
        where = self._where(filters, equal, operation)
        first = search(self._crud(company), where, further=False)
        binding = repr((query, first.sql, first.arguments(where.values), company)).encode()
        values: dict[str, Any] = {**where.values, "_query": query, "_limit": size + 1}
        if after is not None:
            values["_rank"], id = self._resources.cursors.decode(after, query=binding)
            values["_id"] = UUID(id)
        statement = search(self._crud(company), where, further=after is not None)
        rows = await self._run("search", statement, values, company)
        matches = []
        for row in rows[:size]:
            columns = dict(row)
            rank, snippet = columns.pop("_rank"), columns.pop("_snippet")
            matches.append(DocumentMatch(document=self._read(columns), rank=rank, snippet=snippet))
        following = None
        if len(rows) > size:
            last = [matches[-1].rank, str(matches[-1].document.id)]
            following = self._resources.cursors.encode(last, query=binding)
        return Page(tuple(matches), following)
