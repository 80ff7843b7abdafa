"""PgBouncer in transaction mode, in front of the tests' PostgreSQL."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import SecretStr

from multidb.settings import Settings
from multidb.stack.addresses import free_port
from multidb.stack.servers import answers_tcp

__all__ = ["pgbouncer", "pooled"]

#: Where `make pgbouncer` puts it.
_FETCHED = Path(sys.prefix) / "pgbouncer"

#: Fewer connections than the library has: sessions must share them.
_CONFIGURATION = """
[databases]
* = host={host} port={port} user='{user}' password='{password}'
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {own}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 4
"""


@cache
def pgbouncer() -> Path | None:
    """Return MULTIDB_TEST_PGBOUNCER's program, or the one fetched, PATH's, Debian's; None if none runs."""
    named, on_path = os.environ.get("MULTIDB_TEST_PGBOUNCER"), shutil.which("pgbouncer")
    for program in [named] if named else [_FETCHED / "usr/sbin/pgbouncer", on_path, "/usr/sbin/pgbouncer"]:
        if program and Path(program).exists():
            shown = subprocess.run(
                [program, "--version"], env=_environment(), capture_output=True, check=False
            )
            if shown.returncode == 0:
                return Path(program)
    return None


@contextmanager
def pooled(settings: Settings, directory: Path) -> Iterator[Settings]:
    """Yield settings of the same database behind a PgBouncer of its own, which stops afterwards."""
    program, own = pgbouncer(), free_port()
    assert program is not None, "tests that need it are left out where there is none"
    url = urlsplit(settings.postgres_url.get_secret_value())
    file = directory / "pgbouncer.ini"
    file.write_text(
        _CONFIGURATION.format(
            host=url.hostname,
            port=url.port,
            user=unquote(url.username or ""),
            password=unquote(url.password or ""),
            own=own,
        )
    )
    # It refuses to stay root.
    user = ["--user=nobody"] if os.geteuid() == 0 else []
    log = directory / "pgbouncer.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *user, file], stdin=subprocess.DEVNULL, stderr=output, env=_environment()
        )
    try:
        until = time.monotonic() + 10
        while not answers_tcp(own):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.005)  # it tells nobody that it listens
        behind = urlunsplit(url._replace(netloc=f"multidb:any@127.0.0.1:{own}"))
        yield settings.model_copy(
            update={
                "postgres_url": SecretStr(behind),
                "postgres_prepared_statements": False,
                "migration_url": settings.postgres_url,
            }
        )
    finally:
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    libraries = ":".join(map(str, _FETCHED.glob("usr/lib/*-linux-gnu")))
    return {"LD_LIBRARY_PATH": libraries} if libraries else {}
