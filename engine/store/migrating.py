"""Bringing a database to the tables of this version of the engine."""

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from engine.store.database import StoreUnavailable

MIGRATIONS: Final = Path(__file__).parent / "migrations"


class ForeignSchema(Exception):
    """The database was made by another version of the engine, which this one does not know."""


async def migrate(url: str) -> None:
    """Create or upgrade the tables.

    Raises ``ForeignSchema`` for a database of a newer engine or for what is none, ``StoreUnavailable`` when it
    cannot be written.
    """
    engine = create_async_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)
    except CommandError as error:
        raise ForeignSchema(f"this database belongs to another version of the engine: {error}") from error
    except OperationalError as error:
        raise StoreUnavailable(str(error.orig)) from error
    except DatabaseError as error:
        raise ForeignSchema(f"{engine.url.database} is not a database of this engine: {error.orig}") from error
    finally:
        await engine.dispose()


def alembic_config(connection: Connection) -> Config:
    """Point Alembic at our migrations and at an open connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _upgrade(connection: Connection) -> None:
    command.upgrade(alembic_config(connection), "head")
