"""Segments as bytes, for the broker: a stretch of one log, with pointers and never a payload.

``(start, end, pointers)``: a worker whose position is ``start`` knows that it missed nothing and goes on to
``end``. A pointer has the audience, so that of a thousand workers only those look it up for whom it is. An empty
segment with ``start == end`` is a heartbeat: it shows a worker that the tail was lost.
"""

from typing import Final

import msgspec

from engine.store.database import Segment

# More pointers than this say less than a walk costs: the worker reads the log instead.
POINTERS_MAX: Final = 1000


class Stretch(msgspec.Struct, array_like=True):
    """A segment as a worker reads it; a pointer is (issuer, object key, seq, audience)."""

    start: int
    end: int
    pointers: list[tuple[str, str, int, str | None]]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stretch)


def encode(segment: Segment) -> bytes:
    """Write a segment; one with too many pointers becomes a heartbeat at its end, which starts a walk."""
    if len(segment.pointers) > POINTERS_MAX:
        return heartbeat(segment.end)
    pointers = [(pointer.issuer, pointer.object_key, pointer.seq, pointer.audience) for pointer in segment.pointers]
    return _encoder.encode(Stretch(segment.start, segment.end, pointers))


def heartbeat(end: int) -> bytes:
    """Write what says only where the log ends."""
    return _encoder.encode(Stretch(end, end, []))


def decode(data: bytes) -> Stretch:
    """Read a segment.

    Raises ``msgspec.MsgspecError`` for bytes that are none.
    """
    return _decoder.decode(data)
