"""Full text: the rows of a table with a `search` column that match what people type, the best first."""

from typing import Any

import sqlalchemy as sa

from multidb.stores.postgres.crud import Crud
from multidb.stores.postgres.filtering import Where
from multidb.stores.postgres.statements import Statement

__all__ = ["search"]

#: How much of a body a snippet is cut from: all of it would be read again for every row of a page.
_READ = 20_000


def search(crud: Crud, where: Where, *, further: bool) -> Statement:
    """The first `:_limit` rows that match `:_query`, with `_rank` and `_snippet`.

    With `further`, those after the one of `:_rank` and `:_id`.
    """

    def build() -> sa.Select[Any]:
        table = crud.table
        config: sa.ColumnElement[Any] = sa.literal_column("'english'::regconfig")
        asked = sa.func.websearch_to_tsquery(config, sa.bindparam("_query", None, type_=sa.Text))
        rank = sa.cast(sa.func.ts_rank_cd(table.c.search, asked), sa.Double).label("_rank")
        matching = crud.select(where).add_columns(rank).where(table.c.search.op("@@")(asked))
        if further:
            here = sa.tuple_(
                sa.bindparam("_rank", None, type_=sa.Double), sa.bindparam("_id", None, type_=sa.Uuid)
            )
            matching = matching.where(sa.tuple_(rank, table.c.id) < here)
        best = (
            matching.order_by(sa.desc("_rank"), table.c.id.desc())
            .limit(sa.bindparam("_limit", None, type_=sa.Integer))
            .subquery("best")
        )
        # Snippets are made last, of what the page shows only.
        text = sa.func.concat_ws(" ", best.c.title, sa.func.left(best.c.body, _READ))
        options: sa.ColumnElement[str] = sa.literal_column(
            "'StartSel=**, StopSel=**, MaxFragments=2, MaxWords=20, MinWords=5'"
        )
        snippet = sa.func.ts_headline(config, text, asked, options).label("_snippet")
        return sa.select(*best.c, snippet).order_by(best.c["_rank"].desc(), best.c.id.desc())

    return crud.kept(("search", further), where, build)
