"""status, health, routes, logs: looking without touching."""

import asyncio
import json
import logging
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from multidb.cli.options import DEFAULT_DIRECTORY, AsJSON, BackendOption, Directory, settings_for
from multidb.cli.output import show_table
from multidb.errors import ConfigurationError
from multidb.models import OutboxStats, StoreHealth
from multidb.settings import Settings
from multidb.stack import SERVERS, STORE_OF, ServerName, ServerStatus, Stack, open_stack

__all__ = ["health", "logs", "routes", "status"]


def status(
    directory: Directory = DEFAULT_DIRECTORY, backend: BackendOption = None, as_json: AsJSON = False
) -> None:
    """Show which servers run, and what a crashed one said last. Exit code 0 if all required ones run."""
    stack = open_stack(directory, backend)
    services = stack.status()
    try:
        spared = settings_for(directory, Settings).degradable_stores
    except ConfigurationError:  # nothing was started yet, and no settings say otherwise
        spared = frozenset()
    ok = all(service.state == "running" for service in services if STORE_OF[service.name] not in spared)
    waiting = _outbox(directory) if services and services[0].state == "running" else None
    if as_json:
        shown = [_described(service) for service in services]
        typer.echo(
            json.dumps({"backend": stack.backend, "services": shown, **_told(waiting), "ok": ok}, indent=2)
        )
    else:
        show_table(("service", "state", "pid", "port", "uptime"), [_row(service) for service in services])
        _show_outbox(waiting)
        for service in services:
            if service.log_tail:
                typer.echo(f"\n{service.name} crashed. Its last log lines:")
                typer.echo("\n".join(f"  {line}" for line in service.log_tail))
    raise typer.Exit(0 if ok else 1)


def health(directory: Directory = DEFAULT_DIRECTORY, as_json: AsJSON = False) -> None:
    """Ask each store how it does, as the application would. Exit code 0 if all required ones answer."""
    from multidb.connections import check

    settings = settings_for(directory, Settings)
    # What it would log of a store that is down is in the report.
    logging.getLogger("multidb").addHandler(logging.NullHandler())
    report = asyncio.run(check(settings))
    if as_json:
        typer.echo(report.model_dump_json(indent=2))
    else:
        stores = {"postgres": report.postgres, "mongo": report.mongo, "redis": report.redis}
        header = ("store", "health", "required", "round trip", "version", "role", "detail")
        show_table(header, [_health_row(name, store) for name, store in stores.items()])
        _show_outbox(report.outbox)
    raise typer.Exit(0 if report.ok else 1)


def routes(as_json: AsJSON = False) -> None:
    """Show where each entity lives: its store, and the table, collection or key."""
    from multidb.registry import ROUTES

    if as_json:
        typer.echo(json.dumps([asdict(route) for route in ROUTES], indent=2))
        return
    rows = [(route.entity, route.store, route.target, route.repository or "planned") for route in ROUTES]
    show_table(("entity", "store", "target", "repository"), rows)


def logs(
    service: Annotated[ServerName | None, typer.Argument(help="Which server; without it, all.")] = None,
    directory: Directory = DEFAULT_DIRECTORY,
    backend: BackendOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 100,
) -> None:
    """Show what the servers wrote last."""
    stack = open_stack(directory, backend)
    if service is not None:
        for line in stack.logs(service, lines=lines, follow=follow):
            typer.echo(line)
        return
    for name, line in _merged(stack, SERVERS, lines=lines) if follow else _in_turn(stack, lines=lines):
        typer.echo(f"{name:<8} | {line}")


def _outbox(directory: Path) -> tuple[OutboxStats, ...] | None:
    """Return what is not delivered, if PostgreSQL tells."""
    from multidb.connections import waiting

    try:
        return asyncio.run(waiting(settings_for(directory, Settings)))
    except ConfigurationError:
        return None


def _told(outbox: Sequence[OutboxStats] | None) -> dict[str, object]:
    return {} if outbox is None else {"outbox": [each.model_dump(mode="json") for each in outbox]}


def _show_outbox(outbox: Sequence[OutboxStats] | None) -> None:
    """Say what of the outbox waits, if any does."""
    for each in outbox or ():
        if each.depth:
            told = f"{each.failing} failing, {each.dead} dead" if each.failing or each.dead else "none failed"
            typer.echo(
                f"\noutbox: {each.depth:,} effects wait for {each.store}, the first for"
                f" {each.lag.total_seconds():,.1f} s; {told}"
            )


def _described(service: ServerStatus) -> dict[str, object]:
    return {
        "name": service.name,
        "state": service.state,
        "pid": service.pid,
        "port": service.port,
        "log_tail": list(service.log_tail),
    }


def _row(service: ServerStatus) -> tuple[str, ...]:
    uptime = timedelta(seconds=int(service.uptime.total_seconds())) if service.uptime else ""
    return service.name, service.state, str(service.pid or ""), str(service.port or ""), str(uptime)


def _health_row(name: str, store: StoreHealth) -> tuple[str, ...]:
    latency = f"{store.latency / timedelta(milliseconds=1):.1f} ms" if store.latency else ""
    required = "yes" if store.required else "no"
    state = "ok" if store.ok else "down"
    return name, state, required, latency, store.version or "", store.role, store.detail or ""


def _in_turn(stack: Stack, *, lines: int) -> Iterator[tuple[ServerName, str]]:
    for name in SERVERS:
        for line in stack.logs(name, lines=lines):
            yield name, line


def _merged(stack: Stack, names: Sequence[ServerName], *, lines: int) -> Iterator[tuple[ServerName, str]]:
    """Yield the lines of several logs as they come, without end."""
    arrived: queue.SimpleQueue[tuple[ServerName, str]] = queue.SimpleQueue()

    def read(name: ServerName) -> None:
        for line in stack.logs(name, lines=lines, follow=True):
            arrived.put((name, line))

    for name in names:
        threading.Thread(target=read, args=(name,), daemon=True).start()
    while True:
        yield arrived.get()
