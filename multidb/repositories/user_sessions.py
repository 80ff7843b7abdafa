"""The history of sessions. PostgreSQL `user_sessions`, not cached; the live ones are in Redis."""

from typing import ClassVar

from multidb.models.user_sessions import NewUserSession, UserSession, UserSessionChanges, UserSessionFields
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["UserSessionRepository"]


class UserSessionRepository(PostgresRepository[UserSession, NewUserSession, UserSessionChanges]):
    """The calls on the history of sessions."""

    c: ClassVar[UserSessionFields]
    table = tables.user_sessions
    unique = {
        "user_sessions_pkey": ("id",),
    }
