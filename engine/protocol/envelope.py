"""OcpiResponse (2.4.6): what every answer to a party-to-party request is wrapped in.

Answers are written here and read here. Reading is generous (W4, W5): ``payload`` passes for ``data``, and
an answer on a platform-level path may come with or without the envelope.
"""

from typing import Any

import msgspec

from engine.protocol.errors import SUCCESS, OcpiError

_encoder = msgspec.json.Encoder()


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


class _CodeWire(msgspec.Struct):
    status_code: float


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
        return _read_slowly(body)


def _read_slowly(body: bytes) -> OcpiResponse | None:
    """Read what the quick way refused, if it is only that its code is an integer written as 1000.0 (B44)."""
    try:
        code = msgspec.json.decode(body, type=_CodeWire).status_code
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        if not code.is_integer():
            return None
        fields["status_code"] = msgspec.Raw(b"%d" % int(code))
        return _decoder.decode(_encoder.encode(fields))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def is_success(body: bytes) -> bool:
    """Say whether the body is an envelope with status code 1000, read to its end: what is cut off is none."""
    response = read(body)
    return response is not None and response.status_code == SUCCESS
