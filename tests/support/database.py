"""Databases for tests."""

from pathlib import Path

from sqlalchemy.ext.asyncio import create_async_engine

from engine.store.database import Database
from engine.store.tables import metadata


async def fresh_database(path: Path) -> Database:
    """Make and open an SQLite database with all tables; whoever asked stops it."""
    url = f"sqlite+aiosqlite:///{path}"
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    database = Database(url)
    await database.start()
    return database
