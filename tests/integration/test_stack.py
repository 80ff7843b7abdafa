"""The embedded servers: real ones, started, killed, moved and stopped."""

import asyncio
import os
import signal
import socketserver
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pymongo import MongoClient
from redis import Redis

from multidb.errors import ConfigurationError, UnavailableError
from multidb.stack import SERVERS, EmbeddedStack, ServerName, running
from multidb.stack import privileges as stack_privileges
from multidb.stack.addresses import URL_OF, password_of, port_is_free, port_of

STARTS = """
import signal
import sys
from multidb.stack import EmbeddedStack
# Also where the tests run in the background of a shell, which has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
print(EmbeddedStack(sys.argv[1], durable=False).start(lambda line: print(line, flush=True)))
"""

#: Uses the stack until its stdin ends.
USES = """
import sys
from multidb.stack import running
with running(sys.argv[1], durable=False):
    print("using", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def module_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    stack = EmbeddedStack(tmp_path_factory.mktemp("a stack") / "in 'here'")
    assert stack.start()
    yield stack
    stack.start()
    pids = [status.pid for status in stack.status()]
    assert stack.stop()
    assert_all_gone(stack, pids)


@pytest.fixture
def stack(module_stack: EmbeddedStack) -> EmbeddedStack:
    """The stack, all three running, whatever the test before did to it."""
    module_stack.start()
    return module_stack


@pytest.fixture
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    """A stack that is not running; its data is kept from one test to the next, to save time."""
    stack = EmbeddedStack(tmp_path_factory.getbasetemp() / "shared-stack", durable=False)
    yield stack
    stack.stop()
    assert_all_gone(stack, [])


def assert_all_gone(stack: EmbeddedStack, pids: list[int | None]) -> None:
    assert {status.state for status in stack.status()} == {"stopped"}
    assert not [pid for pid in pids if pid and Path(f"/proc/{pid}").exists()]
    assert all(port_is_free(status.port) for status in stack.status() if status.port)
    assert not [line for line in command_lines() if str(stack.directory.path) in line]


def command_lines() -> list[str]:
    lines: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return [line for line in lines if sys.executable not in line]


def states(stack: EmbeddedStack) -> dict[str, str]:
    return {status.name: status.state for status in stack.status()}


def pids(stack: EmbeddedStack) -> dict[str, int | None]:
    return {status.name: status.pid for status in stack.status()}


def postgres(stack: EmbeddedStack, *statements: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(stack.env[URL_OF["postgres"]])
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(run())


def write(stack: EmbeddedStack, value: str) -> None:
    """Put the value into each store; return once each has acknowledged it."""
    postgres(
        stack, "CREATE TABLE IF NOT EXISTS kept (v text)", f"INSERT INTO kept VALUES ('{value}') RETURNING 1"
    )
    with MongoClient[dict[str, Any]](stack.env[URL_OF["mongodb"]]) as client:
        client.get_default_database().kept.insert_one({"v": value})
    with Redis.from_url(stack.env[URL_OF["redis"]]) as client:
        client.sadd("kept", value)


def stores_with(stack: EmbeddedStack, value: str) -> list[str]:
    found: list[str] = []
    if postgres(stack, f"SELECT count(*) FROM kept WHERE v = '{value}'"):
        found.append("postgres")
    with MongoClient[dict[str, Any]](stack.env[URL_OF["mongodb"]]) as client:
        if client.get_default_database().kept.count_documents({"v": value}):
            found.append("mongodb")
    with Redis.from_url(stack.env[URL_OF["redis"]]) as client:
        if client.sismember("kept", value):
            found.append("redis")
    return found


def python(code: str, stack: EmbeddedStack) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, str(stack.directory.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def hanging_up(port: int) -> Iterator[None]:
    """Hold a port, and hang up on whoever connects to it."""

    class Server(socketserver.TCPServer):
        allow_reuse_address = True

    with Server(("127.0.0.1", port), socketserver.BaseRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


class TestStart:
    def test_a_second_start_does_nothing(self, stack: EmbeddedStack) -> None:
        before = pids(stack)
        said: list[str] = []
        assert not stack.start(said.append)
        assert not EmbeddedStack(stack.directory.path).start()
        assert pids(stack) == before
        assert said == []

    def test_data_and_addresses_outlive_a_restart(self, stack: EmbeddedStack) -> None:
        env = dict(stack.env)
        write(stack, "over a restart")
        assert stack.stop()
        assert not stack.stop()
        assert set(states(stack).values()) == {"stopped"}
        assert stack.start()
        assert stack.env == env
        assert stores_with(stack, "over a restart") == list(SERVERS)

    def test_settings_are_the_env_files(self, stack: EmbeddedStack) -> None:
        settings = stack.settings()
        assert settings.postgres_url.get_secret_value() == stack.env["MULTIDB_POSTGRES_URL"]
        assert settings.mongo_url.get_secret_value() == stack.env["MULTIDB_MONGO_URL"]
        assert settings.redis_url.get_secret_value() == stack.env["MULTIDB_REDIS_URL"]

    def test_mongodb_has_transactions(self, stack: EmbeddedStack) -> None:
        with (
            MongoClient[dict[str, Any]](stack.env[URL_OF["mongodb"]]) as client,
            client.start_session() as session,
        ):
            things = client.get_default_database().things
            things.insert_one({})
            with session.start_transaction():
                things.delete_many({}, session=session)
            assert things.count_documents({}) == 0

    def test_postgres_is_as_the_library_expects(self, stack: EmbeddedStack) -> None:
        shown = {
            name: postgres(stack, f"SHOW {name}") for name in ("max_connections", "jit", "server_encoding")
        }
        assert shown == {"max_connections": "200", "jit": "off", "server_encoding": "UTF8"}
        assert postgres(stack, "SELECT upper('ß à é') || current_database()") == "ß À Émultidb"

    def test_status_tells_pid_port_and_uptime(self, stack: EmbeddedStack) -> None:
        for status in stack.status():
            assert status.state == "running"
            assert status.pid is not None
            assert status.port == port_of(stack.env[URL_OF[status.name]])
            assert status.uptime is not None
            assert status.log_tail == ()

    def test_logs_give_the_last_lines_and_then_new_ones(self, stack: EmbeddedStack) -> None:
        assert len(list(stack.logs("postgres", lines=2))) == 2
        assert list(stack.logs("postgres", lines=0)) == []
        following = stack.logs("redis", lines=1, follow=True)
        next(following)
        with Redis.from_url(stack.env[URL_OF["redis"]]) as client:
            client.bgrewriteaof()
        assert "rewrit" in next(following)


class TestSecrets:
    def test_files_are_their_owners_alone(self, stack: EmbeddedStack) -> None:
        home = stack.directory.path
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE(stack.env_path.stat().st_mode) == 0o600
        secrets = [password_of(stack.env[URL_OF[name]]).encode() for name in SERVERS]
        carriers = [
            path
            for path in (*home.glob("*"), *home.glob("*/*"))
            if path.is_file() and any(secret in path.read_bytes() for secret in secrets)
        ]
        assert {path.name for path in carriers} == {"multidb.env", "redis.conf"}
        for path in (*carriers, home / "mongodb" / "keyfile"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_none_can_be_seen_from_outside(self, stack: EmbeddedStack) -> None:
        lines = command_lines()
        for name, pid in pids(stack).items():
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode()
            assert "MULTIDB_" not in environment, name
        for name in SERVERS:
            assert any(str(stack.directory.path / name) in line or name == "redis" for line in lines)
            assert not any(password_of(stack.env[URL_OF[name]]) in line for line in lines)

    @pytest.mark.parametrize(
        "url", ["postgresql://multidb@{}/multidb", "postgresql://multidb:guess@{}/multidb"]
    )
    def test_postgres_refuses_strangers(self, stack: EmbeddedStack, url: str) -> None:
        address = stack.env[URL_OF["postgres"]].rpartition("@")[2].partition("/")[0]
        with pytest.raises(asyncpg.InvalidPasswordError):
            asyncio.run(asyncpg.connect(url.format(address)))


class TestCrash:
    @pytest.mark.parametrize("name", SERVERS)
    def test_it_is_seen_and_the_next_start_mends_it(self, stack: EmbeddedStack, name: ServerName) -> None:
        env, before = dict(stack.env), pids(stack)
        write(stack, f"before {name} was killed")
        stack.kill(name)
        assert states(stack) == {**dict.fromkeys(SERVERS, "running"), name: "crashed"}
        (crashed,) = (status for status in stack.status() if status.state == "crashed")
        assert crashed.log_tail
        assert crashed.pid is None
        assert stack.start()
        after = pids(stack)
        assert after[name] != before[name]
        assert {other for other in SERVERS if after[other] == before[other]} == set(SERVERS) - {name}
        assert stack.env == env
        assert stores_with(stack, f"before {name} was killed") == list(SERVERS)

    def test_one_server_may_be_started_alone(self, stack: EmbeddedStack) -> None:
        stack.stop()
        assert stack.start_server("redis")
        assert not stack.start_server("redis")
        assert states(stack) == {"postgres": "stopped", "mongodb": "stopped", "redis": "running"}

    def test_a_stop_clears_it(self, stack: EmbeddedStack) -> None:
        stack.kill("redis")
        assert stack.stop()
        assert set(states(stack).values()) == {"stopped"}


class TestTrouble:
    def test_servers_whose_ports_were_taken_move(self, stack: EmbeddedStack) -> None:
        write(stack, "before the move")
        env = dict(stack.env)
        stack.stop()
        with ExitStack() as held:
            for name in SERVERS:
                held.enter_context(hanging_up(port_of(env[URL_OF[name]])))
            assert stack.start()
        for name in SERVERS:
            old, new = env[URL_OF[name]], stack.env[URL_OF[name]]
            assert port_of(old) != port_of(new)
            assert password_of(old) == password_of(new)
        assert stores_with(stack, "before the move") == list(SERVERS)

    def test_a_server_that_cannot_start_says_why_and_stops_the_others(self, stack: EmbeddedStack) -> None:
        stack.stop()
        # All there are: which of them it reads, and which it left behind when it was killed, it alone knows.
        kept = {log: log.read_bytes() for log in (stack.directory.path / "redis").glob("data/**/*.aof")}
        for log in kept:
            log.write_bytes(b"not an append-only file\n" * 3)
        try:
            with pytest.raises(
                UnavailableError, match=r"redis ended at once(.|\n)*Bad file format"
            ) as raised:
                stack.start()
            assert raised.value.store == "redis"
            assert password_of(stack.env[URL_OF["redis"]]) not in str(raised.value)
            assert_all_gone(stack, [])
        finally:
            for log, content in kept.items():
                log.write_bytes(content)

    def test_secrets_that_are_not_the_datas_are_told(self, stack: EmbeddedStack) -> None:
        stack.stop()
        lost = stack.env_path.read_text()
        stack.env_path.unlink()
        try:
            for name in ("postgres", "mongodb"):
                with pytest.raises(ConfigurationError, match="of the env file"):
                    stack.start_server(name)
            assert_all_gone(stack, [])
        finally:
            stack.env_path.write_text(lost)

    def test_an_interrupt_leaves_nothing_running(self, tmp_path: Path) -> None:
        stack = EmbeddedStack(tmp_path / "stack")
        with python(STARTS, stack) as process:
            assert process.stdout is not None
            assert "creating" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        assert "KeyboardInterrupt" in errors
        assert_all_gone(stack, [])

    def test_root_without_user_namespaces_runs_postgres_as_another_user(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stack_privileges, "_namespaces_work", lambda: False)
        # Not below pytest's own folder, which others may not enter.
        with tempfile.TemporaryDirectory(prefix="multidb-") as folder:
            Path(folder).chmod(0o755)
            stack = EmbeddedStack(Path(folder) / "stack", durable=False)
            try:
                for _ in range(2):
                    assert stack.start_server("postgres")
                    assert postgres(stack, "SELECT current_user") == "multidb"
                    pid = pids(stack)["postgres"]
                    assert Path(f"/proc/{pid}").stat().st_uid == (os.geteuid() or 65534)
                    stack.kill("postgres")
                assert stat.S_IMODE(stack.env_path.stat().st_mode) == 0o600
            finally:
                stack.stop()

    def test_clean_deletes_its_own_and_no_more(self, tmp_path: Path) -> None:
        stack = EmbeddedStack(tmp_path, durable=False)
        (tmp_path / "thesis.txt").write_text("keep")
        stack.start_server("redis")
        stack.clean()
        assert_all_gone(stack, [])
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class TestSharing:
    def test_two_processes_may_start_at_once(self, shared: EmbeddedStack) -> None:
        with python(STARTS, shared) as first, python(STARTS, shared) as second:
            outputs = [process.communicate(timeout=120)[0].split() for process in (first, second)]
        assert sorted(output[-1] for output in outputs) == ["False", "True"]
        assert set(states(shared).values()) == {"running"}

    def test_the_user_who_started_it_stops_it(self, shared: EmbeddedStack) -> None:
        with running(shared.directory.path, durable=False) as stack:
            assert set(states(stack).values()) == {"running"}
        assert_all_gone(stack, [])

    def test_it_stays_for_its_other_users(self, shared: EmbeddedStack) -> None:
        with python(USES, shared) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "using\n"
            before = pids(shared)
            with running(shared.directory.path, durable=False):
                pass
            assert pids(shared) == before
            other.communicate(timeout=60)
        assert_all_gone(shared, [])

    def test_a_killed_user_counts_as_gone(self, shared: EmbeddedStack) -> None:
        with python(USES, shared) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == "using\n"
            other.kill()
        assert set(states(shared).values()) == {"running"}
        with running(shared.directory.path, durable=False):
            pass
        assert_all_gone(shared, [])

    def test_what_was_started_to_stay_stays(self, shared: EmbeddedStack) -> None:
        with running(shared.directory.path, durable=False):
            # As `multidb start` does, while somebody uses it.
            assert not shared.start()
        with running(shared.directory.path, durable=False):
            shared.kill("redis")
        assert states(shared)["postgres"] == "running"

    def test_an_error_in_the_body_stops_it_too(self, shared: EmbeddedStack) -> None:
        with pytest.raises(ZeroDivisionError), running(shared.directory.path, durable=False):
            _ = 1 / 0
        assert_all_gone(shared, [])
