"""The envelope around answers: how it is written, and how generously it is read."""

import json

import pytest

from engine.protocol import envelope
from engine.protocol.errors import InvalidParameters, ServerError

TIME = "2026-01-02T03:04:05.678Z"


def test_a_success():
    """Status code 1000 and a time, and data only where there is some."""
    assert json.loads(envelope.success(TIME)) == {"status_code": 1000, "timestamp": TIME}
    assert json.loads(envelope.success(TIME, {"max_queue_size": 5})) == {
        "status_code": 1000,
        "timestamp": TIME,
        "data": {"max_queue_size": 5},
    }
    assert json.loads(envelope.success(TIME, "ACCEPTED"))["data"] == "ACCEPTED"


def test_a_refusal():
    """The code, words for a person, and what helps to find the fault."""
    error = InvalidParameters("no", data=[{"field": "/id", "reason": "is required"}])

    assert json.loads(envelope.failure(TIME, error)) == {
        "status_code": 2001,
        "status_message": "no",
        "timestamp": TIME,
        "data": [{"field": "/id", "reason": "is required"}],
    }
    assert "data" not in json.loads(envelope.failure(TIME, ServerError()))


@pytest.mark.parametrize(
    ("body", "content"),
    [
        ('{"status_code":1000,"data":{"a":1.10}}', '{"a":1.10}'),
        ('{"status_code":1000,"payload":{"a":1}}', '{"a":1}'),
        ('{"status_code":1000,"data":"d","payload":"p"}', '"d"'),
        ('{"status_code":1000,"data":null}', "null"),
        ('{"status_code":1000,"status_message":null,"routed_receiver":null}', ""),
        ('{"status_code":1000,"unknown":[1e400]}', ""),
    ],
)
def test_reading_data(body, content):
    """Data is taken from `data`, else from `payload` (W5), byte for byte; what nobody knows is passed over."""
    response = envelope.read(body.encode())

    assert response is not None
    assert response.content == content.encode()


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"<html>", b"[]", b"1000", b"{}", b"\x00"),
        *(b'{"status_code":"1000"}', b'{"status_code":null}', b'{"status_code":1000', b'{"status_code":1000}x'),
        *(b'\xff{"status_code":1000}', b'{"status_code":1000,"data":' + b"[" * 100_000),
    ],
)
def test_what_is_no_envelope(body):
    """Anything else is no envelope, and nothing is raised."""
    assert envelope.read(body) is None


@pytest.mark.parametrize(
    ("body", "success"),
    [
        (envelope.success(TIME), True),
        (envelope.success(TIME, {"a": 1}), True),
        (b' {"timestamp": "t", "status_code": 1000}', True),
        (b'{"status_code":1001,"timestamp":"t"}', False),
        (b'{"status_code":10000,"timestamp":"t"}', False),
        (b'{"status_code":2000}', False),
        (b"<html>1000</html>", False),
        (b'{"status_code":1000,}', False),
        (b'{"status_code":1000,"timestamp":"2026-0', False),
        (b'{"status_code":1000,"status_message":"\xff"}', False),
        (b'{"status_code":1000,"status_code":3000}', False),
        (b'{"status_code":1000.0}', True),
        (b'{"status_code":1e3,"data":1E400}', True),
        (b'{"status_code":1000.5}', False),
    ],
)
def test_recognising_a_success(body, success):
    """Read to its end: an answer that only begins like one is none; 1000.0 is an integer (B44)."""
    assert envelope.is_success(body) is success
