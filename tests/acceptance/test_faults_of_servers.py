"""Whatever happens to RabbitMQ and PostgreSQL under load: all arrives, in order, as agreed (P1 to P4).

Two processes push to observed receivers while their servers are closed, emptied, frozen out, killed and started again.
"""

import asyncio
from pathlib import Path

import pytest

from tests.acceptance.test_several_processes import Scene, scene
from tests.support.backing import servers
from tests.support.postgresql import Server, run
from tests.support.rabbitmq import ALARMS, Alarm, Node

pytestmark = [pytest.mark.xdist_group("services of our own"), pytest.mark.timeout(300)]

SEEN_BETWEEN = 25  # attempts after each fault: some of what it hit, some of what it did not


async def ctl(node: Node, *words: str) -> str:
    """Run ``rabbitmqctl``."""
    return await asyncio.to_thread(node.ctl, *words)


async def queues_in_use(under_way: Scene, node: Node) -> list[str]:
    """Wait until every subscription has its queue again, and is said to be in order."""
    await under_way.made.engine.wait_for(lambda state: not any("queues" in stuck["what"] for stuck in state["stuck"]))
    async with asyncio.timeout(60):
        while True:
            listed = await ctl(node, "list_queues", "name", "consumers", "--quiet", "--no-table-headers")
            found = [line.split("\t") for line in listed.splitlines() if ".queue." in line]
            if len(found) == len(under_way.observers) and all(count == "1" for _, count in found):
                return [name for name, _ in found]


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_rabbitmq_under_load(tmp_path: Path, node: Node):
    """Connections closed, a queue deleted, a stop, a kill, an emptied broker, one after the other."""
    async with scene(tmp_path, processes=2, seed=5, backing=servers(rabbitmq=node.url)) as under_way:
        names = await queues_in_use(under_way, node)
        await ctl(node, "close_all_connections", "a test")
        await under_way.more(SEEN_BETWEEN)
        await queues_in_use(under_way, node)

        await ctl(node, "delete_queue", names[0])
        await under_way.more(SEEN_BETWEEN)
        await queues_in_use(under_way, node)

        await ctl(node, "stop_app")
        await under_way.more(SEEN_BETWEEN)
        await ctl(node, "start_app")
        await under_way.more(SEEN_BETWEEN)

        await asyncio.to_thread(node.kill)
        await under_way.more(SEEN_BETWEEN)
        await asyncio.to_thread(node.start)
        await queues_in_use(under_way, node)

        for word in ("stop_app", "reset", "start_app"):
            await ctl(node, word)
        await under_way.more(SEEN_BETWEEN)
        await queues_in_use(under_way, node)


async def told_and_flowing(under_way: Scene, reason: str) -> None:
    """Wait until state names what is wrong, and then until something more arrived of what each process pushes."""
    await under_way.made.engine.wait_for(
        lambda state: any("queues" in stuck["what"] and reason in stuck["why"] for stuck in state["stuck"])
    )
    for process in await under_way.processes(2):
        theirs = await under_way.observed(process["id"])
        await under_way.more(SEEN_BETWEEN, of=theirs)


@ALARMS
@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_an_alarm_of_rabbitmq_under_load(tmp_path: Path, node: Node, alarm: Alarm):
    """A full disk or memory of RabbitMQ is named, both processes go on, also after a start; then all is well again."""
    async with scene(tmp_path, processes=2, seed=7, backing=servers(rabbitmq=node.url)) as under_way:
        await queues_in_use(under_way, node)
        await ctl(node, *alarm.raised)
        await told_and_flowing(under_way, alarm.reason)

        assert await under_way.made.engine.stop() == 0
        await under_way.made.engine.start()
        await told_and_flowing(under_way, alarm.reason)

        await ctl(node, *alarm.lifted)
        await queues_in_use(under_way, node)
        await under_way.more(SEEN_BETWEEN)


@pytest.mark.requirement("R.03.02.16", "R.03.02.17", "R.03.02.18", "R.03.03.01")
async def test_postgresql_under_load(tmp_path: Path, server: Server):
    """All connections cut, and a restart: both processes go on, and nothing that was answered is lost."""
    async with scene(tmp_path, processes=2, seed=6, backing=servers(postgresql=server.url)) as under_way:
        await under_way.more(SEEN_BETWEEN)
        await run(
            under_way.made.engine.database_url,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        await under_way.more(SEEN_BETWEEN)

        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        await under_way.more(SEEN_BETWEEN)
        await under_way.processes(2)
        await under_way.more(SEEN_BETWEEN)
