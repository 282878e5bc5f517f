"""Databases for tests."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from alembic import command
from sqlalchemy.ext.asyncio import create_async_engine

from engine.store.database import Database, address
from engine.store.migrating import alembic_config, migrate
from tests.support.postgresql import new_database


async def fresh_database(place: Path | str) -> Database:
    """Make and open a database with all tables, SQLite in this file or what the URL names; whoever asked stops it."""
    url = f"sqlite+aiosqlite:///{place}" if isinstance(place, Path) else place
    await migrate(url)
    database = Database(url)
    await database.start()
    return database


@dataclass(frozen=True)
class Backend:
    """How to get an empty database of one kind; given a folder, its URL."""

    name: str
    make: Callable[[Path], AbstractAsyncContextManager[str]]


@asynccontextmanager
async def _sqlite(folder: Path) -> AsyncIterator[str]:
    yield f"sqlite+aiosqlite:///{folder / 'engine.sqlite'}"


@asynccontextmanager
async def _postgresql(_folder: Path) -> AsyncIterator[str]:
    async with new_database() as url:
        yield url


BACKENDS: Final = [Backend("sqlite", _sqlite), Backend("postgresql", _postgresql)]


async def go_to(url: str, revision: str) -> None:
    """Bring a database to the tables of long ago."""
    engine = create_async_engine(address(url))
    async with engine.begin() as connection:
        await connection.run_sync(lambda plain: command.upgrade(alembic_config(plain), revision))
    await engine.dispose()
