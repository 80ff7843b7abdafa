"""How the commands speak: tables, and steps as they are done. Results go to stdout, steps to stderr."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from multidb.stack.protocol import Progress

__all__ = ["progress", "show_error", "show_live", "show_table", "style_of"]

_STYLES = {"running": "green", "ok": "green", "crashed": "red", "down": "red", "planned": "dim"}


def style_of(word: str) -> str:
    """Return the style in which a word that tells a state is shown."""
    return _STYLES.get(word, "")


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a header: ruled on a terminal, in aligned columns elsewhere."""
    console = Console()
    if not console.is_terminal or "NO_COLOR" in os.environ:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        for row in (header, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())
        return
    console.print(_ruled(header, rows))


def _ruled(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*header)
    for row in rows:
        table.add_row(*(Text(cell, style=style_of(cell)) for cell in row))
    return table


@contextmanager
def show_live(header: Sequence[str]) -> Iterator[Callable[[Sequence[Sequence[str]]], None]]:
    """Yield what shows rows under a header in the place of those before: one below the other elsewhere."""
    console = Console()
    if not console.is_terminal:
        yield partial(show_table, header)
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda rows: live.update(_ruled(header, rows), refresh=True)


@contextmanager
def progress(title: str) -> Iterator[Progress]:
    """Show that something long goes on, and each step of it: a spinner on a terminal, else lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda step: print(step, file=console.file, flush=True)
        return
    with console.status(title):
        yield lambda step: console.print(step, style="dim", markup=False, highlight=False)


def show_error(message: str) -> None:
    """Print what went wrong to stderr: the first line in red, the rest, such as a log's end, as it is."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    first, *rest = message.splitlines() or [""]
    console.print(Text(first, style="red"))
    for line in rest:
        console.print(Text(line))
