"""The local API's client: over the Unix socket or loopback, with the token from the platform's folder."""

import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from engine.cli.failure import Failure
from engine.settings import BadSettings, PlatformFolder, Settings

ANSWER_WITHIN_S = 150.0  # a partner may make the platform wait for 120 s
CONNECT_WITHIN_S = 5.0
_BASE_URL = "http://localhost"
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The local API has no TLS. httpx would load the world's authorities all the same, for 40 ms of each command."""


def segment(text: str) -> str:
    """Write text as one segment of a path."""
    return quote(text, safe="")


class Api:
    """A running platform's local API."""

    def __init__(self, root: Path) -> None:
        """Find the platform of this folder. Raises ``Failure`` if there is none, or nothing serves it."""
        self.root = root
        folder = PlatformFolder(root)
        try:
            settings = folder.settings()
        except BadSettings as error:
            raise Failure(str(error)) from error
        self.settings = settings
        self.token_file = folder.path(settings.api.token_file)
        base_url, transport = self._where(folder, settings)
        self._http = httpx.Client(
            base_url=base_url,
            transport=transport,
            headers={"authorization": f"Bearer {self._token(self.token_file)}"},
            timeout=httpx.Timeout(ANSWER_WITHIN_S, connect=CONNECT_WITHIN_S),
            trust_env=False,
        )

    def _where(self, folder: PlatformFolder, settings: Settings) -> tuple[str, httpx.HTTPTransport]:
        listen = settings.api.listen
        if not listen.startswith("unix:"):
            return f"http://{listen}", httpx.HTTPTransport(verify=_NO_TLS)
        path = folder.path(listen.removeprefix("unix:"))
        try:
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise Failure(f"{path} is no socket", f"start the platform: ocpi-engine serve {self.root}")
        except OSError as error:
            raise self.not_running() from error
        return _BASE_URL, httpx.HTTPTransport(uds=str(path), verify=_NO_TLS)

    def _token(self, path: Path) -> str:
        try:
            return path.read_text(encoding="ascii").strip()
        except PermissionError as error:
            raise Failure(f"{path} may not be read", "run this as the user who runs the platform") from error
        except (OSError, UnicodeDecodeError) as error:
            raise self.not_running() from error

    def not_running(self) -> Failure:
        """Say that nothing answers."""
        return Failure(f"the platform in {self.root} is not running", f"start it: ocpi-engine serve {self.root}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """Ask for JSON."""
        return self.request("GET", path, query=query).json()

    def read(self, path: str, **query: Any) -> bytes:
        """Ask for JSON that holds payloads: bytes, not to be decoded and written anew."""
        return self.request("GET", path, query=query).content

    def post(self, path: str, body: Any = None) -> Any:
        """Have something done."""
        response = self.request("POST", path, body=body)
        return response.json() if response.content else None

    def delete(self, path: str) -> None:
        """Remove something."""
        self.request("DELETE", path)

    def publish(self, party: str, module: str, lines: bytes) -> dict[str, Any]:
        """Publish NDJSON lines."""
        response = self.request(
            "POST",
            f"/api/v1/parties/{segment(party)}/objects/{segment(module)}",
            content=lines,
            headers={"content-type": "application/x-ndjson"},
        )
        answer: dict[str, Any] = response.json()
        return answer

    def request(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: Any = None,
        content: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Ask. Raises ``Failure`` for every answer that is not 2xx, and when there is none."""
        known = {name: value for name, value in (query or {}).items() if value is not None}
        with self._failures():
            response = self._http.request(method, path, params=known, json=body, content=content, headers=headers)
        if not response.is_success:
            raise refusal(response)
        return response

    @contextmanager
    def events(self, path: str, **query: Any) -> Iterator[Iterator[tuple[str, bytes]]]:
        """Follow a stream of server-sent events: pairs of kind and data."""
        known = {name: value for name, value in query.items() if value is not None}
        quiet = httpx.Timeout(CONNECT_WITHIN_S, read=None)
        with self._failures(), self._http.stream("GET", path, params=known, timeout=quiet) as response:
            if not response.is_success:
                response.read()
                raise refusal(response)
            yield _events(response)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except httpx.ConnectError as error:
            raise self.not_running() from error
        except httpx.TimeoutException as error:
            raise Failure(
                "the platform did not answer in time", "look at its log, and at `ocpi-engine state`"
            ) from error
        except httpx.HTTPError as error:
            raise Failure(
                f"the platform broke off: {error}", f"see whether it still runs: ocpi-engine state {self.root}"
            ) from error


def _events(response: httpx.Response) -> Iterator[tuple[str, bytes]]:
    kind, data = "message", list[bytes]()
    for line in _lines(response.iter_bytes()):
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            kind = value.decode()
        elif name == b"data":
            data.append(value)
        elif not line and data:
            yield kind, b"\n".join(data)
            kind, data = "message", []


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Split at LF only: other separators, such as U+2028, may stand in a payload's strings."""
    begun: list[bytes] = []
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for line in ended:
            yield b"".join([*begun, line])
            begun = []
        begun.append(rest)


def refusal(response: httpx.Response) -> Failure:
    """Read why not."""
    try:
        error = response.json()["error"]
        return Failure(error["message"], error.get("hint"), error.get("problems", []))
    except (ValueError, KeyError, TypeError):
        return Failure(f"the local API answered HTTP {response.status_code}", "is another program listening there?")
