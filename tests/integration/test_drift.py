"""The drift check: what it sees, what it lets be, and that it leaves nothing behind."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit

import pytest

from multidb import ConfigurationError
from multidb.ops import migrations
from multidb.ops.drift import compare
from multidb.ops.fingerprint import BODY, Part
from multidb.settings import Settings

from .schema_changes import Tree, execute

#: Everything a revision is likely to make, some of it in each of the ways that Alembic overlooks.
EVERYTHING = (
    "CREATE EXTENSION IF NOT EXISTS btree_gist",
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    "CREATE TYPE mood AS ENUM ('sad', 'glad')",
    "CREATE DOMAIN size AS int CONSTRAINT positive CHECK (VALUE > 0)",
    "CREATE SEQUENCE tickets",
    """CREATE TABLE things (
        id uuid PRIMARY KEY, name text NOT NULL CONSTRAINT named CHECK (name <> ''), size size,
        mood mood DEFAULT 'glad', folded text GENERATED ALWAYS AS (lower(name)) STORED,
        slug text COLLATE "C", ticket bigint DEFAULT nextval('tickets'), deleted_at timestamptz,
        room uuid, during tstzrange, parent uuid CONSTRAINT nested REFERENCES things,
        CONSTRAINT no_overlap EXCLUDE USING gist (room WITH =, during WITH &&))""",
    "CREATE UNIQUE INDEX by_slug ON things (slug) INCLUDE (name) WHERE deleted_at IS NULL",
    "CREATE INDEX things_name_idx ON things USING gin (name gin_trgm_ops)",
    "CREATE STATISTICS things_stats ON name, slug FROM things",
    """CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog
        AS $$ BEGIN PERFORM 'written'; RETURN NULL; END $$""",
    "REVOKE EXECUTE ON FUNCTION note() FROM PUBLIC",
    "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 2 * n; END",
    "CREATE TRIGGER things_note AFTER INSERT ON things FOR EACH STATEMENT EXECUTE FUNCTION note()",
    "CREATE RULE keep AS ON DELETE TO things DO INSTEAD NOTHING",
    "ALTER TABLE things ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE things FORCE ROW LEVEL SECURITY",
    "CREATE POLICY own ON things TO pg_monitor USING (room IS NULL) WITH CHECK (room IS NULL)",
    "GRANT SELECT, UPDATE (name) ON things TO pg_monitor",
    "CREATE VIEW names WITH (security_invoker = true) AS SELECT name FROM things",
    "CREATE TABLE log (ts timestamptz, id uuid, PRIMARY KEY (ts, id)) PARTITION BY RANGE (ts)",
    "CREATE TABLE log_default PARTITION OF log DEFAULT",
    "DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO pg_monitor', current_schema()); END $$",
)


@pytest.fixture
def migrated(empty: Settings, tree: Tree) -> Settings:
    tree.add("one", *EVERYTHING)
    migrations.upgrade(empty)
    return empty


@contextmanager
def user(settings: Settings, attributes: str = "") -> Iterator[Settings]:
    """Yield the settings of a user of its own, no superuser, on the same database."""
    name = f"multidb_test_{secrets.token_hex(6)}"
    execute(settings, f"CREATE ROLE {name} LOGIN PASSWORD 'x' {attributes}")
    parts = urlsplit(settings.postgres_url.get_secret_value())
    netloc = f"{name}:x@{parts.netloc.rpartition('@')[2]}"
    url = type(settings.postgres_url)(urlunsplit(parts._replace(netloc=netloc)))
    try:
        yield settings.model_copy(update={"postgres_url": url})
    finally:
        execute(settings, f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def with_search_path(settings: Settings, path: str) -> Settings:
    url = type(settings.postgres_url)(f"{settings.postgres_url.get_secret_value()}?search_path={path}")
    return settings.model_copy(update={"postgres_url": url})


def everything_there(settings: Settings) -> list[object]:
    return execute(
        settings,
        """
        SELECT 'class', relnamespace::text, relname, relacl::text FROM pg_class
            WHERE relnamespace::regnamespace::text NOT LIKE 'pg_toast%'
        UNION ALL SELECT 'schema', nspname, nspacl::text, '' FROM pg_namespace
        UNION ALL SELECT 'type', typnamespace::text, typname, '' FROM pg_type
            WHERE typnamespace::regnamespace::text NOT LIKE 'pg_toast%'
        UNION ALL SELECT 'function', pronamespace::text, proname, proacl::text FROM pg_proc
        UNION ALL SELECT 'extension', extname, '', '' FROM pg_extension
        UNION ALL SELECT 'trigger', tgrelid::text, tgname, '' FROM pg_trigger
        ORDER BY 1, 2, 3, 4
        """,
    )


class TestWhatIsThereAsItShould:
    def test_nothing_differs_and_nothing_is_left_behind(self, multidb_settings: Settings) -> None:
        before = everything_there(multidb_settings)
        assert migrations.check(multidb_settings) == []
        assert everything_there(multidb_settings) == before

    def test_a_check_of_an_empty_database_leaves_it_empty(self, empty: Settings) -> None:
        before = everything_there(empty)
        lines = migrations.check(empty)
        assert lines[0].startswith("revision: the database is at none, not at ")
        assert "missing table users" in lines
        assert not any(" of users" in line for line in lines)
        assert everything_there(empty) == before
        assert "missing extension btree_gist" in lines
        assert not any("gbt_" in line for line in lines), "what comes with an extension is the extension's"

    def test_everything_a_revision_makes_compares_equal(self, migrated: Settings) -> None:
        before = everything_there(migrated)
        assert migrations.check(migrated) == []
        assert everything_there(migrated) == before

    def test_extensions_may_live_in_a_schema_of_their_own(self, empty: Settings, tree: Tree) -> None:
        execute(
            empty,
            "CREATE SCHEMA ext; CREATE EXTENSION btree_gist SCHEMA ext; CREATE EXTENSION pg_trgm SCHEMA ext",
        )
        tree.add("one", *EVERYTHING)
        elsewhere = with_search_path(empty, "public,ext")
        migrations.upgrade(elsewhere)
        assert migrations.check(elsewhere) == []
        # Whether it is on the path decides how the server writes its operator classes.
        assert migrations.check(empty) == []

    def test_the_schema_is_the_first_of_the_search_path(self, empty: Settings, tree: Tree) -> None:
        execute(empty, 'CREATE SCHEMA "Mine and yours"; CREATE TABLE things (n int)')
        tree.add("one", *EVERYTHING)
        mine = with_search_path(empty, '"Mine%20and%20yours",public')
        assert "missing table things" in migrations.check(mine)
        migrations.upgrade(mine)
        assert migrations.check(mine) == []
        execute(mine, "ALTER TABLE things DROP CONSTRAINT named")
        assert migrations.check(mine) == ["missing constraint named of things: CHECK ((name <> ''::text))"]

    def test_a_role_need_not_be_let_in_where_everybody_is(self, empty: Settings, tree: Tree) -> None:
        grant = "EXECUTE format('GRANT USAGE ON SCHEMA %I TO pg_monitor', current_schema())"
        lacking = "NOT has_schema_privilege('pg_monitor', current_schema(), 'USAGE')"
        tree.add("one", f"DO $$ BEGIN IF {lacking} THEN {grant}; END IF; END $$")
        migrations.upgrade(empty)
        assert migrations.check(empty) == []
        execute(empty, "REVOKE USAGE ON SCHEMA public FROM PUBLIC")
        assert migrations.check(empty) == ["missing grants on the schema to pg_monitor: USAGE"]

    def test_the_user_need_be_no_superuser(self, empty: Settings) -> None:
        with user(empty) as owner:
            database, name = (
                urlsplit(url.get_secret_value()) for url in (empty.postgres_url, owner.postgres_url)
            )
            execute(empty, f"GRANT CREATE ON DATABASE {database.path.strip('/')} TO {name.username}")
            execute(empty, f"GRANT ALL ON SCHEMA public TO {name.username}")
            execute(empty, f"GRANT multidb_tenant TO {name.username}")
            migrations.upgrade(owner)
            assert migrations.check(owner) == []

    @pytest.mark.parametrize(
        "change",
        [
            "CREATE TABLE mine (n int); CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "CREATE TABLE log_2026_11 PARTITION OF log FOR VALUES FROM ('2026-11-01') TO ('2026-12-01')",
            "GRANT SELECT ON things TO pg_read_all_settings",
            "ALTER TABLE things SET (autovacuum_vacuum_scale_factor = 0.01)",
            "COMMENT ON TABLE things IS 'all of them'",
        ],
    )
    def test_what_the_revisions_do_not_say_is_the_owners(self, migrated: Settings, change: str) -> None:
        execute(migrated, change)
        assert migrations.check(migrated) == []


#: A change, and the lines that tell of it.
DIFFERENCES = """
ALTER TYPE mood ADD VALUE 'mad' BEFORE 'sad'
=> enum mood is 'mad', 'sad', 'glad', not 'sad', 'glad'

