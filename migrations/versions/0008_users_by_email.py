"""Users by e-mail as it was written, beside the folded one that is unique

Revises: 0007
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_index(op.f("users_email_idx"), "users", ["email"])


def downgrade() -> None:
    op.drop_index(op.f("users_email_idx"), "users")
