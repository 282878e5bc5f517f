"""What can go wrong at a RabbitMQ, done to one of our own: it is noticed, told once, and mended."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from brokers.base import BrokerError, QueueGone
from brokers.rabbitmq import QueueType, RabbitMqBroker, link
from tests.support.generated import REPOSITORY
from tests.support.rabbitmq import ALARMS, Alarm, Node, PassingBroker

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("rabbitmq of our own")]

DEPLOY = REPOSITORY / "deploy" / "rabbitmq"
SOON_S = 30  # a connection is tried again within seconds; a node is up again after some more


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    """A RabbitMQ that may be broken."""
    node = Node(tmp_path_factory.mktemp("rabbitmq"))
    await asyncio.to_thread(node.start)
    yield node
    await asyncio.to_thread(node.stop)


@pytest_asyncio.fixture(loop_scope="module", params=QueueType)
async def broker(node: Node, request) -> AsyncIterator[PassingBroker]:
    """A broker on it, with a queue that somebody has taken from."""
    broker = PassingBroker(node.url, queue_type=request.param)
    await broker.start()
    await broker.ensure("queue", ["locations"])
    await broker.put("locations", b"first")
    assert (await broker.take("queue", limit=10)).segments == (b"first",)
    yield broker
    await broker.stop()


async def told(broker: RabbitMqBroker, queue: str = "queue") -> None:
    """Take until an interruption is told."""
    async with asyncio.timeout(SOON_S):
        while not (await broker.take(queue, limit=10)).interrupted:
            pass


async def gone(broker: PassingBroker) -> None:
    """Take until the queue is said to be gone."""
    with pytest.raises(QueueGone):
        await takes_for_ever(broker)


async def takes_for_ever(broker: PassingBroker) -> None:
    """Take, as a worker does."""
    async with asyncio.timeout(SOON_S):
        while True:
            await broker.take("queue", limit=10)


async def flows(broker: RabbitMqBroker, segment: bytes, queue: str = "queue") -> None:
    """Put until it is taken: what is put while there is no connection is lost, and admitted."""
    async with asyncio.timeout(SOON_S):
        while True:
            await broker.put("locations", segment)
            with_patience = asyncio.create_task(broker.take(queue, limit=100))
            done, _ = await asyncio.wait([with_patience], timeout=0.2)
            if not done:
                with_patience.cancel()
                continue
            if segment in with_patience.result().segments:
                return
            await asyncio.sleep(0.05)  # while there is no connection, every put is an interruption


def why(broker: RabbitMqBroker) -> str:
    """Say what is wrong with a broker; nothing: all is well."""
    return "" if broker.trouble is None else broker.trouble.why


async def at_rabbitmq(node: Node, queue: str) -> bool:
    """Say whether RabbitMQ has this queue."""
    return queue in (await asyncio.to_thread(node.ctl, "list_queues", "name", "--quiet")).splitlines()


async def test_connections_closed_by_the_server(broker: PassingBroker, node: Node):
    """Closed connections are an interruption for every queue; then segments flow again."""
    waiting = asyncio.create_task(told(broker))
    await asyncio.to_thread(node.ctl, "close_all_connections", "for the test")

    await waiting
    await flows(broker, b"after")


async def test_a_deleted_queue(broker: PassingBroker, node: Node):
    """A queue that somebody deleted is not made again behind the back of its taker, who is told."""
    taking = asyncio.create_task(gone(broker))
    await asyncio.to_thread(node.ctl, "delete_queue", broker.name_of("queue"))

    await taking
    assert not await at_rabbitmq(node, broker.name_of("queue"))

    await broker.ensure("queue", ["locations"])
    await flows(broker, b"after")


async def test_a_leave_that_is_broken_off(broker: PassingBroker, node: Node):
    """Whoever leaves a queue and is cancelled meanwhile consumes it no more all the same."""
    leaving = asyncio.create_task(broker.leave("queue"))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)

    name = broker.name_of("queue")
    async with asyncio.timeout(SOON_S):
        while f"{name}\t0" not in await asyncio.to_thread(node.ctl, "list_queues", "name", "consumers", "--quiet"):
            pass


async def test_a_channel_closed_by_the_server(broker: PassingBroker):
    """A channel that RabbitMQ closes costs an interruption of its queues, and nothing else."""
    consumer = broker._queues["queue"].consumer  # noqa: SLF001 - nothing but a fault of ours closes a channel
    assert consumer is not None
    await consumer.wire.basic_ack(4711)

    await told(broker)
    await flows(broker, b"after")


async def test_a_restart(broker: PassingBroker, node: Node):
    """While RabbitMQ is away nothing waits for it; what was wanted and dropped meanwhile is done when it is back."""
    await broker.ensure("dropped", ["locations"])
    await asyncio.to_thread(node.kill)
    await told(broker)
    trouble = broker.trouble
    assert trouble is not None
    assert trouble.since <= time.time()
    with pytest.raises(BrokerError, match="RabbitMQ"):
        await broker.depth("queue")

    begun = time.monotonic()
    await broker.put("locations", b"lost")
    await broker.ensure("new", ["locations"])
    await broker.drop("dropped")
    assert time.monotonic() - begun < 1

    await asyncio.to_thread(node.start)
    await flows(broker, b"after")
    await flows(broker, b"after", "new")
    assert broker.trouble is None
    assert not await at_rabbitmq(node, broker.name_of("dropped"))


async def test_an_emptied_server(broker: PassingBroker, node: Node):
    """A RabbitMQ that lost everything lost the queue: its taker has it made again, and reads the log."""
    await asyncio.to_thread(node.ctl, "stop_app")
    await asyncio.to_thread(node.ctl, "reset")
    await asyncio.to_thread(node.ctl, "start_app")

    await gone(broker)
    await broker.ensure("queue", ["locations"])
    await flows(broker, b"after")


@ALARMS
async def test_an_alarm(broker: PassingBroker, node: Node, alarm: Alarm):
    """A RabbitMQ that takes nothing more holds nobody up; that segments were lost is told, and why none are taken."""
    await asyncio.to_thread(node.ctl, *alarm.raised)
    begun = time.monotonic()
    for number in range(1500):
        await broker.put("locations", b"%d" % number)
    assert time.monotonic() - begun < 5
    await told(broker)
    async with asyncio.timeout(SOON_S):
        while alarm.reason not in why(broker):
            await broker.take("queue", limit=10)
    assert not broker.shared

    await broker.put("locations", b"lost")
    assert (await broker.take("queue", limit=10)).interrupted

    await asyncio.to_thread(node.ctl, *alarm.lifted)
    await flows(broker, b"after")
    assert why(broker) == ""
    assert broker.shared


@ALARMS
# Classic: what is to be seen does not depend on the queue.
@pytest.mark.parametrize("broker", [QueueType.CLASSIC], indirect=True)
async def test_a_start_during_an_alarm(broker: PassingBroker, node: Node, alarm: Alarm):
    """Queues can be made, nobody is held up, not even by a stop, and it is told why nothing is taken."""
    await asyncio.to_thread(node.ctl, *alarm.raised)
    late = PassingBroker(node.url)
    try:
        await late.start()
        await late.ensure("queue", ["locations"])
        await late.put("locations", b"first")
        await told(late)
        assert alarm.reason in why(late)
        begun = time.monotonic()
        await RabbitMqBroker.stop(late)
        assert time.monotonic() - begun < late.options.call_timeout_s
    finally:
        await asyncio.to_thread(node.ctl, *alarm.lifted)
        await late.stop()


async def test_a_queue_with_other_arguments(broker: PassingBroker, node: Node):
    """A queue that was made with another type or length is reported, with the way out."""
    (other,) = set(QueueType) - {broker.options.queue_type}
    changed = RabbitMqBroker(replace(broker.options, queue_type=other))
    await changed.start()
    try:
        for _ in range(2):
            with pytest.raises(BrokerError, match="delete_queue") as refused:
                await changed.ensure("queue", ["locations"])
            assert "other arguments" in str(refused.value)
            await changed.ensure("r-later", ["locations"])  # the next one is served, one that is looked at later, too
            await flows(changed, b"flows", "r-later")
            await asyncio.to_thread(node.ctl, "close_all_connections", "for the test")
            await told(changed, "r-later")
            await flows(changed, b"flows again", "r-later")
        await changed.drop("r-later")
    finally:
        await changed.stop()


# Classic: RabbitMQ 3.10 may lose the leader of a quorum queue that is killed within a second after it was made.
@pytest.mark.parametrize("broker", [QueueType.CLASSIC], indirect=True)
async def test_a_queue_with_other_arguments_after_an_outage(broker: PassingBroker, node: Node):
    """One that was asked for while RabbitMQ was away is told to its taker, and holds up no other queue."""
    (other,) = set(QueueType) - {broker.options.queue_type}
    changed = RabbitMqBroker(replace(broker.options, queue_type=other))
    await asyncio.to_thread(node.kill)
    await changed.start()
    try:
        await changed.ensure("queue", ["locations"])
        await changed.ensure("r-later", ["locations"])
        await asyncio.to_thread(node.start)
        await flows(changed, b"flows", "r-later")
        with pytest.raises(QueueGone):
            await changed.take("queue", limit=1)
        await changed.drop("r-later")
    finally:
        await changed.stop()


@pytest.mark.parametrize(
    ("user", "place"), [("guest:wrong-secret", "/"), ("nobody:wrong-secret", "/"), ("guest:guest", "/nowhere")]
)
async def test_no_entry(node: Node, user: str, place: str, caplog: pytest.LogCaptureFixture):
    """Wrong credentials and an unknown virtual host are said at the start, and no secret is told."""
    caplog.set_level(logging.DEBUG)
    broker = PassingBroker(node.url.replace("guest:guest", user).rstrip("/") + place)

    with pytest.raises(BrokerError, match="check user, password and virtual host") as refused:
        await broker.start()
    await broker.stop()

    assert "wrong-secret" not in caplog.text + str(refused.value)


async def test_a_server_that_is_too_old(node: Node, monkeypatch: pytest.MonkeyPatch):
    """It is said at the start which version is needed."""
    monkeypatch.setattr(link, "VERSION_MIN", (99, 1))
    broker = PassingBroker(node.url)
    with pytest.raises(BrokerError, match=r"is \d+\.\d+\.\d+.*, and the engine needs 99\.1 or newer"):
        await broker.start()
    await broker.stop()


async def test_permissions(node: Node):
    """A user who may not declare is told so; one with the permissions of deploy/rabbitmq can do it all."""
    await asyncio.to_thread(node.ctl, "add_user", "engine", "secret")
    await asyncio.to_thread(node.ctl, "set_permissions", "engine", "", "", ".*")
    broker = PassingBroker(node.url.replace("guest:guest", "engine:secret"))
    await broker.start()
    try:
        with pytest.raises(BrokerError, match="permit"):
            await broker.ensure("queue", ["locations"])

        (permission,) = json.loads((DEPLOY / "definitions.json").read_text())["permissions"]
        allowed = [permission[what].replace("ocpi", broker.options.prefix) for what in ("configure", "write", "read")]
        await asyncio.to_thread(node.ctl, "set_permissions", "engine", *allowed)
        await broker.ensure("queue", ["locations", "tariffs"])
        await flows(broker, b"now")
        await broker.ensure("queue", ["locations"])
        await broker.drop("queue")
        with pytest.raises(QueueGone):
            await broker.depth("queue")
    finally:
        await broker.stop()
        await asyncio.to_thread(node.ctl, "delete_user", "engine")


async def test_definitions(node: Node):
    """What lies in deploy/rabbitmq can be imported."""
    await asyncio.to_thread(node.ctl, "import_definitions", str(DEPLOY / "definitions.json"))

    assert "ocpi" in (await asyncio.to_thread(node.ctl, "list_vhosts", "--quiet")).splitlines()
    assert "ocpi" in await asyncio.to_thread(node.ctl, "list_permissions", "-p", "ocpi", "--quiet")


async def test_a_start_without_a_server(node: Node):
    """A broker may start before RabbitMQ does: what it is asked for is done when that has come."""
    await asyncio.to_thread(node.kill)
    broker = PassingBroker(node.url)
    await broker.start()
    assert broker.trouble is not None
    assert "out of reach" in broker.trouble.why
    await broker.ensure("queue", ["locations"])

    await asyncio.to_thread(node.start)
    await flows(broker, b"after")
    await broker.stop()
