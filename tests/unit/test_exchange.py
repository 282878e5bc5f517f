"""Bodies that are read for handlers, and refusals that say what is wrong with them."""

import json

import msgspec
import pytest

from engine.protocol.errors import ClientError, InvalidParameters, MalformedBody, NotFound
from engine.server.exchange import VerbNotServed, checked_body, read_body, refusal, wrong_verb


class Inner(msgspec.Struct):
    """A part."""

    values: list[int]


class Form(msgspec.Struct):
    """What is expected."""

    name: str
    inner: Inner | None = None


def test_a_body_is_read_as_what_is_expected():
    """Unknown fields are let through, null counts as absent (W21)."""
    assert read_body(b'{"name":"x","other":1,"inner":null}', Form) == Form("x")


@pytest.mark.requirement("R.02.02.06")
@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{}", ""),
        (b'{"name":1}', "/name"),
        (b'{"name":"x","inner":{"values":[1,"2"]}}', "/inner/values/1"),
        (b'{"name":"x","name":"y"}', "/name"),
    ],
)
def test_what_is_wrong_is_named_by_field_and_reason(body, field):
    """Valid JSON of the wrong shape is 200 with 2001 and the place (B18)."""
    with pytest.raises(InvalidParameters) as raised:
        read_body(body, Form)

    answer = refusal(raised.value, "2026-01-01T00:00:00.000Z")
    told = json.loads(answer.body)
    assert (answer.http_status, told["status_code"]) == (200, 2001)
    assert told["data"][0]["field"] == field
    assert told["data"][0]["reason"]


@pytest.mark.requirement("R.02.02.05")
@pytest.mark.parametrize("body", [b"", b"1", b"[{}]", b"{", b"\xff", b'{"a":NaN}', b'{"a":' * 10_000])
def test_what_is_no_json_object_is_malformed(body):
    """400 with 2001 (B18)."""
    with pytest.raises(MalformedBody) as raised:
        checked_body(body)
    assert raised.value.http_status == 400


def test_a_wrong_verb_depends_on_the_body():
    """405 says which are served; with a JSON object in the body it is 200 (B17), without one 400."""
    refused = wrong_verb(["POST", "GET"], b"")
    assert isinstance(refused, VerbNotServed)
    assert (refused.http_status, refused.allowed) == (405, "GET, POST")

    told = wrong_verb(["GET"], b"{}")
    assert (type(told), told.http_status) == (ClientError, 200)

    with pytest.raises(MalformedBody):
        wrong_verb(["GET"], b"x")


def test_a_refusal_is_an_envelope():
    """With the message of its class where there is none."""
    answer = refusal(NotFound(), "2026-01-01T00:00:00.000Z")

    told = json.loads(answer.body)
    assert answer.http_status == 404
    assert told == {
        "status_code": 2000,
        "status_message": "There is nothing at this path (R.02.02.07).",
        "timestamp": "2026-01-01T00:00:00.000Z",
    }
