"""The months of the audit log: made ahead, filled from the default partition, detached, shown."""

import asyncio
import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from typer.testing import CliRunner

from multidb import ConfigurationError, ConflictError
from multidb.cli.app import app
from multidb.ops import migrations, partitions
from multidb.ops.embedded import initialise
from multidb.settings import Settings
from multidb.stores.postgres.engine import connect

from .schema_changes import AGES, alembic, execute, run, second_try, until
from .test_concurrent_migrations import TRIED, another_migration, holding, hurried

#: Far enough from today that nobody has made these months.
NOVEMBER = datetime(2041, 11, 15, 12, tzinfo=UTC)
JANUARY = datetime(2042, 1, 7, tzinfo=UTC)
MONTHS = ["audit_logs_2041_11", "audit_logs_2041_12", "audit_logs_2042_01", "audit_logs_2042_02"]
WRITTEN = (
    "INSERT INTO audit_logs (ts, action, entity, entity_id) VALUES ($1, 'insert', 'users', gen_random_uuid())"
)


def waiting(sessions: int) -> str:
    return (
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        f" HAVING count(*) = {sessions}"
    )


async def write(settings: Settings, *moments: datetime) -> None:
    for moment in moments:
        await run(settings, WRITTEN, moment)


async def where_they_are(settings: Settings) -> dict[datetime, str]:
    return dict(await run(settings, "SELECT ts, tableoid::regclass::text FROM audit_logs ORDER BY ts"))


async def names(settings: Settings) -> list[str]:
    return [each.name for each in await partitions.find(settings)]


@pytest.fixture
def tenants(multidb_settings: Settings) -> Iterator[Settings]:
    """A database with the role of tenants, to whom default privileges give every new table."""
    execute(
        multidb_settings,
        "DO $$ BEGIN CREATE ROLE multidb_tenant NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation"
        " THEN NULL; END $$",
    )
    execute(multidb_settings, "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO multidb_tenant, PUBLIC")
    yield multidb_settings
    execute(multidb_settings, "ALTER DEFAULT PRIVILEGES REVOKE ALL ON TABLES FROM multidb_tenant, PUBLIC")


