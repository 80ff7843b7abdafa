"""Settings: where each is found, what a wrong one says, and that no secret is shown on the way."""

import itertools
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from multidb.errors import ConfigurationError
from multidb.settings import ENV_FILES, MongoSettings, PostgresSettings, Settings, redacted_url

PASSWORD = "hunter2-and-more"

URLS = {
    "postgres_url": f"postgresql://ada:{PASSWORD}@db.internal:5432/shop",
    "mongo_url": f"mongodb://ada:{PASSWORD}@db.internal:27017/shop?authSource=admin",
    "redis_url": f"redis://:{PASSWORD}@db.internal:6379/0",
}
SECRET_KEY = "a signing key that nobody must see, 42"

BOUNDED = settings(derandomize=True, max_examples=200, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _no_settings_from_outside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave neither variables nor files of the machine in sight of any test here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper().startswith("MULTIDB_"):
                patch.delenv(name)
        patch.chdir(tmp_path_factory.mktemp("empty"))
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of one test, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(**values: Any) -> Settings:
    return Settings(**{**URLS, **values})


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigurationError) as caught:
        made(**values)
    return str(caught.value)


# --- where a setting is found

#: In order of weight. Each gives the key prefix that bears its own name.
SOURCES = ("argument", "variable", "variable_file", "dotenv", "dotenv_file")


def give(source: str, home: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any]) -> None:
    file = home / f"{source}.txt"
    match source:
        case "argument":
            arguments["key_prefix"] = source
        case "variable":
            monkeypatch.setenv("MULTIDB_KEY_PREFIX", source)
        case "variable_file":
            file.write_text(f"{source}\n")
            monkeypatch.setenv("MULTIDB_KEY_PREFIX_FILE", str(file))
        case "dotenv":
            with (home / ".env").open("a") as dotenv:
                dotenv.write(f"MULTIDB_KEY_PREFIX={source}\n")
        case "dotenv_file":
            file.write_text(f"{source}\n")
            with (home / ".env").open("a") as dotenv:
                dotenv.write(f"MULTIDB_KEY_PREFIX_FILE={file}\n")
        case "started_env":
            (home / ".multidb").mkdir()
            (home / ".multidb" / "multidb.env").write_text(
                f"MULTIDB_KEY_PREFIX={source}\nMULTIDB_POSTGRES_POOL_SIZE=7\n"
            )


def test_the_files_read_are_the_one_that_start_writes_and_the_users_own() -> None:
    assert ENV_FILES == (".multidb/multidb.env", ".env")


