"""The listener behind a proxy that ends TLS: whom it believes, what it takes, and what it refuses."""

import json
import logging
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

from certs import tls
from engine import logs
from engine.protocol.addressing import party_path
from engine.server.addressing import PartyRequests
from engine.server.exchange import Answer
from tests.support import certificates
from tests.support.certificates import Identity
from tests.support.proxy import HEADER, Form, nginx, rfc_9440
from tests.support.registration import ShiftedClock
from tests.support.transport import (
    CALLER,
    HOST,
    OURS,
    STRANGER,
    SUCCESS,
    THEIRS,
    FakeDirectory,
    Reply,
    World,
    dial,
    no_refresh,
    site,
)

UPDATE = "/ocpi" + party_path(THEIRS, OURS, "locations", "update")
ELSEWHERE = "127.0.0.2"  # another address of this machine, which is not the proxy's
BEHIND: dict[str, Any] = {"client_certificate_header": HEADER, "proxy_addresses": (HOST,)}
FORMS: tuple[Form, ...] = (rfc_9440, nginx)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """Keys and certificates, once."""
    return World.make(tmp_path_factory.mktemp("world"))


def request(*values: str, more: str = "") -> bytes:
    """Write an update, with the header once for each value."""
    headers = "".join(f"{HEADER}: {value}\r\n" for value in values)
    return f"POST {UPDATE} HTTP/1.1\r\nHost: {HOST}\r\n{headers}{more}Content-Length: 2\r\n\r\n{{}}".encode()


def code(reply: Reply) -> tuple[int, int]:
    """HTTP status and status code of an answer, which is an envelope whatever happened."""
    return reply.status, json.loads(reply.body)["status_code"]


def der(identity: Identity) -> bytes:
    """Return the first certificate."""
    return ssl.PEM_cert_to_DER_cert(certificates.pem(identity.certificate).decode())


def right(world: World, form: Form = rfc_9440) -> str:
    """Write the header of the platform that is known."""
    return form(der(Identity(b"", world.client.chain_file.read_bytes())))


def counted(action: str, platform: str = logs.UNKNOWN_PLATFORM) -> float:
    """Return how often something was noted."""
    return logs.security_counts().get(platform, {}).get(action, {}).get("count", 0)


@pytest.mark.parametrize("form", FORMS)
async def test_the_certificate_in_the_header_is_who_calls(world, form, caplog):
    """In plain HTTP, from the proxy: the handler hears of the right platform, and so do the lines of the log."""
    caplog.handler.setFormatter(logs.JsonLines())
    got = []

    async def note(inbound):
        logging.getLogger("engine.test").warning("hello", extra={"action": "greeting"})
        got.append(inbound.caller)
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note)
    async with site(world, directory=directory, party=party, **BEHIND) as served, dial(served.port, None) as wire:
        replies = [await wire.ask(request(right(world, form))) for _ in range(3)]

    assert [code(reply) for reply in replies] == [(200, 1000)] * 3
    assert {(caller.identity, caller.serial) for caller in got} == {(CALLER, world.serial(world.client))}
    (line, *_) = [json.loads(text) for text in caplog.text.splitlines() if "greeting" in text]
    assert line["platform"] == CALLER


async def test_one_connection_of_the_proxy_carries_several_clients(world):
    """Each request is judged by its own header, and nothing is left of the one before."""
    directory = FakeDirectory()
    stranger = rfc_9440(der(certificates.client(world.clients, STRANGER, now=time.time())))
    before = counted("certificate_refused", STRANGER)
    async with site(world, directory=directory, **BEHIND) as served, dial(served.port, None) as wire:
        statuses = [
            (await wire.ask(request(*values))).status
            for values in ((right(world),), (stranger,), (right(world),), (), (right(world),))
        ]

    assert statuses == [200, 403, 200, 403, 200]
    assert counted("certificate_refused", STRANGER) == before + 1


async def test_who_is_not_the_proxy_is_refused_whatever_it_shows(world, caplog):
    """Right header or none: 403, the end of the connection, a security event, and no word of who it says it is."""
    before = counted("proxy_bypassed")
    async with site(world, **BEHIND) as served:
        for values in ((right(world),), ()):
            async with dial(served.port, None, source=ELSEWHERE) as wire:
                reply = await wire.ask(request(*values))
                assert code(reply) == (403, 2000)
                assert await wire.ended()
        async with dial(served.port, None) as wire:
            assert (await wire.ask(request(right(world)))).status == 200, "the proxy is served"

    assert counted("proxy_bypassed") == before + 2
    events = [record for record in caplog.records if record.name == "engine.security"]
    assert {(event.action, event.platform, event.address) for event in events} == {
        ("proxy_bypassed", logs.UNKNOWN_PLATFORM, ELSEWHERE)
    }


async def test_other_headers_of_proxies_change_nothing(world):
    """An address that a header names is not believed, neither of the proxy nor of a stranger."""
    more = f"X-Forwarded-For: {HOST}\r\nForwarded: for={HOST}\r\nX-Real-IP: {HOST}\r\n"
    away = f"X-Forwarded-For: {ELSEWHERE}\r\nForwarded: for={ELSEWHERE}\r\nX-Real-IP: {ELSEWHERE}\r\n"
    async with site(world, **BEHIND) as served:
        async with dial(served.port, None, source=ELSEWHERE) as wire:
            assert (await wire.ask(request(right(world), more=more))).status == 403
        async with dial(served.port, None) as wire:
            assert (await wire.ask(request(right(world), more=away))).status == 200


