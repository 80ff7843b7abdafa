"""The `multidb` command, as a shell runs it, on real servers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multidb.cli.app import app
from multidb.models.ids import uuid7
from multidb.ops import migrations
from multidb.settings import Settings
from multidb.stack import SERVERS, EmbeddedStack
from multidb.stack.addresses import URL_OF, password_of

from . import programs
from .schema_changes import execute
from .test_jobs_cli import environment

#: Outside settings must not reach the commands, nor the commands outside servers.
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("MULTIDB_", "PG"))}


class Command:
    """The command, in a working directory of its own."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.stack = EmbeddedStack(home / ".multidb")

    def __call__(
        self, *arguments: str, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return programs.run("multidb.cli", *arguments, cwd=self._home, env=CLEAN | environment, stdin=stdin)

    def json(self, *arguments: str, **environment: str) -> tuple[int, Any]:
        done = self(*arguments, "--json", **environment)
        return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def module_command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    command = Command(tmp_path_factory.mktemp("cli"))
    started = command("start", "--backend", "embedded")
    assert started.returncode == 0, started.stderr
    assert "Started (embedded)." in started.stdout
    for name in SERVERS:
        assert f"{name}: ready" in started.stderr
    yield command
    command.stack.stop()


@pytest.fixture
def multidb(module_command: Command) -> Command:
    """The command, where all three servers run and the schemas may be there or not."""
    module_command.stack.start()
    return module_command


@pytest.fixture
def bare(tmp_path: Path) -> Command:
    """The command, where nothing was ever started."""
    return Command(tmp_path)


class TestStartAndStop:
    def test_a_second_start_says_so_and_hides_the_secrets(self, multidb: Command) -> None:
        done = multidb("start")
        assert done.returncode == 0
        assert "Already running (embedded)." in done.stdout
        assert str(multidb.stack.env_path) in done.stdout
        for name in SERVERS:
            url = multidb.stack.env[URL_OF[name]]
            assert password_of(url) not in done.stdout + done.stderr
            assert url.replace(password_of(url), "***") in done.stdout

    def test_secrets_are_shown_when_asked_for(self, multidb: Command) -> None:
        shown = multidb("start", "--show-secrets").stdout
        assert all(multidb.stack.env[URL_OF[name]] in shown for name in SERVERS)

    def test_stop_then_restart(self, multidb: Command) -> None:
        env = dict(multidb.stack.env)
        assert multidb("stop").stdout == "Stopped.\n"
        again = multidb("stop")
        assert (again.returncode, again.stdout) == (0, "Nothing was running.\n")
        restarted = multidb("restart")
        assert restarted.returncode == 0
        assert "Restarted (embedded)." in restarted.stdout
        assert multidb.stack.env == env

    def test_the_directory_may_be_named(self, multidb: Command, tmp_path: Path) -> None:
        elsewhere = Command(tmp_path)
        named = str(multidb.stack.directory.path)
        assert elsewhere("status", "--dir", named).returncode == 0
        assert elsewhere("status", MULTIDB_DIR=named).returncode == 0

    def test_clean_asks_first(self, tmp_path: Path) -> None:
        multidb = Command(tmp_path)
        multidb.stack.start_server("redis")
        refused = multidb("clean")
        assert refused.returncode == 2
        assert "--yes" in refused.stderr
        assert multidb.stack.status()[2].state == "running"
        assert multidb("clean", "--yes").returncode == 0
        assert {status.state for status in multidb.stack.status()} == {"stopped"}
        assert not multidb.stack.directory.path.exists()


class TestStatus:
    def test_all_run(self, multidb: Command) -> None:
        code, shown = multidb.json("status")
        expected: list[dict[str, Any]] = [
            {"name": each.name, "state": "running", "pid": each.pid, "port": each.port, "log_tail": []}
            for each in multidb.stack.status()
        ]
        shown.pop("outbox", None)  # there where the schema is
        assert code == 0
        assert shown == {"backend": "embedded", "services": expected, "ok": True}
        lines = multidb("status").stdout.splitlines()
        assert [line.split()[:2] for line in lines[1:]] == [[name, "running"] for name in SERVERS]

    def test_a_crash_is_seen_with_its_last_words(self, multidb: Command) -> None:
        multidb.stack.kill("redis")
        code, shown = multidb.json("status")
        *_, redis = shown["services"]
        assert code == 1
        assert not shown["ok"]
        assert (redis["name"], redis["state"], redis["pid"]) == ("redis", "crashed", None)
        assert any("Ready to accept connections" in line for line in redis["log_tail"])
        assert "redis crashed. Its last log lines:" in multidb("status").stdout
        assert multidb("start").returncode == 0
        assert {status.state for status in multidb.stack.status()} == {"running"}

    def test_a_store_the_application_can_spare_may_be_down(self, multidb: Command) -> None:
        multidb.stack.kill("redis")
        spare = {"MULTIDB_DEGRADABLE_STORES": "redis"}
        assert multidb("status", **spare).returncode == 0
        assert multidb("health", **spare).returncode == 0

    def test_before_the_first_start(self, bare: Command) -> None:
        assert bare("stop", "--backend", "embedded").stdout == "Nothing was running.\n"
        code, shown = bare.json("status", "--backend", "embedded")
        assert code == 1
        assert {service["state"] for service in shown["services"]} == {"stopped"}
        assert not bare.stack.directory.path.exists()


class TestHealth:
    def test_all_answer(self, multidb: Command) -> None:
        code, report = multidb.json("health")
        assert code == 0
        assert report["ok"]
        for store in ("postgres", "mongo", "redis"):
            assert report[store]["ok"]
            assert report[store]["required"]
            assert report[store]["version"]
        assert multidb("health").stdout.count("ok") == 3

    def test_a_store_that_is_down_is_told(self, multidb: Command) -> None:
        multidb.stack.kill("postgres")
        code, report = multidb.json("health")
        assert code == 1
        assert not report["ok"]
        assert not report["postgres"]["ok"]
        assert report["postgres"]["detail"]
        assert report["mongo"]["ok"]
        assert report["redis"]["ok"]

    def test_it_uses_the_applications_settings(self, multidb: Command) -> None:
        code, report = multidb.json("health", MULTIDB_REDIS_URL="redis://127.0.0.1:1/0")
        assert code == 1
        assert not report["redis"]["ok"]
        assert report["postgres"]["ok"]


class TestOutbox:
    def test_what_was_given_up_is_shown_skipped_and_delivered(
        self, multidb: Command, multidb_settings: Settings
    ) -> None:
        place = {"MULTIDB_DIR": str(multidb.stack.directory.path), **environment(multidb_settings)}

        def run(*arguments: str, code: int = 0) -> str:
            # In this process: one of its own would take seconds, each time.
            invoked = CliRunner().invoke(app, arguments, env=place)
            assert invoked.exit_code == code, invoked.output
            return invoked.output if code != 1 else str(invoked.exception)

        dead, known = str(uuid7()), str(uuid7())
        for id, effect in ((dead, "no.such"), (known, "document_metadata.delete")):
            execute(
                multidb_settings,
                "INSERT INTO outbox (id, store, effect, payload, stream, attempts, error, dead_at) VALUES"
                f" ('{id}', 'mongo', '{effect}', '{json.dumps({'id': id})}', 'd/7', 7, 'it failed', now())",
            )
        assert "2 dead" in run("status")
        assert json.loads(run("status", "--json"))["outbox"][0]["depth"] == 2
        assert "2 dead" in run("health")
        assert json.loads(run("health", "--json"))["outbox"][0]["dead"] == 2
        shown = json.loads(run("outbox", "list", "--dead", "--json"))
        assert [(each["id"], each["error"]) for each in shown] == [(dead, "it failed"), (known, "it failed")]
        assert run("outbox", "skip", dead) == "Skipped.\n"
        assert "no effect with the id" in run("outbox", "retry", dead, code=1)
        assert run("outbox", "retry") == "1 to be delivered again.\n"
        listed = run("outbox", "list")
        assert "document_metadata.delete" in listed
        assert "waiting" in listed
        assert "is no MultiDB" in run("relay", "json:loads", code=1)
        assert "must name a module" in run("relay", "json", code=1)
        run("outbox", "skip", "7", code=2)


class TestSchemas:
    def test_init_may_be_repeated(self, multidb: Command) -> None:
        for _ in range(2):
            done = multidb("init")
            assert done.returncode == 0, done.stderr
            assert "PostgreSQL: migrating" in done.stderr
            assert "PostgreSQL is at revision" in done.stdout
        assert "MongoDB is as its schemas say." in done.stdout

    def test_migrate_goes_both_ways(self, multidb: Command) -> None:
        migrations.upgrade(multidb.stack.settings())
        down = multidb("migrate", "base", "--down")
        assert (down.returncode, down.stdout) == (0, "PostgreSQL is at revision none.\n"), down.stderr
        differs = multidb("migrate", "--check")
        assert differs.returncode == 1
        assert "users" in differs.stdout
        up = multidb("migrate").stdout
        assert multidb("migrate", "--current").stdout.strip() in up
        assert multidb("migrate", "--check").returncode == 0

    def test_statements_are_printed_and_not_run(self, bare: Command) -> None:
        done = bare("migrate", "--sql", MULTIDB_POSTGRES_URL="postgresql://nobody@127.0.0.1:1/nothing")
        assert done.returncode == 0, done.stderr
        assert "CREATE TABLE users" in done.stdout

    @pytest.mark.parametrize(
        "arguments", [("--down",), ("--current", "--check"), ("head", "--current"), ("--check", "--sql")]
    )
    def test_wrong_usage(self, arguments: tuple[str, ...]) -> None:
        assert CliRunner().invoke(app, ["migrate", *arguments]).exit_code == 2


class TestRoutes:
    def test_every_entity_has_its_place(self, bare: Command) -> None:
        lines = bare("routes").stdout.splitlines()
        assert lines[0].split() == ["entity", "store", "target", "repository"]
        assert ["users", "postgres", "users", "UserRepository"] in [line.split() for line in lines]
        code, routes = bare.json("routes")
        assert code == 0
        assert len(routes) == len(lines) - 1
        assert {"entity", "store", "target", "repository"} == set(routes[0])


class TestShell:
    """Commands come from stdin here; on a terminal the same programs take it over."""

    @pytest.fixture
    def only_wheels(self, tmp_path: Path) -> dict[str, str]:
        """An environment in which PATH has no client program."""
        return {"PATH": str(tmp_path)}

    def test_postgres(self, multidb: Command, only_wheels: dict[str, str]) -> None:
        done = multidb("shell", "postgres", stdin="select 6 * 7 as answer", **only_wheels)
        assert done.returncode == 0, done.stderr
        assert "42" in done.stdout
        done = multidb("shell", "postgres", "--", "-tAc", "select current_database()", **only_wheels)
        assert done.stdout == "multidb\n"

    def test_redis(self, multidb: Command, only_wheels: dict[str, str]) -> None:
        assert multidb("shell", "redis", stdin="ping\n", **only_wheels).stdout == "PONG\n"
        assert multidb("shell", "redis", "--", "echo", "hello", **only_wheels).stdout == "hello\n"

    def test_mongodb_from_python(self, multidb: Command, only_wheels: dict[str, str]) -> None:
        lines = """db.name
for number in range(2):
    db.shell.insert_one({"n": number})

db.shell.count_documents({})"""
        done = multidb("shell", "mongodb", stdin=lines, **only_wheels)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0] == "'multidb'"
        assert done.stdout.splitlines()[-1] == "2"

    def test_mongodb_from_python_tells_errors(self, multidb: Command, only_wheels: dict[str, str]) -> None:
        done = multidb("shell", "mongodb", stdin="1 / 0\nprint('goes on')\n", **only_wheels)
        assert done.returncode == 1
        assert "ZeroDivisionError" in done.stderr
        assert done.stdout == "goes on\n"

    def test_mongosh_is_used_where_it_is_installed(self, multidb: Command, tmp_path: Path) -> None:
        program = tmp_path / "mongosh"
        program.write_text(
            f"#!{sys.executable}\nimport os, sys\nprint(sys.argv[1:], os.environ['MULTIDB_MONGO_URL'])\n"
        )
        program.chmod(0o755)
        done = multidb("shell", "mongodb", "--", "--norc", PATH=str(tmp_path))
        arguments, _, url = done.stdout.strip().rpartition(" ")
        assert url == multidb.stack.env[URL_OF["mongodb"]]
        assert password_of(url) not in arguments
        assert arguments.endswith("'--norc']")


