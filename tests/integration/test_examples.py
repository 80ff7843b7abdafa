"""The examples run as their readers would run them, and what they show is so."""

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from pydantic import SecretStr

from examples.fastapi_app import create_app
from multidb import MultiDB, RateLimitExceededError, Settings
from multidb.ops import sample_data

ROOT = Path(__file__).parents[2]


# --- those that start servers of their own


def run_example(name: str, directory: Path, *arguments: str | Path) -> str:
    """Run it into a pipe, from a directory and an environment that tell it nothing."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MULTIDB_")}
    if driver := os.environ.get("MULTIDB_MONGO_DRIVER"):
        inherited["MULTIDB_MONGO_DRIVER"] = driver
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / name, "--dir", directory, *arguments],
        cwd=directory.parent,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def assert_nothing_runs(directory: Path) -> None:
    assert json.loads((directory / "state.json").read_text())["servers"] == {}
    urls = re.findall(r"^MULTIDB_\w+_URL=(\S+)$", (directory / "multidb.env").read_text(), re.MULTILINE)
    assert len(urls) == 3
    for url in urls:
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", urlsplit(url).port)) != 0


def users_before(output: str) -> int:
    found = re.search(r"(\d+) users were there before", output)
    assert found
    return int(found[1])


def stored(output: str) -> dict[str, int]:
    """Return the last table: what is where, and how many."""
    rows = re.findall(r"^  (?:PostgreSQL|MongoDB|Redis) +(\S+) +(\d+)$", output, re.MULTILINE)
    return {target: int(count) for target, count in rows}


@pytest.mark.mongo
def test_quickstart_runs_twice_and_leaves_its_data_but_no_server(tmp_path: Path):
    directory = tmp_path / "its data"

    first = run_example("quickstart.py", directory)
    assert_nothing_runs(directory)
    assert users_before(first) == 0
    assert "6 companies, 200 users, 300 logs added" in first
    assert stored(first) == {
        "companies": 7,
        "users": 203,
        "documents": 2,
        "audit_logs": 216,
        "system_logs": 303,
        "session:user:{user_id}": 2,
        "cache:user:{user_id}": 2,
        "report:colleagues:{domain}": 1,
    }

    second = run_example("quickstart.py", directory)
    assert_nothing_runs(directory)
    assert users_before(second) == 203
    assert "all there already, nothing added" in second
    assert stored(second)["users"] == 206
    assert stored(second)["system_logs"] == 306

    for output in (first, second):
        assert "refused with ConflictError" in output
        assert "refused with AlreadyExistsError" in output
        assert "postgres: ready in" in output
        # Fit for a pipe and for any terminal, wherever the directory is.
        told = output.replace(str(directory), ".multidb")
        assert re.fullmatch(r"[\x20-\x7e\n]*", told)
        assert max(map(len, told.splitlines())) <= 100


def test_document_pipeline_reads_real_files(tmp_path: Path):
    directory = tmp_path / "data"
    noise = tmp_path / "noise.bin"
    noise.write_bytes(bytes(range(256)) * 2000)
    files = [ROOT / "README.md", ROOT / "LICENSE", ROOT / "multidb" / "client.py"]
    *lines, last = run_example("document_pipeline.py", directory, *files, noise).splitlines()
    told = dict(line.split(": ", 1) for line in lines)
    assert last == "Reader is told"
    assert told["noise.bin"] == "failed, failed: Discard: it is no text"
    for file in files:
        text = file.read_text()
        words = len(re.findall(r"\w{4,}", text))
        size = len(file.read_bytes())
        assert told[file.name].startswith(f"ready, {size} bytes, {words} words"), told
    assert "multidb" in told["README.md"]
    assert_nothing_runs(directory)


def test_custom_entity_keeps_the_books_twice_alike(tmp_path: Path):
    directory = tmp_path / "its data"
    first = run_example("custom_entity.py", directory)
    assert_nothing_runs(directory)
    assert run_example("custom_entity.py", directory) == first
    assert first.splitlines() == [
        "Harbour Bakery: 500 invoices imported",
        "Hill Brewery: 500 invoices imported",
        "overdue on 2026-03-02: 239, the first page has 50",
        "the longest: 2026-001, EUR 1.00 owed to Harbour Bakery",
        "2026-007 is paid",
        "paid twice: refused with ConflictError",
        "the audit log: grace, update, sent -> paid",
        "2026-008 again: refused with AlreadyExistsError, company_id and number",
        "2026-008 after its predecessor was deleted: draft, version 1",
        "Hill Brewery's 2026-001: not seen as the bakery; seen as everybody",
        "sent and paid: EUR 125,242.00",
    ]


@pytest.mark.mongo
async def test_sample_data_is_added_once(db: MultiDB):
    added = await sample_data.load(db)
    assert added == sample_data.SampleData(companies=6, users=200, system_logs=300)

    again = await sample_data.load(db)
    assert not again
    assert str(again) == "all there already, nothing added"
    assert await db.users.count() == 200


@pytest.mark.mongo
async def test_sample_data_that_was_deleted_stays_deleted(db: MultiDB):
    await sample_data.load(db)
    gone = (await db.users.find(limit=1)).items[0]
    await db.users.delete(gone.id)

    assert not await sample_data.load(db)
    assert await db.users.get(gone.id) is None


@pytest.mark.mongo
async def test_sample_data_loaded_by_several_at_once_is_added_once(db: MultiDB):
    added = await asyncio.gather(*(sample_data.load(db) for _ in range(3)))
    assert sum(each.companies for each in added) == 6
    assert sum(each.users for each in added) == 200
    assert sum(each.system_logs for each in added) == 300


# --- the FastAPI application, over real HTTP


@asynccontextmanager
async def served(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the application on a free port, and yield a client of it."""
    # The socket listens from the start, so the first request waits for the application.
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        host, port = listener.getsockname()
        async with httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