ALTER DOMAIN size DROP CONSTRAINT positive
=> domain size is integer, not integer CHECK ((VALUE > 0))

ALTER SEQUENCE tickets CYCLE
=> sequence tickets is bigint, from 1 by 1, 1 to 9223372036854775807, cache 1, cycle,
   not bigint, from 1 by 1, 1 to 9223372036854775807, cache 1

ALTER TABLE things DROP CONSTRAINT named
=> missing constraint named of things: CHECK ((name <> ''::text))

ALTER TABLE things DROP CONSTRAINT named, ADD CONSTRAINT named CHECK (name <> '') NOT VALID
=> constraint named of things is CHECK ((name <> ''::text)) NOT VALID, not CHECK ((name <> ''::text))

ALTER TABLE things DROP CONSTRAINT no_overlap
=> missing constraint no_overlap of things: EXCLUDE USING gist (room WITH =, during WITH &&)

ALTER TABLE things DISABLE TRIGGER ALL; ALTER TABLE things ENABLE TRIGGER USER
=> constraint nested of things is FOREIGN KEY (parent) REFERENCES things(id), its triggers disabled,
   not FOREIGN KEY (parent) REFERENCES things(id)

ALTER TABLE things ADD COLUMN extra text
=> unexpected column things.extra: text

ALTER TABLE things ALTER COLUMN mood DROP DEFAULT
=> column things.mood is mood, not mood DEFAULT 'glad'::mood

