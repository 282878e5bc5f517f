"""Yardstick (c): (b) on PostgreSQL and RabbitMQ, as one would write it by hand with aio-pika and SQLAlchemy.

A publisher commits each object with its delivery, and publishes a message that a worker takes: it posts, marks the
delivery with a commit, acknowledges. The receiver is that of (b). Where there was a choice it has the faster one: the
message carries the body, so that nothing is looked up; there is a connection to the database for each request at once,
so that the server shares its commits; nothing is validated; what the publisher does is done before the clock starts.
It keeps no order, no backoff and no watermark.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import aio_pika
import aiohttp
from aio_pika.abc import AbstractIncomingMessage
from aiohttp import web
from sqlalchemy import DateTime, LargeBinary, update
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

from benchmarks import yardsticks
from benchmarks.bodies import KINDS
from benchmarks.handwritten import Base, receive
from benchmarks.measuring import Servers, Watch

PREFETCH = 32  # as many as are sent at once, at most
SERVICES_FILE = "services.json"


@dataclass(frozen=True)
class Services:
    """What a run may use: two databases and a queue of its own."""

    sender_url: str
    receiver_url: str
    broker_url: str
    queue: str

    def save(self, folder: Path) -> None:
        """Leave it where sender and receiver look."""
        (folder / SERVICES_FILE).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> "Services":
        """Look."""
        return cls(**json.loads((folder / SERVICES_FILE).read_text()))


class Delivery(Base):
    """An object that is to be sent, or was."""

    __tablename__ = "deliveries"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    delivered_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[AsyncEngine]:
    """Open a database and make its tables."""
    asynchronous = url.replace("postgresql://", "postgresql+asyncpg://", 1)
    engine = create_async_engine(asynchronous, pool_size=PREFETCH, max_overflow=0, pool_timeout=600)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    try:
        yield engine
    finally:
        await engine.dispose()


async def _receive(folder: Path) -> None:
    async with opened(Services.read(folder).receiver_url) as engine:
        await receive(folder, engine)


async def send(folder: Path, port: str, receiver_pid: int) -> None:
    """Send what is in the queue, mark what was sent, acknowledge."""
    services = Services.read(folder)
    url = f"https://{yardsticks.HOST}:{port}/update"
    connector = aiohttp.TCPConnector(limit=0, ssl=yardsticks.sending_context(folder))
    async with (
        opened(services.sender_url) as engine,
        aiohttp.ClientSession(connector=connector) as http,
        await aio_pika.connect_robust(services.broker_url) as connection,
        connection.channel() as channel,
    ):
        sessions = async_sessionmaker(engine)
        queue = await channel.declare_queue(services.queue, durable=True)

        async def publish(bodies: list[bytes]) -> None:
            deliveries = [Delivery(body=body) for body in bodies]
            async with sessions(expire_on_commit=False) as session:
                session.add_all(deliveries)
                await session.commit()
            for delivery in deliveries:
                message = aio_pika.Message(
                    delivery.body, message_id=str(delivery.id), delivery_mode=aio_pika.DeliveryMode.PERSISTENT
                )
                await channel.default_exchange.publish(message, routing_key=queue.name)

        async def drain(count: int, at_once: int) -> None:
            left, done = count, asyncio.Event()

            async def work(message: AbstractIncomingMessage) -> None:
                nonlocal left
                async with message.process(requeue=True):
                    headers = {"Content-Type": "application/json"}
                    async with http.post(url, data=message.body, headers=headers) as answer:
                        sent = answer.status == web.HTTPOk.status_code and (await answer.json())["status_code"] == 1000  # noqa: PLR2004 - OCPI's success
                    if not sent:
                        raise RuntimeError("the receiver refused an update")
                    async with sessions() as session:
                        delivered = update(Delivery).where(Delivery.id == int(message.message_id or 0))
                        await session.execute(delivered.values(delivered_at=datetime.now(UTC)))
                        await session.commit()
                left -= 1
                if left == 0:
                    done.set()

            await channel.set_qos(prefetch_count=at_once)
            tag = await queue.consume(work)
            await done.wait()
            await queue.cancel(tag)

        servers = Servers.at(services.sender_url, services.broker_url)
        async for order in yardsticks.orders():
            kind, warm_up = KINDS[order.module], order.count // 4
            await publish([kind.update(order.count + number, order.revision) for number in range(1, warm_up + 1)])
            await drain(warm_up, order.at_once)
            await publish([kind.update(number, order.revision) for number in range(1, order.count + 1)])
            watch = Watch(os.getpid(), receiver_pid, servers)
            await drain(order.count, order.at_once)
            yardsticks.report(watch.sample(order.count))


if __name__ == "__main__":
    role, folder_name, *rest = sys.argv[1:]
    if role == "receiver":
        asyncio.run(_receive(Path(folder_name)))
    else:
        asyncio.run(send(Path(folder_name), rest[0], int(rest[1])))
