"""The backends that the contract is held against; a new backend is one line in `BACKENDS`."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from brokers.base import Broker
from brokers.embedded import EmbeddedBroker
from brokers.rabbitmq import QueueType
from tests.support.rabbitmq import PassingBroker

QUEUE_LENGTH_MAX = 50


@dataclass(frozen=True)
class Backend:
    """How to make a broker of one kind; two made after each other share nothing."""

    name: str
    make: Callable[[], Broker]  # with queues of QUEUE_LENGTH_MAX segments
    queues_many: int  # how many queues it should bear without effort
    says_what_it_drops: bool = True
    """A full queue tells its taker that its head was dropped. RabbitMQ does not; there the gap in the log tells."""


def _rabbitmq(queue_type: QueueType) -> Callable[[], Broker]:
    return lambda: PassingBroker(queue_type=queue_type, queue_length_max=QUEUE_LENGTH_MAX)


BACKENDS = [
    Backend("embedded", lambda: EmbeddedBroker(queue_length_max=QUEUE_LENGTH_MAX), queues_many=10_000),
    Backend("classic", _rabbitmq(QueueType.CLASSIC), queues_many=200, says_what_it_drops=False),
    Backend("quorum", _rabbitmq(QueueType.QUORUM), queues_many=20, says_what_it_drops=False),
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