ALTER TABLE things ALTER COLUMN name DROP NOT NULL
=> column things.name is text, not text NOT NULL

ALTER TABLE things ALTER COLUMN folded DROP EXPRESSION
=> column things.folded is text, not text GENERATED ALWAYS AS (lower(name)) STORED

ALTER TABLE things ALTER COLUMN slug TYPE text COLLATE "default"
=> column things.slug is text, not text COLLATE "C"

DROP INDEX by_slug;
CREATE UNIQUE INDEX by_slug ON things (slug) INCLUDE (name) WHERE deleted_at IS NOT NULL
=> index by_slug of things is
   CREATE UNIQUE INDEX by_slug ON things USING btree (slug) INCLUDE (name) WHERE (deleted_at IS NOT NULL),
   not CREATE UNIQUE INDEX by_slug ON things USING btree (slug) INCLUDE (name) WHERE (deleted_at IS NULL)

DROP INDEX by_slug; CREATE UNIQUE INDEX by_slug ON things (slug) WHERE deleted_at IS NULL
=> index by_slug of things is
   CREATE UNIQUE INDEX by_slug ON things USING btree (slug) WHERE (deleted_at IS NULL),
   not CREATE UNIQUE INDEX by_slug ON things USING btree (slug) INCLUDE (name) WHERE (deleted_at IS NULL)

CREATE INDEX odd ON things (size)
=> unexpected index odd of things: CREATE INDEX odd ON things USING btree (size)

DROP STATISTICS things_stats
=> missing statistics things_stats of things: CREATE STATISTICS things_stats ON name, slug FROM things

ALTER TABLE things DISABLE TRIGGER things_note
=> trigger things_note of things is
   CREATE TRIGGER things_note AFTER INSERT ON things FOR EACH STATEMENT EXECUTE FUNCTION note(), disabled,
   not CREATE TRIGGER things_note AFTER INSERT ON things FOR EACH STATEMENT EXECUTE FUNCTION note()

DROP TRIGGER things_note ON things
=> missing trigger things_note of things:
   CREATE TRIGGER things_note AFTER INSERT ON things FOR EACH STATEMENT EXECUTE FUNCTION note()

CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog
AS $$ BEGIN PERFORM 'lost'; RETURN NULL; END $$
=> body of function note() is BEGIN PERFORM 'lost'; RETURN NULL; END,
   not BEGIN PERFORM 'written'; RETURN NULL; END

CREATE OR REPLACE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog
AS $$ BEGIN PERFORM 'written';RETURN NULL; END $$
=> body of function note() is BEGIN PERFORM 'written';RETURN NULL; END,
   not BEGIN PERFORM 'written'; RETURN NULL; END

ALTER FUNCTION note() RESET search_path
=> function note() is function RETURNS trigger LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE,
   not function RETURNS trigger LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path=pg_catalog

