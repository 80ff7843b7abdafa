"""Audit triggers: what changes in the business tables is written to audit_logs

Revises: 0006
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

#: By table: columns to mask, columns to leave out, the column with the company's id.
TABLES = {
    "companies": ("", "", "id"),
    "users": ("email,email_folded,name", "", ""),
    "user_profiles": ("display_name,avatar_url,bio", "", ""),
    "company_users": ("", "", "company_id"),
    "documents": ("", "search", "company_id"),
    "forms": ("", "", "company_id"),
    "calendar_events": ("", "period", "company_id"),
    "kanban_boards": ("", "", "company_id"),
    "kanban_columns": ("", "", "company_id"),
    "kanban_cards": ("", "", "company_id"),
}

#: What each trigger is given to see.
TRANSITIONS = {
    "insert": "NEW TABLE AS new_rows",
    "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "OLD TABLE AS old_rows",
}

# Runs as its owner, for who may change a row may not write the log; so nothing in it is looked for
# where a caller could have put something else. The statement is planned anew each time: only then
# does the planner know how many rows there are to join.
FUNCTION = """
CREATE FUNCTION multidb_audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    masked text[] := string_to_array(coalesce(TG_ARGV[0], ''), ',');
    left_out text[] := string_to_array(coalesce(TG_ARGV[1], ''), ',');
    company text := coalesce(TG_ARGV[2], '');
    mask text;
    source text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF NOT EXISTS (SELECT FROM old_rows) THEN
            RETURN NULL;
        END IF;
    ELSE
        IF NOT EXISTS (SELECT FROM new_rows) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        -- A row whose id was changed has no other half: it is told as one deleted and one inserted.
        source := format(
            $sql$
            SELECT
                CASE WHEN r.o IS NULL THEN 'insert' WHEN r.n IS NULL THEN 'delete' ELSE 'update' END,
                r.company, r.id,
                CASE WHEN r.o IS NOT NULL THEN d.o END,
                CASE WHEN r.n IS NOT NULL THEN d.n END
            FROM (
                SELECT
                    coalesce(n.id, o.id) AS id, %s AS company,
                    to_jsonb(o) - $4 AS o, to_jsonb(n) - $4 AS n
                FROM old_rows o FULL JOIN new_rows n ON n.id = o.id
                OFFSET 0  -- else each use below would make the JSON again
            ) r
            CROSS JOIN LATERAL (
                SELECT
                    jsonb_object_agg(
                        k, CASE WHEN k = ANY ($5) AND r.o -> k <> 'null' THEN '"***"' ELSE r.o -> k END
                    ) AS o,
                    jsonb_object_agg(
                        k, CASE WHEN k = ANY ($5) AND r.n -> k <> 'null' THEN '"***"' ELSE r.n -> k END
                    ) AS n
                FROM jsonb_object_keys(coalesce(r.o, r.n)) k
                WHERE r.o -> k IS DISTINCT FROM r.n -> k
            ) d
            WHERE d.o IS NOT NULL
            $sql$,
            CASE WHEN company = '' THEN 'NULL::uuid'
                ELSE format('CASE WHEN n.id IS NULL THEN o.%1$I ELSE n.%1$I END', company) END
        );
    ELSE
        SELECT ' || jsonb_build_object(' || string_agg(
                format('%L, CASE WHEN r.%I IS NOT NULL THEN ''***'' END', name, name), ', '
            ) || ')'
            INTO mask
            FROM unnest(masked) name;
        source := format(
            CASE WHEN TG_OP = 'INSERT'
                THEN 'SELECT ''insert'', %s, r.id, NULL::jsonb, (to_jsonb(r) - $4)%s FROM new_rows r'
                ELSE 'SELECT ''delete'', %s, r.id, (to_jsonb(r) - $4)%s, NULL::jsonb FROM old_rows r' END,
            CASE WHEN company = '' THEN 'NULL::uuid' ELSE format('r.%I', company) END,
            mask
        );
    END IF;
    EXECUTE format(
        'INSERT INTO %I.audit_logs (ts, actor, request_id, entity, action, company_id, entity_id, old, new) '
        'SELECT clock_timestamp(), $1, $2, $3, s.* FROM (%s) s',
        TG_TABLE_SCHEMA, source
    ) USING
        nullif(current_setting('multidb.actor', true), ''),
        nullif(current_setting('multidb.request_id', true), ''),
        TG_TABLE_NAME::text,
        left_out,
        masked;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.execute(FUNCTION)
    # A trigger needs no permission to call it; who has it could forge entries by tables of his own.
    op.execute("REVOKE ALL ON FUNCTION multidb_audit() FROM PUBLIC")
    for table, arguments in TABLES.items():
        given = ", ".join(f"'{argument}'" for argument in arguments)
        for action, rows in TRANSITIONS.items():
            op.execute(
                f"CREATE TRIGGER {table}_audit_{action} AFTER {action.upper()} ON {table} "
                f"REFERENCING {rows} FOR EACH STATEMENT EXECUTE FUNCTION multidb_audit({given})"
            )


def downgrade() -> None:
    for table in reversed(TABLES):
        for action in TRANSITIONS:
            op.execute(f"DROP TRIGGER {table}_audit_{action} ON {table}")
    op.execute("DROP FUNCTION multidb_audit()")