class TestMaking:
    async def test_this_month_and_the_next_ones(self, multidb_settings: Settings) -> None:
        assert await partitions.ensure(multidb_settings, now=NOVEMBER) == MONTHS
        made = {each.name: each for each in await partitions.find(multidb_settings)}
        bounds = [(made[name].first, made[name].end) for name in MONTHS]
        firsts = [datetime(year, month, 1, tzinfo=UTC) for year, month in ((2041, 11), (2041, 12), (2042, 1))]
        firsts += [datetime(2042, 2, 1, tzinfo=UTC), datetime(2042, 3, 1, tzinfo=UTC)]
        assert bounds == list(itertools.pairwise(firsts))
        assert await asyncio.to_thread(migrations.check, multidb_settings) == []
        check = await asyncio.to_thread(alembic, multidb_settings, "check")
        assert check.returncode == 0, check.stdout

    async def test_it_may_be_repeated(self, multidb_settings: Settings) -> None:
        await partitions.ensure(multidb_settings, now=NOVEMBER)
        assert await partitions.ensure(multidb_settings, now=NOVEMBER) == []
        december = NOVEMBER + timedelta(days=30)
        assert await partitions.ensure(multidb_settings, now=december) == ["audit_logs_2042_03"]

    async def test_months_are_those_of_utc(self, multidb_settings: Settings) -> None:
        database = (await run(multidb_settings, "SELECT current_database()"))[0][0]
        await run(multidb_settings, f"ALTER DATABASE {database} SET timezone = 'Pacific/Auckland'")
        await run(multidb_settings, f"ALTER DATABASE {database} SET datestyle = 'SQL, DMY'")
        still_november = datetime(2041, 12, 1, 3, tzinfo=timezone(timedelta(hours=9)))
        assert await partitions.ensure(multidb_settings, ahead=0, now=still_november) == MONTHS[:1]
        assert await partitions.ensure(multidb_settings, ahead=0, now=still_november) == []
        [made] = [each for each in await partitions.find(multidb_settings) if each.name == MONTHS[0]]
        assert (made.first, made.end) == (
            datetime(2041, 11, 1, tzinfo=UTC),
            datetime(2041, 12, 1, tzinfo=UTC),
        )

    async def test_rows_move_out_of_the_default_partition(self, multidb_settings: Settings) -> None:
        moments = {
            datetime(2041, 10, 31, 23, 59, 59, 999999, tzinfo=UTC): "audit_logs_default",
            datetime(2041, 11, 1, tzinfo=UTC): "audit_logs_2041_11",
            datetime(2041, 12, 31, 23, 59, 59, 999999, tzinfo=UTC): "audit_logs_2041_12",
            datetime(2042, 1, 1, tzinfo=UTC): "audit_logs_2042_01",
            datetime(2042, 2, 28, 23, 59, 59, 999999, tzinfo=UTC): "audit_logs_2042_02",
            datetime(2042, 3, 1, tzinfo=UTC): "audit_logs_default",
        }
        await write(multidb_settings, *moments)
        assert set((await where_they_are(multidb_settings)).values()) == {"audit_logs_default"}
        before = await run(multidb_settings, "SELECT * FROM audit_logs ORDER BY ts")
        assert await partitions.ensure(multidb_settings, now=NOVEMBER) == MONTHS
        assert await where_they_are(multidb_settings) == moments
        assert await run(multidb_settings, "SELECT * FROM audit_logs ORDER BY ts") == before

    async def test_a_default_partition_may_have_its_columns_in_another_order(
        self, multidb_settings: Settings
    ) -> None:
        await run(
            multidb_settings,
            "DROP TABLE audit_logs_default; CREATE TABLE other AS"
            " SELECT new, old, gone, entity_id, entity, action, request_id, actor, company_id, id, ts"
            " FROM audit_logs, LATERAL (SELECT 1) AS g (gone) LIMIT 0;"
            " ALTER TABLE other DROP COLUMN gone, ALTER ts SET NOT NULL, ALTER id SET NOT NULL,"
            " ALTER action SET NOT NULL, ALTER entity SET NOT NULL, ALTER entity_id SET NOT NULL,"
            " ADD CONSTRAINT audit_logs_action_known_check CHECK (action IN ('insert', 'update', 'delete'));"
            " ALTER TABLE audit_logs ATTACH PARTITION other DEFAULT",
        )
        sql = WRITTEN.replace("(ts,", "(id, ts,").replace("($1,", "(gen_random_uuid(), $1,")
        await run(multidb_settings, sql, NOVEMBER)
        before = await run(multidb_settings, "SELECT * FROM audit_logs")
        await partitions.ensure(multidb_settings, now=NOVEMBER)
        assert await run(multidb_settings, "SELECT * FROM audit_logs_2041_11") == before

    async def test_it_need_not_have_a_default_partition(self, multidb_settings: Settings) -> None:
        await run(multidb_settings, "DROP TABLE audit_logs_default")
        assert await partitions.ensure(multidb_settings, now=NOVEMBER) == MONTHS

    async def test_what_another_partition_covers_is_left(self, multidb_settings: Settings) -> None:
        await run(
            multidb_settings,
            "CREATE TABLE winter PARTITION OF audit_logs FOR VALUES FROM ('2041-12-11 00:00+00')"
            " TO ('2042-02-01 00:00+00');"
            "CREATE TABLE history PARTITION OF audit_logs FOR VALUES FROM ('-infinity') TO ('2020-01-01')",
        )
        made = await partitions.ensure(multidb_settings, now=NOVEMBER)
        assert made == ["audit_logs_2041_11", "audit_logs_2042_02"]

    async def test_a_table_in_the_way_is_named(self, multidb_settings: Settings) -> None:
        await run(multidb_settings, "CREATE TABLE audit_logs_2041_12 (n int)")
        with pytest.raises(ConflictError, match="audit_logs_2041_12") as caught:
            await partitions.ensure(multidb_settings, now=NOVEMBER)
        assert not caught.value.retryable

    async def test_several_at_once_make_each_month_once(self, multidb_settings: Settings) -> None:
        async with another_migration(multidb_settings) as other:
            tasks = [asyncio.create_task(partitions.ensure(multidb_settings, now=NOVEMBER)) for _ in range(5)]
            await until(lambda: run(multidb_settings, f"SELECT 1 FROM ({TRIED}) AS t HAVING count(*) = 5"))
            other.terminate()
            made = await asyncio.gather(*tasks)
        assert sorted(itertools.chain(*made)) == MONTHS

    async def test_where_nothing_is_to_do_nobody_waits(self, multidb_settings: Settings) -> None:
        await partitions.ensure(multidb_settings, now=NOVEMBER)
        async with another_migration(multidb_settings):
            settings = hurried(multidb_settings, timeout=0.001)
            assert await partitions.ensure(settings, now=NOVEMBER) == []
            with pytest.raises(ConflictError, match="another migration"):
                await partitions.ensure(settings, ahead=4, now=NOVEMBER)

    async def test_it_gives_way_to_open_transactions(self, multidb_settings: Settings) -> None:
        async with holding(multidb_settings, WRITTEN, NOVEMBER) as other:
            task = asyncio.create_task(partitions.ensure(hurried(multidb_settings), now=NOVEMBER))
            await second_try(multidb_settings)
            await other.execute("COMMIT")
            assert await task == MONTHS
        assert await where_they_are(multidb_settings) == {NOVEMBER: MONTHS[0]}

    async def test_before_the_first_migration_it_says_so(self, empty: Settings) -> None:
        with pytest.raises(ConfigurationError, match="multidb migrate"):
            await partitions.ensure(empty)

    async def test_initialising_makes_them(self, multidb_settings: Settings) -> None:
        for _ in range(2):
            await initialise(multidb_settings)
            there = await partitions.find(multidb_settings)
            assert [each.default for each in there] == [False] * 4 + [True]
            assert there[0].first is not None
            assert there[0].first <= datetime.now(UTC) + timedelta(minutes=1)


