"""Upgrading without stopping: machines that share a platform are stopped and started anew, one after the other.

The newer version is this one with another migration. Partners reach the machines through a load balancer.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import aiohttp
import pytest

from engine import samples
from engine.store.migrating import NEWEST
from tests.acceptance.test_several_processes import COUNT, Scene, scene
from tests.support.generated import REPOSITORY
from tests.support.peer import Answer, Peer
from tests.support.postgresql import run
from tests.support.processes import Platform
from tests.support.replicas import Traffic
from tests.support.transport import balancer

pytestmark = [pytest.mark.xdist_group("several processes"), pytest.mark.timeout(300)]

TOKEN: Final = next(samples.tokens(1, party="NL100"))
NEXT: Final = "9000"
MIGRATION: Final = f'''"""What the next version needs."""

import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{NEWEST}"


def upgrade() -> None:
    for table in ("objects", "exceptions", "outbound_subscriptions", "inbound_subscriptions", "processes", "logs"):
        op.add_column(table, sa.Column("x_next", sa.Integer(), server_default="7", nullable=False))
    op.create_index("ix_exceptions_x_next", "exceptions", ["x_next"])
    op.create_table("x_next", sa.Column("id", sa.Integer(), primary_key=True))
'''


def next_version(folder: Path) -> Path:
    """Make the code of the version after this one."""
    for package in ("engine", "brokers", "certs"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "engine/store/migrations/versions" / f"{NEXT}_what_the_next_version_needs.py").write_text(MIGRATION)
    return folder


def another_machine(first: Platform, name: str) -> Platform:
    """Have another machine on which the same platform can be served, with addresses and a log of its own."""
    made = Platform(
        first.folder, identity=first.identity, party=first.party, role=first.role, settings={}, place=first.place
    )
    made.socket, made.log = f"{name}.sock", first.log.with_name(f"{name}.log")
    made.settings = first.settings | {
        "OCPI_ENGINE_LISTENER__PORT": str(made.port),
        "OCPI_ENGINE_API__LISTEN": f"unix:run/{made.socket}",
    }
    return made


@dataclass
class Asking:
    """A partner that updates an object all the time; a connection that broke it tries again at once."""

    peer: Peer
    party: str
    version: int = 0
    broken: int = 0
    refused: list[str] = field(default_factory=list)

    def payload(self) -> bytes:
        """Say something that differs with every version."""
        return b'%b,"x_turn":%d.50}' % (TOKEN.payload.rstrip()[:-1], self.version)

    async def _send(self) -> Answer:
        return await self.peer.update(self.party, "tokens", TOKEN.id, self.version, self.payload())

    async def _update(self) -> None:
        try:
            answer = await self._send()
        except aiohttp.ClientError:
            self.broken += 1
            answer = await self._send()
        if answer.status // 100 != 2 or answer.code != 1000:
            self.refused.append(f"version {self.version}: HTTP {answer.status}, {answer.body!r}")

    async def _ask(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            self.version += 1
            await self._update()

    @asynccontextmanager
    async def going_on(self) -> AsyncIterator[None]:
        """Ask until the block ends."""
        ended = asyncio.Event()
        task = asyncio.create_task(self._ask(ended))
        try:
            yield
        finally:
            ended.set()
            await task


async def revision(machine: Platform) -> str:
    """Say which tables the database has."""
    ((found,),) = await run(machine.database_url, "SELECT version_num FROM alembic_version")
    return str(found)


async def replace(under_way: Scene, machine: Platform, other: Platform, version: Path) -> None:
    """Stop a machine in order, let the other one have everything for a while, and start the machine anew."""
    await under_way.more()
    assert await machine.stop() == 0
    await under_way.processes(1, told_by=other)
    await under_way.more()
    machine.code = version
    await machine.start()
    await under_way.processes(2)
    await under_way.more()


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_one_machine_after_the_other(tmp_path: Path):
    """Two machines get a newer version in turn: both sides end equal, as agreed, and every request is answered.

    Between the two, the older version goes on with the tables of the newer one, but would not start on them.
    """
    newer = next_version(tmp_path / "newer")
    async with scene(tmp_path, processes=1, seed=8) as under_way:
        first = under_way.made.engine
        second, late = another_machine(first, "second"), another_machine(first, "late")
        await second.start()
        try:
            traffic = Traffic(second, count=COUNT, seed=9, pause_s=0.1)
            asking = Asking(under_way.peer, first.party)
            order = {"subscriber": first.party, "producer": under_way.peer.party, "module": "tokens"}
            await under_way.made.api("POST", "/subscriptions", order)
            async with balancer(first.port, second.port) as port, traffic.flowing():
                first.base_url = first.base_url.replace(str(first.port), str(port))
                async with asking.going_on():
                    await under_way.processes(2)
                    await replace(under_way, first, second, newer)
                    assert await revision(first) == NEXT
                    with pytest.raises(AssertionError, match=f"newer version .* {NEXT}, and this one .* {NEWEST}"):
                        await late.start()
                    await replace(under_way, second, first, newer)
        finally:
            await second.stop()
            # Whoever takes the database away is of this version, which would refuse it.
            await run(first.database_url, f"UPDATE alembic_version SET version_num = '{NEWEST}'")  # noqa: S608 - ours
        assert asking.refused == []
        assert asking.broken <= 2
        received = await under_way.made.received("tokens", first.party)
        assert received == {TOKEN.id: (asking.version, asking.payload())}
        assert "did not end cleanly" not in first.log.read_text() + second.log.read_text()
