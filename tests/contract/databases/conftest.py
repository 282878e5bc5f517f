"""What these tests share."""

from collections.abc import AsyncIterator

import pytest

from engine.store.database import Database
from tests.support.database import fresh_database


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An open database with all tables, of each kind in turn."""
    opened = await fresh_database(database_url)
    yield opened
    await opened.stop()
