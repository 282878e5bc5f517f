"""What holds for whole platforms."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.support.backing import BOTH, Backing
from tests.support.postgresql import Server, own_server
from tests.support.rabbitmq import Node


@pytest.fixture(scope="module", params=BOTH)
def backing(request) -> Backing:
    """What the platforms of a test are run on, each in turn."""
    return request.param


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """A RabbitMQ that may be broken."""
    node = Node(tmp_path / "rabbitmq")
    await asyncio.to_thread(node.start)
    yield node
    await asyncio.to_thread(node.stop)


@pytest.fixture
def server() -> Iterator[Server]:
    """A PostgreSQL that may be broken."""
    with own_server() as server:
        yield server
