pytest_plugins = ["multidb.testing"]
