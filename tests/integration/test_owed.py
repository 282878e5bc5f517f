"""What a subscription owes is counted exactly: nothing is missed while it is filed, and nothing counts twice."""

import asyncio
from pathlib import Path

import pytest

from engine.peers.objects import Answered
from engine.store.migrating import migrate
from tests.integration.test_push import Producer, Receiver
from tests.support.receiver import Observer

COUNT = 60
ROUNDS = 60
REFUSAL = b'{"status_code":3000,"timestamp":"2026-01-01T00:00:00.000Z"}'


class Refusing(Receiver):
    """Takes nothing."""

    async def update(self, _platform_id: int, _path: str, _body: bytes) -> Answered:
        """Refuse after a turn of the loop."""
        await asyncio.sleep(0)
        return Answered(200, REFUSAL)


@pytest.mark.requirement("R.03.06.04")
@pytest.mark.parametrize("changing", [False, True])
async def test_the_count_never_wavers_while_nothing_is_delivered(tmp_path: Path, changing: bool):
    """With objects on their way in every state, and changing again and again, exactly all of them are owed."""
    observer = Observer(parallelism_limit=4, retry_interval_s=0.001, timeout_s=1.0)
    producer = Producer(tmp_path, Refusing(observer, seed=1, faulty=1.0))
    await migrate(producer.url)
    await producer.start()
    try:
        ids = [f"LOC-{number}" for number in range(COUNT)]
        await producer.publish(*ids, version=1)
        subscription_id = await producer.subscribe(4, 0.001)
        counted = set()
        for version in range(2, ROUNDS):
            if changing:
                await producer.publish(*ids[version % 3 :: 3], version=version)
            counted.add(await producer.owed(subscription_id))
        assert counted == {COUNT}
    finally:
        await producer.stop()
