"""RabbitMQ for tests: one that is there already, or a private node of our own, which tests may break."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection

from brokers.base import BrokerError
from brokers.rabbitmq import QueueType, RabbitMqBroker, RabbitMqOptions, queue_name, remove
from tests.support.services import Image, Kind, find, free_port, listens, programs

REMOVED_WITHIN_S: Final = 600.0  # after ten thousand consumers went away at once it lets nobody in for minutes
REMOVING_AT_ONCE: Final = 8  # channels: on one, queues are deleted one after the other
START_TIMEOUT_S: Final = 60.0  # four to six seconds on a machine that does nothing else
_PLACES: Final = ("/usr/lib/rabbitmq/bin", "/opt/rabbitmq/sbin", "/opt/homebrew/sbin", "/usr/local/sbin")


class PassingBroker(RabbitMqBroker):
    """A broker whose queues and exchanges nobody else has, and that leaves none behind when it stops."""

    def __init__(
        self, url: str | None = None, *, queue_type: QueueType = QueueType.CLASSIC, queue_length_max: int = 1000
    ) -> None:
        self.options = RabbitMqOptions(
            url=url or rabbitmq_url(),
            queue_type=queue_type,
            queue_length_max=queue_length_max,
            prefix=f"test-{uuid.uuid4().hex[:12]}",
            call_timeout_s=5,
        )
        super().__init__(self.options)
        self._made: set[str] = set()
        self._used: set[str] = set()

    def name_of(self, queue: str) -> str:
        """Return what a queue is called at RabbitMQ."""
        return queue_name(self.options, queue)

    async def ensure(self, queue: str, topics: Collection[str], *, names: Collection[str] = ()) -> None:
        """Remember what is made."""
        self._made.add(queue)
        self._used.update(topics)
        await super().ensure(queue, topics, names=names)

    async def put(self, topic: str, segment: bytes, *, only: str | None = None) -> None:
        """Remember what is used."""
        self._used.add(topic)
        await super().put(topic, segment, only=only)

    async def stop(self) -> None:
        """Stop, and take everything away."""
        await super().stop()
        with contextlib.suppress(BrokerError):  # the test may have broken it, or been kept out
            await remove(self.options, queues=self._made, topics=self._used)


async def remove_named(url: str, *, queues: Collection[str], exchanges: Collection[str] = ()) -> None:
    """Take queues and exchanges away, by their names at RabbitMQ, however busy that is."""
    waiting = list(queues)

    async def remove_some(connection: AbstractConnection) -> None:
        async with connection.channel() as channel:
            wire = await channel.get_underlay_channel()
            while waiting:
                await wire.queue_delete(waiting.pop())

    async with await aio_pika.connect(url, timeout=REMOVED_WITHIN_S) as connection:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(REMOVING_AT_ONCE, len(waiting))):
                group.create_task(remove_some(connection))
        async with connection.channel() as channel:
            wire = await channel.get_underlay_channel()
            for exchange in exchanges:
                await wire.exchange_delete(exchange)


@dataclass(frozen=True)
class Alarm:
    """One that makes RabbitMQ take nothing more; commands for ``Node.ctl``, and what it says to those who publish."""

    raised: tuple[str, ...]
    lifted: tuple[str, ...]
    reason: str


MEMORY_ALARM: Final = Alarm(
    ("set_vm_memory_high_watermark", "0.0000001"), ("set_vm_memory_high_watermark", "0.4"), "low on memory"
)
DISK_ALARM: Final = Alarm(("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "1MB"), "low on disk")
ALARMS: Final = pytest.mark.parametrize(
    "alarm", [pytest.param(MEMORY_ALARM, id="memory"), pytest.param(DISK_ALARM, id="disk")]
)


class Node:
    """A RabbitMQ of our own: its ports, data, cookie and name daemon are nobody else's, and may be broken."""

    def __init__(self, folder: Path) -> None:
        """Keep it in this folder."""
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._names: subprocess.Popen[bytes] | None = None
        self._scripts = programs(RABBITMQ)
        self._environment = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(folder),  # holds the cookie
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"test{uuid.uuid4().hex[:8]}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
        }

    @property
    def url(self) -> str:
        """Where it is."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Return when it takes connections."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "plugins").write_text("[].\n")
        if self._names is None and (epmd := shutil.which("epmd")):  # else Erlang starts one that outlives the node
            self._names = subprocess.Popen([epmd], env=self._environment)
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._scripts / "rabbitmq-server"], env=self._environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        while not listens(self.port):
            assert self._process.poll() is None, self._last_words()
            assert time.monotonic() < deadline, self._last_words()
            time.sleep(0.1)

    def kill(self) -> None:
        """End it like a power cut."""
        process, self._process = self._process, None
        if process is not None:
            # The script starts Erlang through others; they are all in the session that begins with it.
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)  # noqa: S607 - wherever it is
            process.wait()

    def stop(self) -> None:
        """End it and its name daemon."""
        self.kill()
        names, self._names = self._names, None
        if names is not None:
            names.terminate()
            names.wait()

    def ctl(self, *words: str) -> str:
        """Run ``rabbitmqctl`` on it and return what it prints."""
        done = subprocess.run(
            [self._scripts / "rabbitmqctl", *words], env=self._environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"rabbitmqctl {' '.join(words)}: {done.stdout}"
        return done.stdout

    def _last_words(self) -> str:
        return (self.folder / "server.log").read_text()[-2000:]


@cache
def rabbitmq_url() -> str:
    """Find a RabbitMQ that tests may use but not break, or start one that ends with this process.

    Raises ``NoServer``, saying what to do.
    """
    return find(RABBITMQ)


def _scripts() -> Path | None:
    """Find the folder of RabbitMQ's own scripts: those in ``PATH`` may insist on another user."""
    found = shutil.which("rabbitmq-server")
    places = [*map(Path, _PLACES), *([Path(found).resolve().parent] if found else [])]
    names = ("rabbitmq-server", "rabbitmqctl", "rabbitmq-defaults")
    return next((place for place in places if all((place / name).exists() for name in names)), None)


RABBITMQ: Final = Kind(
    package="rabbitmq-server",
    variable="OCPI_TEST_RABBITMQ_URL",
    example="amqp://USER:PASSWORD@HOST:5672/",
    port=5672,
    usual="amqp://guest:guest@127.0.0.1:5672/",
    look=_scripts,
    make=Node,
    image=Image("rabbitmq:4-alpine", 5672, "amqp://guest:guest@{place}/", "Server startup complete"),
)
