"""Chapter 3.02: a payload arrives as it was issued, byte for byte, whatever its numbers, order, escapes and size."""

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from engine.samples import location_of_size, locations
from tests.support.backing import Backing
from tests.support.peer import Peer, World, world

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("chapter 3, fidelity")]

MODULE = "evsestatuses"


def status(x: str) -> bytes:
    """Make a status with an unknown field of this JSON text."""
    return b'{"status":"AVAILABLE","x":%b}' % x.encode()


PAYLOADS = {
    "nineteen digits": status("0.1234567890123456789"),
    "a trailing zero": status("0.10"),
    "an exponent": status("1E+2"),
    "other exponents": status("[1e2, 1E2, 1e+02, 100, 100.0, 1.0e-7, 1E-400]"),
    "beyond a double": status("1E400"),
    "far beyond a double": status("-1E999999999"),
    "a large integer": status("123456789012345678901234567890"),
    "minus zero": status("[-0, -0.0, 0e0]"),
    "odd order": b'{"zzz":1,"status":"AVAILABLE","aaa":2,"Status":"x","":null}',
    "white space": b'{ "status"\t:  "AVAILABLE" ,\n\n  "x" : [ ] , "y":{ }\r\n}',
    "emoji": status('"\U0001f50c \u00e9 \u6f22\u5b57 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2028"'),
    "escapes": b'{"status":"\\u0041VAILABLE","x":"\\/ \\u00e9 \\ud83d\\udd0c \\b\\f\\n\\r\\t \\u0000 \\\\ \\""}',
    "escaped keys": b'{"\\u0073tatus":"AVAILABLE","x\\u0022":1}',
    "nulls": b'{"status":"AVAILABLE","timestamp":null,"x":null,"y":[null,true,false]}',
    "depth": status('{"a":[' * 40 + "1" + "]}" * 40),
    "words of ours": status('{"issuer_party":"XXXXX","id":"x","version":-1,"payload":{}}'),
    "a megabyte": status('"' + "0123456789abcdef" * 65536 + '"'),
    "a megabyte of escapes": status('"' + "\\u00e9\\n" * 131072 + '"'),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one(tmp_path_factory: pytest.TempPathFactory, backing: Backing) -> AsyncIterator[World]:
    """One engine for all tests here."""
    async with world(tmp_path_factory.mktemp("fidelity"), backing=backing) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def peer(one: World) -> AsyncIterator[Peer]:
    """Register a partner."""
    yield await one.new_peer()
    await one.stop_peers()


@pytest.mark.requirement("R.03.02.07")
async def test_what_was_published_is_sent_byte_for_byte(one: World, peer: Peer):
    """Each payload leaves with the very bytes that were published, also after a restart, and reads so locally."""
    cpo = await one.new_party("CPO")
    wanted = {}
    for number, (name, payload) in enumerate(PAYLOADS.items()):
        wanted[f"P{number}"] = (name, payload)
        made = await one.api("PUT", f"/parties/{cpo}/objects/{MODULE}/P{number}", content=payload)
        assert made["outcome"] == "created", name
    await one.engine.stop()
    await one.engine.start()
    await peer.subscribe(cpo, MODULE, parallelism_limit=4)
    await peer.updated(wanted)
    for update in peer.of("update"):
        name, payload = wanted[update.object_id]
        assert update.payload == payload, name
        assert update.body.endswith(b'"payload":' + payload + b"}"), name
    for object_id, (name, payload) in wanted.items():
        async with one.engine.api() as api:
            answer = await api.get(f"/api/v1/issued/{MODULE}/{cpo}/{object_id}")
        assert answer.content.endswith(b'"payload":' + payload + b"}]"), name
        again = await one.api("PUT", f"/parties/{cpo}/objects/{MODULE}/{object_id}", content=payload)
        assert again["outcome"] == "unchanged", name


@pytest.mark.requirement("R.03.02.08", "R.03.02.09")
async def test_what_was_received_is_stored_byte_for_byte(one: World, peer: Peer):
    """Each payload is kept with the very bytes that came, also after a kill."""
    emsp = await one.new_party("EMSP")
    await one.api("POST", "/subscriptions", {"subscriber": emsp, "producer": peer.party, "module": MODULE})
    for name, payload in PAYLOADS.items():
        answer = await peer.update(emsp, MODULE, quote(name), 1, payload)
        assert (answer.status, answer.code) == (201, 1000), (name, answer.body)
    await one.engine.kill()
    await one.engine.start()
    held = await one.received(MODULE, emsp)
    assert held.keys() == {quote(name) for name in PAYLOADS}
    for name, payload in PAYLOADS.items():
        assert held[quote(name)] == (1, payload), name


async def test_white_space_around_a_payload_is_no_part_of_it(one: World, peer: Peer):
    """A file that ends with a line end is the same object as one without: what is kept is what can be sent."""
    cpo = await one.new_party("CPO")
    path = f"/parties/{cpo}/objects/{MODULE}/A"
    first = await one.api("PUT", path, content=b'\n {"status":"AVAILABLE"} \r\n')
    again = await one.api("PUT", path, content=b'{"status":"AVAILABLE"}\n')
    assert (first["outcome"], again["outcome"]) == ("created", "unchanged")
    await peer.subscribe(cpo, MODULE)
    (update,) = await peer.heard("update")
    assert update.body.endswith(b'"payload":{"status":"AVAILABLE"}}')


async def test_locations_of_every_kind_arrive_as_they_are(one: World, peer: Peer):
    """Generated Locations with every field somewhere, and one of a megabyte, go out and come in byte for byte."""
    cpo, emsp = await one.new_party("CPO"), await one.new_party("EMSP")
    samples = {sample.id: sample.payload for sample in locations(60, seed=7)}
    large = location_of_size(1_000_000, number=99)
    samples[large.id] = large.payload
    await one.publish(cpo, "locations", samples)
    await one.api("POST", "/subscriptions", {"subscriber": emsp, "producer": peer.party, "module": "locations"})
    await peer.subscribe(cpo, "locations", parallelism_limit=8)
    await peer.updated(samples)
    assert {update.object_id: update.payload for update in peer.of("update")} == samples
    for update in peer.of("update"):
        answer = await peer.update(emsp, "locations", update.object_id, update.version, update.payload)
        assert answer.code == 1000
    assert {key: payload for key, (_, payload) in (await one.received("locations", emsp)).items()} == samples


@pytest.mark.parametrize("payload", [b'{"status":"AVAILABLE","x":NaN}', b'{"status":"AVAILABLE","x":01}', b"", b"[]",
    b'{"status":"AVAILABLE","x":"\xff"}', b'{"status":"AVAILABLE","x":"\\ud800"}', b'{"status":"AVAILABLE"}{}',
    b'{"status":"AVAILABLE","x":1,"x":1}', b'{"status":"AVAILABLE","x":Infinity}', b"\xef\xbb\xbf{}",
])  # fmt: skip
async def test_what_is_not_json_that_all_read_alike_is_not_published(one: World, payload: bytes):
    """Such a payload is refused with its reason, and nothing is stored."""
    async with one.engine.api() as api:
        answer = await api.put(f"/api/v1/parties/BEBEC/objects/{MODULE}/A", content=payload)
        assert (answer.status_code, bool(answer.json()["error"]["message"])) == (422, True)
        assert (await api.get(f"/api/v1/issued/{MODULE}/BEBEC/A")).status_code == 404
