"""The backends that the contract is held against; a new backend is one line in `BACKENDS`."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from brokers.base import Broker
from brokers.embedded import EmbeddedBroker

QUEUE_LENGTH_MAX = 50


@dataclass(frozen=True)
class Backend:
    """How to make a broker of one kind; two made after each other share nothing."""

    name: str
    make: Callable[[], Broker]  # with queues of QUEUE_LENGTH_MAX segments
    queues_many: int  # how many queues it should bear without effort


BACKENDS = [
    Backend("embedded", lambda: EmbeddedBroker(queue_length_max=QUEUE_LENGTH_MAX), queues_many=10_000),
]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def backend(request) -> Backend:
    """Each backend in turn."""
    return request.param


@pytest.fixture
async def broker(backend: Backend) -> AsyncIterator[Broker]:
    """A running broker without queues."""
    broker = backend.make()
    await broker.start()
    yield broker
    await broker.stop()
