"""Rate limits for any ASGI application: Starlette, FastAPI, Litestar, Quart.

    app.add_middleware(RateLimitMiddleware, db=db, identify=user_of, rate=Rate(100, per=timedelta(minutes=1)))

The header fields stand on every response, also on those that the application raises its way to. A
request that is refused is answered with 429 and does not reach the application.
"""

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias
from uuid import UUID

from multidb.client import MultiDB
from multidb.models.rate_limits import Decision
from multidb.repositories.rate_limits import Rates

__all__ = ["RateLimitMiddleware", "Scope"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class RateLimitMiddleware:
    """Lets requests of a user through as often as `rate` admits.

    `identify` tells whose a request is, of its ASGI scope; None lets it through, without a limit. For
    strangers it may return an id made of their address: `uuid5(NAMESPACE_URL, scope["client"][0])`.
    `endpoint` is a name, for all requests together, or tells one of the scope. Its names must be few:
    whoever may choose the path, chooses with it among limits. `db` is a `MultiDB` that is open when
    requests come, or tells it of the scope, say `lambda scope: scope["app"].state.db`.

    While Redis is away the outage policy decides. Requests alone are limited, WebSockets are not.
    """

    def __init__(
        self,
        app: App,
        *,
        db: MultiDB | Callable[[Scope], MultiDB],
        identify: Callable[[Scope], Awaitable[UUID | None]],
        rate: Rates,
        endpoint: str | Callable[[Scope], str] = "*",
    ) -> None:
        self._app = app
        self._db = db
        self._identify = identify
        self._rate = rate
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        user_id = await self._identify(scope) if scope["type"] == "http" else None
        if user_id is None:
            await self._app(scope, receive, send)
            return
        db = self._db if isinstance(self._db, MultiDB) else self._db(scope)
        endpoint = self._endpoint if isinstance(self._endpoint, str) else self._endpoint(scope)
        decision = await db.rate_limits.hit(user_id, endpoint, self._rate)
        fields = [(name.lower().encode(), value.encode()) for name, value in decision.headers().items()]
        if not decision.allowed:
            await _refuse(send, decision, fields)
            return

        async def send_with_fields(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *fields]
            await send(message)

        await self._app(scope, receive, send_with_fields)


async def _refuse(send: Send, decision: Decision, fields: list[tuple[bytes, bytes]]) -> None:
    wait = f"the next call is admitted in {decision.headers()['Retry-After']} s"
    body = json.dumps({"error": "RateLimitExceededError", "detail": wait}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *fields]
    await send({"type": "http.response.start", "status": 429, "headers": headers})
    await send({"type": "http.response.body", "body": body})
