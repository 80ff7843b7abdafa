"""Users: people who may sign in. PostgreSQL `users`, cached as `cache:user:{id}`."""

from datetime import timedelta
from typing import ClassVar

from multidb.cache.policy import CachePolicy
from multidb.errors import DataError
from multidb.models.users import NewUser, User, UserChanges, UserFields
from multidb.repositories.postgres import PostgresRepository
from multidb.repositories.relations import HasOne, Through
from multidb.stores.postgres import tables

__all__ = ["UserRepository"]


class UserRepository(PostgresRepository[User, NewUser, UserChanges]):
    """The calls on users."""

    c: ClassVar[UserFields]
    table = tables.users
    relations = {
        "profile": HasOne("user_profiles", by="user_id"),
        "companies": Through("companies", through="company_users", by="user_id", to="company_id"),
    }
    cache = CachePolicy("cache:user:{user_id}", ttl=timedelta(minutes=5))
    unique = {"users_pkey": ("id",), "users_email_key": ("email",)}
    derived = {"email_folded": ("email", str.casefold)}

    async def by_email(self, email: str) -> User | None:
        """Return the user who signs in with this e-mail, whatever its case, or None.

        Raises: DataError if it is no text; UnavailableError if PostgreSQL cannot be reached.
        Source: PostgreSQL `users`, index `users_email_key`; not cached.
        """
        if not isinstance(email, str):
            raise DataError(
                f"`email` must be a text, not {type(email).__name__}", operation=self._operation("by_email")
            )
        return await self.find_one(tables.users.c.email_folded == email.casefold())