WRONG: dict[str, Callable[[World], Identity]] = {
    "other authority": lambda world: certificates.of_another_authority(world.clients, CALLER, now=time.time()),
    "self-signed": lambda _world: certificates.self_signed(CALLER, now=time.time()),
    "expired": lambda world: certificates.expired(world.clients, CALLER, now=time.time()),
    "not yet valid": lambda world: certificates.not_yet_valid(world.clients, CALLER, now=time.time()),
    "for servers": lambda world: certificates.wrong_usage(world.clients, CALLER, now=time.time()),
    "the authority": lambda world: Identity(b"", world.clients.certificate_pem),
}


@pytest.mark.requirement("R.01.02.01", "R.01.02.03")
@pytest.mark.parametrize("kind", WRONG)
async def test_a_proxy_that_lets_the_wrong_ones_through_opens_nothing(world, kind):
    """What TLS refuses without a proxy is refused here: the directory would know all of them by their names."""
    before = counted("certificate_refused")
    async with site(world, **BEHIND) as served, dial(served.port, None) as wire:
        replies = [await wire.ask(request(form(der(WRONG[kind](world))))) for form in FORMS]
        after = await wire.ask(request(right(world)))

    assert [code(reply) for reply in replies] == [(403, 2000)] * 2
    assert after.status == 200, "the connection goes on"
    assert counted("certificate_refused") == before + 2


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ((), 403),
        (("",), 403),
        (("", ""), 403),
        (("garbage",), 403),
        (("::",), 403),
        (("RIGHT", "RIGHT"), 403),
        (("RIGHT", ""), 403),
        (("", "RIGHT"), 403),
        (("RIGHT, RIGHT",), 403),
        (("RIGHT", "garbage"), 403),
        (("RIGHTx",), 403),
        ((f":{'A' * 7000}:",), 403),
        ((f":{'A' * 9000}:",), 431),
    ],
)
async def test_no_header_two_or_a_bad_one_is_no_certificate(world, values, status):
    """Refused as an envelope, never as an error of ours; nothing of the value goes back."""
    sent = request(*(value.replace("RIGHT", right(world)) for value in values))
    async with site(world, **BEHIND) as served:
        async with dial(served.port, None) as wire:
            reply = await wire.ask(sent)
        async with dial(served.port, None) as wire:
            assert (await wire.ask(request(right(world)))).status == 200, "others are served"

    assert code(reply) == (status, 2000)
    assert right(world).encode() not in reply.body
    assert b"AAAA" not in reply.body


async def test_a_certificate_ends_on_connections_that_are_open(world):
    """When the operator ends it, and when its time is over; verified ones are remembered, not admitted (B42)."""
    directory, clock = FakeDirectory(), ShiftedClock()
    async with (
        site(world, directory=directory, clock=clock, **BEHIND) as served,
        dial(served.port, None) as wire,
    ):
        assert (await wire.ask(request(right(world)))).status == 200
        clock.ahead_s = 2 * 365 * 86_400.0
        assert (await wire.ask(request(right(world)))).status == 403
        clock.ahead_s = 0.0
        assert (await wire.ask(request(right(world)))).status == 200
        directory.ended.add(world.serial(world.client))
        assert (await wire.ask(request(right(world)))).status == 403


async def test_a_proxy_may_speak_tls_to_us(world):
    """It needs no client certificate for that; who is not the proxy may speak TLS, too, and is refused."""
    context = tls.server_context(
        chain_file=world.server.chain_file, key_file=world.server.key_file, client_ca_file=None
    )
    bare = ssl.create_default_context(cafile=world.folder / "servers.pem")
    async with site(world, context=context, proxy_tls=True, **BEHIND) as served:
        async with dial(served.port, bare) as wire:
            assert code(await wire.ask(request(right(world)))) == (200, 1000)
            assert code(await wire.ask(request())) == (403, 2000)
        async with dial(served.port, world.dialler(), source=ELSEWHERE) as wire:
            assert code(await wire.ask(request(right(world)))) == (403, 2000)


async def test_a_certificate_of_tls_counts_for_nothing_behind_a_proxy(world):
    """Only the header says who calls: a client that gets past the proxy is not let in by its own certificate."""
    context = world.listener()
    async with (
        site(world, context=context, proxy_tls=True, **BEHIND) as served,
        dial(served.port, world.dialler()) as wire,
    ):
        assert code(await wire.ask(request())) == (403, 2000)


async def test_a_header_changes_nothing_where_there_is_no_proxy(world):
    """Off is off: the certificate of TLS is who calls, whatever the header says, and TLS is asked for as ever."""
    got = []

    async def note(inbound):
        got.append(inbound.caller.serial)
        return Answer(200, SUCCESS)

    directory = FakeDirectory()
    party = PartyRequests(directory, no_refresh)
    party.register("update", "POST", note)
    other = rfc_9440(der(certificates.client(world.clients, CALLER, now=time.time())))
    async with site(world, directory=directory, party=party) as served:
        async with dial(served.port, world.dialler()) as wire:
            for values in ((other,), ("garbage",), (other, other), ()):
                assert (await wire.ask(request(*values))).status == 200
        async with dial(served.port, None) as wire:
            await wire.write(request(right(world)))
            assert not (await wire.reader.read()).startswith(b"HTTP"), "plain HTTP is not served"

    assert got == [world.serial(world.client)] * 4
