"""Two platforms with their queues in RabbitMQ and their data in PostgreSQL: all arrives, whatever happens to these."""

import asyncio
from pathlib import Path

import pytest

from tests.support.postgresql import Server, new_database
from tests.support.processes import Platform, connected_platforms
from tests.support.rabbitmq import Node
from tests.support.replicas import copies, difference, subscribe

pytestmark = pytest.mark.xdist_group("services of our own")


def statuses(count: int, status: str) -> dict[str, bytes]:
    """Make so many objects."""
    return {f"EVSE-{number:03d}": b'{"status":"%b"}' % status.encode() for number in range(count)}


async def arrived(cpo: Platform, emsp: Platform) -> None:
    """Wait until nothing is owed, and compare what both hold."""
    await cpo.drained()
    assert difference(await copies(cpo, "issued", "evsestatuses"), await copies(emsp, "received", "evsestatuses")) == []


async def stuck(platform: Platform) -> list[str]:
    """Say what is stuck."""
    return [each["what"] for each in (await platform.state())["stuck"]]


async def break_and_mend(node: Node, cpo: Platform, emsp: Platform) -> None:
    """Kill RabbitMQ, bring it back, empty it; what is published meanwhile arrives each time."""
    await asyncio.to_thread(node.kill)
    await cpo.publish("evsestatuses", statuses(200, "CHARGING"))
    await arrived(cpo, emsp)
    assert any("queues" in what for what in await stuck(cpo))

    await asyncio.to_thread(node.start)
    await cpo.publish("evsestatuses", statuses(200, "BLOCKED"))
    await arrived(cpo, emsp)
    await cpo.wait_for(lambda state: not state["stuck"])

    for words in ("stop_app", "reset", "start_app"):
        await asyncio.to_thread(node.ctl, words)
    await cpo.publish("evsestatuses", statuses(200, "RESERVED"))
    await arrived(cpo, emsp)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
async def test_all_arrives_whatever_happens_to_rabbitmq(tmp_path: Path, node: Node, queue_type: str):
    """Objects arrive through queues in RabbitMQ, and without them while it is away, emptied or back."""
    settings = {"OCPI_ENGINE_BROKER__QUEUE_TYPE": queue_type}
    options = ["--broker", node.url]
    async with connected_platforms(tmp_path, settings=settings, made_with=(options, options)) as (cpo, emsp):
        await subscribe(emsp, cpo, "evsestatuses", parallelism_limit=8)
        await cpo.publish("evsestatuses", statuses(200, "AVAILABLE"))
        await arrived(cpo, emsp)
        listed = await asyncio.to_thread(node.ctl, "list_queues", "name", "type", "durable", "--quiet")
        assert [line.split("\t")[1:] for line in listed.splitlines() if "ocpi." in line] == [[queue_type, "true"]]
        await break_and_mend(node, cpo, emsp)


async def test_all_arrives_whatever_happens_to_postgresql(tmp_path: Path, node: Node, server: Server):
    """With everything in PostgreSQL and RabbitMQ, a restart of either, and of the platforms, loses nothing."""
    async with new_database(server.url) as one, new_database(server.url) as other:
        options = [["--database", url, "--broker", node.url] for url in (one, other)]
        async with connected_platforms(tmp_path, made_with=options) as (cpo, emsp):
            await subscribe(emsp, cpo, "evsestatuses", parallelism_limit=8)
            await cpo.publish("evsestatuses", statuses(200, "AVAILABLE"))
            await arrived(cpo, emsp)
            assert not (cpo.folder / "engine.sqlite").exists()
            await break_and_mend(node, cpo, emsp)

            await asyncio.to_thread(server.stop)
            async with cpo.api() as api:
                answer = await api.get("/api/v1/issued/evsestatuses")
                assert answer.status_code == 503
            await asyncio.to_thread(server.start)
            await cpo.publish("evsestatuses", statuses(200, "OUTOFORDER"))
            await arrived(cpo, emsp)

            for platform in (cpo, emsp):
                await platform.kill()
                await platform.start()
            await cpo.publish("evsestatuses", statuses(200, "AVAILABLE"))
            await arrived(cpo, emsp)


async def test_a_database_that_is_not_there(tmp_path: Path):
    """A platform is not made, and does not start, without its database; what is wrong is said, the password is not."""
    async with new_database() as url:
        platform = Platform(
            tmp_path / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings={},
            made_with=["--database", url],
        )  # fmt: skip
        await platform.make()
    with pytest.raises(AssertionError, match="does not exist"):
        await platform.start()

    elsewhere = ["--identity", "cpo.example.org", "--party", "BEBEC"]
    for wrong, why in (
        ("postgresql://postgres:wrong-secret@127.0.0.1:1/nowhere", "Connect call failed"),
        ("mysql://root:wrong-secret@127.0.0.1/x", "postgresql://"),
    ):
        platform.folder = tmp_path / "other"
        printed = await platform.command("init", *elsewhere, "--database", wrong, code=1)
        assert why in " ".join(printed.split())
        assert "wrong-secret" not in printed
        assert not (tmp_path / "other").exists()


async def test_a_broker_that_does_not_let_us_in(tmp_path: Path, node: Node):
    """A platform with the wrong password does not start, and says what to check; the password is told nowhere."""
    async with connected_platforms(tmp_path) as (cpo, _):
        await cpo.stop()
        secret = cpo.folder / "broker-password"
        secret.write_text("wrong-secret\n")
        environment = {
            "OCPI_ENGINE_BROKER__URL": node.url.replace("guest:guest@", "guest@"),
            "OCPI_ENGINE_BROKER__PASSWORD_FILE": secret.name,
        }
        with pytest.raises(AssertionError):
            await cpo.start(**environment)
        assert "check user, password and virtual host" in cpo.log.read_text()
        assert "wrong-secret" not in cpo.log.read_text()

        secret.write_text("guest\n")
        await cpo.start(**environment)
