"""What MULTIDB_REDIS_URL says."""

from typing import Any

import pytest
from redis.asyncio.connection import SSLConnection

from multidb import ConfigurationError
from multidb.settings import Settings
from multidb.stores.redis.address import Target, read_url
from multidb.stores.redis.client import RedisStore


def settings(url: str) -> Settings:
    return Settings(
        _env_file=None,
        postgres_url="postgresql://a/b",
        mongo_url="mongodb://a/b",
        redis_url=url,
        connect_timeout=3,
    )


def read(url: str) -> Target:
    return read_url(settings(url))


def own(options: dict[str, Any]) -> dict[str, Any]:
    """The options that come from the URL."""
    assert options["socket_connect_timeout"] == 3
    assert options["retry"].get_retries() == 0
    every = {"socket_connect_timeout", "retry", "client_name", "driver_info"}
    return {name: value for name, value in options.items() if name not in every}


def test_one_server() -> None:
    target = read("redis://ada:p%40ss@db:7000/2?health_check_interval=5")
    assert (target.kind, target.hosts) == ("server", (("db", 7000),))
    assert own(target.options) == {
        "username": "ada",
        "password": "p@ss",
        "db": 2,
        "health_check_interval": 5,
    }


def test_the_usual_ports() -> None:
    assert read("redis://db").hosts == (("db", 6379),)
    assert read("redis+cluster://a,b:7").hosts == (("a", 6379), ("b", 7))
    assert read("redis+sentinel://a,[::1]:7/shop").hosts == (("a", 26379), ("::1", 7))


def test_sentinels_have_a_login_of_their_own() -> None:
    target = read("redis+sentinel://ada:x@a,b/shop%20one/3?sentinel_username=eve&sentinel_password=y%2Fz")
    assert (target.kind, target.service) == ("sentinel", "shop one")
    assert own(target.options) == {"username": "ada", "password": "x", "db": 3}
    assert own(target.sentinel_options) == {"username": "eve", "password": "y/z"}


def test_a_cluster() -> None:
    target = read("redis+cluster://:x@a:1,b:2")
    assert (target.kind, own(target.options)) == ("cluster", {"password": "x"})


@pytest.mark.parametrize("url", ["rediss://db", "rediss+cluster://a,b", "rediss+sentinel://a,b/shop"])
async def test_tls_is_for_every_kind_and_keeps_its_options(url: str) -> None:
    url += "?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false&ssl_cert_reqs=required"
    target = read(url)
    assert target.options["connection_class"] is SSLConnection
    store = RedisStore(settings(url))
    await store.open()
    connection = store.opened.listener.connections._make()
    assert isinstance(connection, SSLConnection)
    assert connection.ca_certs == "/etc/ca.pem"
    assert not connection.check_hostname
    assert connection.socket_timeout is None
    await store.close()


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("decode_responses=true", "replies"),
        ("protocol=2", "replies"),
        ("max_connections=5", "MULTIDB_REDIS_POOL_SIZE"),
        ("socket_timeout=5", "MULTIDB_REDIS_TIMEOUT"),
        ("socket_connect_timeout=5", "MULTIDB_CONNECT_TIMEOUT"),
        ("db=one", "option whose value does not fit"),
    ],
)
def test_options_that_are_not_the_urls_to_set(option: str, says: str) -> None:
    for url in ("redis://:hush@db", "redis+cluster://:hush@a,b", "redis+sentinel://:hush@a,b/shop"):
        with pytest.raises(ConfigurationError, match=says) as caught:
            read(f"{url}?{option}")
        assert "hush" not in str(caught.value)
