"""The `multidb` command. Needs the extra `cli`."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command named by the arguments, and exit: 0 done, 1 failed, 2 wrong usage."""
    try:
        from multidb.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        print("the multidb command needs more packages: pip install 'multidb[cli]'", file=sys.stderr)
        sys.exit(2)
    run()
