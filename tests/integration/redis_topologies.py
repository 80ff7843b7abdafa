"""Redis behind Sentinels, and Redis Cluster: small ones, of the program that the stack uses."""

import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from multidb.stack.addresses import free_port, port_is_free
from multidb.stack.binaries import find_server
from multidb.stack.process import Process, spawn

PASSWORD = secrets.token_hex(8)
SLOTS = 16384
#: Seconds until a silent server passes for dead.
DEAD_AFTER = 1.0


class RedisProcess:
    """One redis-server, at a port of its own."""

    def __init__(self, home: Path, *directives: str, sentinel: bool = False) -> None:
        self.port = _port()
        self._home = home / str(self.port)
        self._home.mkdir(parents=True)
        self._arguments = ["--sentinel"] if sentinel else []
        own = () if sentinel else (f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", 'save ""')
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {self._home}", *own, *directives]
        # A server rewrites it as it learns of others.
        self._config = self._home / "redis.conf"
        self._config.write_text("\n".join(lines))
        self.process: Process
        self.start()

    def start(self) -> None:
        """Start it, at first or again."""
        command: list[str | Path] = [find_server("redis"), self._config, *self._arguments]
        self.process = spawn(command, self._home / "log")

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.send(signal.SIGKILL)
        self.process.wait(10)

    def run(self, *command: Any) -> Any:
        """Run a command on it."""
        password = None if self._arguments else PASSWORD
        with Redis(port=self.port, password=password, decode_responses=True, protocol=2) as client:
            return client.execute_command(*command)

    def until(self, holds: Callable[[], Any]) -> None:
        """Wait until something holds of it."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(RedisError):  # it is not there yet
                if holds():
                    return
            time.sleep(0.02)  # it tells nobody
        raise TimeoutError((self._home / "log").read_text())


@contextmanager
def sentinels(home: Path) -> Iterator["Sentinels"]:
    """Yield a master, its replica, and three Sentinels that watch them."""
    running = Sentinels(home)
    try:
        running.settle()
        yield running
    finally:
        _end([*running.servers, *running.watching])


class Sentinels:
    """A master, its replica, and three Sentinels."""

    def __init__(self, home: Path) -> None:
        master = RedisProcess(home)
        replica = RedisProcess(home, f"replicaof 127.0.0.1 {master.port}")
        self.servers = [master, replica]
        watch = (
            f"sentinel monitor shop 127.0.0.1 {master.port} 2",
            f"sentinel auth-pass shop {PASSWORD}",
            f"sentinel down-after-milliseconds shop {int(DEAD_AFTER * 1000)}",
            "sentinel failover-timeout shop 3000",
        )
        self.watching = [RedisProcess(home, *watch, sentinel=True) for _ in range(3)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.watching)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/shop/0"

    def settle(self) -> None:
        """Wait until all know of each other."""
        for each in self.watching:
            each.until(partial(self._settled, each))

    def master(self) -> RedisProcess:
        """The one that takes writes, as the Sentinels say."""
        _, port = self.watching[0].run("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop")
        return next(each for each in self.servers if each.port == int(port))

    @staticmethod
    def _settled(sentinel: RedisProcess) -> bool:
        flat: Any = sentinel.run("SENTINEL", "MASTER", "shop")
        seen = dict(zip(flat[::2], flat[1::2], strict=True))
        return (seen["num-other-sentinels"], seen["num-slaves"]) == ("2", "1")


@contextmanager
def cluster(home: Path) -> Iterator["Cluster"]:
    """Yield a cluster of three masters, each with a replica."""
    running = Cluster(home)
    try:
        running.settle()
        yield running
    finally:
        _end(running.nodes)


class Cluster:
    """Three masters, each with a replica."""

    def __init__(self, home: Path) -> None:
        directives = ("cluster-enabled yes", f"cluster-node-timeout {int(DEAD_AFTER * 1000)}")
        self.nodes = [RedisProcess(home, *directives) for _ in range(6)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.nodes[:3])
        return f"redis+cluster://:{PASSWORD}@{hosts}"

    def settle(self) -> None:
        """Give out the slots, and wait until every node agrees."""
        first, *others = self.nodes
        for number, node in enumerate(self.nodes):
            node.until(partial(node.run, "PING"))
            node.run("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in others:
            first.run("CLUSTER", "MEET", "127.0.0.1", node.port)
        for number, node in enumerate(self.nodes[:3]):
            node.run("CLUSTER", "ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
        for master, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
            id = str(master.run("CLUSTER", "MYID"))
            replica.until(partial(replica.run, "CLUSTER", "REPLICATE", id))
        for node in self.nodes:
            node.until(partial(self._settled, node))

    def master(self) -> RedisProcess:
        """One that takes writes."""
        return self.nodes[0]

    def move(self, slot: int, to: RedisProcess, *, whole: bool = True) -> None:
        """Move a slot to another node; if not the whole, its keys are there and it is on its way."""
        owner = next(node for node in self.nodes[:3] if self._has(node, slot))
        ids = {node: node.run("CLUSTER", "MYID") for node in (owner, to)}
        to.run("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
        owner.run("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[to])
        while keys := owner.run("CLUSTER", "GETKEYSINSLOT", slot, 100):
            owner.run("MIGRATE", "127.0.0.1", to.port, "", 0, 1000, "AUTH", PASSWORD, "KEYS", *keys)
        if whole:
            for node in (to, owner):
                node.run("CLUSTER", "SETSLOT", slot, "NODE", ids[to])

    @staticmethod
    def _has(node: RedisProcess, slot: int) -> bool:
        ranges = node.run("CLUSTER", "SLOTS")
        return any(first <= slot <= last and master[1] == node.port for first, last, master, *_ in ranges)

    @staticmethod
    def _settled(node: RedisProcess) -> bool:
        slots: Any = node.run("CLUSTER", "SLOTS")
        return (
            "cluster_state:ok" in str(node.run("CLUSTER", "INFO"))
            and [len(each) for each in slots] == [4] * 3
        )


def _port() -> int:
    """Return a free port whose cluster bus, ten thousand above, is free too."""
    while True:
        port = free_port()
        if port_is_free(port + 10_000):
            return port


def _end(servers: list[RedisProcess]) -> None:
    for each in servers:
        each.process.send(signal.SIGKILL)
    for each in servers:
        each.process.wait(10)
