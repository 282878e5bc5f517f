"""Migrations: the database that they make is the one that the code is written for."""

import sqlite3

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from engine.store.database import StoreUnavailable
from engine.store.migrating import MIGRATIONS, ForeignSchema, migrate
from engine.store.tables import metadata
from tests.support.database import go_to


@pytest.fixture
def file(tmp_path):
    """Where the database is."""
    return tmp_path / "engine.sqlite"


@pytest.fixture
def url(file):
    """The database, as the settings name it."""
    return f"sqlite+aiosqlite:///{file}"


async def read(url, look):
    """Look at a database through one connection."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(look)
    finally:
        await engine.dispose()


def shape(connection: Connection):
    """Names, types, defaults and constraints of all tables, in words that can be compared."""
    inspector = inspect(connection)
    return {
        table: {
            "columns": {
                column["name"]: (str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            },
            "key": inspector.get_pk_constraint(table),
            "indexes": sorted(inspector.get_indexes(table), key=lambda index: str(index["name"])),
            "unique": sorted(inspector.get_unique_constraints(table), key=lambda one: str(one["name"])),
            "foreign": sorted(inspector.get_foreign_keys(table), key=lambda key: str(key["name"])),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


async def test_the_migrated_database_is_the_one_in_the_code(url):
    """Alembic finds nothing to add, to take away or to change."""
    await migrate(url)

    differences = await read(
        url,
        lambda connection: compare_metadata(
            MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True}),
            metadata,
        ),
    )

    assert differences == []


async def test_it_has_the_same_shape_as_one_made_from_the_code(url, tmp_path):
    """Down to names, defaults and keys, which Alembic does not all compare."""
    other = f"sqlite+aiosqlite:///{tmp_path / 'other.sqlite'}"
    engine = create_async_engine(other)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    await migrate(url)

    assert await read(url, shape) == await read(other, shape)


async def test_migrating_again_changes_nothing(url, file):
    """Every start of the engine migrates."""
    await migrate(url)
    with sqlite3.connect(file) as before:
        before.execute(
            "INSERT INTO hosted_parties (party_id, roles, business_details, created_at) VALUES ('NLTNM','[]','{}',0)"
        )
    before.close()

    await migrate(url)

    with sqlite3.connect(file) as after:
        assert after.execute("SELECT party_id, hub FROM hosted_parties").fetchall() == [("NLTNM", 0)]
    after.close()


def scripts():
    """Read the migrations, from the first to the newest."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    return ScriptDirectory.from_config(config)


async def test_migrations_only_add(url):
    """What a process of the version before reads and writes stays, and what is new it need not write."""
    first, *later = [script.revision for script in scripts().walk_revisions()][::-1]
    await go_to(url, first)
    for revision in later:
        before = await read(url, shape)
        await go_to(url, revision)
        after = await read(url, shape)
        for table, old in before.items():
            new = after[table]
            assert new["columns"].items() >= old["columns"].items(), f"{revision} changes columns of {table}"
            for name in new["columns"].keys() - old["columns"].keys():
                _type, nullable, default = new["columns"][name]
                assert nullable or default is not None, f"{revision}: older processes do not write {table}.{name}"
            for constraints in ("key", "unique", "foreign"):
                assert new[constraints] == old[constraints], f"{revision}: older processes may break it, in {table}"
            known = [index for index in new["indexes"] if index in old["indexes"] or not index["unique"]]
            assert known == new["indexes"], f"{revision}: older processes may break it, in {table}"


OBJECT = {
    "pk": 7, "source_id": 0, "module": "locations", "issuer": "BEBEC", "object_key": "l1", "object_id": "L1",
    "version": 212, "life": 0, "log": "locations", "seq": 41, "audience": ",NLEMS,", "stored_at": 1.5,
    "payload": b'{"digits":0.10}',
}  # fmt: skip
SUBSCRIPTION = {
    "id": 3, "platform_id": 1, "subscriber": "NLEMS", "producer": "BEBEC", "module": "locations",
    "module_alias": "locations", "state": "live", "life": 2, "epoch": 5, "owner": None, "retry_interval_s": 5.0,
    "parallelism_limit": 8, "queue_size_max": 100, "watermark": 40, "caught_up": 1, "catch_up_to": 12,
    "attempted_to": 0, "hold_until": 0.0, "began_at": 9.5, "ended_at": None,
}  # fmt: skip
PLATFORM = {"id": 1, "identity": "emsp.example.org", "state": "connected", "created_at": 0.0}


