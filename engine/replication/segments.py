"""Segments: a stretch of one log as bytes, with pointers and never a payload, and who gets them.

``(start, end, pointers, few)``: a worker whose position is ``start`` or beyond knows that it missed nothing and goes
on to ``end``. A pointer has the audience, so that of a thousand workers only those look it up for whom it is. An empty
segment with ``start == end`` is a heartbeat: it shows a worker that the tail was lost.

What is addressed to few is put to those few alone. The next segment for all begins where the last one for all ended,
and names the few with the last number that was for them: whoever is among them and was not told there missed it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from engine.store.database import Pointer, Segment
from engine.store.objects import audience_parties

# More pointers than this say less than a walk costs: the worker reads the log instead.
POINTERS_MAX: Final = 1000

# Parties to which one segment is put one by one; more, and it is put to all, as one message.
ADDRESSEES_MAX: Final = 16

# Parties that a segment for all names; a few kilobytes in each queue.
FEW_MAX: Final = 500


class Stretch(msgspec.Struct, array_like=True):
    """A segment as a worker reads it; a pointer is (issuer, object key, seq, audience).

    ``few``: parties, each with the number of its last change in here that has no pointer here.
    """

    start: int
    end: int
    pointers: list[tuple[str, str, int, str | None]]
    few: dict[str, int] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Stretch)


def encode(segment: Segment, *, start: int | None = None, few: Mapping[str, int] | None = None) -> bytes:
    """Write a segment, from an earlier start if one is given.

    One with too many pointers becomes a heartbeat at its end, which starts a walk.
    """
    if len(segment.pointers) > POINTERS_MAX:
        return heartbeat(segment.end)
    pointers = [(pointer.issuer, pointer.object_key, pointer.seq, pointer.audience) for pointer in segment.pointers]
    return _encoder.encode(Stretch(segment.start if start is None else start, segment.end, pointers, dict(few or {})))


def heartbeat(end: int) -> bytes:
    """Write what says only where the log ends."""
    return _encoder.encode(Stretch(end, end, []))


def decode(data: bytes) -> Stretch:
    """Read a segment.

    Raises ``msgspec.MsgspecError`` for bytes that are none.
    """
    return _decoder.decode(data)


@dataclass(slots=True)
class _Untold:
    """A stretch of the log that was not put to all: where it begins and ends, and what of it is for whom."""

    start: int
    end: int
    few: dict[str, int] = field(default_factory=dict)


class Routing:
    """Decides for one log who gets which segment."""

    def __init__(self) -> None:
        self._untold: _Untold | None = None

    def route(self, segment: Segment) -> list[tuple[str | None, bytes]]:
        """Say which bytes go to which party; None: to all."""
        untold = self._untold
        if untold is None or untold.end != segment.start:  # other processes wrote in between, and told of it
            untold = _Untold(segment.start, segment.start)
        addressees = _addressees(segment.pointers)
        if addressees is None or len(untold.few) + len(addressees) > FEW_MAX:
            self._untold = None
            return [(None, encode(segment, start=untold.start, few=untold.few))]
        parcels: list[tuple[str | None, bytes]] = []
        for party in sorted(addressees):
            missed = {party: untold.few[party]} if party in untold.few else {}
            parcels.append((party, encode(segment, start=untold.start, few=missed)))
        untold.few |= addressees
        untold.end = segment.end
        self._untold = untold
        return parcels

    def heartbeat(self, end: int) -> bytes:
        """Tell all where the log ends, and what has been put only to few."""
        untold, self._untold = self._untold, None
        if untold is None or untold.end != end:
            return heartbeat(end)
        return encode(Segment("", untold.start, end, ()), few=untold.few)


def _addressees(pointers: tuple[Pointer, ...]) -> dict[str, int] | None:
    """Return the parties for whom these changes are, each with its last number; None: for all, or for too many."""
    found: dict[str, int] = {}
    for pointer in pointers:
        if pointer.audience is None or pointer.readdressed:
            return None
        for party in audience_parties(pointer.audience) or ():
            found[party] = pointer.seq
        if len(found) > ADDRESSEES_MAX:
            return None
    return found
