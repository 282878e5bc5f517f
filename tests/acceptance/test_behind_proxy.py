"""Two platforms, each behind a proxy of its own that ends TLS: all of chapters 1 to 3, and who gets past it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from certs import tls
from tests.support import wires
from tests.support.certificates import Identity, pem
from tests.support.processes import Platform, connect, platforms
from tests.support.proxy import HEADER, Form, Proxied, nginx, proxy, rfc_9440
from tests.support.replicas import copies, difference, payloads, subscribe
from tests.support.services import free_port
from tests.support.transport import HOST, Wire

pytestmark = [pytest.mark.xdist_group("behind a proxy"), pytest.mark.asyncio(loop_scope="module")]

COUNT = 60
ELSEWHERE = "127.0.0.2"  # another address of this machine, which is not the proxy's


@dataclass(frozen=True)
class Behind:
    """A platform, its proxy, and the port at which only the proxy is to reach it."""

    platform: Platform
    passed: Proxied
    port: int


async def behind(stack: AsyncExitStack, platform: Platform, form: Form, *, with_tls: bool) -> Behind:
    """Let a platform serve at another port, once it starts, and a proxy at its own."""
    inner = free_port()
    platform.settings |= {
        "OCPI_ENGINE_LISTENER__PORT": str(inner),
        "OCPI_ENGINE_LISTENER__CLIENT_CERTIFICATE_HEADER": HEADER,
        "OCPI_ENGINE_LISTENER__PROXY_ADDRESSES": f"{HOST} ::1",
        "OCPI_ENGINE_LISTENER__PROXY_TLS": str(with_tls),
    }
    context = tls.server_context(
        chain_file=platform.folder / "tls" / "server-chain.pem",
        key_file=platform.folder / "tls" / "server-key.pem",
        client_ca_file=platform.folder / "authority" / "authority.pem",
    )
    to_context = ssl.create_default_context(cafile=platform.server_ca) if with_tls else None
    passed = await stack.enter_async_context(
        proxy(listen=platform.port, context=context, to=inner, form=form, to_context=to_context)
    )
    return Behind(platform, passed, inner)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Behind, Behind]]:
    """A CPO behind nginx's way with plain HTTP, an eMSP behind RFC 9440's with TLS; connected through both."""
    made: list[Behind] = []
    async with AsyncExitStack() as stack:

        async def prepare(platform: Platform) -> None:
            made.append(await behind(stack, platform, rfc_9440 if made else nginx, with_tls=bool(made)))

        async with platforms(tmp_path_factory.mktemp("behind"), prepare=prepare) as (cpo, emsp):
            await connect(emsp, cpo)
            yield made[0], made[1]
            wires.check_log(cpo)
            wires.check_log(emsp)


def client_certificate(holder: Platform, issuer: Platform) -> bytes:
    """Return the certificate that one platform shows another, in DER: no secret, and worth nothing by itself."""
    text = wires.pair_of(holder, issuer).chain_file.read_text()
    leaf = Identity(b"", text[text.index("-----BEGIN CERT") :].encode()).certificate
    return ssl.PEM_cert_to_DER_cert(pem(leaf).decode())


async def ask_past_the_proxy(one: Behind, source: str, value: str) -> int:
    """Ask a platform for its versions directly, with this header; returns the HTTP status."""
    reader, writer = await asyncio.open_connection(HOST, one.port, local_addr=(source, 0))
    try:
        async with asyncio.timeout(wires.ANSWERED_WITHIN_S):
            request = wires.request("GET", "/ocpi/versions", Client_Cert=value, X_Forwarded_For=HOST)
            return (await Wire(reader, writer).ask(request)).status
    finally:
        writer.transport.abort()


async def test_platforms_replicate_through_their_proxies(pair):
    """Handshake, parties, subscribe and updates pass both, and the copies are the same, byte for byte."""
    cpo, emsp = pair
    await subscribe(emsp.platform, cpo.platform)
    for turn in range(2):
        await cpo.platform.publish("locations", payloads(COUNT, turn=turn))
    await cpo.platform.drained()

    issued = await copies(cpo.platform, "issued", "locations")
    assert len(issued) == COUNT
    assert difference(issued, await copies(emsp.platform, "received", "locations")) == []
    assert cpo.passed.requests >= 2, "the handshake and the subscribe"
    assert emsp.passed.requests >= COUNT, "the updates"


async def test_a_partner_cannot_say_who_it_is_by_header(pair):
    """What a client writes into the header is replaced: with the right certificate it is itself, garbage or not."""
    cpo, emsp = pair
    async with wires.dial(cpo.platform, wires.pair_of(emsp.platform, cpo.platform)) as wire:
        reply = await wire.ask(wires.request("GET", "/ocpi/versions", Client_Cert="garbage"))
    assert reply.status == 200

    with pytest.raises(wires.TURNED_AWAY):
        await wires.ask_as(cpo.platform, None, "GET", "/versions")


async def test_nobody_gets_past_the_proxy(pair):
    """A partner's certificate, which is no secret, opens the door to the proxy's address alone."""
    cpo, emsp = pair
    value = nginx(client_certificate(emsp.platform, cpo.platform))

    assert await ask_past_the_proxy(cpo, ELSEWHERE, value) == 403
    log = cpo.platform.log.read_text()
    assert "action=proxy_bypassed" in log
    assert f"address={ELSEWHERE}" in log

    assert await ask_past_the_proxy(cpo, HOST, value) == 200, "it was the address, and nothing else"
    foreign = nginx(client_certificate(cpo.platform, emsp.platform))
    assert await ask_past_the_proxy(cpo, HOST, foreign) == 403, "issued by the other platform's authority"


async def test_a_certificate_that_was_ended_is_refused_through_the_proxy(pair):
    """On a connection that was open all the time, from the next request on (B42)."""
    cpo, emsp = pair
    async with wires.dial(cpo.platform, wires.pair_of(emsp.platform, cpo.platform)) as wire:
        before = await wire.ask(wires.request("GET", "/ocpi/versions"))
        await cpo.platform.command("disconnect", emsp.platform.identity, "--reset")
        after = await wire.ask(wires.request("GET", "/ocpi/versions"))

    assert (before.status, after.status) == (200, 403)
