"""Databases that are made and removed by name, on a PostgreSQL that others use, too."""

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from engine.store.database import StoreUnavailable, address, open_engine


async def create_database(server: str, name: str) -> str:
    """Make an empty database beside the one that the URL names, and return its own URL.

    Raises ``StoreUnavailable``.
    """
    await _run(server, f'CREATE DATABASE "{name}"')
    return address(server).set(drivername="postgresql", database=name).render_as_string(hide_password=False)


async def drop_database(server: str, name: str) -> None:
    """Remove a database, with every connection that is still open to it; it may be gone already.

    Raises ``StoreUnavailable``.
    """
    await _run(server, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _run(server: str, statement: str) -> None:
    try:
        url = address(server)
    except ValueError as error:
        raise StoreUnavailable(str(error)) from error
    if url.get_backend_name() != "postgresql":
        raise StoreUnavailable("its URL is postgresql://USER@HOST:5432/DATABASE")
    engine = open_engine(url, isolation_level="AUTOCOMMIT")  # no transaction may make a database
    try:
        async with engine.connect() as connection:
            await connection.execute(text(statement))
    except DBAPIError as error:
        raise StoreUnavailable(str(error.orig)) from error
    except OSError as error:
        raise StoreUnavailable(str(error) or type(error).__name__) from error
    finally:
        await engine.dispose()
