"""The ambient transaction: whoever calls a repository inside `async with db.mongo_transaction()` joins it."""

from collections.abc import Awaitable, Callable

from multidb.stores.ambient import Ambient, Owned
from multidb.stores.mongo.driver import Session

__all__ = ["AMBIENT", "Transaction"]


class Transaction(Owned):
    """A transaction of MongoDB."""

    def __init__(self, owner: object, session: Session) -> None:
        super().__init__(owner, AMBIENT.innermost())
        self.session = session
        #: Whether something in it has failed, so that it can only be rolled back.
        self.failed = False
        #: What is done once it has committed, or may have; each ends by itself, and raises nothing.
        self.after_commit: list[Callable[[], Awaitable[None]]] = []


AMBIENT: Ambient[Transaction] = Ambient("multidb_mongo_transaction", "mongo")
