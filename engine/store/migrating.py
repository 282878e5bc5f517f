"""Bringing a database to the tables of this version of the engine, also while processes of the one before run on it.

Those go on with the tables and columns that they know, so a migration only adds: tables, indexes, and columns that may
be null or have a default. What is no longer needed goes in the version after. A process that starts on tables newer
than its own is refused.

Alembic is loaded only where there is something to do: it takes as long as the rest of the store.
"""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event, inspect, text
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DatabaseError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from engine.store.database import StoreUnavailable, address, is_outage, open_engine

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATIONS: Final = Path(__file__).parent / "migrations"
NEWEST: Final = max(file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py"))
MIGRATING: Final = 0x0C91_3002  # the advisory lock under which one process at a time makes tables

LOCK_TIMEOUT_MS: Final = 500
"""For a table that others use: whoever wants it next waits behind us. Less than PostgreSQL's ``deadlock_timeout``, a
second, so that of two that wait for each other this one gives up, and nobody who serves is broken off."""
LOCKED_PAUSE_S: Final = 0.5
LOCKED_MAX_S: Final = 60.0  # of trying again: what stands still in a transaction is ended before
_LOCKED: Final = ("55P03", "40P01")  # lock_not_available, deadlock_detected

POSTGRESQL_MIN: Final = 13  # the oldest that the tests have been run on is 15; what is used is in all from 13 on


class ForeignSchema(Exception):
    """The database was made by another version of the engine, which this one does not know."""


class TooOld(ForeignSchema):
    """The database server is older than what the engine relies on."""


async def migrate(url: str) -> None:
    """Create or upgrade the tables: all of it, or, if this is interrupted, nothing.

    Raises ``ForeignSchema`` for a database of a newer engine or for what is none, ``TooOld`` for an old server,
    ``StoreUnavailable`` when it cannot be written.
    """
    engine = open_engine(address(url))
    if engine.dialect.name == "sqlite":
        _begin_at_once(engine.sync_engine)
    give_up_at = time.monotonic() + LOCKED_MAX_S
    try:
        while not await _migrated(engine):
            if time.monotonic() > give_up_at:
                raise StoreUnavailable("its tables are in use all the time, and cannot be changed")
            await asyncio.sleep(LOCKED_PAUSE_S)
    except DBAPIError as error:
        if type(error) is not DatabaseError and is_outage(error):
            raise StoreUnavailable(str(error.orig)) from error
        raise ForeignSchema(f"{engine.url.database} is not a database of this engine: {error.orig}") from error
    except OSError as error:
        raise StoreUnavailable(str(error) or type(error).__name__) from error
    finally:
        await engine.dispose()


async def _migrated(engine: AsyncEngine) -> bool:
    """Bring it to the newest tables, unless others use what has to be changed."""
    try:
        async with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                _check_version(engine.dialect.server_version_info or (0,))
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATING})
                await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}"))  # not for the one before
            await connection.run_sync(_upgrade)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _LOCKED:
            return False
        raise
    return True


def _check_version(version: tuple[Any, ...]) -> None:
    if version[0] < POSTGRESQL_MIN:
        raise TooOld(f"this is PostgreSQL {version[0]}, and the engine needs {POSTGRESQL_MIN} or newer: upgrade it")


def alembic_config(connection: Connection) -> "Config":
    """Point Alembic at our migrations and at an open connection."""
    from alembic.config import Config  # noqa: PLC0415 - see above

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    revision = _revision(connection)
    if revision == NEWEST:
        return
    if revision is not None and revision > NEWEST:
        raise ForeignSchema(
            f"a newer version of the engine has brought this database to tables {revision}, and this one knows those up"
            f" to {NEWEST}: start the newer one"
        )
    from alembic import command  # noqa: PLC0415 - see above
    from alembic.util import CommandError  # noqa: PLC0415

    try:
        command.upgrade(alembic_config(connection), NEWEST)
    except CommandError as error:
        raise ForeignSchema(f"this database belongs to another version of the engine: {error}") from error


def _revision(connection: Connection) -> str | None:
    """Read what Alembic wrote down last; None for a database that it has not seen."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _begin_at_once(engine: Engine) -> None:
    """Have SQLite's transaction begin before the first statement: by itself the driver leaves tables outside of it."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
