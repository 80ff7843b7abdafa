"""Profiles: what users tell of themselves. PostgreSQL `user_profiles`, not cached."""

from typing import ClassVar
from uuid import UUID

from multidb.models.user_profiles import NewUserProfile, UserProfile, UserProfileChanges, UserProfileFields
from multidb.repositories.postgres import PostgresRepository
from multidb.stores.postgres import tables

__all__ = ["UserProfileRepository"]


class UserProfileRepository(PostgresRepository[UserProfile, NewUserProfile, UserProfileChanges]):
    """The calls on profiles."""

    c: ClassVar[UserProfileFields]
    table = tables.user_profiles
    unique = {
        "user_profiles_pkey": ("id",),
        "user_profiles_user_id_key": ("user_id",),
    }

    async def by_user(self, user_id: UUID) -> UserProfile | None:
        """Return the profile of this user, or None.

        Raises: UnavailableError if PostgreSQL cannot be reached.
        Source: PostgreSQL `user_profiles`, index `user_profiles_user_id_key`; not cached.
        """
        return await self.find_one(user_id=user_id)