@pytest.fixture
async def api(multidb_settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with served(create_app(multidb_settings)) as client:
        yield client


async def add_ada(api: httpx.AsyncClient) -> dict[str, object]:
    answer = await api.post("/users", json={"email": "ada@example.com", "name": "Ada"})
    assert answer.status_code == 201, answer.text
    user: dict[str, object] = answer.json()
    assert answer.headers["location"] == f"/users/{user['id']}"
    assert answer.headers["etag"] == '"1"'
    return user


async def sign_in(api: httpx.AsyncClient) -> dict[str, str]:
    """Return the headers of one who is signed in as Ada."""
    answer = await api.post("/sessions", json={"email": "ADA@example.com", "device": "laptop"})
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def assert_error(answer: httpx.Response, status: int, error: str, detail: str = "") -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "detail"}
    assert body["error"] == error
    assert detail in body["detail"]


async def test_a_user_is_added_read_changed_and_deleted(api: httpx.AsyncClient):
    ada = await add_ada(api)
    url = f"/users/{ada['id']}"

    assert (await api.get(url)).json() == ada
    changed = await api.patch(url, json={"name": "Ada Lovelace"}, headers={"If-Match": '"1"'})
    assert changed.status_code == 200
    assert changed.headers["etag"] == '"2"'
    assert (await api.get(url)).json() == changed.json()
    anyway = await api.patch(url, json={"name": "Ada King"}, headers={"If-Match": "*"})
    assert anyway.headers["etag"] == '"3"'

    assert (await api.delete(url)).status_code == 204
    assert_error(await api.get(url), 404, "NotFoundError")


async def test_users_are_listed_a_page_at_a_time(api: httpx.AsyncClient):
    for number in range(5):
        added = await api.post("/users", json={"email": f"{number}@example.com", "name": f"User {number}"})
        assert added.status_code == 201
    names: list[str] = []
    after: str | None = None
    sizes: list[int] = []
    while not sizes or after:
        page = (await api.get("/users", params={"limit": 2, **({"after": after} if after else {})})).json()
        names += [user["name"] for user in page["items"]]
        sizes.append(len(page["items"]))
        after = page["next"]
    assert sizes == [2, 2, 1]
    assert names == [f"User {number}" for number in range(5)]


async def test_a_session_lives_from_sign_in_to_sign_out(api: httpx.AsyncClient):
    ada = await add_ada(api)
    headers = await sign_in(api)

    me = await api.get("/sessions/me", headers=headers)
    assert me.status_code == 200
    assert me.json()["user"] == ada
    assert me.json()["session"]["device"] == "laptop"

    assert (await api.delete("/sessions/me", headers=headers)).status_code == 204
    assert_error(await api.get("/sessions/me", headers=headers), 401, "UnauthorizedError")
    assert_error(await api.delete("/sessions/me", headers=headers), 401, "UnauthorizedError")


