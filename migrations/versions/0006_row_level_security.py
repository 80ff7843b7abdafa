"""Row level security: as the role multidb_tenant, a statement sees the rows of one company

Revises: 0005
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

#: By table, the column with the company's id.
TABLES = {
    "companies": "id",
    "company_users": "company_id",
    "documents": "company_id",
    "ai_processing_jobs": "company_id",
    "forms": "company_id",
    "calendar_events": "company_id",
    "kanban_boards": "company_id",
    "kanban_columns": "company_id",
    "kanban_cards": "company_id",
    "audit_logs": "company_id",
}

# Roles belong to all databases of the server, so others may be making this one just now. Who may
# not make roles finds it made by who may, or is told by the server what is missing.
ROLE = """
DO $$
DECLARE
    -- Before PostgreSQL 16 whoever is a member may take the role on.
    membership text := CASE
        WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'multidb_tenant') THEN
        BEGIN
            CREATE ROLE multidb_tenant NOLOGIN NOBYPASSRLS;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END IF;
    FOR attempt IN 1..20 LOOP
        EXIT WHEN pg_has_role(current_user, 'multidb_tenant', membership);
        BEGIN
            GRANT multidb_tenant TO CURRENT_USER;
        EXCEPTION
            WHEN unique_violation THEN
                NULL;
            WHEN internal_error THEN  -- tuple concurrently updated
                IF attempt = 20 THEN
                    RAISE;
                END IF;
                PERFORM pg_sleep(0.05);
        END;
    END LOOP;
    IF NOT has_schema_privilege('multidb_tenant', current_schema(), 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO multidb_tenant', current_schema());
    END IF;
END
$$
"""


def upgrade() -> None:
    op.execute(ROLE)
    for table, column in TABLES.items():
        # As sub-selects both are asked once a statement, not once a row.
        ours = (
            "((SELECT current_user) <> 'multidb_tenant' OR "
            f"{column} = (SELECT nullif(current_setting('multidb.company_id', true), '')::uuid))"
        )
        op.execute(f"CREATE POLICY {table}_tenant ON {table} USING {ours} WITH CHECK {ours}")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        # What the log says is for the triggers to write, and for nobody to change.
        privileges = "SELECT" if table == "audit_logs" else "SELECT, INSERT, UPDATE, DELETE"
        op.execute(f"GRANT {privileges} ON {table} TO multidb_tenant")


def downgrade() -> None:
    # The role stays: other databases may use it. So does its USAGE of the schema.
    for table in reversed(TABLES):
        op.execute(f"REVOKE ALL ON {table} FROM multidb_tenant")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
        op.execute(f"DROP POLICY {table}_tenant ON {table}")
