"""MongoDB's schemas: what the files say, the server does."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from multidb import ConfigurationError
from multidb.cli.app import app
from multidb.ops import embedded, schemas
from multidb.ops.schemas import files, lock
from multidb.settings import Settings

from .places import NAMED, Place, place

pytestmark = pytest.mark.mongo


@pytest.fixture
def here(multidb_servers: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A database with nothing in it, and a folder for the only files there are."""
    monkeypatch.setattr(files, "shipped", lambda _: tmp_path / "none")
    (tmp_path / "files").mkdir()
    with place(multidb_servers, tmp_path / "files") as made:
        yield made


AGE = {"name": "age", "key": {"age": 1}}
EMAIL = {"name": "email", "key": {"email": 1}, "unique": True}
BY_TIME = {"timeseries": {"timeField": "at", "metaField": "of", "granularity": "minutes"}}
CLUSTERED = {"clusteredIndex": {"key": {"_id": 1}, "unique": True}}


class TestWhatIsThere:
    async def test_the_databases_of_tests_are_as_the_files_say(self, multidb_settings: Settings) -> None:
        assert await schemas.apply(multidb_settings) == []
        assert await schemas.check(multidb_settings) == []
        assert await schemas.plan(multidb_settings) == []

    @pytest.mark.parametrize(
        "file",
        [
            {},
            {"validator": NAMED, "validationLevel": "moderate", "validationAction": "warn"},
            {"options": CLUSTERED, "validator": NAMED, "indexes": [AGE, EMAIL]},
            {"options": BY_TIME, "retention": {"field": "at", "default": "30d"}},
            {"options": {"capped": True, "size": 4096, "max": 10}},
            {"options": {"collation": {"locale": "en", "strength": 2}}, "indexes": [AGE]},
            {"options": {"changeStreamPreAndPostImages": {"enabled": True}}},
            {"options": {"changeStreamPreAndPostImages": {"enabled": False}}},
            {"options": {"clusteredIndex": {"key": {"_id": 1}, "unique": True, "name": "by_id"}}},
            {
                "options": {"collation": {"locale": "fr"}},
                "indexes": [{**AGE, "collation": {"locale": "simple"}}],
            },
            {"retention": {"field": "at", "default": None}},
            {"retention": {"field": "at", "default": "12h"}, "indexes": [AGE]},
            {
                "indexes": [
                    {"name": "words", "key": {"kind": 1, "text": "text"}, "default_language": "none"},
                    {"name": "some", "key": {"a": 1, "b": -1}, "partialFilterExpression": {"a": {"$gt": 1}}},
                    {"name": "folded", "key": {"a": 1}, "collation": {"locale": "en", "strength": 2}},
                    {"name": "sparse", "key": {"c.d": 1}, "sparse": True, "hidden": True, "unique": True},
                    {"name": "every", "key": {"$**": 1}, "wildcardProjection": {"e": 1}},
                    {"name": "place", "key": {"place": "2dsphere"}},
                    {"name": "gone", "key": {"gone_at": 1}, "expireAfterSeconds": 0},
                ]
            },
        ],
    )
    async def test_a_file_is_applied_once(self, here: Place, file: dict[str, Any]) -> None:
        here.say(**file)
        missing = "things: the collection is missing; it is created with its indexes"
        assert await here.check() == [missing]
        assert list(map(str, await here.plan())) == [missing]
        assert await here.apply() == [missing.replace("is created", "was created")]
        assert await here.check() == []
        assert await here.apply() == []

    async def test_what_no_file_names_is_left_alone(self, here: Place) -> None:
        here.say()
        here.database["others"].create_index("a")
        await here.apply(drop_indexes=True)
        assert len(here.database["others"].index_information()) == 2

    async def test_one_that_an_application_makes_meanwhile_is_made_as_the_file_says(
        self, here: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here.say(validator=NAMED, indexes=[AGE])
        confirm = lock.Lease.confirm

        async def slowly(lease: lock.Lease) -> None:
            await confirm(lease)
            if not here.database.list_collection_names(filter={"name": "things"}):
                here.things.insert_one({"name": "Ada"})

        monkeypatch.setattr(lock.Lease, "confirm", slowly)
        await here.apply()
        assert await here.check() == []
        assert here.things.count_documents({}) == 1

    async def test_checking_writes_nothing(self, here: Place) -> None:
        here.say()
        await here.check()
        await here.plan()
        assert here.database.list_collection_names() == []


class TestDrift:
    """Each way in which the server may differ: found, told, and made to go away."""

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            ({}, {"version": 2}, "the schema's version is 1, not 2; it is changed"),
            (
                {"validator": NAMED},
                {
                    "validator": {
                        "$jsonSchema": {**NAMED["$jsonSchema"], "properties": {"name": {}, "_id": {}}}
                    }
                },
                "the validator differs (count, name); it is changed",
            ),
            ({"validator": NAMED}, {}, "the validator differs (_id, count, name, additionalProperties,"),
            (
                {"validator": NAMED, "validationAction": "warn"},
                {"validator": NAMED},
                "the validator differs (validationAction); it is changed",
            ),
            ({}, {"indexes": [AGE]}, "index age is missing; it is built"),
            ({}, {"indexes": [EMAIL]}, "index email is missing; it is built, then made unique"),
            (
                {"indexes": [{**EMAIL, "unique": False}]},
                {"indexes": [EMAIL]},
                "index email is not unique; it is made so",
            ),
            (
                {"indexes": [AGE]},
                {"indexes": [{**AGE, "hidden": True}]},
                "index age is not hidden; it is changed",
            ),
            (
                {"indexes": [{**AGE, "expireAfterSeconds": 60}]},
                {"indexes": [{**AGE, "expireAfterSeconds": 7200}]},
                "index age keeps documents for 1m, not 2h; it is changed",
            ),
            (
                {"indexes": [AGE]},
                {"indexes": [{**AGE, "expireAfterSeconds": 90}]},
                "index age keeps documents for forever, not 90s; it is changed; what is older is deleted",
            ),
            (
                {"retention": {"field": "at", "default": "1d"}},
                {"retention": {"field": "at", "default": "30d"}},
                "the retention is 1d, not 30d; it is changed",
            ),
            (
                {"retention": {"field": "at"}},
                {"retention": {"field": "at", "default": "30d"}},
                "the retention is forever, not 30d; it is built; documents that are due are deleted",
            ),
            (
                {"retention": {"field": "at", "default": "30d"}},
                {"retention": {"field": "at"}},
                "documents are deleted in time, not kept forever; it is changed",
            ),
            (
                {"options": BY_TIME, "retention": {"field": "at", "default": "30d"}},
                {"options": BY_TIME, "retention": {"field": "at", "default": "1d"}},
                "the retention is 30d, not 1d; it is changed; what is older is deleted",
            ),
            (
                {"options": BY_TIME, "retention": {"field": "at", "default": "30d"}},
                {"options": BY_TIME},
                "the retention is 30d, not forever; it is changed",
            ),
            (
                {},
                {"options": {"changeStreamPreAndPostImages": {"enabled": True}}},
                "`changeStreamPreAndPostImages` is not set, not {'enabled': True}; it is changed",
            ),
            (
                {"options": {"capped": True, "size": 4096}},
                {"options": {"capped": True, "size": 8192}},
                "`size` is 4096, not 8192; it is changed; the oldest documents may be deleted",
            ),
            (
                {"options": {"capped": True, "size": 4096, "max": 10}},
                {"options": {"capped": True, "size": 4096}},
                "`max` is 10",
            ),
        ],
    )
    async def test_it_is_told_and_done(
        self, here: Place, before: dict[str, Any], after: dict[str, Any], told: str
    ) -> None:
        here.say(**before)
        await here.apply()
        here.say(**after)
        (line,) = await here.check()
        assert line.startswith(f"things: {told}")
        assert await here.check() == list(map(str, await here.plan())), "nothing is in the way"
        assert len(await here.apply()) == 1
        assert await here.check() == []
        assert await here.apply() == []

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            ([AGE], [{**AGE, "key": {"age": -1}}], "index age differs (key)"),
            (
                [{**AGE, "key": {"a": 1, "b": 1}}],
                [{**AGE, "key": {"b": 1, "a": 1}}],
                "index age differs (key)",
            ),
            ([AGE], [{**AGE, "sparse": True}], "index age differs (sparse)"),
            ([EMAIL], [{**EMAIL, "unique": False}], "index email differs (unique)"),
            ([{**AGE, "expireAfterSeconds": 9}], [AGE], "index age differs (expireAfterSeconds)"),
            (
                [AGE],
                [{**AGE, "collation": {"locale": "en"}}],
                "index age differs (collation)",
            ),
            ([AGE], [{**AGE, "name": "years"}], "index years is there as age"),
        ],
    )
    async def test_an_index_that_must_be_built_anew_is_dropped_only_when_told(
        self, here: Place, before: list[Any], after: list[Any], told: str
    ) -> None:
        here.say(indexes=before)
        await here.apply()
        stood = here.indexes()
        here.say(indexes=after)
        with pytest.raises(ConfigurationError, match=r"only with --drop-indexes") as caught:
            await here.apply()
        assert told in str(caught.value)
        assert here.indexes() == stood
        assert len(await here.apply(drop_indexes=True)) == 1
        assert await here.check() == []

    async def test_an_index_that_no_file_names_is_dropped_only_when_told(self, here: Place) -> None:
        here.say(indexes=[AGE])
        await here.apply()
        here.things.create_index("other", name="other")
        told = ["things: index other is in no file; it is dropped; only with --drop-indexes"]
        assert await here.check() == told
        assert await here.apply() == [], "and nobody is kept from starting by it"
        assert await here.check() == told
        assert await here.apply(drop_indexes=True) == ["things: index other is in no file; it was dropped"]
        assert set(here.indexes()) == {"_id_", "age"}

    @pytest.mark.parametrize(
        ("before", "after", "told"),
        [
            ({}, CLUSTERED, "`clusteredIndex` is not set"),
            (CLUSTERED, {}, "`clusteredIndex` is "),
            ({}, BY_TIME, "it is a collection, and should not be"),
            (BY_TIME, {}, "it is a timeseries, and should not be"),
            ({}, {"capped": True, "size": 4096}, "`capped` is not set"),
            ({}, {"collation": {"locale": "en"}}, "`collation` is not set"),
        ],
    )
    async def test_what_cannot_change_in_place_says_what_to_do(
        self, here: Place, before: dict[str, Any], after: dict[str, Any], told: str
    ) -> None:
        here.say(options=before)
        await here.apply()
        stood = here.options()
        here.say(options=after)
        with pytest.raises(ConfigurationError, match=r"copy the documents into a new collection") as caught:
            await here.apply(drop_indexes=True, accept_misfits=True)
        assert told in str(caught.value)
        assert here.options() == stood
        assert all(each.described()["blocked"] for each in await here.plan())

    async def test_a_newer_releases_schema_is_left_alone(self, here: Place) -> None:
        here.say(version=3, indexes=[AGE])
        await here.apply()
        here.say(version=2, validator=NAMED)
        with pytest.raises(ConfigurationError, match=r"version 3 was applied, and this file is version 2"):
            await here.apply(drop_indexes=True)
        assert "age" in here.indexes()
        assert here.options()["validator"] == {"$comment": "version 3"}

    async def test_a_view_of_that_name_is_told(self, here: Place) -> None:
        here.say()
        here.database.create_collection("things", viewOn="others")
        (line,) = await here.check()
        assert line.startswith("things: it is a view, and should not be")


