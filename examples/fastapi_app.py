"""Users and sessions over HTTP: multidb in a FastAPI application.

    multidb start && multidb init
    uvicorn examples.fastapi_app:app

The models of multidb are the bodies, its versions are the ETags, and its errors become status
codes in one table. Try it at http://127.0.0.1:8000/docs.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, cast
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from multidb import (
    ConflictError,
    ConstraintError,
    DataError,
    Health,
    InvalidCursorError,
    LockError,
    Model,
    MultiDB,
    NewUser,
    NotFoundError,
    Page,
    RateLimitExceededError,
    Session,
    Settings,
    UnavailableError,
    User,
    UserChanges,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application; without `settings` it reads MULTIDB_* when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with MultiDB(settings) as db:
            app.state.db = db
            yield

    app = FastAPI(title="multidb example", lifespan=lifespan)
    for router in (users, sessions, operations):
        app.include_router(router)
    for error in STATUS_OF:
        app.add_exception_handler(error, answer_error)
    return app


async def database(request: Request) -> MultiDB:
    """Return the application's one `MultiDB`; it serves all requests at once."""
    return cast(MultiDB, request.app.state.db)


Database = Annotated[MultiDB, Depends(database)]


# --- users

users = APIRouter(prefix="/users", tags=["users"])


async def expected_version(
    if_match: Annotated[str | None, Header(pattern=r'^("[1-9]\d{0,8}"|\*)$')] = None,
) -> int | None:
    """Return the version that the client has read, from If-Match; None if any will do."""
    return None if if_match is None or if_match == "*" else int(if_match.strip('"'))


ExpectedVersion = Annotated[int | None, Depends(expected_version)]


@users.post("", status_code=201)
async def add_user(new: NewUser, db: Database, response: Response) -> User:
    """Add a user. A client that sends its own `id` may repeat the call: the second is refused."""
    user = await db.users.add(new)
    response.headers["Location"] = f"/users/{user.id}"
    return tagged(user, response)


@users.get("")
async def list_users(
    db: Database, limit: Annotated[int, Query(ge=1, le=1000)] = 50, after: str | None = None
) -> Page[User]:
    """Return one page of users; its `next` is the following page's `after`."""
    return await db.users.find(limit=limit, after=after)


@users.get("/{user_id}")
async def get_user(user_id: UUID, db: Database, response: Response) -> User:
    """Return a user, as a rule from the cache."""
    return tagged(await db.users.fetch(user_id), response)


@users.patch("/{user_id}")
async def change_user(
    user_id: UUID, changes: UserChanges, version: ExpectedVersion, db: Database, response: Response
) -> User:
    """Change the fields given; with If-Match, only if nobody else has changed the user since."""
    return tagged(await db.users.update(user_id, changes, version=version), response)


@users.delete("/{user_id}", status_code=204)
async def delete_user(user_id: UUID, version: ExpectedVersion, db: Database) -> None:
    """Delete a user."""
    if not await db.users.delete(user_id, version=version):
        raise NotFoundError(f"no User has the id {user_id}")


def tagged(user: User, response: Response) -> User:
    """Let the response carry the user's version as its ETag."""
    response.headers["ETag"] = f'"{user.version}"'
    return user


# --- sessions

sessions = APIRouter(prefix="/sessions", tags=["sessions"])


class UnauthorizedError(Exception):
    """There is no token, or one that opens nothing."""


class Credentials(Model):
    """Who signs in. A real application asks for proof too; multidb keeps none."""

    email: str
    device: str | None = None


class SignedIn(Model):
    """The token, shown this once, and the session it opens."""

    token: str
    session: Session


class Me(Model):
    """Who is signed in, and by which session."""

    user: User
    session: Session


async def bearer_token(
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
) -> str:
    """Return the request's bearer token."""
    if credentials is None:
        raise UnauthorizedError("send `Authorization: Bearer <token>`")
    return credentials.credentials


BearerToken = Annotated[str, Depends(bearer_token)]


@sessions.post("", status_code=201)
async def sign_in(credentials: Credentials, db: Database, response: Response) -> SignedIn:
    """Start a session."""
    user = await db.users.by_email(credentials.email)
    if user is None:
        raise UnauthorizedError("nobody signs in with this e-mail")
    token, session = await db.sessions.create(user.id, device=credentials.device)
    response.headers["Cache-Control"] = "no-store"
    return SignedIn(token=token, session=session)


@sessions.get("/me")
async def who_am_i(token: BearerToken, db: Database) -> Me:
    """Return who is signed in: one read of Redis for the session, one for the cached user."""
    session = await db.sessions.get(token)
    user = await db.users.get(session.user_id) if session else None
    if session is None or user is None:
        raise UnauthorizedError("this token opens no session")
    return Me(user=user, session=session)


@sessions.delete("/me", status_code=204)
async def sign_out(token: BearerToken, db: Database) -> None:
    """End the session."""
    if not await db.sessions.revoke(token):
        raise UnauthorizedError("this token opens no session")


# --- operations

operations = APIRouter(tags=["operations"])


@operations.get("/health", responses={503: {"model": Health}})
async def health(db: Database, response: Response) -> Health:
    """Return how each store does; 503 if one that is required does not answer."""
    answer = await db.health()
    if not answer.ok:
        response.status_code = 503
        response.headers["Retry-After"] = "1"
    return answer


# --- errors

#: A subclass counts as its nearest ancestor here. What is not named is the server's fault: 500.
STATUS_OF: dict[type[Exception], int] = {
    UnauthorizedError: 401,
    NotFoundError: 404,
    ConflictError: 409,
    ConstraintError: 409,
    LockError: 409,
    DataError: 422,
    InvalidCursorError: 422,
    RequestValidationError: 422,
    RateLimitExceededError: 429,
    UnavailableError: 503,
}


async def answer_error(_: Request, error: Exception) -> JSONResponse:
    """Answer with the error's status and `{"error": class, "detail": message}`."""
    status = next(STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF)
    detail = first_problem(error) if isinstance(error, RequestValidationError) else str(error)
    headers: dict[str, str] = {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in {429, 503}:
        headers["Retry-After"] = str(seconds_to_wait(error))
    return JSONResponse({"error": type(error).__name__, "detail": detail}, status, headers)


def first_problem(error: RequestValidationError) -> str:
    """Return where the request is wrong first, and how; never what it said there."""
    problem = error.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def seconds_to_wait(error: Exception) -> int:
    """Return when to try again: when the limit allows it, or in a second."""
    wait = getattr(getattr(error, "decision", None), "retry_after", None)
    return max(1, math.ceil(wait.total_seconds())) if isinstance(wait, timedelta) else 1


app = create_app()
