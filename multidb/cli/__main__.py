"""Lets `python -m multidb.cli` stand for `multidb`."""

from multidb.cli import main

main()