async def test_without_a_known_token_nobody_is_signed_in(api: httpx.AsyncClient):
    for headers in ({}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer"}):
        answer = await api.get("/sessions/me", headers=headers)
        assert_error(answer, 401, "UnauthorizedError", "Authorization: Bearer")
        assert answer.headers["www-authenticate"] == "Bearer"
    for token in ("no-token", "A" * 64):
        answer = await api.get("/sessions/me", headers={"Authorization": f"Bearer {token}"})
        assert_error(answer, 401, "UnauthorizedError", "opens no session")
    answer = await api.post("/sessions", json={"email": "nobody@example.com"})
    assert_error(answer, 401, "UnauthorizedError")


async def test_the_session_of_a_deleted_user_opens_nothing(api: httpx.AsyncClient):
    ada = await add_ada(api)
    headers = await sign_in(api)
    assert (await api.delete(f"/users/{ada['id']}")).status_code == 204
    assert_error(await api.get("/sessions/me", headers=headers), 401, "UnauthorizedError")


async def test_what_is_not_there_is_404(api: httpx.AsyncClient):
    url = f"/users/{uuid4()}"
    assert_error(await api.get(url), 404, "NotFoundError")
    assert_error(await api.patch(url, json={"name": "Nobody"}), 404, "NotFoundError")
    assert_error(await api.delete(url), 404, "NotFoundError")


async def test_a_conflict_is_409(api: httpx.AsyncClient):
    ada = await add_ada(api)
    url = f"/users/{ada['id']}"
    await api.patch(url, json={"name": "Ada Lovelace"})

    stale = {"If-Match": '"1"'}
    assert_error(await api.patch(url, json={"name": "Ada King"}, headers=stale), 409, "ConflictError")
    assert_error(await api.delete(url, headers=stale), 409, "ConflictError")

    twice = await api.post("/users", json={"email": "Ada@Example.COM", "name": "Not Ada"})
    assert_error(twice, 409, "AlreadyExistsError", "email")
    assert "Example.COM" not in twice.text
    repeated = await api.post("/users", json={"id": ada["id"], "email": "new@example.com", "name": "Ada"})
    assert_error(repeated, 409, "AlreadyExistsError", "id")


async def test_bad_input_is_422_and_is_not_echoed(api: httpx.AsyncClient):
    ada = await add_ada(api)
    url = f"/users/{ada['id']}"
    for answer, detail in (
        (await api.post("/users", json={"email": "secret at all", "name": "x"}), "body.email"),
        (await api.post("/users", json={"email": "a@b", "name": "x", "admin": True}), "body.admin"),
        (await api.post("/users", content="{", headers={"Content-Type": "application/json"}), "JSON"),
        (await api.patch(url, json={"name": None}), "body.name"),
        (await api.patch(url, json={}, headers={"If-Match": "secret"}), "if-match"),
        (await api.get("/users/secret"), "path.user_id"),
        (await api.get("/users", params={"limit": 0}), "query.limit"),
    ):
        assert_error(answer, 422, "RequestValidationError", detail)
        assert "secret" not in answer.text
    assert_error(await api.get("/users", params={"after": "forged"}), 422, "InvalidCursorError")
    # What only the library can tell is told the same way.
    too_long = await api.post("/sessions", json={"email": "ada@example.com", "device": "x" * 201})
    assert_error(too_long, 422, "DataError", "device")
    with_nul = await api.patch(url, json={"name": "Ada\0"})
    assert_error(with_nul, 422, "DataError")


async def test_a_limit_that_is_used_up_is_429(multidb_settings: Settings):
    app = create_app(multidb_settings)

    @app.get("/limited/{milliseconds}")
    async def limited(milliseconds: int) -> None:
        raise RateLimitExceededError(
            "no more calls",
            decision=SimpleNamespace(retry_after=timedelta(milliseconds=milliseconds)),
        )

    @app.get("/limited")
    async def limited_without_a_decision() -> None:
        raise RateLimitExceededError("no more calls")

    async with served(app) as api:
        for path, seconds in (("/limited/2001", "3"), ("/limited/0", "1"), ("/limited", "1")):
            answer = await api.get(path)
            assert_error(answer, 429, "RateLimitExceededError", "no more calls")
            assert answer.headers["retry-after"] == seconds


@pytest.mark.mongo
async def test_health_tells_of_every_store(api: httpx.AsyncClient):
    answer = await api.get("/health")
    assert answer.status_code == 200
    health = answer.json()
    assert health.pop("ok") is True
    assert [each["depth"] for each in health.pop("outbox")] == [0, 0]
    assert set(health) == {"postgres", "mongo", "redis"}
    assert all(store["ok"] and store["version"] for store in health.values())


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def test_a_store_that_is_away_is_503_for_what_needs_it(multidb_settings: Settings):
    away = multidb_settings.model_copy(
        update={
            "redis_url": SecretStr(f"redis://127.0.0.1:{closed_port()}/0"),
            "degradable_stores": frozenset({"redis"}),
        }
    )
    async with MultiDB(multidb_settings) as db:
        token, _ = await db.sessions.create(uuid4())
    async with served(create_app(away)) as api:
        ada = await add_ada(api)
        assert (await api.get(f"/users/{ada['id']}")).json() == ada

        for answer in (
            await api.post("/sessions", json={"email": "ada@example.com"}),
            await api.get("/sessions/me", headers={"Authorization": f"Bearer {token}"}),
        ):
            assert_error(answer, 503, "UnavailableError")
            assert answer.headers["retry-after"] == "1"

        degraded = await api.get("/health")
        assert degraded.status_code == 200
        assert degraded.json()["redis"]["ok"] is False
        assert degraded.json()["redis"]["required"] is False


async def test_health_is_503_once_a_required_store_is_away(multidb_settings: Settings):
    app = create_app(multidb_settings)
    async with served(app) as api:
        assert (await api.get("/health")).status_code == 200
        await app.state.db.redis.close()

        answer = await api.get("/health")
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["redis"]["ok"] is False
        assert answer.json()["postgres"]["ok"] is True


def test_the_application_is_made_without_settings_or_io(monkeypatch: pytest.MonkeyPatch):
    for name in ("POSTGRES", "MONGO", "REDIS"):
        monkeypatch.delenv(f"MULTIDB_{name}_URL", raising=False)
    paths = create_app().openapi()["paths"]
    assert {"/users", "/users/{user_id}", "/sessions", "/sessions/me", "/health"} <= set(paths)
