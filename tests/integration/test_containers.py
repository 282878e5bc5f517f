"""Containers for tests, as far as they go without Docker: what is asked of its API, which answers by rote here."""

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest
from testcontainers.core.config import ConnectionMode, testcontainers_config

from tests.support import postgresql, rabbitmq, services
from tests.support.services import Container, Kind, docker_runs, free_port

CONTAINER = "c0ffee" * 10
MAPPED = 49153


class Docker(ThreadingHTTPServer):
    """What Docker's API says, of one container whose image is not there yet."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.asked: list[str] = []
        self.created: dict[str, Any] = {}
        self.pulled = False
        self.log = b""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"tcp://127.0.0.1:{self.server_port}"

    def answer(self, what: str, query: str, body: bytes) -> tuple[int, bytes]:
        """Answer a request."""
        self.asked.append(what)
        match what.split("/"):
            case ["GET ", "_ping"]:
                return 200, b"OK"
            case ["GET ", "version"]:
                return 200, b'{"ApiVersion":"1.44","Version":"27"}'
            case ["POST ", "images", "create"]:
                self.pulled = True
                return 200, b'{"status":"pulled"}'
            case ["GET ", "images", *_]:
                return (
                    (200, b'{"Id":"sha256:1","RepoTags":[]}') if self.pulled else (404, b'{"message":"No such image"}')
                )
            case ["POST ", "containers", "create"]:
                self.created = json.loads(body)
                return 201, json.dumps({"Id": CONTAINER}).encode()
            case ["GET ", "containers", _, "json"]:
                return 200, json.dumps(self._inspected()).encode()
            case ["GET ", "containers", _, "logs"]:
                log = self.log if "stderr=1" in query else b""
                return 200, b"\x02\0\0\0" + len(log).to_bytes(4, "big") + log
            case _:
                return 204, b""

    def _inspected(self) -> dict[str, Any]:
        ports = {port: [{"HostIp": "0.0.0.0", "HostPort": str(MAPPED)}] for port in self.created["ExposedPorts"]}  # noqa: S104
        return {
            "Id": CONTAINER,
            "Name": "/thing",
            "State": {"Status": "running", "Running": True},
            "Config": {"Tty": False, "Image": self.created["Image"], "Labels": {}},
            "HostConfig": {"LogConfig": {"Type": "json-file"}, "NetworkMode": "bridge"},
            "NetworkSettings": {"Ports": ports, "Networks": {"bridge": {"Gateway": "172.17.0.1"}}},
        }


class _Answers(BaseHTTPRequestHandler):
    server: Docker

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = urlsplit(self.path)
        path = re.sub(r"^/v[0-9.]+", "", asked.path)
        status, answer = self.server.answer(f"{self.command} {path}", asked.query, body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 - the base class calls them so

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Docker]:
    """A Docker that the environment names."""
    with Docker() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        monkeypatch.setenv("DOCKER_HOST", made.url)
        yield made
        made.shutdown()
        thread.join()


def test_docker_runs_where_it_answers(docker: Docker, monkeypatch: pytest.MonkeyPatch):
    """It is asked where the environment says; where nobody listens, or somebody else, it does not run."""
    assert docker_runs()
    assert "GET /_ping" in docker.asked

    monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{free_port()}")
    assert not docker_runs()
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    assert not docker_runs()
    monkeypatch.setattr(docker, "answer", lambda _what, _query, _body: (404, b"not here"))
    monkeypatch.setenv("DOCKER_HOST", docker.url)
    assert not docker_runs()


@pytest.mark.parametrize(
    ("kind", "log", "url"),
    [
        (
            postgresql.POSTGRESQL,
            b"database system is ready to accept connections\n" * 2,
            f"postgresql://postgres@127.0.0.1:{MAPPED}/postgres",
        ),
        (
            rabbitmq.RABBITMQ,
            b"Server startup complete; 0 plugins started.\n",
            f"amqp://guest:guest@127.0.0.1:{MAPPED}/",
        ),
    ],
    ids=["postgresql", "rabbitmq"],
)
def test_a_container_is_fetched_started_awaited_and_removed(
    docker: Docker, monkeypatch: pytest.MonkeyPatch, kind: Kind, log: bytes, url: str
):
    """Its URL has the port that Docker gave it; one that does not get ready within its time is an error."""
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    monkeypatch.setattr(testcontainers_config, "connection_mode_override", ConnectionMode.docker_host)
    docker.log = log
    container = Container(kind.image)
    container.start()
    assert docker.pulled
    assert docker.created["Image"] == kind.image.name
    assert set(docker.created["ExposedPorts"]) == {f"{kind.port}/tcp"}
    assert container.url == url
    container.stop()
    assert docker.asked[-1] == f"DELETE /containers/{CONTAINER}"

    docker.log = log[:-1].rpartition(b"\n")[0]  # once less than it says when it is ready
    monkeypatch.setattr(services, "CONTAINER_TIMEOUT_S", 1)
    slow = Container(kind.image)
    with pytest.raises(TimeoutError):
        slow.start()
    slow.stop()
