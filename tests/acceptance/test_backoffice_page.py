"""docs/backoffice.md as a reader does it: its code is run as it stands there."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.generated import REPOSITORY
from tests.support.processes import Platform, connect
from tests.support.services import free_port

PAGE = REPOSITORY / "docs" / "backoffice.md"
PORT = "8600"  # of the page


@dataclass(frozen=True)
class Block:
    """A piece of code: its language, what stands behind that, and itself."""

    language: str
    note: str
    text: str


def blocks() -> list[Block]:
    """Read the page's code."""
    found = re.findall(r"^```(\w*) ?([^\n]*)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(*each) for each in found]


class Reader:
    """Does what the page says, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def run(self, block: Block, *, fails: bool = False) -> str:
        """Run commands in a shell that knows the functions and variables of those before; returns what they say."""
        remembered = self.folder / "shell"
        script = f"set -eu\n[ ! -f {remembered} ] || . {remembered}\n{block.text}\ndeclare -p call 2>/dev/null"
        script += f" >> {remembered} || true\ndeclare -f >> {remembered}\n"
        process = await asyncio.create_subprocess_exec(
            "bash", "-c", script, cwd=self.folder, env=self.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        assert (process.returncode != 0) is fails, said.decode()
        return said.decode()

    @property
    def environment(self) -> dict[str, str]:
        """Find the commands of this installation first."""
        return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    @asynccontextmanager
    async def running(self, *words: str) -> AsyncIterator[asyncio.StreamReader]:
        """Run a command until the block ends; gives what it says."""
        process = await asyncio.create_subprocess_exec(
            *words, cwd=self.folder, env=self.environment, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            await process.communicate()


async def line_with(said: asyncio.StreamReader, wanted: str) -> str:
    """Wait for a line."""
    async with asyncio.timeout(60):
        while wanted not in (line := (await said.readline()).decode()):
            assert line, f"it ended without {wanted!r}"
    return line


@pytest.fixture
async def connected(tmp_path: Path) -> AsyncIterator[tuple[Platform, Platform]]:
    """Run the two platforms that the page begins with."""
    cpo = Platform(tmp_path / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings={})
    emsp = Platform(tmp_path / "emsp", identity="emsp.example.org", party="NLEMS", role="EMSP", settings={})
    try:
        for platform in (cpo, emsp):
            await platform.make()
            await platform.start()
        await connect(emsp, cpo)
        yield cpo, emsp
    finally:
        await emsp.stop()
        await cpo.stop()


async def test_the_page_is_true(tmp_path: Path, connected: tuple[Platform, Platform]):
    """From the secret to the event stream: every command and every program of the page, in its order."""
    cpo, _ = connected
    assert shutil.which("curl"), "the page needs curl: install it"
    reader, port = Reader(tmp_path), str(free_port())
    page = [Block(each.language, each.note, each.text.replace(PORT, port)) for each in blocks()]
    for block in page:
        if block.language == "python":
            (tmp_path / block.note).write_text(block.text)
    (settings,) = [block.text for block in page if block.language == "toml"]
    secret, unlock, reserve, result = [block for block in page if (block.language, block.note) == ("sh", "")]
    (wrong,) = [block for block in page if block.note == "fails"]
    (stream,) = [block for block in page if block.note == "stream"]

    await reader.run(secret)
    assert (tmp_path / "cpo" / "webhook-secret").stat().st_mode & 0o077 == 0
    with (tmp_path / "cpo" / "engine.toml").open("a") as file:
        file.write(f"\n{settings}")
    await cpo.stop()
    await cpo.start()
    async with (
        reader.running(sys.executable, "webhook.py", port, "cpo/webhook-secret") as hook,
        reader.running(sys.executable, "events.py", "emsp") as events,
    ):
        await cursor_kept(tmp_path)
        said = await reader.run(unlock)
        assert "succeeded: SUCCESS" in said
        assert "'connector_id': '1'" in await line_with(hook, "unlock-connector")
        await line_with(events, "unlock-connector succeeded")

        said = await reader.run(reserve)
        assert "reserve-now" in said
        assert "accepted" in said
        said = await reader.run(result)
        assert '"state":"succeeded"' in said
        await line_with(events, "reserve-now succeeded")
        assert "/result_type" in await reader.run(wrong, fails=True)

    async with reader.running(sys.executable, "events.py", "emsp") as events:
        assert "unlock-connector" in await reader.run(unlock)
        async with asyncio.timeout(60):
            first = (await events.readline()).decode()
        assert "unlock-connector" in first, "it went on where it was"
        assert "reserve-now" not in first
    async with reader.running("bash", "-c", stream.text) as events:
        await line_with(events, "event: position")
        assert '"operation":"reserve-now"' in await line_with(events, "reserve-now")


async def cursor_kept(folder: Path) -> None:
    """Wait until the program has said where it stands."""
    async with asyncio.timeout(60):
        while not (folder / "cursor").exists():
            await asyncio.sleep(0.02)  # a file says nothing
