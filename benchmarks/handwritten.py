"""Yardstick (b): a worker as one would write it by hand, and a receiver that goes with it.

A queue table, aiohttp's client, SQLAlchemy's ORM, a commit for each update on either side; SQLite with the engine's own
pragmas, so that a commit is as durable as one of ours. Where there was a choice it has the faster one: one connection
for each process (no waiting for locks), jobs read a hundred at a time, nothing validated, and the queue is filled
before the clock starts. It keeps no order, no backoff and no watermark.
"""

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from sqlalchemy import JSON, LargeBinary, String, delete, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks import yardsticks
from benchmarks.bodies import KINDS
from benchmarks.measuring import Watch

PAGE = 100  # jobs read at once


class Base(DeclarativeBase):
    """The tables."""


class Job(Base):
    """An update that is to be sent."""

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class Copy(Base):
    """An object as it was received."""

    __tablename__ = "copies"
    issuer: Mapped[str] = mapped_column(String(5), primary_key=True)
    object_id: Mapped[str] = mapped_column(String(39), primary_key=True)
    version: Mapped[int]
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)


async def opened(file: Path) -> AsyncEngine:
    """Open a database and make its tables."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}", pool_size=1, max_overflow=0, pool_timeout=600)

    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=5000"):
            connection.execute(f"PRAGMA {pragma}")

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return engine


async def receive(folder: Path, engine: AsyncEngine) -> None:
    """Store each update, commit, answer."""
    sessions = async_sessionmaker(engine)

    async def update(request: web.Request) -> web.Response:
        body = await request.json()
        async with sessions() as session:
            copy = await session.get(Copy, (body["issuer_party"], body["id"]))
            if copy is None:
                session.add(
                    Copy(
                        issuer=body["issuer_party"],
                        object_id=body["id"],
                        version=body["version"],
                        payload=body["payload"],
                    )
                )
            elif body["version"] > copy.version:
                copy.version, copy.payload = body["version"], body["payload"]
            await session.commit()
        return web.json_response({"status_code": 1000, "timestamp": "2026-01-01T00:00:00.000Z"})

    application = web.Application()
    application.router.add_post("/update", update)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, yardsticks.HOST, 0, ssl_context=yardsticks.listening_context(folder)).start()
    print(runner.addresses[0][1], flush=True)
    await yardsticks.until_input_ends()


async def _receive(folder: Path) -> None:
    engine = await opened(folder / "receiver.sqlite")
    await receive(folder, engine)
    await engine.dispose()


async def send(folder: Path, port: str, receiver_pid: int) -> None:
    """Send what is in the queue table, and delete what was sent."""
    engine = await opened(folder / "sender.sqlite")
    sessions = async_sessionmaker(engine)
    url = f"https://{yardsticks.HOST}:{port}/update"
    connector = aiohttp.TCPConnector(limit=0, ssl=yardsticks.sending_context(folder))
    async with aiohttp.ClientSession(connector=connector) as http:

        async def work(jobs: Iterator[tuple[int, bytes]]) -> None:
            for job_id, body in jobs:
                async with http.post(url, data=body, headers={"Content-Type": "application/json"}) as answer:
                    sent = answer.status == web.HTTPOk.status_code and (await answer.json())["status_code"] == 1000  # noqa: PLR2004 - OCPI's success
                if sent:
                    async with sessions() as session:
                        await session.execute(delete(Job).where(Job.id == job_id))
                        await session.commit()

        async def drain(at_once: int) -> None:
            while True:
                async with sessions() as session:
                    page = (await session.execute(select(Job.id, Job.body).order_by(Job.id).limit(PAGE))).all()
                if not page:
                    return
                jobs = iter([(job_id, body) for job_id, body in page])
                await asyncio.gather(*(work(jobs) for _ in range(at_once)))

        async def fill(bodies: list[bytes]) -> None:
            async with sessions() as session:
                session.add_all([Job(body=body) for body in bodies])
                await session.commit()

        async for order in yardsticks.orders():
            kind = KINDS[order.module]
            # Twice as many as are counted would be too slow: the warm-up takes objects of its own.
            warm_up = range(order.count + 1, order.count + 1 + order.count // 4)
            await fill([kind.update(number, order.revision) for number in warm_up])
            await drain(order.at_once)
            await fill([kind.update(number, order.revision) for number in range(1, order.count + 1)])
            watch = Watch(os.getpid(), receiver_pid)
            await drain(order.at_once)
            yardsticks.report(watch.sample(order.count))
    await engine.dispose()


if __name__ == "__main__":
    role, folder_name, *rest = sys.argv[1:]
    if role == "receiver":
        asyncio.run(_receive(Path(folder_name)))
    else:
        asyncio.run(send(Path(folder_name), rest[0], int(rest[1])))
