"""The demo, run as a new user runs it."""

import asyncio
import os
import re
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

import aio_pika
import psutil  # type: ignore[import-untyped]  # has no types of its own
import pytest
from sqlalchemy import make_url

from engine.cli.demo import _how_to_go_on
from engine.cli.places import Place
from engine.cli.stage import Player, Stage
from engine.protocol.modules import all_modules
from tests.support.postgresql import postgresql_url, run
from tests.support.rabbitmq import rabbitmq_url


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


def on_servers() -> list[str]:
    """Options by which the demo plays on the servers of the tests."""
    return ["--broker", "rabbitmq", "--database-url", postgresql_url(), "--broker-url", rabbitmq_url()]


async def left(text: str) -> tuple[int, bool]:
    """Count the databases that a demo told of and that are there, and say whether an exchange of its CPO is."""
    names = re.findall(r'name_prefix = "(ocpi_demo_[0-9a-f]+_(?:cpo|emsp))"', text)
    assert len(names) == 2, text
    databases = {name for (name,) in await run(postgresql_url(), "SELECT datname FROM pg_database")}
    async with await aio_pika.connect(rabbitmq_url()) as connection, connection.channel() as channel:
        try:
            await channel.get_exchange(f"{names[0]}.topic.locations")
            exchange = True
        except aio_pika.exceptions.ChannelNotFoundEntity:
            exchange = False
    return len(databases & set(names)), exchange


@pytest.mark.timeout(300)  # it is CPU time for most of it, a minute on a slow machine that does nothing else
@pytest.mark.parametrize("pair", ["SQLite and queues in memory", "PostgreSQL and RabbitMQ"])
async def test_the_demo_ends_well_and_leaves_nothing_behind(short_path: Path, pair: str):
    """Two platforms meet, replicate all modules, survive an outage; a driver charges; both hold the same bytes."""
    servers = on_servers() if "RabbitMQ" in pair else []
    process = await demo(short_path, *servers)
    said, _ = await process.communicate()
    text = said.decode()

    assert process.returncode == 0, text
    for module in all_modules():
        assert re.search(rf"^ +{module.id} +[A-Z]+ → [A-Z]+ .* ✓ no difference *$", text, re.MULTILINE), module.id
    assert re.search(r"38 sessions, 18 cdrs, [0-9]+ meterreadings and 1 irrs of DEOTH go nowhere", text)
    assert re.search(r"^ +sessions .* 240 +202 +202 ", text, re.MULTILINE)
    assert "/currency: expected CiAsciiString[3]" in text
    assert "cannot be changed once they are issued" in text
    assert re.search(r"stored at the eMSP: BEBEC-C[0-9]+-C, with a total cost of -[0-9.]+ EUR", text)
    assert f"the same bytes on both sides, with {pair};" in text
    assert "from publishing to stored at the eMSP: p50" in text
    steps = ("reserved, and seen as RESERVED", "started, plugged in, and ACTIVE", "a message to the driver", "the CDR")
    assert all(re.search(rf"^ +{step}.* [0-9.]+ s *$", text, re.MULTILINE) for step in steps)
    assert re.search(r"billed: [0-9.]+ kWh for [0-9.]+ EUR", text)
    assert "sessions/start of DEDRV at cpo.example.org refused" in text
    assert "locations/unlock-connector of DEDRV at cpo.example.org timed_out" in text
    assert "queue: 900 EVSE statuses owed" in text.replace("\N{NARROW NO-BREAK SPACE}", "")
    assert files_in(short_path) == []
    assert processes_in(short_path) == []
    if servers:
        assert await left(text) == (0, False)
        assert f":{make_url(rabbitmq_url()).password}@" not in text
    else:
        assert "name_prefix" not in text


@pytest.mark.parametrize(("number", "servers"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
async def test_an_interrupted_demo_leaves_nothing_behind(short_path: Path, number: signal.Signals, *, servers: bool):
    """Ctrl-C in the middle ends both platforms and removes the folder, and what it made at servers."""
    process = await demo(short_path, *(on_servers() if servers else []))
    assert process.stdout is not None
    said = b""
    async for line in process.stdout:
        said += line
        if b"certificate install" in line:
            break
    assert len(processes_in(short_path)) >= 2
    if servers:
        assert (await left(said.decode()))[0] == 2
    process.send_signal(number)
    rest = (await process.stdout.read()).decode()

    assert await process.wait() == 130
    assert "nothing stays behind" in rest
    assert files_in(short_path) == []
    assert processes_in(short_path) == []
    if servers:
        assert await left(said.decode()) == (0, False)


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


async def test_a_demo_on_servers_can_be_kept(short_path: Path):
    """With --keep databases and queues stay, too, and can be removed."""
    process = await demo(short_path, "--dir", str(short_path / "kept"), *on_servers(), "--keep")
    assert process.stdout is not None
    said = b""
    async for line in process.stdout:
        said += line
        if b" is live" in line:
            break
    async with asyncio.timeout(60):
        while not (await left(said.decode()))[1]:  # the queue is made after the answer
            await asyncio.sleep(0.1)
    process.send_signal(signal.SIGINT)
    await process.stdout.read()

    assert await process.wait() == 130
    assert processes_in(short_path) == []
    assert await left(said.decode()) == (2, True)
    for name in ("cpo", "emsp"):
        settings = tomllib.loads((short_path / "kept" / name / "engine.toml").read_text())
        broker, database = settings["broker"], settings["store"]["url"]
        await Place(broker["name_prefix"], database, broker["url"], postgresql_url()).remove()
    assert await left(said.decode()) == (0, False)


@pytest.mark.parametrize(
    ("option", "url", "missing"),
    [
        ("--database-url", "postgresql://postgres:hidden@127.0.0.1:1/postgres", "PostgreSQL"),
        ("--database-url", "sqlite:///x", "PostgreSQL"),
        ("--broker-url", "amqp://guest:hidden@127.0.0.1:1/", "RabbitMQ"),
        ("--broker-url", "http://127.0.0.1/", "RabbitMQ"),
    ],
)
async def test_a_demo_without_its_servers(short_path: Path, option: str, url: str, missing: str):
    """It says what is not there and what to do, tells no password, and leaves nothing behind."""
    process = await demo(short_path, *on_servers(), option, url)
    said = " ".join((await process.communicate())[0].decode().split())

    assert process.returncode == 1
    assert f"{missing} cannot be used: " in said
    assert "apt install postgresql rabbitmq-server" in said
    assert "OCPI_DEMO_DATABASE_URL=" in said
    assert "Traceback" not in said
    assert "hidden" not in said
    assert files_in(short_path) == []


def test_what_was_kept_comes_with_the_commands_to_go_on(short_path: Path, capsys: pytest.CaptureFixture[str]):
    """The end of a kept demo names the folder, commands that exist, and what is left at the servers."""
    stage = Stage(short_path)
    _how_to_go_on(stage, Player(stage, "cpo", "cpo.example.org", 1), ["ocpi_demo_1_cpo"])

    told = capsys.readouterr().out
    assert f"cd {short_path}" in told
    for command in ("serve cpo", "state cpo --watch", "objects emsp", "publish cpo", "renew emsp", "disconnect emsp"):
        assert command in told
    assert "DROP DATABASE ocpi_demo_1_cpo" in told
