"""Users: people who may sign in. PostgreSQL `users`, cached as `cache:user:{id}`."""

from datetime import timedelta
from typing import ClassVar

from multidb.cache.policy import CachePolicy
from multidb.models.users import NewUser, User, UserChanges, UserFields
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["UserRepository"]


class UserRepository(PostgresRepository[User, NewUser, UserChanges]):
    """The calls on users."""

    c: ClassVar[UserFields]
    table = tables.users
    cache = CachePolicy("cache:user:{user_id}", ttl=timedelta(minutes=5))
    unique = {"users_pkey": ("id",), "users_email_key": ("email",)}
    derived = {"email_folded": ("email", str.casefold)}

    async def by_email(self, email: str) -> User | None:
        """Return the user who signs in with this e-mail, whatever its case, or None.

        Raises: UnavailableError if PostgreSQL cannot be reached.
        Source: PostgreSQL `users`, index `users_email_key`; not cached.
        """
        return await self.find_one(tables.users.c.email_folded == email.casefold())
