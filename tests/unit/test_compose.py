"""docker-compose.yml, and the commands the compose back end would give Docker."""

import json
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from multidb import Settings
from multidb.errors import ConfigurationError, UnavailableError
from multidb.stack import ComposeStack, EmbeddedStack, docker_engine_answers, open_stack
from multidb.stack.compose import compose_env, compose_file

#: A reference to a variable: its name, and what follows it.
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)([^}]*)\}")

#: Stands for `docker`: keeps its arguments, prints what the test left for the verb, fails if told to.
STUB = """#!{python}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
known = json.loads((here / "answers").read_text())
verb = next((word for word in sys.argv[1:] if word in known), None)
answer = known.get(verb, {{}})
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.exit(answer.get("code", 0))
"""


class Docker:
    """The stub and what it was called with."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        program = folder / "docker"
        program.write_text(STUB.format(python=sys.executable))
        program.chmod(0o755)
        self.answer({})

    def answer(self, answers: dict[str, dict[str, object]]) -> None:
        (self._folder / "answers").write_text(json.dumps(answers))

    def calls(self) -> list[list[str]]:
        path = self._folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Docker:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Docker(folder)


@pytest.fixture
def stack(tmp_path: Path) -> ComposeStack:
    return ComposeStack(tmp_path / "stack")


@pytest.fixture(scope="module")
def text() -> str:
    return compose_file().read_text()


@pytest.fixture(scope="module")
def project(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def running(service: str, **more: object) -> str:
    return json.dumps({"Service": service, "State": "running", "Health": "healthy", **more})


def all_running() -> dict[str, dict[str, object]]:
    return {"ps": {"out": "\n".join(map(running, ("postgres", "mongodb", "redis")))}}


class TestFile:
    def test_it_follows_the_specification(self, project: dict[str, Any]) -> None:
        schema = json.loads((Path(__file__).parent / "data" / "compose-spec.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(project, schema, cls=jsonschema.Draft202012Validator)

    def test_images_are_pinned_to_a_release(self, project: dict[str, Any]) -> None:
        images = {name: service["image"] for name, service in project["services"].items()}
        assert all(re.search(r":\d+\.\d+(\.\d+)?(-\d+)?$", image) for image in images.values()), images
        assert images["postgres"].startswith("postgres:18.")
        assert images["mongodb"].startswith("mongo:8.")
        assert images["redis"].startswith("redis:8.")

    def test_ports_are_this_machines_only(self, project: dict[str, Any]) -> None:
        ports = [port for service in project["services"].values() for port in service["ports"]]
        assert len(ports) == len(project["services"])
        assert all(port.startswith("127.0.0.1:") for port in ports)

    def test_no_secret_has_a_default(self, text: str) -> None:
        secrets = {(name, rest) for name, rest in VARIABLE.findall(text) if re.search("PASSWORD|KEY", name)}
        assert {name for name, _ in secrets} == {
            "POSTGRES_PASSWORD",
            "MONGO_PASSWORD",
            "MONGO_REPLICA_SET_KEY",
            "REDIS_PASSWORD",
            "CONSOLES_PASSWORD",
        }
        assert all(re.match(r":\?\w", rest) for _, rest in secrets), secrets

    def test_every_secret_is_a_variable(self, project: dict[str, Any]) -> None:
        for service in project["services"].values():
            for name, value in service["environment"].items():
                if "PASSWORD" in name or "KEY" in name:
                    assert value.startswith("${")

    def test_the_stores_report_their_health_and_keep_their_data(self, project: dict[str, Any]) -> None:
        volumes = set()
        for name in ("postgres", "mongodb", "redis"):
            service = project["services"][name]
            assert service["healthcheck"]["test"]
            volumes |= {volume.partition(":")[0] for volume in service["volumes"]}
        assert volumes == set(project["volumes"])

    def test_consoles_start_only_when_asked_for(self, project: dict[str, Any]) -> None:
        consoles = {name for name, service in project["services"].items() if service.get("profiles")}
        assert consoles == {"adminer", "mongo-express", "redis-commander"}


class TestEnvironment:
    def test_it_has_every_variable_without_a_default(self, text: str) -> None:
        needed = {name for name, rest in VARIABLE.findall(text) if not rest.startswith(":-")}
        assert needed
        assert needed <= compose_env().keys()

    def test_it_gives_the_settings_the_library_reads(self, stack: ComposeStack, docker: Docker) -> None:
        docker.answer(all_running())
        stack.start()
        settings = stack.settings()
        assert isinstance(settings, Settings)
        env = stack.env
        for url, password, port in (
            (settings.postgres_url, "POSTGRES_PASSWORD", "POSTGRES_PORT"),
            (settings.mongo_url, "MONGO_PASSWORD", "MONGO_PORT"),
            (settings.redis_url, "REDIS_PASSWORD", "REDIS_PORT"),
        ):
            assert f":{env[password]}@127.0.0.1:{env[port]}/" in url.get_secret_value()

    def test_secrets_differ_each_time(self) -> None:
        first, second = compose_env(), compose_env()
        assert all(first[name] != second[name] for name in first if not name.endswith("_PORT"))


class TestCommands:
    def test_start_waits_for_health(self, stack: ComposeStack, docker: Docker) -> None:
        said: list[str] = []
        assert stack.start(said.append)
        assert said
        assert stat.S_IMODE(stack.env_path.stat().st_mode) == 0o600
        *_, up = docker.calls()
        common = ["compose", "--env-file", str(stack.env_path), "--file", str(compose_file())]
        assert up[: len(common)] == common
        assert up[len(common) : len(common) + 2] == ["--project-name", stack.project]
        assert up[len(common) + 2 :] == ["up", "--detach", "--wait", "--wait-timeout", "180"]

    def test_start_of_a_running_stack_does_nothing(self, stack: ComposeStack, docker: Docker) -> None:
        docker.answer(all_running())
        assert not stack.start()
        assert not any("up" in call for call in docker.calls())

    def test_no_secret_is_on_a_command_line(self, stack: ComposeStack, docker: Docker) -> None:
        stack.start()
        docker.answer(all_running())
        stack.status()
        secrets = {value for name, value in stack.env.items() if re.search("PASSWORD|KEY|URL", name)}
        line = json.dumps(docker.calls())
        assert secrets
        assert not any(secret in line for secret in secrets)

    def test_each_directory_is_a_project(self, tmp_path: Path) -> None:
        assert ComposeStack(tmp_path / "a").project != ComposeStack(tmp_path / "b").project
        assert ComposeStack(tmp_path / "a").project == ComposeStack(tmp_path / "a").project

    @pytest.mark.parametrize("shape", ["\n".join, lambda lines: f"[{','.join(lines)}]"])
    def test_status_reads_either_form_of_ps(
        self, stack: ComposeStack, docker: Docker, shape: Callable[[list[str]], str]
    ) -> None:
        stack.start()
        lines = [running("postgres"), running("redis", State="exited", ExitCode=137)]
        docker.answer({"ps": {"out": shape(lines)}, "logs": {"out": "one\nlast words\n"}})
        postgres, mongodb, redis = stack.status()
        assert (postgres.state, mongodb.state, redis.state) == ("running", "stopped", "crashed")
        assert redis.log_tail == ("one", "last words")
        assert postgres.port == int(stack.env["POSTGRES_PORT"])

    def test_a_container_that_ended_well_is_stopped(self, stack: ComposeStack, docker: Docker) -> None:
        stack.start()
        docker.answer({"ps": {"out": running("redis", State="exited", ExitCode=0)}})
        assert [status.state for status in stack.status()] == ["stopped"] * 3

    def test_stop_keeps_the_volumes_and_clean_does_not(self, stack: ComposeStack, docker: Docker) -> None:
        stack.start()
        docker.answer(all_running())
        assert stack.stop()
        assert docker.calls()[-1][-1] == "stop"
        stack.clean()
        assert docker.calls()[-1][-3:] == ["down", "--volumes", "--remove-orphans"]
        assert not stack.env_path.exists()

    def test_before_the_first_start_docker_is_not_asked(self, stack: ComposeStack, docker: Docker) -> None:
        assert not stack.stop()
        assert {status.state for status in stack.status()} == {"stopped"}
        stack.clean()
        assert docker.calls() == []
        with pytest.raises(ConfigurationError, match="multidb start"):
            stack.settings()

    def test_what_docker_says_is_told(self, stack: ComposeStack, docker: Docker) -> None:
        docker.answer({"up": {"err": "no space left on device\n", "code": 1}})
        with pytest.raises(UnavailableError, match="no space left"):
            stack.start()

    def test_without_docker_it_says_what_to_install(
        self, stack: ComposeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(ConfigurationError, match="install Docker"):
            stack.start()


class TestBackend:
    @pytest.mark.parametrize(
        ("answers", "expected"),
        [
            ({}, True),
            ({"version": {"code": 1}}, False),
            ({"compose": {"code": 1, "err": "docker: unknown command: docker compose"}}, False),
        ],
    )
    def test_compose_is_used_where_an_engine_answers_it(
        self, docker: Docker, tmp_path: Path, answers: dict[str, dict[str, object]], expected: bool
    ) -> None:
        docker.answer(answers)
        assert docker_engine_answers() is expected
        assert open_stack(tmp_path / "new").backend == ("compose" if expected else "embedded")

    def test_a_started_directory_keeps_its_back_end(self, docker: Docker, tmp_path: Path) -> None:
        ComposeStack(tmp_path / "stack").start()
        docker.answer({"version": {"code": 1}})
        assert open_stack(tmp_path / "stack").backend == "compose"
        with pytest.raises(ConfigurationError, match="belongs to the compose back end"):
            EmbeddedStack(tmp_path / "stack").start()
        with pytest.raises(ConfigurationError, match="belongs to the compose back end"):
            open_stack(tmp_path / "stack", "embedded")
