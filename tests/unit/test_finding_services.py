"""Where tests find the servers that they need: what is there already counts before what has to be made."""

from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from tests.support import services
from tests.support.services import Image, Kind, NoServer, find, programs

VARIABLE = "OCPI_TEST_THING_URL"


@dataclass
class Started:
    """A server that was started."""

    url: str
    around: "Around"

    def start(self) -> None:
        """Note it."""
        self.around.started.append(self.url)

    def stop(self) -> None:
        """Nothing runs."""


@dataclass
class Around:
    """A machine: what is on it, and what was done there."""

    named: bool = False
    listening: bool = False
    installed: bool = False
    docker: bool = False
    root: bool = False
    apt: bool = False
    apt_brings: bool = True
    started: list[str] = field(default_factory=list)
    ran: list[list[str]] = field(default_factory=list)

    @property
    def kind(self) -> Kind:
        """A kind of server."""
        return Kind(
            package="thing-server",
            variable=VARIABLE,
            example="thing://HOST:7/",
            port=7,
            usual="usual",
            look=lambda: Path("/programs") if self.installed else None,
            make=self._make,
            image=Image("thing:1", 7, "thing://{place}", "ready"),
        )

    def _make(self, _folder: Path) -> Started:
        programs(self.kind)
        return Started("private", self)

    def run(self, words: list[str], **_how: Any) -> CompletedProcess[bytes]:
        """Do what apt-get does."""
        self.ran.append([word for word in words if "=" not in word and not word.startswith("-")])
        self.installed = self.apt_brings and "install" in words
        return CompletedProcess(words, 0)

    def put_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the test be on this machine."""
        if self.named:
            monkeypatch.setenv(VARIABLE, "named")
        monkeypatch.setattr(services, "listens", lambda port: self.listening and port == 7)
        monkeypatch.setattr(services, "docker_runs", lambda: self.docker)
        monkeypatch.setattr(services, "Container", lambda image: Started(image.name, self))
        monkeypatch.setattr("os.geteuid", lambda: 0 if self.root else 1000)
        monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if self.apt else None)
        monkeypatch.setattr("subprocess.run", self.run)


@pytest.mark.parametrize(
    ("around", "found", "ran"),
    [
        (Around(named=True, listening=True, installed=True, docker=True, root=True, apt=True), "named", []),
        (Around(listening=True, installed=True, docker=True, root=True, apt=True), "usual", []),
        (Around(installed=True, docker=True, root=True, apt=True), "private", []),
        (Around(docker=True, root=True, apt=True), "thing:1", []),
        (Around(root=True, apt=True), "private", ["update", "install thing-server"]),
    ],
    ids=["named", "listening", "installed", "docker", "apt"],
)
def test_the_first_way_that_there_is_counts(
    monkeypatch: pytest.MonkeyPatch, around: Around, found: str, ran: list[str]
):
    """Each way is taken where those before it are not there, although those after it are; nothing else is started."""
    around.put_up(monkeypatch)

    assert find(around.kind) == found
    assert around.started == ([] if found in ("named", "usual") else [found])
    assert [" ".join(words[1:]) for words in around.ran] == ran


@pytest.mark.parametrize(
    ("around", "tried"),
    [(Around(apt=True), 0), (Around(root=True), 0), (Around(root=True, apt=True, apt_brings=False), 2)],
    ids=["not root", "not Debian", "apt fails"],
)
def test_where_there_is_no_way_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, around: Around, tried: int):
    """No server is an error, never a skip; it names every way to have one."""
    around.put_up(monkeypatch)

    with pytest.raises(NoServer) as told:
        find(around.kind)

    for way in (f"{VARIABLE} (thing://HOST:7/)", "usual port (7)", "Docker", "apt install thing-server"):
        assert way in str(told.value)
    assert around.started == []
    assert len(around.ran) == tried


def test_a_test_that_breaks_a_server_needs_its_programs(monkeypatch: pytest.MonkeyPatch):
    """Neither one that others use nor a container is broken: without its programs there is none."""
    around = Around(named=True, listening=True, docker=True)
    around.put_up(monkeypatch)
    with pytest.raises(NoServer, match="tests that break one need its programs"):
        programs(around.kind)

    around.installed = True
    assert programs(around.kind) == Path("/programs")
