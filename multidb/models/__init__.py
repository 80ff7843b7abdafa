"""The entities, one family a file."""

from multidb.models.companies import Company, CompanyChanges, NewCompany
from multidb.models.entity import Entity, Model, Row
from multidb.models.health import Health, PoolUsage, StoreHealth
from multidb.models.ids import uuid7
from multidb.models.page import Page
from multidb.models.sessions import Session
from multidb.models.system_logs import LogLevel, SystemLog
from multidb.models.users import NewUser, User, UserChanges

__all__ = [
    "Company",
    "CompanyChanges",
    "Entity",
    "Health",
    "LogLevel",
    "Model",
    "NewCompany",
    "NewUser",
    "Page",
    "PoolUsage",
    "Row",
    "Session",
    "StoreHealth",
    "SystemLog",
    "User",
    "UserChanges",
    "uuid7",
]
