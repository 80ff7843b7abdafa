"""What an application's own revisions say to have its tables audited and kept apart by company.

::

    def upgrade() -> None:
        op.create_table("invoices", ...)
        for statement in (*audit_triggers("invoices", masked=["payer"]), *tenant_policy("invoices")):
            op.execute(statement)

The table must have an `id` of type uuid. multidb's own revisions have made the function and the role
these refer to, so a revision that uses them depends on multidb's: `depends_on = "0007"`.
"""

import re
from collections.abc import Sequence

from multidb.errors import ConfigurationError

__all__ = ["audit_triggers", "drop_audit_triggers", "drop_tenant_policy", "tenant_policy"]

_NAME = re.compile(r"[a-z_][a-z0-9_]*")

#: By action, the rows its trigger is given to see.
_TRANSITIONS = {
    "insert": "NEW TABLE AS new_rows",
    "update": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "delete": "OLD TABLE AS old_rows",
}


def audit_triggers(
    table: str, *, masked: Sequence[str] = (), left_out: Sequence[str] = (), company: str | None = None
) -> list[str]:
    """Return the statements by which every change of a row of `table` is written to `audit_logs`.

    Of the columns `masked` it says that they changed, and not to what: name those of the fields
    marked PERSONAL or SECRET, and what is derived from them. Columns `left_out` are not told at
    all: name those that the database computes. `company` is the column with the company's id.

    A column named here must be there whenever the table is written to. Before it is renamed or
    dropped, drop the triggers and make them anew.

    Raises: ConfigurationError for what is not a plain lower-case name.
    """
    arguments = (_names(masked), _names(left_out), _names([company] if company else []))
    given = ", ".join(f"'{argument}'" for argument in arguments)
    return [
        f"CREATE TRIGGER {_name(table)}_audit_{action} AFTER {action.upper()} ON {table} "
        f"REFERENCING {rows} FOR EACH STATEMENT EXECUTE FUNCTION multidb_audit({given})"
        for action, rows in _TRANSITIONS.items()
    ]


def drop_audit_triggers(table: str) -> list[str]:
    """Return the statements that undo `audit_triggers`; what was written stays."""
    return [f"DROP TRIGGER {_name(table)}_audit_{action} ON {table}" for action in _TRANSITIONS]


def tenant_policy(table: str, column: str = "company_id") -> list[str]:
    """Return the statements by which `db.tenant(...)` reaches only the company's rows of `table`.

    `column` holds the company's id. For a role that is not a superuser, COPY into the table is at
    an end with this: PostgreSQL refuses it wherever row level security is on.

    Raises: ConfigurationError for what is not a plain lower-case name.
    """
    # As sub-selects both are asked once a statement, not once a row.
    ours = (
        "((SELECT current_user) <> 'multidb_tenant' OR "
        f"{_name(column)} = (SELECT nullif(current_setting('multidb.company_id', true), '')::uuid))"
    )
    return [
        f"CREATE POLICY {_name(table)}_tenant ON {table} USING {ours} WITH CHECK {ours}",
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO multidb_tenant",
    ]


def drop_tenant_policy(table: str) -> list[str]:
    """Return the statements that undo `tenant_policy`."""
    return [
        f"REVOKE ALL ON {_name(table)} FROM multidb_tenant",
        f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
        f"DROP POLICY {table}_tenant ON {table}",
    ]


def _names(columns: Sequence[str]) -> str:
    return ",".join(map(_name, columns))


def _name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is not the plain lower-case name of a table or column")
    return name
