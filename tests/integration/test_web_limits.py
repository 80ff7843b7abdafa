"""Rate limits in web applications: the middleware of any ASGI application, and FastAPI's dependency."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any
from uuid import NAMESPACE_URL, UUID, uuid5

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request

from multidb import Decision, MultiDB, Rate, uuid7
from multidb.asgi import RateLimitMiddleware, Scope
from multidb.fastapi import RateLimited

TWO = Rate(2, per=timedelta(hours=1))


async def by_header(scope: Scope) -> UUID | None:
    """A user tells itself by a header; a stranger is its address; whoever says so has no limit."""
    headers = dict(scope["headers"])
    if b"x-free" in headers:
        return None
    user = headers.get(b"x-user")
    return UUID(user.decode()) if user else uuid5(NAMESPACE_URL, scope["client"][0])


async def hello(scope: Scope, receive: Any, send: Any) -> None:
    if scope["path"] == "/broken":
        raise RuntimeError("broken")
    status = 404 if scope["path"] == "/nowhere" else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"x-own", b"1")]})
    await send({"type": "http.response.body", "body": b"hello"})


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize("given", [lambda db: db, lambda db: lambda scope: db], ids=["db", "of the scope"])
async def test_the_middleware(db: MultiDB, given: Callable[[MultiDB], Any]):
    app = RateLimitMiddleware(hello, db=given(db), identify=by_header, rate=TWO)
    async with client(app) as http:
        found = await http.get("/a")
        assert (found.status_code, found.text, found.headers["x-own"]) == (200, "hello", "1")
        assert found.headers["ratelimit-policy"] == '"2/3600s";q=2;w=3600'
        assert found.headers["ratelimit"].startswith('"2/3600s";r=1;t=3')
        assert "retry-after" not in found.headers
        # On every response, and for all paths together.
        lost = await http.get("/nowhere")
        assert (lost.status_code, lost.headers["ratelimit"].partition(";t")[0]) == (404, '"2/3600s";r=0')
        refused = await http.get("/b")
        assert refused.status_code == 429
        assert refused.json()["error"] == "RateLimitExceededError"
        assert 3000 < int(refused.headers["retry-after"]) <= 3600
        assert refused.headers["ratelimit"].startswith('"2/3600s";r=0')
        # Somebody else, and nobody in particular.
        assert (await http.get("/a", headers={"x-user": str(uuid7())})).status_code == 200
        free = await http.get("/a", headers={"x-free": "1"})
        assert free.status_code == 200
        assert "ratelimit" not in free.headers


async def test_the_middleware_with_an_endpoint_of_the_scope(db: MultiDB):
    app = RateLimitMiddleware(
        hello, db=db, identify=by_header, rate=[TWO], endpoint=lambda scope: scope["method"]
    )
    async with client(app) as http:
        assert [(await http.get("/a")).status_code for _ in range(3)] == [200, 200, 429]
        assert (await http.post("/a")).status_code == 200


async def test_the_middleware_leaves_all_but_requests_alone(db: MultiDB):
    seen = []

    async def app(scope: Scope, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    async def unused(*_: Any) -> Any:
        raise AssertionError

    limited = RateLimitMiddleware(app, db=db, identify=unused, rate=TWO)
    for kind in ("lifespan", "websocket"):
        await limited({"type": kind}, unused, unused)
    assert seen == ["lifespan", "websocket"]


async def test_the_dependency(db: MultiDB):
    app = FastAPI()

    async def database(_: Request) -> MultiDB:
        return db

    async def identify(request: Request) -> UUID | None:
        return await by_header(request.scope)

    limited = RateLimited(TWO, db=database, identify=identify)

    @app.get("/things/{id}")
    async def thing(id: int, decision: Annotated[Decision | None, Depends(limited)]) -> int | None:
        return decision.remaining if decision else None

    @app.get("/others", dependencies=[Depends(limited)])
    async def others() -> None:
        raise HTTPException(404)

    dear = RateLimited(TWO, db=lambda _: db, identify=identify, endpoint="dear", cost=2)
    app.get("/dear", dependencies=[Depends(dear)])(lambda: "dear")
    async with client(app) as http:
        first = await http.get("/things/1")
        assert (first.json(), first.headers["ratelimit"].partition(";t")[0]) == (1, '"2/3600s";r=1')
        # A route's limit is one for all its paths; another route has its own.
        assert (await http.get("/things/2")).json() == 0
        refused = await http.get("/things/3")
        assert refused.status_code == 429
        assert 3000 < int(refused.headers["retry-after"]) <= 3600
        assert refused.headers["ratelimit"].startswith('"2/3600s";r=0')
        assert [(await http.get("/others")).status_code for _ in range(3)] == [404, 404, 429]
        assert (await http.get("/things/1", headers={"x-free": "1"})).json() is None
        assert [(await http.get("/dear")).status_code for _ in range(2)] == [200, 429]
        assert "decision" not in str((await http.get("/openapi.json")).json())
