"""What `multidb shell redis` tells redis-cli."""

from urllib.parse import urlsplit

import pytest

from multidb import ConfigurationError
from multidb.cli.shell import _redis_cli


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("redis://:x@db:1/2", ["-u", "redis://db:1/2"]),
        ("rediss://ada:x@db", ["--user", "ada", "-u", "rediss://db"]),
        ("redis+cluster://:x@a:1,b:2", ["-c", "-u", "redis://a:1"]),
    ],
)
def test_redis_cli_gets_one_address_without_the_password(url: str, arguments: list[str]) -> None:
    assert _redis_cli(urlsplit(url)) == arguments


def test_redis_cli_does_not_ask_sentinels() -> None:
    with pytest.raises(ConfigurationError, match="Sentinels"):
        _redis_cli(urlsplit("redis+sentinel://:x@a,b/shop"))