class TestDetaching:
    async def test_what_is_wholly_older(self, multidb_settings: Settings) -> None:
        await partitions.ensure(multidb_settings, now=NOVEMBER)
        await write(multidb_settings, NOVEMBER)
        # In February one month before is January, and all of December is older.
        february = datetime(2042, 2, 28, tzinfo=UTC)
        older = [name for name in await names(multidb_settings) if name < "audit_logs_2042_01"]
        assert await partitions.detach(multidb_settings, keep=1, now=february) == older
        assert await names(multidb_settings) == [*MONTHS[2:], "audit_logs_default"]
        assert await run(multidb_settings, "SELECT ts FROM audit_logs_2041_11") == [(NOVEMBER,)]
        assert await where_they_are(multidb_settings) == {}
        assert await partitions.detach(multidb_settings, keep=1, now=february) == []
        assert await asyncio.to_thread(migrations.check, multidb_settings) == []

    async def test_across_a_year_to_the_day(self, multidb_settings: Settings) -> None:
        await partitions.ensure(multidb_settings, now=NOVEMBER)
        before_midnight = datetime(2042, 11, 30, 23, 59, 59, tzinfo=UTC)
        older = await partitions.detach(multidb_settings, keep=12, now=before_midnight)
        assert "audit_logs_2041_11" not in older
        after = before_midnight + timedelta(seconds=1)
        assert await partitions.detach(multidb_settings, keep=12, now=after) == ["audit_logs_2041_11"]

    async def test_dropping(self, multidb_settings: Settings) -> None:
        await partitions.ensure(multidb_settings, now=NOVEMBER)
        detached = await partitions.detach(
            multidb_settings, keep=0, drop=True, now=datetime(2041, 12, 1, tzinfo=UTC)
        )
        assert "audit_logs_2041_11" in detached
        assert not await run(multidb_settings, "SELECT 1 WHERE to_regclass('audit_logs_2041_11') IS NOT NULL")

    async def test_the_default_partition_stays(self, multidb_settings: Settings) -> None:
        long_ago = datetime(1999, 1, 1, tzinfo=UTC)
        await write(multidb_settings, long_ago)
        await partitions.detach(multidb_settings, keep=0, drop=True, now=NOVEMBER)
        assert await where_they_are(multidb_settings) == {long_ago: "audit_logs_default"}

    async def test_it_gives_way_to_open_transactions(self, multidb_settings: Settings) -> None:
        await partitions.ensure(multidb_settings, now=NOVEMBER)
        later = datetime(2041, 12, 24, tzinfo=UTC)
        async with holding(multidb_settings, "SELECT * FROM audit_logs"):
            task = asyncio.create_task(partitions.detach(hurried(multidb_settings), keep=0, now=later))
            await second_try(multidb_settings)
            assert MONTHS[0] in await names(multidb_settings)
        assert MONTHS[0] in await task

    @pytest.mark.parametrize("wrong", ["keep", "ahead"])
    async def test_months_cannot_be_negative(self, multidb_settings: Settings, wrong: str) -> None:
        change: Any = {"keep": partitions.detach, "ahead": partitions.ensure}[wrong]
        with pytest.raises(ValueError, match=wrong):
            await change(multidb_settings, **{wrong: -1})


