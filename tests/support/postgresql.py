"""PostgreSQL for tests: databases on a server that is there already, or a server of our own, which tests may break."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from engine.store.creating import create_database, drop_database
from engine.store.database import address
from tests.support.services import Image, Kind, find, free_port, programs

START_TIMEOUT_S: Final = 30.0  # a second or two on a machine that does nothing else
WAITING: Final = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE datname = current_database() AND NOT granted
"""  # statements that wait for a table in this database
_PLACES: Final = ("usr/lib/postgresql/*/bin", "usr/pgsql-*/bin", "opt/homebrew/opt/postgresql*/bin")


class Server:
    """A PostgreSQL of our own: its port and data are nobody else's, and may be broken."""

    def __init__(self, folder: Path) -> None:
        """Keep it in this folder."""
        self.folder = folder
        self.port = free_port()
        self._binaries = programs(POSTGRESQL)
        # It refuses to run as root.
        self._user = (
            next((name for name in ("postgres", "nobody") if _exists(name)), None) if os.getuid() == 0 else None
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def data(self) -> str:
        """Where its data are."""
        return str(self.folder / "data")

    def start(self) -> None:
        """Return when it takes connections."""
        self._make("initdb", "--auth=trust", "--username=postgres", "--no-sync", "-D", self.data)
        words = [
            str(self._binaries / "postgres"), "-D", self.data, "-p", str(self.port), "-c", "listen_addresses=127.0.0.1",
            "-c", f"unix_socket_directories={self.folder}", "-c", "max_connections=60",
        ]  # fmt: skip
        log = self.folder / "server.log"
        with log.open("ab") as written:
            self._process = subprocess.Popen(words, user=self._user, cwd=self.folder, stdout=written, stderr=written)
        deadline = time.monotonic() + START_TIMEOUT_S
        while subprocess.run(
            [self._binaries / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False
        ).returncode:
            assert self._process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.05)

    def follow(self, primary: "Server") -> None:
        """Become its replica, which takes reads, and writes once it is promoted; ``start`` it."""
        self._make(
            "pg_basebackup", "--dbname", primary.url, "-D", self.data,
            "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip

    def promote(self) -> None:
        """Take over from the one that was followed."""
        self.program("pg_ctl", "promote", "-D", self.data)

    def move_to(self, port: int) -> None:
        """Answer at another port from now on: that of one that is gone, as the address does that moves along."""
        self.stop()
        self.port = port
        self.start()

    def program(self, name: str, *arguments: str) -> None:
        """Run one of its programs, as its user."""
        words = [str(self._binaries / name), *arguments]
        done = subprocess.run(words, user=self._user, cwd=self.folder, check=False, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()

    def _make(self, name: str, *arguments: str) -> None:
        """Make its data by a program, unless they are there."""
        if not (self.folder / "data").exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            if self._user is not None:
                shutil.chown(self.folder, self._user)
            self.program(name, *arguments)

    def stop(self) -> None:
        """End it, and every connection with it, as a fail-over does."""
        self._end(signal.SIGINT)  # "fast": open transactions are rolled back

    def kill(self) -> None:
        """End it without a word, as a power cut does."""
        self._end(signal.SIGQUIT)  # "immediate"; its processes would outlive a SIGKILL of the first of them

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait()


@contextmanager
def own_server() -> Iterator[Server]:
    """Start a PostgreSQL that may be broken; in a folder that its own user may enter."""
    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:
        Path(folder).chmod(0o755)
        server = Server(Path(folder) / "server")
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def own_replica(primary: Server) -> Iterator[Server]:
    """Start a replica of a PostgreSQL of our own."""
    replica = Server(primary.folder.with_name("replica"))
    replica.follow(primary)
    replica.start()
    try:
        yield replica
    finally:
        replica.stop()


@cache
def postgresql_url() -> str:
    """Find a PostgreSQL where tests may make databases, or start one that ends with this process.

    Raises ``NoServer``, saying what to do.
    """
    return find(POSTGRESQL)


@asynccontextmanager
async def new_database(server: str | None = None) -> AsyncIterator[str]:
    """Make an empty database and remove it again."""
    place = await asyncio.to_thread(postgresql_url) if server is None else server
    name = f"ocpi_test_{uuid.uuid4().hex[:12]}"
    url = await create_database(place, name)
    try:
        yield url
    finally:
        await drop_database(place, name)


async def run(url: str, statement: str, **values: Any) -> list[Any]:
    """Run a statement by itself, on PostgreSQL or SQLite; returns its rows, if it has any."""
    engine = create_async_engine(address(url), isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            result = await connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []
    finally:
        await engine.dispose()


def _binaries() -> Path | None:
    """Find the folder of the newest server's programs, which are seldom in ``PATH``."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += [place for pattern in _PLACES for place in sorted(Path("/").glob(pattern), reverse=True)]
    names = ("initdb", "postgres", "pg_isready")
    return next((place for place in places if all((place / name).exists() for name in names)), None)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


POSTGRESQL: Final = Kind(
    package="postgresql",
    variable="OCPI_TEST_POSTGRESQL_URL",
    example="postgresql://USER@HOST:5432/DATABASE",
    port=5432,
    usual="postgresql://postgres@127.0.0.1:5432/postgres",
    look=_binaries,
    make=Server,
    image=Image(
        "postgres:17-alpine",
        5432,
        "postgresql://postgres@{place}/postgres",
        r"(?s)(ready to accept connections.*){2}",  # the first is said while its databases are made
        environment={"POSTGRES_HOST_AUTH_METHOD": "trust"},
    ),
)