def rows(file, what):
    """Read rows of a database."""
    connection = sqlite3.connect(file)
    try:
        return connection.execute(what).fetchall()
    finally:
        connection.close()


async def made_long_ago(url, file):
    """Make a database of the first revision, with an object and a subscription to it."""
    await go_to(url, "0001")
    stored = {"platforms": PLATFORM, "objects": OBJECT, "outbound_subscriptions": SUBSCRIPTION}
    with sqlite3.connect(file) as first:
        for table, row in stored.items():
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            first.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", tuple(row.values()))  # noqa: S608 - ours
    first.close()


async def test_what_was_stored_at_the_first_revision_is_there_at_this_one(url, file):
    """Byte for byte, and all of it owed: nothing is over, and each subscription began before any change."""
    await made_long_ago(url, file)

    await migrate(url)

    for table, before, added in (
        ("objects", OBJECT, {"concluded_at": None}),
        ("outbound_subscriptions", SUBSCRIPTION, {"first_seq": 0, "snapshot_from": 0.0}),
    ):
        expected = before | added
        assert rows(file, f"SELECT {', '.join(expected)} FROM {table}") == [tuple(expected.values())]  # noqa: S608 - ours
    assert [row[1] for row in rows(file, "PRAGMA table_info(objects)")][-1] == "payload"


async def test_a_migration_that_breaks_off_leaves_the_database_as_it_was(url, file):
    """A database that cannot be brought all the way stays at its revision, and can be tried again."""
    await made_long_ago(url, file)
    with sqlite3.connect(file) as other:
        other.execute(
            "ALTER TABLE outbound_subscriptions ADD COLUMN snapshot_from FLOAT"
        )  # what comes last is in the way
    other.close()

    with pytest.raises(StoreUnavailable, match="duplicate column"):
        await migrate(url)

    assert rows(file, "SELECT version_num FROM alembic_version") == [("0001",)]
    assert "concluded_at" not in [row[1] for row in rows(file, "PRAGMA table_info(objects)")]
    assert rows(file, "SELECT name FROM sqlite_master WHERE name LIKE '_alembic%'") == []
    rows(file, "ALTER TABLE outbound_subscriptions DROP COLUMN snapshot_from")

    await migrate(url)
    assert rows(file, "SELECT object_id, concluded_at FROM objects") == [("L1", None)]


async def test_a_database_of_a_newer_engine_is_refused(url, file):
    """It is left as it is, and the message says why."""
    await migrate(url)
    with sqlite3.connect(file) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    newer.close()

    with pytest.raises(ForeignSchema, match=r"newer version of the engine.*9999"):
        await migrate(url)

    with sqlite3.connect(file) as untouched:
        assert untouched.execute("SELECT version_num FROM alembic_version").fetchall() == [("9999",)]
    untouched.close()


async def test_a_file_that_is_no_database_is_refused(url, file):
    """It is left as it is, and the message names it."""
    file.write_bytes(b"something else " * 1000)

    with pytest.raises(ForeignSchema, match=r"engine\.sqlite is not a database of this engine"):
        await migrate(url)

    assert file.read_bytes() == b"something else " * 1000


async def test_a_database_that_cannot_be_written_is_unavailable(url, file):
    """A table that somebody else holds locked is told from a fault in the tables."""
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE theirs (x)")
        other.commit()
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await migrate(url + "?timeout=0")
    other.close()


def test_migrations_follow_each_other():
    """There is one line of them, each with a sentence that says what it is for."""
    assert len(scripts().get_heads()) == 1
    assert len(scripts().get_bases()) == 1
    assert all(script.doc for script in scripts().walk_revisions())
