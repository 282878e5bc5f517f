"""Moving house: a platform goes from the embedded defaults to PostgreSQL and RabbitMQ and back, and nobody notices."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from brokers.rabbitmq import RabbitMqOptions, remove
from engine.protocol.modules import all_modules
from tests.support.postgresql import new_database
from tests.support.processes import Platform, connected_platforms
from tests.support.rabbitmq import rabbitmq_url
from tests.support.replicas import copies, difference, subscribe


def statuses(status: str, count: int = 300) -> dict[str, bytes]:
    """Make objects."""
    return {f"EVSE-{number:03d}": b'{"status":"%b"}' % status.encode() for number in range(count)}


async def arrived(cpo: Platform, emsp: Platform) -> None:
    """Wait until nothing is owed, and compare what both hold, versions included."""
    await cpo.drained()
    assert difference(await copies(cpo, "issued", "evsestatuses"), await copies(emsp, "received", "evsestatuses")) == []


@pytest.fixture
async def place() -> AsyncIterator[str]:
    """An empty database in PostgreSQL."""
    async with new_database() as url:
        yield url


@pytest.fixture
async def broker() -> AsyncIterator[str]:
    """A RabbitMQ that others use too: what is left there is taken away."""
    yield rabbitmq_url()
    options = RabbitMqOptions(url=rabbitmq_url(), prefix="ocpi.cpo.example.org")
    await remove(options, queues=["ocpi3.1.1"], topics=[module.id for module in all_modules()])


async def test_there_and_back(tmp_path: Path, place: str, broker: str):
    """What was owed before a move is owed after it, versions go on, and the other end sees neither loss nor repeat."""
    async with connected_platforms(tmp_path) as (cpo, emsp):
        await subscribe(emsp, cpo, "evsestatuses", parallelism_limit=8)
        await cpo.publish("evsestatuses", statuses("AVAILABLE"))
        await arrived(cpo, emsp)
        refused = await cpo.command("move", "--to", place, code=1)
        assert "already served by process" in refused

        await emsp.stop()
        await cpo.publish("evsestatuses", statuses("CHARGING"))
        before = await copies(cpo, "issued", "evsestatuses")
        await cpo.kill()
        planned = json.loads(await cpo.command("move", "--to", place, "--to-broker", broker, "--dry-run", "--json"))
        assert planned["rows"]["objects"] == len(before)
        assert "objects" in await cpo.command("move", "--to", place, "--to-broker", broker)
        assert not (cpo.folder / "engine.sqlite").exists()
        assert (cpo.folder / "engine.sqlite.before-move").exists()
        await cpo.start()
        assert await copies(cpo, "issued", "evsestatuses") == before
        await emsp.start()
        await arrived(cpo, emsp)
        await cpo.publish("evsestatuses", statuses("BLOCKED"))
        await arrived(cpo, emsp)

        for platform in (cpo, emsp):
            await platform.stop()
        taken = await emsp.command("move", "--to", place, code=1)
        assert "has rows in" in " ".join(taken.split())
        await cpo.command("move", "--to", "here", "--to-broker", "here")
        await cpo.start()
        await emsp.start()
        await cpo.publish("evsestatuses", statuses("RESERVED", 400))
        await arrived(cpo, emsp)
        assert len(await copies(emsp, "received", "evsestatuses")) == 400


async def test_what_cannot_be_moved(tmp_path: Path, place: str):
    """Nowhere, to where it is, to what is not there: each is refused with the reason, and the platform is as it was."""
    platform = Platform(tmp_path / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings={})
    await platform.make()
    settings = platform.folder / "engine.toml"
    before = settings.read_text()
    for options, why in (
        ((), "say where to"),
        (("--to", "here"), "already"),
        (("--to", "mysql://x/y"), "postgresql://"),
        (("--to", f"{place}-nowhere"), "does not exist"),
        (("--to-broker", "http://x"), "amqp"),
    ):
        printed = await platform.command("move", *options, code=1)
        assert why in " ".join(printed.split())
        assert settings.read_text() == before
    settings.write_text(before.replace("[platform]", "store = {}\n[platform]"))
    assert "by hand" in " ".join((await platform.command("move", "--to", place, code=1)).split())
    settings.write_text(before)
    await platform.start()
    await platform.kill()