class TestWritersMeanwhile:
    @pytest.mark.parametrize(
        ("moment", "others"),
        [
            pytest.param(NOVEMBER, (), id="the month has begun"),
            pytest.param(JANUARY, (JANUARY + timedelta(days=1),), id="rows are there"),
        ],
    )
    async def test_one_who_comes_while_the_month_is_made_finds_its_way(
        self, multidb_settings: Settings, moment: datetime, others: tuple[datetime, ...]
    ) -> None:
        """To the new partition, though it began when there was only the default one."""
        await partitions.ensure(multidb_settings, ahead=1, now=NOVEMBER)
        if moment == NOVEMBER:
            await run(multidb_settings, "DROP TABLE audit_logs_2041_11")
        await write(multidb_settings, *others)
        async with holding(multidb_settings, "LOCK TABLE audit_logs_default IN ACCESS SHARE MODE"):
            settings = hurried(multidb_settings, lock_timeout=AGES)
            making = asyncio.create_task(partitions.ensure(settings, now=NOVEMBER))
            await until(lambda: run(multidb_settings, waiting(1)))
            writing = asyncio.create_task(write(multidb_settings, moment))
            await until(lambda: run(multidb_settings, waiting(2)))
        await asyncio.gather(making, writing)
        assert (await where_they_are(multidb_settings))[moment] == f"audit_logs_{moment:%Y_%m}"

    async def test_what_is_committed_meanwhile_moves_too(self, multidb_settings: Settings) -> None:
        await partitions.ensure(multidb_settings, ahead=1, now=NOVEMBER)
        async with holding(multidb_settings, WRITTEN, JANUARY) as other:
            settings = hurried(multidb_settings, lock_timeout=AGES)
            making = asyncio.create_task(partitions.ensure(settings, now=NOVEMBER))
            await until(lambda: run(multidb_settings, waiting(1)))
            await other.execute("COMMIT")
        assert await making == MONTHS[2:]
        assert await where_they_are(multidb_settings) == {JANUARY: MONTHS[2]}

    async def test_no_insert_fails_and_none_is_lost(self, multidb_settings: Settings) -> None:
        """Eight writers go through two years, whose months are made, late or ahead, and detached."""
        written: list[datetime] = []
        settings = hurried(multidb_settings, lock_timeout=0.5)
        today, over, enough = NOVEMBER, False, 0

        async def gone_on() -> bool:
            return len(written) > enough

        async def write_on(writer: int) -> None:
            connection = await connect(multidb_settings)
            try:
                for number in itertools.count(writer, 8):
                    if over:
                        return
                    first = today + timedelta(microseconds=number)
                    moments = [first, first - timedelta(days=number % 60)]
                    async with connection.transaction():
                        for moment in moments:
                            await connection.execute(WRITTEN, moment)
                    written.extend(moments)
            finally:
                await connection.close()

        async with asyncio.TaskGroup() as group:
            for writer in range(8):
                group.create_task(write_on(writer))
            detached: list[str] = []
            for step in range(16):
                today += timedelta(days=50)
                # Some rows are of a month that nobody has made.
                enough = len(written) + 16
                await until(gone_on)
                await partitions.ensure(settings, ahead=step % 2, now=today)
                detached += await partitions.detach(settings, keep=1, now=today)
            over = True
        assert len(detached) > 10
        kept = " UNION ALL ".join(f"SELECT ts FROM {table}" for table in ("audit_logs", *detached))
        stored = [row[0] for row in await run(multidb_settings, f"{kept} ORDER BY ts")]
        assert stored == sorted(written)


