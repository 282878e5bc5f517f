"""A proxy that ends TLS, as small as one can be: it does to each request what nginx and HAProxy do.

Clients authenticate to it with certificates of a platform's own authority, and it passes requests on in plain HTTP,
or TLS, with the certificate in a header in place of any that the client wrote there.
"""

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import quote

from tests.support.transport import HOST, stream_server

HEADER = "Client-Cert"

Form = Callable[[bytes], str]
"""Writes a certificate, in DER, the way that a header has it."""


def rfc_9440(der: bytes) -> str:
    """Write it as RFC 9440 has it, and as HAProxy is told to."""
    return f":{base64.b64encode(der).decode()}:"


def nginx(der: bytes) -> str:
    """Write it as nginx has it in ``$ssl_client_escaped_cert``."""
    return quote(ssl.DER_cert_to_PEM_cert(der), safe="")


@dataclass
class Proxied:
    """What went through."""

    requests: int = 0


@asynccontextmanager
async def proxy(
    *,
    listen: int,
    context: ssl.SSLContext,
    to: int,
    form: Form,
    to_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Proxied]:
    """Take in TLS at one port of this machine and pass on to another, as long as the block lasts."""
    passed = Proxied()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, onward = await asyncio.open_connection(
            HOST, to, ssl=to_context, server_hostname=None if to_context is None else "localhost"
        )
        answering = asyncio.create_task(_pass_answers(answers, writer))
        try:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            while True:
                onward.write(await _request(reader, form(certificate) if certificate else ""))
                await onward.drain()
                passed.requests += 1
        finally:
            answering.cancel()
            onward.transport.abort()

    async with stream_server(serve, context, port=listen):
        yield passed


async def _request(reader: asyncio.StreamReader, value: str) -> bytes:
    """Read one request, and write our header in place of the client's."""
    head, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].decode("latin-1").split("\r\n")
    named = [(line.partition(":")[0].lower(), line) for line in lines]
    length = sum(int(line.partition(":")[2]) for name, line in named if name == "content-length")
    kept = [line for name, line in named if name != HEADER.lower()]
    ours = [f"{HEADER}: {value}"] if value else []
    return "\r\n".join([head, *kept, *ours, "", ""]).encode("latin-1") + await reader.readexactly(length)


async def _pass_answers(answers: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await answers.read(65536):
            writer.write(data)
            await writer.drain()
    writer.transport.close()
