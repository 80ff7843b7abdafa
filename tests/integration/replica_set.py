"""A replica set of three, for tests of what happens when its primary is gone."""

import secrets
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from multidb.stack.addresses import free_port
from multidb.stack.mongo import MongoServer
from multidb.stack.process import Process, spawn

#: An election in a second or two, where the server's own settings take ten and more.
_QUICK = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 200, "heartbeatTimeoutSecs": 1}


class ReplicaSet:
    """Three servers that know each other by one key, and one root user, `multidb`."""

    def __init__(self, directory: Path) -> None:
        self._password = secrets.token_urlsafe(16)
        self._ports = [free_port() for _ in range(3)]
        self._homes = [directory / f"mongodb-{n}" for n in range(3)]
        self._processes: dict[int, Process] = {}

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"mongodb://multidb:{self._password}@{hosts}/multidb?authSource=admin&replicaSet=rs0"

    def start(self) -> None:
        for n, home in enumerate(self._homes):
            home.mkdir(parents=True)
            if n:
                shutil.copy(self._homes[0] / "keyfile", home / "keyfile")
                (home / "data").mkdir()
            self._spawn(n)
        members = [{"_id": n, "host": f"127.0.0.1:{port}"} for n, port in enumerate(self._ports)]
        with _client(f"127.0.0.1:{self._ports[0]}") as client:
            _patiently(lambda: client.admin.command("ping"))
            for port in self._ports[1:]:
                with _client(f"127.0.0.1:{port}") as other:
                    _patiently(lambda other=other: other.admin.command("ping"))
            config = {"_id": "rs0", "members": members, "settings": _QUICK}
            client.admin.command("replSetInitiate", config)
            # The first, for it alone takes a user from whoever asks.
            _patiently(
                lambda: client.admin.command("createUser", "multidb", pwd=self._password, roles=["root"])
            )
        _patiently(self._all_there)

    def kill_primary(self) -> int:
        """End the primary by SIGKILL, and return which it was."""
        client: MongoClient[dict[str, Any]]
        with MongoClient(self.url, serverSelectionTimeoutMS=30_000) as client:
            client.admin.command("ping")
            assert client.primary is not None
            number = self._ports.index(client.primary[1])
        process = self._processes.pop(number)
        process.send(signal.SIGKILL)
        assert process.wait(10)
        return number

    def revive(self, number: int) -> None:
        """Start a server again, and wait until all three take part."""
        self._spawn(number)
        _patiently(self._all_there)

    def stop(self) -> None:
        for process in self._processes.values():
            process.send(signal.SIGKILL)
            process.wait(10)

    def _spawn(self, number: int) -> None:
        home = self._homes[number]
        server = MongoServer(home)
        url = f"mongodb://127.0.0.1:{self._ports[number]}/"
        server.prepare(url)
        self._processes[number] = spawn(server.command(url), home / "log")

    def _all_there(self) -> None:
        client: MongoClient[dict[str, Any]]
        with MongoClient(self.url, serverSelectionTimeoutMS=1000) as client:
            states = [each["stateStr"] for each in client.admin.command("replSetGetStatus")["members"]]
            if sorted(states) != ["PRIMARY", "SECONDARY", "SECONDARY"]:
                raise PyMongoError(f"not yet: {states}")


def _client(address: str) -> MongoClient[dict[str, Any]]:
    return MongoClient(f"mongodb://{address}/", directConnection=True, serverSelectionTimeoutMS=1000)


def _patiently(call: Any) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            call()
        except PyMongoError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)  # members tell nobody how far they are
        else:
            return


@contextmanager
def replica_set(directory: Path) -> Iterator[ReplicaSet]:
    """Run one for as long as the body takes."""
    made = ReplicaSet(directory)
    try:
        made.start()
        yield made
    finally:
        made.stop()