class TestLogs:
    def test_each_server_or_one(self, multidb: Command) -> None:
        every = multidb("logs", "-n", "1").stdout.splitlines()
        assert [line.partition(" ")[0] for line in every] == list(SERVERS)
        assert len(multidb("logs", "redis", "--lines", "3").stdout.splitlines()) == 3

    def test_new_lines_are_followed(self, multidb: Command) -> None:
        command = [sys.executable, "-m", "multidb.cli", "logs", "-f", "-n", "1"]
        directory = str(multidb.stack.directory.path)
        with subprocess.Popen(
            [*command, "--dir", directory], stdout=subprocess.PIPE, env=CLEAN, text=True
        ) as process:
            assert process.stdout is not None
            first = {process.stdout.readline().partition(" ")[0] for _ in SERVERS}
            multidb.stack.kill("postgres")
            multidb.stack.start()
            seen = iter(process.stdout.readline, "")
            assert any("database system is ready" in line for line in seen)
            process.terminate()
        assert first == set(SERVERS)


class TestErrors:
    def test_one_line_and_no_traceback(self, bare: Command) -> None:
        for verb in ("health", "migrate"):
            done = bare(verb)
            assert done.returncode == 1
            assert done.stdout == ""
            assert len(done.stderr.splitlines()) == 1
            assert "MULTIDB_POSTGRES_URL" in done.stderr
            assert "multidb start" in done.stderr

    @pytest.mark.parametrize("arguments", [("dance",), ("shell", "oracle"), ("start", "--backend", "magic")])
    def test_wrong_usage(self, arguments: tuple[str, ...]) -> None:
        assert CliRunner().invoke(app, arguments).exit_code == 2

    def test_without_its_packages_it_says_what_to_install(self) -> None:
        code = "import sys; sys.modules['typer'] = None; from multidb.cli import main; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert done.stderr == "the multidb command needs more packages: pip install 'multidb[cli]'\n"
