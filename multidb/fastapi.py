"""Rate limits as a dependency of FastAPI. Needs `multidb[fastapi]`.

::

    limited = RateLimited(Rate(10, per=timedelta(minutes=1)), db=database, identify=user_of)


    @app.post("/reports", dependencies=[Depends(limited)])
    async def report() -> Report: ...
"""

from collections.abc import Awaitable, Callable
from uuid import UUID

from fastapi import HTTPException, Request, Response

from multidb.client import MultiDB
from multidb.models.rate_limits import Decision
from multidb.repositories.rate_limits import Rates

__all__ = ["RateLimited"]


class RateLimited:
    """Lets requests of a user through as often as `rate` admits; each route has a limit of its own.

    `identify` tells whose a request is, None for one without a limit; `db` tells the `MultiDB` that
    serves it. A limit is the route's, by its method and template, `POST /reports/{id}`, unless several
    share an `endpoint`. What it returns is the decision, None without a limit.

    A request that is refused is answered with 429. The header fields stand on that, and on what the
    route returns; those of errors that it raises have them only by `multidb.asgi.RateLimitMiddleware`.
    """

    def __init__(
        self,
        rate: Rates,
        *,
        db: Callable[[Request], MultiDB | Awaitable[MultiDB]],
        identify: Callable[[Request], Awaitable[UUID | None]],
        endpoint: str | None = None,
        cost: int = 1,
    ) -> None:
        self._rate = rate
        self._db = db
        self._identify = identify
        self._endpoint = endpoint
        self._cost = cost

    async def __call__(self, request: Request, response: Response) -> Decision | None:
        """Have a request count. Raises: HTTPException with status 429."""
        user_id = await self._identify(request)
        if user_id is None:
            return None
        db = self._db(request)
        if not isinstance(db, MultiDB):
            db = await db
        route = request.scope["route"].path
        endpoint = self._endpoint or f"{request.method} {route}"
        decision = await db.rate_limits.hit(user_id, endpoint, self._rate, cost=self._cost)
        fields = decision.headers()
        if not decision.allowed:
            raise HTTPException(429, f"the next call is admitted in {fields['Retry-After']} s", fields)
        response.headers.update(fields)
        return decision