@pytest.mark.parametrize("source", [*SOURCES, "started_env"])
def test_each_source_is_read_by_itself(source: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {}
    give(source, home, monkeypatch, arguments)
    assert made(**arguments).key_prefix == source


@pytest.mark.parametrize(("stronger", "weaker"), [*itertools.pairwise(SOURCES), ("dotenv", "started_env")])
def test_the_stronger_source_wins(
    stronger: str, weaker: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: dict[str, Any] = {}
    give(weaker, home, monkeypatch, arguments)
    give(stronger, home, monkeypatch, arguments)
    assert made(**arguments).key_prefix == stronger


def test_the_users_env_file_adds_to_what_start_wrote(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give("started_env", home, monkeypatch, {})
    give("dotenv", home, monkeypatch, {})
    assert made().key_prefix == "dotenv"
    assert made().postgres_pool_size == 7


def test_all_urls_may_come_from_variables(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, url in URLS.items():
        monkeypatch.setenv(f"MULTIDB_{name.upper()}", url)
    found = Settings()
    assert {name: getattr(found, name).get_secret_value() for name in URLS} == URLS


def test_a_secret_may_come_from_a_file_less_the_newline_that_ends_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = home / "secret"
    secret.write_text(f"{SECRET_KEY}\n")
    monkeypatch.setenv("MULTIDB_SECRET_KEY_FILE", str(secret))
    found = made().secret_key
    assert found is not None
    assert found.get_secret_value() == SECRET_KEY


def test_a_named_file_may_hold_words_and_numbers_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("degradable_stores", "redis, mongo\n"), ("open_timeout", "2.5\n")):
        (home / name).write_text(text)
        monkeypatch.setenv(f"MULTIDB_{name.upper()}_FILE", str(home / name))
    found = made()
    assert found.degradable_stores == {"redis", "mongo"}
    assert found.open_timeout == timedelta(seconds=2.5)


def test_an_empty_name_of_a_file_names_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIDB_KEY_PREFIX_FILE", "")
    assert made().key_prefix == ""


@pytest.mark.parametrize("kind", ["missing", "directory", "binary"])
def test_a_file_that_cannot_be_read_names_its_variable(
    kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "named"
    if kind == "directory":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xfe\x00")
    monkeypatch.setenv("MULTIDB_SECRET_KEY_FILE", str(path))
    assert "MULTIDB_SECRET_KEY_FILE must name a readable text file" in refusal()


def test_another_applications_variables_are_none_of_ours(home: Path) -> None:
    (home / ".env").write_text("DATABASE_URL=sqlite://\nMULTIDB_SOMETHING_ELSE=1\n")
    assert made().key_prefix == ""


# --- what a wrong value says

WRONG: list[tuple[str, object, str]] = [
    ("postgres_url", "", "must begin with one of postgresql://"),
    ("postgres_url", f"mysql://ada:{PASSWORD}@db/shop", "must begin with one of postgresql://"),
    ("postgres_url", f"postgresql://ada:{PASSWORD}@/shop", "must name a host"),
    ("postgres_url", f"postgresql://ada:{PASSWORD}@db", "must end in a database"),
    ("postgres_url", f"postgresql://ada:{PASSWORD}[@db/shop", "must be percent-encoded"),
    ("postgres_url", f"postgresql://ada:{PASSWORD}@:5432/shop", "must name a host"),
    ("postgres_url", f"postgresql://ada:{PASSWORD}@db:port/shop", "port"),
    ("postgres_url", f"postgresql://ada:{PASSWORD}@db:99999/shop", "port"),
    ("migration_url", f"mysql://ada:{PASSWORD}@db/shop", "must begin with one of postgresql://"),
    ("postgres_prepared_statements", PASSWORD, "valid boolean"),
    ("mongo_url", f"mongodb://ada:{PASSWORD}@db:port/shop", "port"),
    ("redis_url", f"redis://:{PASSWORD}@db:99999/0", "port"),
    ("redis_url", f"redis://:{PASSWORD}@db:port/0", "port"),
    ("mongo_url", f"http://ada:{PASSWORD}@db/shop", "must begin with one of mongodb://, mongodb+srv://"),
    ("mongo_url", f"mongodb://ada:{PASSWORD}@db", "must end in a database"),
    ("redis_url", f"redis:{PASSWORD}", "must name a host"),
    ("redis_url", f"unix://{PASSWORD}", "must begin with one of redis://, rediss://"),
    ("redis_url", f"redis://:{PASSWORD}@a,b/0", "must name one host"),
    ("redis_url", f"redis://:{PASSWORD}@db/shop", "must end in the number of a database"),
    ("redis_url", f"redis+cluster://:{PASSWORD}@a,b/1", "must name no database"),
    ("redis_url", f"redis+cluster://:{PASSWORD}@a,,b", "must name a host"),
    ("redis_url", f"redis+sentinel://:{PASSWORD}@a,b", "must end in the service's name"),
    ("redis_url", f"redis+sentinel://:{PASSWORD}@a,b/shop/x", "must end in the service's name"),
    ("redis_url", f"redis+sentinel://:{PASSWORD}@a,b:99999/shop", "port"),
    ("redis_url", f"redis+proxy://:{PASSWORD}@a", "must begin with one of redis://, rediss://"),
    ("redis_breaker_limit", "0", "greater than or equal to 1"),
    ("redis_breaker_pause", "0", "must be more than zero seconds"),
    ("secret_key", PASSWORD, "at least 32"),
    ("mongo_driver", PASSWORD, "'motor' or 'pymongo'"),
    ("degradable_stores", f"redis {PASSWORD}", "'postgres', 'mongo' or 'redis'"),
    ("key_prefix", f"{PASSWORD}{{x}}", "pattern"),
    ("key_prefix", "x" * 101, "at most 100"),
    ("open_timeout", PASSWORD, "must be a number of seconds, such as 2.5"),
    ("open_timeout", "PT5S", "must be a number of seconds, such as 2.5"),
    ("open_timeout", "nan", "must be a number of seconds, such as 2.5"),
    ("open_timeout", "inf", "must be a number of seconds, such as 2.5"),
    ("open_timeout", "0", "must be more than zero seconds"),
    ("open_timeout", timedelta(0), "must be more than zero seconds"),
    ("cache_lease", "-1", "must be more than zero seconds"),
    ("cache_local_staleness", "0.01", "greater than or equal to"),
    ("cache_local_bytes", "-1", "greater than or equal to 0"),
    ("postgres_pool_size", PASSWORD, "valid integer"),
    ("postgres_pool_size", "0", "greater than or equal to 1"),
    ("mongo_pool_size", 10_001, "less than or equal to 10000"),
    ("redis_pool_size", "2.5", "valid integer"),
    ("migration_paths", f"/{PASSWORD}", "does not point to a directory"),
    ("schema_paths", f"/{PASSWORD}", "does not point to a directory"),
    ("retention", PASSWORD, "must be pairs such as system_logs=30d"),
    ("retention", "=30d", "must be pairs such as system_logs=30d"),
    ("retention", f"system_logs={PASSWORD}", "must be a number and a unit, such as 30d"),
    ("retention", "system_logs=30", "must be a number and a unit, such as 30d"),
    ("retention", "system_logs=99999999999d", "must be"),
    ("retention", "system_logs=0s", "must be whole seconds, at least one and less than 68 years"),
    ("retention", {"system_logs": timedelta(seconds=0.5)}, "must be whole seconds"),
    ("retention", "system_logs=1d system_logs=2d", "must name each collection once"),
]


@pytest.mark.parametrize(("name", "value", "right"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_value_names_the_variable_and_what_would_be_right(
    name: str, value: object, right: str
) -> None:
    message = refusal(**{name: value})
    assert message.startswith(f"MULTIDB_{name.upper()}: ")
    assert right in message


@pytest.mark.parametrize(("name", "value", "right"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_value_is_never_quoted(name: str, value: object, right: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        made(**{name: value})
    error = caught.value
    # A reporter of errors may show what came before, too.
    before = [str(error.__context__), repr(error.__context__)]
    shown = [
        str(error),
        repr(error),
        repr(vars(error)),
        *before,
        *traceback.format_exception(error, chain=True),
    ]
    assert not any(PASSWORD in text for text in shown)
    assert PASSWORD.encode() not in pickle.dumps(error)
    assert error.__suppress_context__


def test_the_error_of_a_variable_quotes_it_no_more_than_an_arguments(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MULTIDB_POSTGRES_URL", PASSWORD)
    (home / ".env").write_text(f"MULTIDB_SECRET_KEY={PASSWORD}\n")
    (home / "named").write_text(PASSWORD)
    monkeypatch.setenv("MULTIDB_OPEN_TIMEOUT_FILE", str(home / "named"))
    with pytest.raises(ConfigurationError) as caught:
        Settings(mongo_url=URLS["mongo_url"], redis_url=URLS["redis_url"])
    for name in ("POSTGRES_URL", "SECRET_KEY", "OPEN_TIMEOUT"):
        assert f"MULTIDB_{name}: " in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_several_wrong_at_once_are_all_named() -> None:
    message = refusal(postgres_url="mysql://db/shop", redis_pool_size=0, open_timeout="soon")
    assert message.count("; ") == 2
    for name in ("POSTGRES_URL", "REDIS_POOL_SIZE", "OPEN_TIMEOUT"):
        assert f"MULTIDB_{name}: " in message


def test_what_is_missing_is_named_as_required(home: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert sorted(str(caught.value).split("; ")) == [
        "MULTIDB_MONGO_URL is required",
        "MULTIDB_POSTGRES_URL is required",
        "MULTIDB_REDIS_URL is required",
    ]


def test_migrations_need_postgres_alone_and_schemas_mongo_alone() -> None:
    assert PostgresSettings(postgres_url=URLS["postgres_url"]).postgres_pool_size == 10
    assert MongoSettings(mongo_url=URLS["mongo_url"]).mongo_driver == "motor"


# --- what is accepted


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("postgres_url", "postgres://db/shop"),
        ("postgres_url", "postgresql+asyncpg://ada:x@[::1]:5432/shop"),
        ("postgres_url", "postgresql://a:p%40%2Fss@db/shop?ssl=require"),
        ("mongo_url", "mongodb+srv://ada:x@cluster.example/shop"),
        ("mongo_url", "mongodb://a:1,b:2,c:3/shop?replicaSet=rs0"),
        ("redis_url", "redis://db"),
        ("redis_url", "rediss://ada:x@db:6380/2"),
        ("redis_url", "redis+sentinel://ada:x@a:26379,[::1]:26379/shop/2"),
        ("redis_url", "rediss+sentinel://a,b,c/shop?sentinel_password=y"),
        ("redis_url", "redis+cluster://:x@a:7000,b:7001"),
        ("redis_url", "rediss+cluster://a/0?ssl_ca_certs=/etc/ca.pem"),
    ],
)
def test_a_url_in_any_usual_form_is_taken_as_it_is(name: str, url: str) -> None:
    assert getattr(made(**{name: f"  {url}\n"}), name).get_secret_value() == url


@pytest.mark.parametrize(
    ("given_value", "seconds"),
    [("2.5", 2.5), ("1e2", 100), (" 3 ", 3), (4, 4), (0.25, 0.25), (timedelta(minutes=1), 60)],
)
def test_a_duration_is_seconds_or_a_timedelta(given_value: object, seconds: float) -> None:
    assert made(open_timeout=given_value).open_timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("given_value", "stores"),
    [
        ("", set()),
        ("redis", {"redis"}),
        ("redis,mongo", {"redis", "mongo"}),
        (" redis ,  mongo redis ", {"redis", "mongo"}),
        (["postgres"], {"postgres"}),
        (frozenset({"mongo"}), {"mongo"}),
    ],
)
def test_degradable_stores_are_words(
    given_value: object, stores: set[str], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(given_value, str):
        monkeypatch.setenv("MULTIDB_DEGRADABLE_STORES", given_value)
        assert made().degradable_stores == stores
    assert made(degradable_stores=given_value).degradable_stores == stores


def test_migration_paths_are_told_like_those_of_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "a folder").mkdir()
    monkeypatch.setenv("MULTIDB_MIGRATION_PATHS", f"{home / 'a folder'}{os.pathsep}{home}{os.pathsep}")
    assert made().migration_paths == (home / "a folder", home)
    assert made(migration_paths=[home]).migration_paths == (home,)
    monkeypatch.setenv("MULTIDB_MIGRATION_PATHS", "")
    assert made().migration_paths == ()


def test_retention_is_told_by_collection(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert made().retention == {}
    monkeypatch.setenv("MULTIDB_RETENTION", "system_logs=30d, realtime_events=12h,a=15m b=45s c=forever")
    told = {
        "system_logs": timedelta(days=30),
        "realtime_events": timedelta(hours=12),
        "a": timedelta(minutes=15),
        "b": timedelta(seconds=45),
        "c": None,
    }
    assert made().retention == told
    assert made(retention=told).retention == told


@BOUNDED
@given(st.text(max_size=110))
def test_a_key_prefix_is_a_short_plain_word_or_refused(prefix: str) -> None:
    plain = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:-")
    if set(prefix) <= plain and len(prefix) <= 100:
        assert made(key_prefix=prefix).key_prefix == prefix
    else:
        assert "MULTIDB_KEY_PREFIX: " in refusal(key_prefix=prefix)


@pytest.mark.parametrize("prefix", ["a b", "a\n", "{a}", "*", "ü", "a\x00"])
def test_a_key_prefix_brings_in_nothing_that_redis_reads(prefix: str) -> None:
    assert "MULTIDB_KEY_PREFIX: " in refusal(key_prefix=prefix)


@pytest.mark.parametrize("store", ["postgres", "mongo", "redis"])
@pytest.mark.parametrize("size", [1, 10_000, "64"])
def test_a_pool_has_one_to_ten_thousand_connections(store: str, size: object) -> None:
    assert getattr(made(**{f"{store}_pool_size": size}), f"{store}_pool_size") == int(str(size))


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        made().key_prefix = "other"  # type: ignore[misc]


# --- secrets stay secrets

SHOWN: list[Callable[[Settings], str]] = [
    repr,
    str,
    Settings.model_dump_json,
    lambda settings: repr(settings.model_dump()),
    lambda settings: f"{settings!r:>200}",
    lambda settings: repr(list(settings)),
]


@pytest.mark.parametrize("show", SHOWN)
def test_settings_never_show_a_secret(show: Callable[[Settings], str]) -> None:
    text = show(made(secret_key=SECRET_KEY))
    assert "**********" in text
    assert PASSWORD not in text
    assert SECRET_KEY not in text


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URLS["postgres_url"], "postgresql://ada:***@db.internal:5432/shop"),
        (URLS["mongo_url"], "mongodb://ada:***@db.internal:27017/shop?authSource=admin"),
        (URLS["redis_url"], "redis://:***@db.internal:6379/0"),
        ("redis://db:6379/0", "redis://db:6379/0"),
        ("postgresql://ada@db/shop", "postgresql://ada@db/shop"),
        ("postgresql://ada:p@ss:w@[::1]:5432/shop", "postgresql://ada:***@[::1]:5432/shop"),
        ("mongodb://ada:x@a:1,b:2/shop", "mongodb://ada:***@a:1,b:2/shop"),
    ],
)
def test_a_redacted_url_hides_the_password_and_nothing_else(url: str, shown: str) -> None:
    assert redacted_url(SecretStr(url)) == shown


@BOUNDED
@given(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).map(lambda text: f"hush{text}hush"),
    st.booleans(),
    st.sampled_from(
        ["postgresql://ada:{}@db:5432/shop", "mongodb://ada:{}@db/shop", "redis://:{}@db:6379/0"]
    ),
)
def test_a_url_that_is_accepted_can_be_redacted_whatever_its_password(
    password: str, quoted: bool, form: str
) -> None:
    url = form.format(quote(password, safe="") if quoted else password)
    name = {"p": "postgres_url", "m": "mongo_url", "r": "redis_url"}[form[0]]
    try:
        accepted = getattr(made(**{name: url}), name)
    except ConfigurationError as error:
        assert not quoted, "a percent-encoded password must be accepted"
        assert "hush" not in str(error)
    else:
        assert "hush" not in redacted_url(accepted)


@pytest.mark.parametrize("password", ["hush/hush", "hush#hush", "hush?hush"])
@pytest.mark.parametrize("form", ["redis://:{}@db:6379/0", "redis://ada:{}@db/0"])
def test_a_password_that_cuts_the_url_short_is_refused_or_hidden(password: str, form: str) -> None:
    try:
        accepted = made(redis_url=form.format(password)).redis_url
    except ConfigurationError as error:
        assert "MULTIDB_REDIS_URL: " in str(error)
        assert "hush" not in str(error)
    else:
        assert "hush" not in redacted_url(accepted)


@pytest.mark.parametrize(
    "url",
    [
        "redis://db:6379/0?password=hush",
        "postgresql://ada@db/shop?password=hush&ssl=require",
        "mongodb://db/shop?tls=true&tlsCertificateKeyFilePassword=hush",
    ],
)
def test_a_password_among_the_parameters_is_hidden_too(url: str) -> None:
    assert "hush" not in redacted_url(SecretStr(url))


# --- keys derived from the secret


def test_a_derived_key_is_the_same_in_every_process_with_these_settings() -> None:
    assert made(secret_key=SECRET_KEY).derive_key("session") == made(secret_key=SECRET_KEY).derive_key(
        "session"
    )
    # Pinned: a change here would end every session there is.
    assert made(secret_key=SECRET_KEY).derive_key("session").hex() == (
        "c4ad04fc20ec887d69f54537f066d46a85b1fbf91bfe2e6d6a91c8e45be04bc5"
    )


def test_a_derived_key_depends_on_the_purpose_and_on_the_secret() -> None:
    keys = {
        made(secret_key=secret).derive_key(purpose)
        for secret in (SECRET_KEY, SECRET_KEY + "!", None)
        for purpose in ("session", "cursor", "")
    }
    assert len(keys) == 9
    assert {len(key) for key in keys} == {32}


def test_with_a_secret_key_the_urls_do_not_matter() -> None:
    other = made(secret_key=SECRET_KEY, postgres_url="postgresql://bob:other@elsewhere/shop")
    assert other.derive_key("cursor") == made(secret_key=SECRET_KEY).derive_key("cursor")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{PASSWORD}@127.0.0.1:6432/shop",
        f"postgresql+asyncpg://bob:{PASSWORD}@db.internal:5432/other?ssl=require",
    ],
)
def test_without_a_secret_key_only_the_password_of_postgres_matters(url: str) -> None:
    moved = made(
        postgres_url=url,
        mongo_url="mongodb://elsewhere/shop",
        redis_url="redis://elsewhere",
        key_prefix="shop:",
        open_timeout=1,
    )
    assert moved.derive_key("session") == made().derive_key("session")


def test_without_a_secret_key_another_password_is_another_key() -> None:
    changed = made(postgres_url=URLS["postgres_url"].replace(PASSWORD, "another"))
    assert changed.derive_key("session") != made().derive_key("session")


def test_a_derived_key_shows_nothing_of_the_secret() -> None:
    assert PASSWORD.encode() not in made().derive_key(PASSWORD)
    assert SECRET_KEY.encode() not in made(secret_key=SECRET_KEY).derive_key(SECRET_KEY)


def test_logs_are_spilled_only_where_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="MULTIDB_LOG_SPILL_DIRECTORY"):
        made(log_overflow="spill")
    assert made(log_overflow="spill", log_spill_directory=tmp_path).log_spill_directory == tmp_path
