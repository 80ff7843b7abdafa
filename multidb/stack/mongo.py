"""The embedded MongoDB: one node that is a replica set, so that transactions and change streams work."""

import base64
import os
import secrets
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure

from multidb.errors import ConfigurationError
from multidb.stack.addresses import password_of, port_of
from multidb.stack.binaries import find_server
from multidb.stack.protocol import ServerName
from multidb.stack.servers import Pause, answers_tcp

__all__ = ["MongoServer"]

_Client: TypeAlias = MongoClient[dict[str, Any]]

# Codes of the server: https://github.com/mongodb/mongo/blob/master/src/mongo/base/error_codes.yml
_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18
_ALREADY_INITIALIZED = 23
_NOT_YET_INITIALIZED = 94


class MongoServer:
    """A replica set `rs0` of one, with authentication and one root user, `multidb`.

    Its writes are journaled before they are acknowledged, whether or not the stack is
    to be durable: it saves next to nothing not to.
    """

    name: ServerName = "mongodb"
    stop_signals = ((signal.SIGTERM, 20.0),)

    def __init__(self, home: Path) -> None:
        self._home = home
        self._key = home / "keyfile"

    def is_new(self) -> bool:
        """Tell whether it has no data yet."""
        return not self._key.exists()

    def prepare(self, url: str) -> None:
        """Make its folder and the key its members would know each other by."""
        del url
        (self._home / "data").mkdir(mode=0o700, exist_ok=True)
        if self.is_new():
            descriptor = os.open(self._key, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(base64.b64encode(secrets.token_bytes(64)))

    def command(self, url: str) -> list[str | Path]:
        """Return the command line of mongod."""
        return [
            *(find_server("mongodb"), "--dbpath", self._home / "data"),
            *("--bind_ip", "127.0.0.1", "--port", str(port_of(url)), "--nounixsocket"),
            *("--replSet", "rs0", "--auth", "--keyFile", self._key),
            *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false"),
            # What is due goes within a second, not a minute: nobody here watches a retention for so long.
            *("--setParameter", "ttlMonitorSleepSecs=1"),
        ]

    def wait(self, url: str, pause: Pause) -> None:
        """Return once it is primary and knows our user; make it both the first time."""
        port = port_of(url)
        while not answers_tcp(port):
            pause()
        while True:
            try:
                return self._complete(url, f"127.0.0.1:{port}", pause)
            except ConnectionFailure:
                pause()
            except OperationFailure as error:
                # It still looks for itself at the address it had before.
                if error.code != _NOT_YET_INITIALIZED:
                    raise
                pause()

    def _complete(self, url: str, address: str, pause: Pause) -> None:
        with _connect(address, password_of(url)) as client:
            try:
                config = client.admin.command("replSetGetConfig")["config"]
            except OperationFailure as error:
                if error.code != _AUTHENTICATION_FAILED:
                    raise
                _found(address, password_of(url), pause)
                config = client.admin.command("replSetGetConfig")["config"]
            if config["members"][0]["host"] != address:
                # It listens on another port than before, and is a member nobody can reach until told so.
                config["members"][0]["host"] = address
                config["version"] += 1
                client.admin.command("replSetReconfig", config, force=True)
            _await_primary(client, pause)

    def should_retry(self, output: str) -> bool:
        """Tell that it is of no use."""
        del output
        return False

    def telling(self, lines: Sequence[str]) -> Sequence[str]:
        """Return the errors: many lines about shutting down follow them."""
        errors = [line for line in lines if '"s":"E"' in line or '"s":"F"' in line]
        return errors or lines


def _connect(address: str, password: str | None = None) -> _Client:
    user = f"multidb:{password}@" if password else ""
    url = f"mongodb://{user}{address}/?authSource=admin"
    return MongoClient(url, directConnection=True, serverSelectionTimeoutMS=5000)


def _found(address: str, password: str, pause: Pause) -> None:
    """Make the replica set and its user, as anyone local may while there is no user."""
    with _connect(address) as client:
        try:
            member = {"_id": 0, "host": address}
            client.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
        except OperationFailure as error:
            if error.code == _UNAUTHORIZED:
                raise ConfigurationError(
                    "MongoDB's data does not know the user and password of the env file", store="mongo"
                ) from error
            if error.code != _ALREADY_INITIALIZED:
                raise
        _await_primary(client, pause)
        client.admin.command("createUser", "multidb", pwd=password, roles=["root"])


def _await_primary(client: _Client, pause: Pause) -> None:
    while not client.admin.command("hello")["isWritablePrimary"]:
        pause()
