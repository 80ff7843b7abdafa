"""How a request begins."""

from typing import NamedTuple

from multidb.models.rate_limits import Decision
from multidb.models.sessions import Session

__all__ = ["Prologue"]


class Prologue(NamedTuple):
    """The session that makes a request, and whether its rate limits admit it."""

    #: None if the token opens none; then there is no decision either.
    session: Session | None
    #: None also if the request has no limit.
    decision: Decision | None

    @property
    def allowed(self) -> bool:
        """Whether there is a session, and no limit that refuses the request."""
        return self.session is not None and (self.decision is None or self.decision.allowed)
