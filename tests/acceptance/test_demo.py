"""The demo, run as a new user runs it."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # has no types of its own
import pytest

from engine.cli.demo import _how_to_go_on
from engine.cli.stage import Player, Stage


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Make a folder whose path leaves room for a Unix socket's name; pytest's own are too long beside xdist."""
    with tempfile.TemporaryDirectory(prefix="ocpi") as name:
        yield Path(name)


async def demo(short_path: Path, *words: str) -> asyncio.subprocess.Process:
    """Begin the demo; temporary folders of its own are made below the test's."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "engine", "demo", *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"TMPDIR": str(short_path)}, start_new_session=True,
    )  # fmt: skip


def files_in(folder: Path) -> list[str]:
    """List what is in a folder."""
    return [path.name for path in folder.iterdir()]


def processes_in(folder: Path) -> list[str]:
    """List processes that were started in a folder and are still there."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        cwd = process.info["cwd"]
        if cwd is not None and Path(cwd.removesuffix(" (deleted)")).is_relative_to(folder):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


async def test_the_demo_ends_well_and_leaves_nothing_behind(short_path: Path):
    """Two platforms meet, replicate, survive an outage, and hold the same bytes; then nothing of it is left."""
    process = await demo(short_path)
    said, _ = await process.communicate()
    text = said.decode()

    assert process.returncode == 0, text
    assert text.count("no difference") == 2
    assert "the same bytes on both sides" in text
    assert "from publishing to stored at the eMSP: p50" in text
    assert "queue: 900 EVSE statuses owed" in text.replace("\N{NARROW NO-BREAK SPACE}", "")
    assert files_in(short_path) == []
    assert processes_in(short_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_leaves_nothing_behind(short_path: Path, number: signal.Signals):
    """Ctrl-C in the middle ends both platforms and removes the folder."""
    process = await demo(short_path)
    assert process.stdout is not None
    async for line in process.stdout:
        if b"certificate install" in line:
            break
    assert len(processes_in(short_path)) >= 2
    process.send_signal(number)
    rest = (await process.stdout.read()).decode()

    assert await process.wait() == 130
    assert "nothing stays behind" in rest
    assert files_in(short_path) == []
    assert processes_in(short_path) == []


async def test_a_demo_can_be_kept(short_path: Path):
    """With --keep the folders stay, also after Ctrl-C; and it does not play where something is already."""
    folder = short_path / "kept"
    process = await demo(short_path, "--keep", "--dir", str(folder))
    assert process.stdout is not None
    async for line in process.stdout:
        if b"certificate sign" in line:
            break
    process.send_signal(signal.SIGINT)
    await process.stdout.read()

    assert await process.wait() == 130
    assert {"cpo", "emsp", "cpo.csr"} <= set(files_in(folder))
    assert processes_in(short_path) == []
    again = await demo(short_path, "--dir", str(folder))
    said, _ = await again.communicate()
    assert again.returncode == 1
    assert "is not empty" in said.decode()


def test_what_was_kept_comes_with_the_commands_to_go_on(short_path: Path, capsys: pytest.CaptureFixture[str]):
    """The end of a kept demo names the folder and commands that exist."""
    stage = Stage(short_path)
    _how_to_go_on(stage, Player(stage, "cpo", "cpo.example.org", 1))

    told = capsys.readouterr().out
    assert f"cd {short_path}" in told
    for command in ("serve cpo", "state cpo --watch", "objects emsp", "publish cpo", "renew emsp", "disconnect emsp"):
        assert command in told
