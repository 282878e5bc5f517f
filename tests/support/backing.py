"""What platforms are run on: SQLite with queues in memory, or PostgreSQL with RabbitMQ."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import pytest

from engine.cli.places import Place, make_place
from tests.support.postgresql import postgresql_url
from tests.support.rabbitmq import rabbitmq_url


@dataclass(frozen=True)
class Backing:
    """How to get a place for one platform, which nobody else has; none: its own folder and process."""

    name: str
    place: Callable[[], AbstractAsyncContextManager[Place | None]]


@asynccontextmanager
async def _embedded() -> AsyncIterator[None]:
    yield None


def servers(postgresql: str | None = None, rabbitmq: str | None = None) -> Backing:
    """Use these servers, which a test may break, or those that are there for all tests."""

    @asynccontextmanager
    async def place() -> AsyncIterator[Place]:
        server, broker = postgresql, rabbitmq
        if server is None:
            server = await asyncio.to_thread(postgresql_url)
        if broker is None:
            broker = await asyncio.to_thread(rabbitmq_url)
        made = await make_place(f"ocpi_test_{uuid.uuid4().hex[:12]}", server=server, broker_url=broker)
        try:
            yield made
        finally:
            await made.remove()

    return Backing("servers", place)


EMBEDDED: Final = Backing("embedded", _embedded)
SERVERS: Final = servers()

# Each has a group of its own beside that of its file, so that two workers share a file's tests.
BOTH: Final = [
    pytest.param(each, marks=pytest.mark.xdist_group(each.name), id=each.name) for each in (EMBEDDED, SERVERS)
]

only_embedded: Final = pytest.mark.parametrize("backing", BOTH[:1], indirect=True, scope="module")
"""For a test of the folder's own database, or of something in which the two do not differ; it says which."""
