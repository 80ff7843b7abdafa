"""Invoices: the first revision of the application's own branch, over multidb's tables"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from multidb.stores.postgres.ddl import audit_triggers, drop_audit_triggers, drop_tenant_policy, tenant_policy

revision: str = "inv1"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = "invoices"
#: The revision of multidb that has what this one builds on: companies, the role, the audit function.
depends_on: str | Sequence[str] | None = "0007"


def upgrade() -> None:
    op.create_table(
        "invoices",
        sa.Column("id", sa.Uuid, primary_key=True),
        sa.Column("company_id", sa.Uuid, sa.ForeignKey("companies.id", ondelete="CASCADE"), nullable=False),
        sa.Column("number", sa.Text, nullable=False),
        sa.Column("customer", sa.Text, nullable=False),
        sa.Column("cents", sa.BigInteger, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("due_on", sa.Date, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.CheckConstraint("cents > 0", name="invoices_cents_positive_check"),
        sa.CheckConstraint("status IN ('draft', 'sent', 'paid')", name="invoices_status_known_check"),
    )
    # A deleted invoice does not hold on to its number. Leading with the company, it also serves
    # the foreign key.
    op.create_index(
        "invoices_company_id_number_key",
        "invoices",
        ["company_id", "number"],
        unique=True,
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    # Of one company, what is due first: the order of `InvoiceRepository.overdue`.
    op.create_index("invoices_company_id_due_on_idx", "invoices", ["company_id", "due_on", "id"])
    for statement in (
        *audit_triggers("invoices", masked=["customer"], company="company_id"),
        *tenant_policy("invoices"),
    ):
        op.execute(statement)


def downgrade() -> None:
    for statement in (*drop_tenant_policy("invoices"), *drop_audit_triggers("invoices")):
        op.execute(statement)
    op.drop_table("invoices")
