"""OcpiResponse (2.4.6): what every answer to a party-to-party request is wrapped in.

Answers are written here and read here. Reading is generous (W4, W5): ``payload`` passes for ``data``, and
an answer on a platform-level path may come with or without the envelope.
"""

from typing import Any

import msgspec

from engine.protocol.errors import SUCCESS, OcpiError

_encoder = msgspec.json.Encoder()
# The first bytes of a success as this engine writes it: recognised without parsing the rest.
_SUCCESS_HEAD = b'{"status_code":1000,'


class OcpiResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it was read. ``data`` is the bytes of the JSON value, empty when there was none."""

    status_code: int
    status_message: str | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    payload: msgspec.Raw = msgspec.Raw(b"")
    routed_receiver: str | None = None

    @property
    def content(self) -> bytes:
        """The answer's data, under whichever of both names it came (W5)."""
        return bytes(self.data) or bytes(self.payload)


_decoder = msgspec.json.Decoder(OcpiResponse)


def success(timestamp: str, data: Any = None) -> bytes:
    """Write the envelope of a success; ``timestamp`` is an OCPI DateTime, ``data`` any JSON value or None."""
    if data is None:
        return b'{"status_code":1000,"timestamp":"%b"}' % timestamp.encode()
    return b'{"status_code":1000,"timestamp":"%b","data":%b}' % (timestamp.encode(), _encoder.encode(data))


def failure(timestamp: str, error: OcpiError) -> bytes:
    """Write the envelope of a refusal."""
    body: dict[str, Any] = {
        "status_code": error.status_code,
        "status_message": error.message,
        "timestamp": timestamp,
    }
    if error.data is not None:
        body["data"] = error.data
    return _encoder.encode(body)


def read(body: bytes) -> OcpiResponse | None:
    """Read an envelope; None when the body is not one."""
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def is_success(body: bytes) -> bool:
    """Say whether the body is an envelope with status code 1000, by its first bytes where they tell."""
    if body.startswith(_SUCCESS_HEAD):
        return True
    response = read(body)
    return response is not None and response.status_code == SUCCESS
