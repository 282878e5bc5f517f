"""An old backup is brought back in the middle of traffic, on either side: both end equal, and nothing waits."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.settings import PlatformFolder
from tests.support.postgresql import Server, new_database, own_replica, own_server, run
from tests.support.processes import Platform, connected_platforms
from tests.support.replicas import Traffic, Watcher, copies, difference, payloads, subscribe

COUNT = 40  # objects that change all the time
STILL = 10  # and ones that change once, after the backup: nothing but the restore can bring them to both sides again
QUICK = {"OCPI_ENGINE_PEERS__REQUEST_TIMEOUT_MS": "1000"}


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Platform, Platform]]:
    """A producer and its subscriber."""
    async with connected_platforms(tmp_path, settings=QUICK) as (cpo, emsp):
        await subscribe(emsp, cpo)
        yield cpo, emsp


async def agree(cpo: Platform, emsp: Platform) -> None:
    """Wait until our subscription stands and nothing is owed, and compare what both hold, byte for byte."""
    await emsp.wait_for(lambda state: [one["state"] for one in state["subscriptions_of_ours"]] == ["live"])
    await cpo.drained()
    assert difference(await copies(cpo, "issued", "locations"), await copies(emsp, "received", "locations")) == []
    for platform in (cpo, emsp):
        assert not (await platform.state())["stuck"]


async def change_the_still_ones(cpo: Platform, turn: int) -> None:
    """Publish those that nothing else changes."""
    await cpo.publish("locations", payloads(COUNT + STILL, turn=turn, of=range(COUNT, COUNT + STILL)))


async def restored(platform: Platform) -> dict[str, Any] | None:
    """Read what the state tells of an older database."""
    told: dict[str, Any] | None = (await platform.state())["restored"]
    return told


def copy_of(platform: Platform, place: Path) -> Path:
    """Copy the database as an operator does with SQLite's own tools."""
    with (
        contextlib.closing(sqlite3.connect(platform.folder / "engine.sqlite")) as source,
        contextlib.closing(sqlite3.connect(place)) as target,
    ):
        source.backup(target)
    return place


def replace_by(platform: Platform, copy: Path) -> None:
    """Put a copy in the place of the database of a platform that does not run, and tell nobody."""
    for name in ("engine.sqlite-wal", "engine.sqlite-shm"):
        (platform.folder / name).unlink(missing_ok=True)
    shutil.copy(copy, platform.folder / "engine.sqlite")


def there(folder: Path) -> list[Path]:
    """List what is in a folder, but for locks and sockets."""
    return [path for path in sorted(folder.rglob("*")) if "run" not in path.parts]


async def test_an_old_backup_of_the_producer(pair: tuple[Platform, Platform], tmp_path: Path):
    """Made while it runs, brought back in mid-traffic, twice: no copy goes back within its life, both end equal."""
    cpo, emsp = pair
    traffic, watcher, archive = Traffic(cpo, count=COUNT, seed=1), Watcher(emsp), tmp_path / "cpo.tar.gz"
    await traffic.once(of=range(COUNT))
    await change_the_still_ones(cpo, 1)
    await agree(cpo, emsp)
    async with watcher.watching():
        async with traffic.flowing():
            await cpo.command("backup", str(archive))
            await change_the_still_ones(cpo, 2)
            for turn in (3, 4):
                for _ in range(5):
                    await traffic.once()
                await cpo.drained()
                await cpo.kill()
                printed = await cpo.command("restore", str(archive), "--over")
                assert "cpo.before-restore" in " ".join(printed.split())
                shutil.rmtree(tmp_path / "cpo.before-restore")
                await cpo.start()
                for again in range(100):  # more than seconds, so that only the folder knows how far versions went
                    await cpo.publish("locations", payloads(1, turn=1000 * turn + again))
        await agree(cpo, emsp)
    assert watcher.went_back == []
    assert watcher.looks > 0
    told = await restored(cpo)
    assert told is not None
    assert (told["how"], told["objects"], told["subscriptions_here"]) == ("noticed", COUNT + STILL, 1)
    assert "an older database was noticed" in " ".join((await cpo.command("state")).split())
    assert await restored(emsp) is None


