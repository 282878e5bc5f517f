"""Servers that tests need: one that is there already, or one of our own, which ends with this process.

Looked for in this order, and the first that there is counts: named in the environment, on its usual port, a private
one from programs that are installed, a container where Docker runs, a private one from programs that are installed
now (as root on Debian and Ubuntu). Tests that break a server always have a private one from programs.
"""

import atexit
import contextlib
import gc
import os
import shutil
import socket
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

DOCKER_TIMEOUT_S: Final = 5.0  # for a word from the daemon; one that takes longer does not run
CONTAINER_TIMEOUT_S: Final = 60.0  # from its start to its readiness, after the image is there


class NoServer(Exception):
    """There is none for the tests, and none could be started; the message says what to do."""


class Startable(Protocol):
    """A server of our own."""

    @property
    def url(self) -> str:
        """Where it is."""
        ...

    def start(self) -> None:
        """Return when it takes connections."""
        ...

    def stop(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True)
class Image:
    """A server as a container. ``ready``: a pattern that its log has once it takes connections."""

    name: str
    port: int
    url: str  # with {place} for where it is
    ready: str
    environment: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of server, and all ways to have one."""

    package: str  # of Debian and Ubuntu
    variable: str  # of the environment, that names one
    example: str  # what to write there
    port: int
    usual: str  # URL of one on the usual port
    look: Callable[[], Path | None]  # for the folder of its programs
    make: Callable[[Path], Startable]  # from these programs, in a folder
    image: Image


class Container:
    """A server in a container of our own."""

    def __init__(self, image: Image) -> None:
        """Prepare it; nothing is fetched or runs before ``start``."""
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415 - 0.3 s that few test runs need
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

        self._image = image
        self._container = DockerContainer(image.name).with_exposed_ports(image.port)
        for name, value in (image.environment or {}).items():
            self._container.with_env(name, value)
        ready = LogMessageWaitStrategy(image.ready)
        self._container.waiting_for(ready.with_startup_timeout(int(CONTAINER_TIMEOUT_S)))

    @property
    def url(self) -> str:
        """Where it is."""
        host, port = self._container.get_container_host_ip(), self._container.get_exposed_port(self._image.port)
        return self._image.url.format(place=f"{host}:{port}")

    def start(self) -> None:
        """Fetch its image if it is not there, and return when it takes connections."""
        self._container.start()

    def stop(self) -> None:
        """End and remove it."""
        self._container.stop()


def find(kind: Kind) -> str:
    """Return the URL of a server that tests may use but not break.

    Raises ``NoServer``.
    """
    if named := os.environ.get(kind.variable):
        return named
    if listens(kind.port):
        return kind.usual
    if kind.look() is None and docker_runs():
        return _until_the_end(Container(kind.image))
    folder = Path(tempfile.mkdtemp(prefix="ocpi-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)  # a server may run as another user than we do
    return _until_the_end(kind.make(folder / "server"))


def _until_the_end(server: Startable) -> str:
    atexit.register(server.stop)
    server.start()
    return server.url


def programs(kind: Kind) -> Path:
    """Return the folder of a server's programs; as root on Debian or Ubuntu the package is installed if it has to be.

    Raises ``NoServer``.
    """
    if (found := kind.look()) is not None:
        return found
    if os.geteuid() == 0 and (apt := shutil.which("apt-get")):
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        wait = ["-o", "DPkg::Lock::Timeout=600"]  # the other half of the tests may be installing, too
        for words in (["update"], ["install", "--yes", "--no-install-recommends", kind.package]):
            subprocess.run([apt, "--quiet", *wait, *words], env=environment, stdout=subprocess.DEVNULL, check=False)
        if (found := kind.look()) is not None:
            return found
    raise NoServer(
        f"these tests need a server of {kind.package}: start one on its usual port ({kind.port}), or name one in"
        f" {kind.variable} ({kind.example}), or have Docker run; tests that break one need its programs: install them"
        f" (on Debian and Ubuntu: apt install {kind.package}), then the tests start their own"
    )


def docker_runs() -> bool:
    """Say whether a Docker answers, where DOCKER_HOST or its usual socket says."""
    import docker  # type: ignore[import-untyped]  # noqa: PLC0415 - has no types of its own; as above
    from docker.errors import DockerException  # type: ignore[import-untyped]  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with contextlib.closing(docker.from_env(timeout=DOCKER_TIMEOUT_S)) as client:
                return bool(client.ping())
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()  # where nobody answers, it leaves its socket open, and that is to be told here and now


def listens(port: int) -> bool:
    """Say whether somebody listens on this machine."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def free_port() -> int:
    """Find a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
