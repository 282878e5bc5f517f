"""What is wrong with a payload is told in the same words wherever it comes in."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from engine.cli.main import run
from engine.protocol.errors import SchemaViolated
from tests.support.local_api import Running, new_platform, running

MODULE = "evsestatuses"
BAD = b'{"status":"SLEEPING","timestamp":"2026-02-30T00:00:00Z","x":[1]}'


@pytest.fixture
async def platform(tmp_path: Path) -> AsyncIterator[Running]:
    """Run a CPO that hosts BEBEC."""
    async with running(await new_platform(tmp_path / "cpo")) as running_platform:
        yield running_platform


async def by_command(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """Run a command that refuses something, and read its JSON."""
    assert await asyncio.to_thread(run, [*words, "--json"]) == 1
    return json.loads(capsys.readouterr().out)


async def answered_6001(platform: Running, payload: bytes) -> list[dict[str, str]]:
    """Have a partner push it, and return the ``data`` of the answer."""
    await platform.subscription("BEBEC", "NLEMS", MODULE)
    with pytest.raises(SchemaViolated) as refused:
        await platform.push("BEBEC", "NLEMS", MODULE, "E1", payload)
    return [dict(fault) for fault in refused.value.data]


async def test_four_ways_in_tell_the_same(platform: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`publish`, the local API, the data of a 6001 and `validate` name the same places, in the same words."""
    file = tmp_path / "bad.ndjson"
    file.write_bytes(b'{"id":"E1","payload":%b}\n' % BAD)

    validated = (await by_command(capsys, "validate", MODULE, str(file)))["results"][0]["problems"]
    published = await by_command(capsys, "publish", str(platform.folder), MODULE, str(file), "--party", "BEBEC")
    put = await platform.client.put(f"/api/v1/parties/BEBEC/objects/{MODULE}/E1", content=BAD)
    batch = await platform.publish("BEBEC", MODULE, file.read_bytes())
    received = await answered_6001(platform, BAD)

    assert [problem["pointer"] for problem in validated] == ["/status", "/timestamp"]
    assert published["bad_lines"][0]["problems"] == validated
    assert put.json()["error"]["problems"] == validated
    assert batch["results"][0]["problems"] == validated
    assert [{"pointer": fault.pop("field"), **fault} for fault in received] == validated
    sentences = "\n".join("{pointer}: expected {expected}; found {found}".format(**problem) for problem in validated)
    assert published["bad_lines"][0]["reason"] == batch["results"][0]["reason"] == sentences
    assert put.json()["error"]["message"] == sentences