async def test_an_old_backup_of_the_consumer(pair: tuple[Platform, Platform], tmp_path: Path):
    """It asks for its subscriptions again, and its copies come, those that the backup had never seen too."""
    cpo, emsp = pair
    traffic, archive = Traffic(cpo, count=COUNT, seed=2), tmp_path / "emsp.tar.gz"
    await traffic.once(of=range(COUNT // 2))
    await agree(cpo, emsp)
    await emsp.command("backup", str(archive))
    async with traffic.flowing():
        await traffic.once(of=range(COUNT))
        await change_the_still_ones(cpo, 1)
        await cpo.drained()
        await emsp.kill()
        await emsp.command("restore", str(archive), "--over")
        await emsp.start()
    await agree(cpo, emsp)
    assert len(await copies(emsp, "received", "locations")) == COUNT + STILL
    told = await restored(emsp)
    assert told is not None
    assert told["subscriptions_of_ours"] == 1


async def test_a_database_that_is_simply_replaced_is_noticed(pair: tuple[Platform, Platform], tmp_path: Path):
    """An older copy in the place of the file is enough; a copy of the consumer is noticed like one of the producer."""
    cpo, emsp = pair
    traffic = Traffic(cpo, count=COUNT, seed=3)
    await traffic.once(of=range(COUNT))
    await change_the_still_ones(cpo, 1)
    await agree(cpo, emsp)
    old = {platform: copy_of(platform, tmp_path / f"{platform.identity}.sqlite") for platform in pair}
    for platform in pair:  # what is copied within one mark of the last run is not older by anything that can be seen
        await platform.stop()
        await platform.start()
    async with traffic.flowing():
        for turn, platform in enumerate(pair, 2):
            await traffic.once(of=range(COUNT))
            await change_the_still_ones(cpo, turn)
            await cpo.drained()
            await platform.kill()
            replace_by(platform, old[platform])
            await platform.start()
            assert (await restored(platform) or {}).get("how") == "noticed"
            assert "this database is older than what was sent from it" in platform.log.read_text()
    await agree(cpo, emsp)


async def test_nothing_is_mended_without_need(pair: tuple[Platform, Platform]):
    """Versions stay and nothing is told after an orderly stop, after kill -9, and in mid-renewal."""
    cpo, emsp = pair
    await Traffic(cpo, count=COUNT, seed=4).once(of=range(COUNT))
    await agree(cpo, emsp)
    before = await copies(cpo, "issued", "locations")
    for platform in pair:
        await platform.stop()
        await platform.start(OCPI_ENGINE_STORE__MARK_S="0.001")
        await platform.kill()
        await platform.start()
    await agree(cpo, emsp)
    assert await copies(cpo, "issued", "locations") == before
    assert [await restored(platform) for platform in pair] == [None, None]


async def test_an_operator_says_it(pair: tuple[Platform, Platform], tmp_path: Path):
    """A folder that was brought back as a whole cannot know: `restored` does it at once, and again if asked again."""
    cpo, emsp = pair
    traffic = Traffic(cpo, count=COUNT, seed=5)
    await traffic.once(of=range(COUNT))
    await agree(cpo, emsp)
    assert "already served by process" in await cpo.command("restored", code=1)
    await cpo.stop()
    shutil.copytree(cpo.folder, tmp_path / "whole")
    await cpo.start()
    for _ in range(3):
        await traffic.once(of=range(COUNT))
    await cpo.drained()
    await cpo.stop()
    shutil.rmtree(cpo.folder)
    shutil.copytree(tmp_path / "whole", cpo.folder)

    done = {"objects": COUNT, "subscriptions_here": 1, "subscriptions_of_ours": 0}
    assert json.loads(await cpo.command("restored", "--json")) == done
    assert "40 objects with new versions" in " ".join((await cpo.command("restored")).split())
    await cpo.start()
    await agree(cpo, emsp)
    assert (await restored(cpo) or {})["how"] == "said"


async def test_postgresql_that_is_older_than_the_folder(tmp_path: Path):
    """`backup` leaves the data to PostgreSQL and says so; one that was set back is noticed, a moved one is not."""
    async with new_database() as there, connected_platforms(tmp_path, settings=QUICK) as (cpo, emsp):
        traffic = Traffic(cpo, count=COUNT, seed=6)
        await traffic.once(of=range(COUNT))
        await subscribe(emsp, cpo)
        await agree(cpo, emsp)
        await cpo.stop()
        old = copy_of(cpo, tmp_path / "old.sqlite")
        await cpo.command("move", "--to", there)
        await cpo.start()
        assert await restored(cpo) is None
        for _ in range(3):
            await traffic.once(of=range(COUNT))
        await agree(cpo, emsp)
        made = json.loads(await cpo.command("backup", str(tmp_path / "cpo.tar.gz"), "--json"))
        assert not made["data"]
        assert any("PostgreSQL" in each for each in made["outside"])
        await cpo.stop()

        # PostgreSQL set back to what was once in it: by way of SQLite, the rows of the old copy.
        async with new_database() as elsewhere:
            await cpo.command("move", "--to", "here")
            replace_by(cpo, old)
            await cpo.command("move", "--to", elsewhere)
            await cpo.start()
            assert (await restored(cpo) or {}).get("how") == "noticed"
            await agree(cpo, emsp)
            await cpo.stop()


@pytest.fixture
def server() -> Iterator[Server]:
    """A PostgreSQL that may be broken."""
    with own_server() as server:
        yield server


async def set_back(server: Server, url: str, dump: Path) -> None:
    """Replace a database by what was dumped of it, as an operator does."""
    name = url.rpartition("/")[2]
    await run(server.url, f"DROP DATABASE {name} WITH (FORCE)")
    await run(server.url, f"CREATE DATABASE {name}")
    server.program("pg_restore", "--dbname", url, str(dump))


async def marked_anew(url: str) -> None:
    """Wait until nothing knows the mark any more that the database has now: two renewals, each of which keeps one."""
    for _ in range(2):
        before = await run(url, "SELECT mark FROM marks")
        async with asyncio.timeout(60):
            while await run(url, "SELECT mark FROM marks") == before:
                await asyncio.sleep(0.05)


async def test_old_dumps_in_mid_traffic(tmp_path: Path, server: Server):
    """PostgreSQL's own tools bring back the producer's data, and then the consumer's: both sides end equal."""
    urls = [f"{server.url.rpartition('/')[0]}/{name}" for name in ("cpo", "emsp")]
    for name in ("cpo", "emsp"):
        await run(server.url, f"CREATE DATABASE {name}")
    made_with = [["--database", url] for url in urls]
    settings = QUICK | {"OCPI_ENGINE_STORE__MARK_S": "0.2"}
    async with connected_platforms(tmp_path, settings=settings, made_with=made_with) as (cpo, emsp):
        traffic, watcher = Traffic(cpo, count=COUNT, seed=7), Watcher(emsp)
        await subscribe(emsp, cpo)
        await traffic.once(of=range(COUNT))
        await change_the_still_ones(cpo, 1)
        await agree(cpo, emsp)
        async with traffic.flowing():
            for turn, (platform, url) in enumerate(zip((cpo, emsp), urls, strict=True), 2):
                dump = server.folder / f"{platform.party}.dump"
                server.program("pg_dump", "--format=custom", "--file", str(dump), "--dbname", url)
                await marked_anew(url)
                await change_the_still_ones(cpo, turn)
                async with watcher.watching() if platform is cpo else contextlib.nullcontext():
                    for _ in range(5):
                        await traffic.once()
                    await cpo.drained()
                    await platform.kill()
                    await set_back(server, url, dump)
                    await platform.start()
                    assert (await restored(platform) or {}).get("how") == "noticed"
                    await traffic.once()
        await agree(cpo, emsp)
    assert watcher.went_back == []
    assert watcher.looks > 0


async def test_a_fail_over_in_mid_traffic(tmp_path: Path, server: Server):
    """The replica lacks the last commits, of which partners know: the platform ends by itself, and starts mended."""
    with own_replica(server) as replica:
        async with connected_platforms(
            tmp_path, settings=QUICK | {"OCPI_ENGINE_STORE__MARK_S": "1"}, made_with=[["--database", server.url], []]
        ) as (cpo, emsp):
            traffic, watcher = Traffic(cpo, count=COUNT, seed=8), Watcher(emsp)
            await subscribe(emsp, cpo)
            await traffic.once(of=range(COUNT))
            await change_the_still_ones(cpo, 1)
            await agree(cpo, emsp)
            async with watcher.watching():
                async with traffic.flowing():
                    await asyncio.to_thread(replica.stop)
                    await change_the_still_ones(cpo, 2)
                    for _ in range(5):
                        await traffic.once()
                    await cpo.drained()
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(replica.start)
                    await asyncio.to_thread(replica.promote)
                    await asyncio.to_thread(replica.move_to, server.port)
                    async with asyncio.timeout(60):
                        assert await cpo.ended() == 1
                    assert "restored, or failed over to a replica" in cpo.log.read_text()
                    await cpo.start()
                    assert (await restored(cpo) or {}).get("how") == "noticed"
                    await traffic.once()
                await agree(cpo, emsp)
            assert watcher.went_back == []
            assert watcher.looks > 0


async def test_a_fail_over_while_it_runs(tmp_path: Path):
    """A platform whose PostgreSQL is an older one all of a sudden ends and says why; its next start mends it, once."""
    async with new_database() as there:
        platform = Platform(
            tmp_path / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings={},
            made_with=["--database", there],
        )  # fmt: skip
        await platform.make()
        await platform.start(OCPI_ENGINE_STORE__MARK_S="0.1")
        await run(there, "UPDATE marks SET mark = 'an older one'")
        async with asyncio.timeout(30):
            assert await platform.ended() == 1
        assert "restored, or failed over to a replica" in platform.log.read_text()
        await platform.start()
        told = await restored(platform)
        assert told is not None
        assert told["how"] == "noticed"
        await platform.stop()
        await platform.start()
        assert await restored(platform) == told
        await platform.kill()


async def test_what_an_archive_holds(tmp_path: Path):
    """All that a platform is, for its user alone, and nothing of a running process; it makes the same platform anew."""
    platform = Platform(tmp_path / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings={})
    await platform.make()
    archive = tmp_path / "backups" / "cpo.tar.gz"
    await platform.command("backup", str(archive))
    assert archive.stat().st_mode & 0o777 == 0o600
    assert list(archive.parent.iterdir()) == [archive]
    with tarfile.open(archive) as tar:
        names = set(tar.getnames())
    assert {"backup.json", "engine.toml", "engine.sqlite", "tls/server-key.pem"} < names
    assert any(name.startswith("authority/") for name in names)
    assert not any(name.startswith("run") or name.endswith(("-wal", "-shm")) for name in names)

    original, platform.folder = platform.folder, tmp_path / "new"
    await platform.command("restore", str(archive))
    for path in original.rglob("*"):
        again = platform.folder / path.relative_to(original)
        if path.is_file() and not path.name.startswith("engine.sqlite") and "run" not in path.parts:
            assert again.read_bytes() == path.read_bytes()
            assert again.stat().st_mode == path.stat().st_mode
    assert platform.folder.stat().st_mode & 0o777 == 0o700
    await platform.start()
    await platform.kill()


async def test_what_cannot_be_backed_up_or_restored(tmp_path: Path):
    """Each is refused with the reason, and both platforms are as they were."""
    platform = Platform(tmp_path / "cpo", identity="cpo.example.org", party="BEBEC", role="CPO", settings={})
    other = Platform(tmp_path / "other", identity="emsp.example.org", party="NLEMS", role="EMSP", settings={})
    for each in (platform, other):
        await each.make()
    good, odd = tmp_path / "cpo.tar.gz", tmp_path / "odd.tar.gz"
    await platform.command("backup", str(good))
    before = there(tmp_path)

    async def no(by: Platform, verb: str, *arguments: str, why: str) -> None:
        printed = await by.command(verb, *arguments, code=1)
        assert why in " ".join(printed.split()), printed

    await no(platform, "backup", str(good), why="is there already")
    await no(platform, "backup", str(platform.folder / "x.tar.gz"), why="own folder")
    await no(platform, "restore", str(good), why="is not empty")
    await no(other, "restore", str(good), "--over", why="is of cpo.example.org")
    await no(platform, "restore", str(tmp_path / "none.tar.gz"), "--over", why="No such file")
    whole = good.read_bytes()
    for content in (b"", b"nothing", whole[:2000], whole[:-300]):
        odd.write_bytes(content)
        await no(platform, "restore", str(odd), "--over", why="nothing was restored")
    for name, manifest in (
        ("x", {}),
        ("backup.json", {"format": 2, "identity": "cpo.example.org", "made_at": "", "database": None}),
        ("backup.json", {"format": 1, "identity": "cpo.example.org", "made_at": "", "database": None}),
    ):
        (tmp_path / "manifest").write_text(json.dumps(manifest))
        with tarfile.open(odd, "w:gz") as tar:
            tar.add(tmp_path / "manifest", arcname=name)
            tar.add(tmp_path / "manifest", arcname="../outside")
        await no(platform, "restore", str(odd), "--over", why="nothing was restored")
    odd.unlink()
    (tmp_path / "manifest").unlink()
    nowhere = Platform(tmp_path / "nowhere", identity="x.example.org", party="BEBEC", role="CPO", settings={})
    await no(nowhere, "restore", str(good), "--over", why="leave --over out")
    await no(nowhere, "restored", why="holds no platform")
    await no(nowhere, "backup", str(odd), why="holds no platform")
    assert there(tmp_path) == before
    assert PlatformFolder(platform.folder).settings({}).platform.identity == "cpo.example.org"
