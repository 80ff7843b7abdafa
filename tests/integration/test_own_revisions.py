"""An application's branch of revisions over multidb's: the one of `examples/custom_entity.py`."""

import re
from pathlib import Path

import pytest

from examples.custom_entity import REVISIONS, upgrade
from multidb import ConfigurationError, Settings
from multidb.ops import migrations

from . import programs
from .schema_changes import ROOT, alembic, environment, execute

INI = str(REVISIONS.parent / "alembic.ini")
ACTIONS = ("delete", "insert", "update")


@pytest.fixture
def application(empty: Settings) -> Settings:
    """Settings that name the application's revisions, of a database with nothing in it."""
    return empty.model_copy(update={"migration_paths": (REVISIONS,)})


def tables(settings: Settings) -> set[str]:
    rows = execute(settings, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in rows}


def at(settings: Settings) -> list[str]:
    """Return the revisions the database names: not those that another one there depends on."""
    return (migrations.current(settings) or "").split(", ")


def test_both_branches_go_up_and_down_and_up(empty: Settings, application: Settings):
    upgrade(empty)
    assert {"invoices", "companies"} <= tables(application)
    assert "inv1" in at(application)
    migrations.upgrade(application)
    assert migrations.check(application) == []

    migrations.downgrade(application, "invoices@base")
    assert "invoices" not in tables(application)
    assert "companies" in tables(application)
    migrations.upgrade(application)
    migrations.downgrade(application, "base")
    assert migrations.current(application) is None
    assert tables(application) == {"alembic_version"}


def test_the_check_holds_the_applications_tables_to_their_revisions(application: Settings):
    migrations.upgrade(application)
    execute(application, "DROP TRIGGER invoices_audit_update ON invoices")
    execute(application, "ALTER TABLE invoices NO FORCE ROW LEVEL SECURITY")
    told = migrations.check(application)
    assert len(told) == 2
    assert any("invoices_audit_update" in line for line in told)


def test_without_the_folder_its_revision_is_unknown(empty: Settings, application: Settings):
    migrations.upgrade(application)
    with pytest.raises(ConfigurationError, match="inv1"):
        migrations.upgrade(empty)


def test_multidb_migrate_takes_the_folder_from_its_variable(application: Settings):
    variables = environment(application, MULTIDB_MIGRATION_PATHS=str(REVISIONS))
    for _ in range(2):
        done = programs.run("multidb.cli", "migrate", cwd=ROOT, env=variables)
        assert done.returncode == 0, done.stderr
        assert re.fullmatch(r"PostgreSQL is at revision (\d+, )?inv1\.\n", done.stdout)
    assert "invoices" in tables(application)


def test_alembic_knows_both_branches_by_the_applications_ini(application: Settings):
    for arguments in (("upgrade", "heads"), ("downgrade", "invoices@base"), ("upgrade", "heads")):
        done = alembic(application, "-c", INI, *arguments)
        assert done.returncode == 0, done.stderr
    assert re.search(r"^inv1 ", alembic(application, "-c", INI, "current").stdout, re.MULTILINE)
    assert "inv1" in at(application)


def test_the_table_has_what_the_guide_promises(application: Settings):
    migrations.upgrade(application)
    triggers = execute(application, "SELECT tgname FROM pg_trigger WHERE tgrelid = 'invoices'::regclass")
    assert {f"invoices_audit_{action}" for action in ACTIONS} <= {row[0] for row in triggers}
    secured = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE relname = 'invoices'"
    assert execute(application, secured)[0][0]


def test_paths_with_a_per_cent_sign_are_paths(empty: Settings, tmp_path: Path):
    odd = tmp_path / "50% off"
    odd.mkdir()
    (odd / "inv1.py").write_text((REVISIONS / "inv1_invoices.py").read_text())
    migrations.upgrade(empty.model_copy(update={"migration_paths": (odd,)}))
    assert "invoices" in tables(empty)


def test_it_builds_on_a_revision_that_multidb_has():
    (depends_on,) = re.findall(r'depends_on: .* = "(\d+)"', (REVISIONS / "inv1_invoices.py").read_text())
    assert list((ROOT / "migrations" / "versions").glob(f"{depends_on}_*.py"))