class TestWhoMayRead:
    async def test_nobody_but_the_owner(self, tenants: Settings) -> None:
        may = "SELECT has_table_privilege('multidb_tenant', $1, 'SELECT')"
        await partitions.ensure(tenants, now=NOVEMBER)
        assert [(await run(tenants, may, name))[0][0] for name in MONTHS] == [False] * 4
        await run(
            tenants, f"GRANT SELECT ON {MONTHS[0]} TO multidb_tenant; GRANT SELECT ON {MONTHS[0]} TO PUBLIC"
        )
        await partitions.detach(tenants, keep=0, now=datetime(2041, 12, 1, tzinfo=UTC))
        assert not (await run(tenants, may, MONTHS[0]))[0][0]


class TestTheCommand:
    @pytest.fixture
    def command(self, multidb_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MULTIDB_POSTGRES_URL", multidb_settings.postgres_url.get_secret_value())

        def invoke(*arguments: str) -> str:
            result = CliRunner().invoke(app, ["partitions", *arguments])
            assert result.exit_code == 0, result.output
            return result.stdout

        return invoke

    def test_it_makes_what_is_missing(self, command: Any) -> None:
        made = command("--ahead", "4").splitlines()
        assert len(made) == 2
        assert all(line.startswith("Made audit_logs_2") for line in made)
        assert command("--ahead", "4") == "Nothing to do.\n"

    def test_it_detaches_and_drops(self, command: Any, multidb_settings: Settings) -> None:
        for name, year in (("audit_logs_2001_01", 2001), ("audit_logs_2002_01", 2002)):
            execute(
                multidb_settings,
                f"CREATE TABLE {name} PARTITION OF audit_logs"
                f" FOR VALUES FROM ('{year}-01-01 00:00+00') TO ('{year}-02-01 00:00+00')",
            )
            if year == 2001:
                assert "Detached audit_logs_2001_01; the table stays.\n" in command("--keep", "24")
        assert command("--keep", "24", "--drop") == "Detached audit_logs_2002_01 and dropped it.\n"
        assert execute(multidb_settings, "SELECT to_regclass('audit_logs_2002_01')")[0][0] is None
        assert execute(multidb_settings, "SELECT * FROM audit_logs_2001_01") == []

    def test_it_shows_what_there_is(self, command: Any, multidb_settings: Settings) -> None:
        execute(
            multidb_settings,
            "INSERT INTO audit_logs (action, entity, entity_id, ts) VALUES"
            " ('insert', 'users', gen_random_uuid(), now()); ANALYZE audit_logs",
        )
        lines = command("--list").splitlines()
        assert lines[0].split() == ["partition", "from", "to", "rows", "size"]
        assert len(lines) == 5
        assert lines[1].split()[3] == "1"
        assert "what no other takes" in lines[-1]
        assert "KiB" in lines[-1]

    def test_it_speaks_json(self, command: Any, multidb_settings: Settings) -> None:
        report = json.loads(command("--json"))
        assert [len(report["made"]), report["detached"], report["dropped"]] == [1, [], False]
        there = asyncio.run(partitions.find(multidb_settings))
        assert [each["name"] for each in report["partitions"]] == [each.name for each in there]
        first, *_, default = report["partitions"]
        assert datetime.fromisoformat(first["first"]) == there[0].first
        assert (default["default"], default["first"], default["end"]) == (True, None, None)
        assert json.loads(command("--list", "--json"))["made"] == []

    @pytest.mark.parametrize(
        "arguments", [("--drop",), ("--list", "--keep", "3"), ("--keep", "-1"), ("--ahead", "-1")]
    )
    def test_wrong_usage(self, arguments: tuple[str, ...]) -> None:
        assert CliRunner().invoke(app, ["partitions", *arguments]).exit_code == 2
