"""Background tasks: started once, stopped for certain, restarted when they fail."""

import asyncio
import logging

import pytest

from engine import lifecycle
from engine.lifecycle import Background


@pytest.fixture
def no_pause(monkeypatch):
    """Let a task that failed start again at once."""
    monkeypatch.setattr(lifecycle, "RESTART_PAUSE_S", 0.0)


async def test_it_runs_until_it_is_stopped():
    """When `stop` returns, the task has really ended."""
    began, ended = asyncio.Event(), asyncio.Event()

    async def run():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    background = Background("test", run)
    await background.start()
    await began.wait()
    await background.stop()

    assert ended.is_set()


async def test_starting_and_stopping_twice_is_safe():
    """So is stopping what was never started; and what was stopped can be started again."""
    runs = []
    began = asyncio.Event()

    async def run():
        runs.append(1)
        began.set()
        await asyncio.Event().wait()

    background = Background("test", run)
    await background.stop()
    await background.start()
    await background.start()
    await began.wait()
    assert len(runs) == 1

    await background.stop()
    await background.stop()
    began.clear()
    await background.start()
    await began.wait()
    await background.stop()

    assert len(runs) == 2


@pytest.mark.usefixtures("no_pause")
async def test_a_task_that_fails_is_logged_and_started_again(caplog):
    """A fault ends nothing for good, and is not silent."""
    attempts = 0
    recovered = asyncio.Event()

    async def run():
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ValueError("broken")
        recovered.set()
        await asyncio.Event().wait()

    background = Background("fragile", run)
    with caplog.at_level(logging.ERROR):
        await background.start()
        await recovered.wait()
        await background.stop()

    assert [record.__dict__["task"] for record in caplog.records] == ["fragile", "fragile"]
    assert all(record.exc_info for record in caplog.records)


async def test_it_can_be_stopped_while_it_waits_to_start_again(caplog):
    """The pause after a failure holds nobody up."""
    failed = asyncio.Event()

    async def run():
        failed.set()
        raise ValueError("broken")

    background = Background("test", run)
    with caplog.at_level(logging.CRITICAL):
        await background.start()
        await failed.wait()
        async with asyncio.timeout(lifecycle.RESTART_PAUSE_S / 2):
            await background.stop()


async def test_a_task_that_is_done_is_left_alone():
    """Coming to an end is not a failure."""
    done = asyncio.Event()

    async def run():
        done.set()

    background = Background("test", run)
    await background.start()
    await done.wait()
    await background.stop()

    assert done.is_set()