CREATE OR REPLACE FUNCTION twice(n int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 3 * n; END
=> body of function twice(n integer) is BEGIN ATOMIC SELECT (3 * n); END, not BEGIN ATOMIC SELECT (2 * n); END

DROP FUNCTION twice
=> missing function twice(n integer): function RETURNS integer LANGUAGE sql VOLATILE PARALLEL UNSAFE

GRANT EXECUTE ON FUNCTION note() TO PUBLIC
=> unexpected grants on note() to PUBLIC: EXECUTE

DROP RULE keep ON things
=> missing rule keep of things: CREATE RULE keep AS ON DELETE TO things DO INSTEAD NOTHING;

ALTER TABLE things NO FORCE ROW LEVEL SECURITY
=> row level security of things is enabled, not enabled, forced

ALTER TABLE things DISABLE ROW LEVEL SECURITY
=> row level security of things is disabled, forced, not enabled, forced

DROP POLICY own ON things
=> missing policy own of things:
   PERMISSIVE FOR ALL TO pg_monitor USING ((room IS NULL)) WITH CHECK ((room IS NULL))

ALTER POLICY own ON things TO PUBLIC
=> policy own of things is
   PERMISSIVE FOR ALL TO PUBLIC USING ((room IS NULL)) WITH CHECK ((room IS NULL)),
   not PERMISSIVE FOR ALL TO pg_monitor USING ((room IS NULL)) WITH CHECK ((room IS NULL))

CREATE POLICY all_of_it ON things FOR SELECT USING (true)
=> unexpected policy all_of_it of things: PERMISSIVE FOR SELECT TO PUBLIC USING (true)

GRANT DELETE ON things TO pg_monitor
=> grants on things to pg_monitor is DELETE, SELECT, UPDATE (name), not SELECT, UPDATE (name)

GRANT SELECT ON log TO PUBLIC
=> unexpected grants on log to PUBLIC: SELECT

GRANT SELECT ON log_default TO pg_monitor
=> unexpected grants on partitions of log to pg_monitor: SELECT

ALTER VIEW names RESET (security_invoker)
=> view names is SELECT name FROM things;, not WITH (security_invoker=true) SELECT name FROM things;

ALTER TABLE log DETACH PARTITION log_default
=> missing default partition log_default of log

DROP TABLE log
=> missing table log

DROP EXTENSION pg_trgm CASCADE
=> missing extension pg_trgm
=> missing index things_name_idx of things:
   CREATE INDEX things_name_idx ON things USING gin (name gin_trgm_ops)

REVOKE USAGE ON SCHEMA public FROM pg_monitor
=> missing grants on the schema to pg_monitor: USAGE

DELETE FROM alembic_version
=> revision: the database is at none, not at one
"""


@pytest.mark.parametrize("difference", DIFFERENCES.strip().split("\n\n"))
def test_a_difference_is_told(migrated: Settings, difference: str) -> None:
    change, *told = difference.split("\n=> ")
    execute(migrated, change)
    assert migrations.check(migrated) == [" ".join(line.split()) for line in told]


def test_of_long_definitions_the_places_that_differ_are_told() -> None:
    part = Part(BODY, "", "f()")
    before, after = "a" * 500, "b" * 500
    [line] = compare({part: f"{before} old {after}"}, {part: f"{before} new {after}"})
    assert line.startswith(f"body of function f() is …{'a' * 19} new bbb")
    assert f"…, not …{'a' * 19} old bbb" in line
    assert len(line) < 400
    assert compare({part: "a b"}, {part: "a  b"}) == ["body of function f() differs in white space"]


class TestRevisionsThatAskForMore:
    def test_an_index_built_concurrently(self, empty: Settings, tree: Tree) -> None:
        """Neither that nor its commit can be rolled back."""
        tree.add("one", "CREATE TABLE things (n int)")
        tree.add(
            "two",
            body="with op.get_context().autocommit_block():\n"
            "    op.create_index('things_n_idx', 'things', ['n'], postgresql_concurrently=True)\n"
            "    op.execute('DROP INDEX CONCURRENTLY IF EXISTS old_idx')",
        )
        assert "missing table things" in migrations.check(empty)
        migrations.upgrade(empty)
        assert migrations.check(empty) == []

    def test_one_that_names_another_schema_is_refused(self, empty: Settings, tree: Tree) -> None:
        execute(empty, "CREATE TABLE public.elsewhere (n int)")
        tree.add("one", "ALTER TABLE public.elsewhere ADD COLUMN m int")
        with pytest.raises(ConfigurationError, match="must not name a schema"):
            migrations.check(empty)
        assert execute(empty, "SELECT * FROM elsewhere") == []

    def test_a_user_who_may_not_make_schemas_is_told_what_to_grant(self, multidb_settings: Settings) -> None:
        with (
            user(multidb_settings) as reader,
            pytest.raises(ConfigurationError, match="GRANT CREATE ON DATABASE"),
        ):
            migrations.check(reader)