class TestValidators:
    """Warn, look, refuse; and nothing is changed for documents that do not fit, unless told."""

    async def grow(self, here: Place) -> None:
        here.say()
        await here.apply()
        here.things.insert_many(
            [
                *({"_id": n, "name": "hunter2 hunter2"} for n in range(7)),
                {"_id": "x", "count": -1, "extra": 1},
                {"_id": "fits", "name": "Ada"},
            ]
        )
        here.say(version=2, validator=NAMED)

    async def test_documents_that_do_not_fit_are_counted_and_named_and_not_quoted(self, here: Place) -> None:
        await self.grow(here)
        (difference,) = await here.plan()
        assert "8 documents do not fit: 0 (name), 1 (name), 2 (name), 3 (name), 4 (name), …" in str(
            difference
        )
        assert str(difference).endswith("only with --accept-misfits")
        described = difference.described()
        assert described["needs"] == ["accept_misfits"]
        assert described["obstacle"]["count"] == 8
        assert "hunter2" not in str(difference) + json.dumps(described)
        here.things.delete_many({"name": {"$exists": True}})
        (difference,) = await here.plan()
        assert "1 documents do not fit: x (count, name, extra)" in str(difference)

    async def test_nothing_is_changed_unless_told(self, here: Place) -> None:
        await self.grow(here)
        stood = here.options()
        with pytest.raises(ConfigurationError, match="8 documents do not fit"):
            await here.apply()
        assert here.options() == stood
        await here.apply(accept_misfits=True)
        assert await here.check() == []
        assert here.things.count_documents({}) == 9

    async def test_it_is_logged_before_it_is_refused(
        self, here: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A document that comes after the first look is stored still, seen, and all put back."""
        here.say()
        await here.apply()
        stood = here.options()
        here.say(version=2, validator=NAMED)
        actions = []
        look_again = schemas.obstacles.Misfits.look_again

        async def meanwhile(self: Any, server: Any) -> Any:
            actions.append(here.options()["validationAction"])
            here.things.insert_one({"_id": "late"})
            return await look_again(self, server)

        monkeypatch.setattr(schemas.obstacles.Misfits, "look_again", meanwhile)
        with pytest.raises(ConfigurationError, match=r"1 documents do not fit: late \(name\)"):
            await here.apply()
        assert actions == ["warn"]
        assert here.options() == {**stood, "validationLevel": "strict", "validationAction": "error"}

    async def test_what_slips_in_before_it_is_refused_is_told(
        self, here: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here.say()
        await here.apply()
        here.say(version=2, validator=NAMED)
        look_again = schemas.obstacles.Misfits.look_again

        async def overlooked(self: Any, server: Any) -> Any:
            found = await look_again(self, server)
            here.things.insert_one({"_id": "late"})
            return found

        monkeypatch.setattr(schemas.obstacles.Misfits, "look_again", overlooked)
        with pytest.raises(ConfigurationError, match=r"written meanwhile that do not fit.* late \(name\)"):
            await here.apply()
        assert await here.check() == []

    async def test_a_killed_change_is_gone_on_with(self, here: Place) -> None:
        """What it leaves is the validator that only warns."""
        here.say(validator=NAMED)
        await here.apply()
        here.database.command({"collMod": "things", "validationAction": "warn"})
        assert len(await here.apply()) == 1
        assert here.options()["validationAction"] == "error"


class TestUniqueIndexes:
    async def test_duplicates_are_counted_and_named_and_nothing_is_built(self, here: Place) -> None:
        here.say()
        await here.apply()
        here.things.insert_many([{"_id": n, "email": "hunter2"} for n in range(3)] + [{}, {"email": None}])
        here.say(indexes=[EMAIL])
        (difference,) = await here.plan()
        assert "2 values are there more than once: " in str(difference)
        assert "0 and 1 (email)" in str(difference)
        assert "hunter2" not in str(difference)
        assert difference.described()["blocked"]
        with pytest.raises(ConfigurationError, match="2 values are there more than once"):
            await here.apply(accept_misfits=True, drop_indexes=True)
        assert set(here.indexes()) == {"_id_"}

    @pytest.mark.parametrize(
        "index",
        [
            {**EMAIL, "sparse": True},
            {**EMAIL, "partialFilterExpression": {"email": {"$exists": True}}},
        ],
    )
    async def test_what_the_index_does_not_cover_is_no_duplicate(
        self, here: Place, index: dict[str, Any]
    ) -> None:
        here.say()
        await here.apply()
        here.things.insert_many([{}, {}, {"email": "a"}, {"email": "b"}])
        here.say(indexes=[index])
        await here.apply()
        assert here.indexes()["email"]["unique"]

    async def test_values_are_compared_as_the_index_does(self, here: Place) -> None:
        here.say()
        await here.apply()
        here.things.insert_many([{"email": "ada"}, {"email": "ADA"}])
        here.say(indexes=[{**EMAIL, "collation": {"locale": "en", "strength": 2}}])
        assert "1 values are there more than once" in str(*await here.plan())

    @pytest.mark.parametrize("stood", [[], [{**EMAIL, "unique": False}]])
    async def test_a_duplicate_that_only_the_server_sees_is_told_and_all_put_back(
        self, here: Place, stood: list[Any]
    ) -> None:
        here.say(indexes=stood)
        await here.apply()
        before = here.indexes()
        here.things.insert_many([{"email": ["a", "b"]}, {"email": ["b", "c"]}])
        here.say(indexes=[EMAIL])
        with pytest.raises(ConfigurationError, match="1 values are there more than once"):
            await here.apply()
        assert here.indexes() == before

    async def test_new_duplicates_are_refused_before_it_is_looked_again(
        self, here: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here.say()
        await here.apply()
        here.things.insert_one({"email": "a"})
        here.say(indexes=[EMAIL])
        look_again = schemas.obstacles.Duplicates.look_again
        prepared = []

        async def spied(self: Any, server: Any) -> Any:
            prepared.append(here.indexes()["email"]["prepareUnique"])
            return await look_again(self, server)

        monkeypatch.setattr(schemas.obstacles.Duplicates, "look_again", spied)
        await here.apply()
        assert prepared == [True]
        assert here.indexes()["email"]["unique"]

    async def test_a_killed_change_is_gone_on_with(self, here: Place) -> None:
        here.say()
        await here.apply()
        here.database.command(
            {
                "createIndexes": "things",
                "indexes": [{"name": "email", "key": {"email": 1}, "prepareUnique": True}],
            }
        )
        here.say(indexes=[{**EMAIL, "unique": False}])
        assert await here.check() == ["things: index email refuses new duplicates; it is changed"]
        here.say(indexes=[EMAIL])
        await here.apply()
        assert here.indexes()["email"]["unique"]


class TestRetention:
    async def test_the_settings_say_it_by_collection(self, here: Place) -> None:
        here.say(retention={"field": "at", "default": "30d"})
        await here.apply()
        here.settings = here.settings_with(retention={"things": timedelta(hours=1)})
        assert await here.check() == [
            "things: the retention is 30d, not 1h; it is changed; what is older is deleted"
        ]
        await here.apply()
        assert here.indexes()["retention"]["expireAfterSeconds"] == 3600
        here.settings = here.settings_with(retention={"things": None})
        await here.apply()
        assert await here.check() == []
        assert here.indexes()["retention"]["expireAfterSeconds"] == 2**31 - 1

    async def test_what_is_too_old_is_deleted(self, here: Place) -> None:
        here.say(retention={"field": "at", "default": "30d"})
        await here.apply()
        now = datetime.now(UTC)
        here.things.insert_many([{"_id": age, "at": now - timedelta(days=age)} for age in (0, 20, 40)])
        here.settings = here.settings_with(retention={"things": timedelta(days=10)})
        await here.apply()
        async with asyncio.timeout(90):  # a server of another's making looks once a minute
            while here.things.count_documents({"_id": {"$ne": 0}}):  # noqa: ASYNC110 - the server does it
                await asyncio.sleep(0.05)
        assert here.things.count_documents({}) == 1

    @pytest.mark.parametrize("retention", [{"things": timedelta(1)}, {"others": timedelta(1)}])
    async def test_it_must_be_about_a_collection_that_has_one(
        self, here: Place, retention: dict[str, Any]
    ) -> None:
        here.say()
        here.settings = here.settings_with(retention=retention)
        with pytest.raises(
            ConfigurationError, match=r"MULTIDB_RETENTION: `.*` is no collection whose schema"
        ):
            await here.check()


class TestFiles:
    def test_the_shipped_ones_are_read(self, multidb_servers: Settings) -> None:
        assert "system_logs" in [each.collection for each in schemas.load(multidb_servers)]

    async def test_an_applications_own_stand_beside_them(
        self, multidb_servers: Settings, tmp_path: Path
    ) -> None:
        with place(multidb_servers, tmp_path) as here:
            here.say(validator=NAMED)
            await here.apply()
            assert await here.check() == []
            assert {"things", "system_logs"} <= set(here.database.list_collection_names())

    async def test_embedded_servers_get_them_too(
        self, multidb_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Running:
            @staticmethod
            def settings() -> Settings:
                return multidb_settings

        monkeypatch.setattr(embedded, "running", lambda *_, **__: nullcontext(Running))
        (tmp_path / "shelves.json").write_text('{"collection": "shelves", "version": 1}')
        async with embedded.provisioned(tmp_path, schema_paths=[tmp_path]) as settings:
            assert "shelves" in [each.collection for each in schemas.load(settings)]
            assert await schemas.check(settings) == []

    @pytest.mark.parametrize(
        ("file", "told"),
        [
            ({"version": 0}, "version: Input should be greater"),
            ({"validator": []}, "validator: "),
            ({"indexes": [AGE, AGE]}, "two indexes have the same name"),
            ({"indexes": [{"name": "a"}]}, "indexes.0.key: Field required"),
            ({"indexes": [{**AGE, "uniqe": True}]}, "indexes.0.uniqe: Extra inputs"),
            ({"retention": {"field": "at", "default": "month"}}, "retention.default: must be a number and"),
            ({"retention": {"field": "at"}, "indexes": [{**AGE, "name": "retention"}]}, "is made from"),
            ({"options": BY_TIME, "validator": NAMED}, "a time series takes no validator"),
            ({"options": BY_TIME, "retention": {"field": "then"}}, "counts from its `timeField`"),
            ({"options": {"capped": True, "size": 256}, "retention": {"field": "at"}}, "has its size"),
            ({"options": {"capped": True, "size": 100}}, "options.size: "),
        ],
    )
    async def test_one_that_is_no_schema_is_named(self, here: Place, file: dict[str, Any], told: str) -> None:
        here.say(**file)
        with pytest.raises(ConfigurationError, match=r"things\.json is not a schema: ") as caught:
            await here.check()
        assert told in str(caught.value)

    async def test_one_that_is_no_json_is_named(self, here: Place) -> None:
        (here.folder / "things.json").write_text("{")
        with pytest.raises(ConfigurationError, match=r"things\.json is not a schema: Expecting"):
            await here.check()

    async def test_one_that_bears_another_name_is_refused(self, here: Place) -> None:
        here.say(collection="others")
        (here.folder / "others.json").rename(here.folder / "things.json")
        with pytest.raises(ConfigurationError, match=r"must bear the name of its collection, others\.json"):
            await here.check()

    async def test_two_of_one_collection_are_refused(self, here: Place) -> None:
        here.say()
        here.settings = here.settings_with(schema_paths=(here.folder, here.folder))
        with pytest.raises(ConfigurationError, match="the collection things has a schema already"):
            await here.check()

    async def test_what_the_server_does_not_take_is_told(self, here: Place) -> None:
        here.say(validator={"$jsonSchema": {"properties": {"a": {"format": "date"}}}})
        with pytest.raises(ConfigurationError, match=r"things: MongoDB does not take .*'format'"):
            await here.apply()


class TestTheCommand:
    @pytest.fixture
    def command(self, here: Place) -> Callable[..., Any]:
        environment = {
            "MULTIDB_MONGO_URL": here.settings.mongo_url.get_secret_value(),
            "MULTIDB_MONGO_DRIVER": here.settings.mongo_driver,
            "MULTIDB_SCHEMA_PATHS": str(here.folder),
        }
        return lambda *words: CliRunner().invoke(app, ["schemas", *words], env=environment)

    def test_it_plans_checks_and_applies(self, here: Place, command: Callable[..., Any]) -> None:
        here.say()
        missing = "things: the collection is missing; it is created with its indexes\n"
        assert command("plan").stdout == missing
        (planned,) = json.loads(command("plan", "--json").stdout)
        assert (planned["collection"], planned["blocked"]) == ("things", False)
        assert (command("check").exit_code, command("check").stdout) == (1, missing)
        assert command("apply").stdout == missing.replace("is created", "was created")
        for word in ("plan", "check", "apply"):
            done = command(word)
            assert (done.exit_code, done.stdout) == (0, "MongoDB is as its schemas say.\n")
        assert json.loads(command("plan", "--json").stdout) == []

    def test_it_fails_for_what_is_left_and_tells_what_was_done(
        self, here: Place, command: Callable[..., Any]
    ) -> None:
        here.say()
        command("apply")
        here.things.insert_one({})
        here.things.create_index("a", name="a")
        here.say(version=2, validator=NAMED, indexes=[AGE])
        done = command("apply")
        assert isinstance(done.exception, ConfigurationError)
        assert "only with --accept-misfits" in str(done.exception)
        assert done.stdout == "things: index age is missing; it was built\n"
        done = command("apply", "--accept-misfits", "--drop-indexes")
        assert (done.exit_code, len(done.stdout.splitlines())) == (0, 2), done.stdout
        assert command("check").exit_code == 0
