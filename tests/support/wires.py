"""TLS connections to a real engine on which a test writes what it wants, with whatever client certificate."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from certs import tls
from tests.support.certificates import Files, Identity
from tests.support.processes import Platform
from tests.support.transport import Reply, Wire

HOST = "localhost"
ANSWERED_WITHIN_S = 20.0  # a test that waits longer has failed
TURNED_AWAY = (ssl.SSLError, OSError, asyncio.IncompleteReadError)
"""What a client sees that TLS refuses; in TLS 1.3 only when it reads."""


def context(engine: Platform, files: Files | None) -> ssl.SSLContext:
    """Make a client's context for an engine; without files it shows no certificate."""
    if files is None:
        return ssl.create_default_context(cafile=engine.server_ca)
    return tls.client_context(chain_file=files.chain_file, key_file=files.key_file, server_ca_file=engine.server_ca)


@asynccontextmanager
async def dial(engine: Platform, files: Files | None) -> AsyncIterator[Wire]:
    """Open a connection to an engine."""
    reader, writer = await asyncio.open_connection(HOST, engine.port, ssl=context(engine, files), server_hostname=HOST)
    try:
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            yield Wire(reader, writer)
    finally:
        writer.transport.abort()


def head(method: str, path: str, **headers: object) -> bytes:
    """Write the head of a request; underscores in names of headers stand for hyphens."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def request(method: str, path: str, body: bytes | None = None, **headers: object) -> bytes:
    """Write a request with its body."""
    if body is None:
        return head(method, path, **headers)
    return head(method, path, Content_Type="application/json", Content_Length=len(body), **headers) + body


async def ask_as(engine: Platform, files: Files | None, method: str, path: str, body: bytes | None = None) -> Reply:
    """Ask an engine once, over a connection of its own; ``path`` is below the base path.

    Raises one of ``TURNED_AWAY`` where TLS refuses.
    """
    async with dial(engine, files) as wire:
        return await wire.ask(request(method, f"/ocpi{path}", body))


def pair_of(holder: Platform, issuer: Platform) -> Files:
    """Find the key and the newest certificate in date that one platform uses with another; both are in one file."""
    found: list[tuple[int, Path]] = []
    for file in (holder.folder / "keys").glob(f"{issuer.identity}_*.pem"):
        if "PRIVATE KEY" in (text := file.read_bytes().decode()):
            end = Identity(b"", text[text.index("-----BEGIN CERT") :].encode()).certificate.not_valid_after_utc
            if end.timestamp() > time.time():
                found.append((file.stat().st_mtime_ns, file))
    newest = max(found)[1]
    return Files(chain_file=newest, key_file=newest)


def check_log(engine: Platform) -> None:
    """See that an engine answered nothing with 500 and has no trace in its log."""
    log = engine.log.read_text()
    assert "Traceback" not in log, log[log.index("Traceback") - 1000 :][:4000]
    assert "status=500" not in log
