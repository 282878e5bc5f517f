"""Segments of the change log as bytes."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.replication.segments import POINTERS_MAX, Stretch, decode, encode, heartbeat
from engine.store.database import Pointer, Segment


def segment(count: int) -> Segment:
    """Make a segment with so many pointers."""
    pointers = tuple(Pointer("NLTNM", f"loc{number}", 7, number, ",DEPTX,") for number in range(1, count + 1))
    return Segment("locations", 0, count, pointers)


def test_a_segment_carries_where_changes_are_and_nothing_of_them():
    """Issuer, key, number and audience of each; versions are read with the payload, at the time of sending."""
    pointers: list[tuple[str, str, int, str | None]] = [
        ("NLTNM", "loc1", 1, ",DEPTX,"),
        ("NLTNM", "loc2", 2, ",DEPTX,"),
    ]
    assert decode(encode(segment(2))) == Stretch(0, 2, pointers)


def test_a_heartbeat_says_where_the_log_ends():
    """A worker that is not there yet knows that it missed the tail."""
    assert decode(heartbeat(41)) == Stretch(41, 41, [])


def test_too_many_pointers_become_a_heartbeat():
    """Beyond some number a walk costs less than the pointers do (P8)."""
    assert len(decode(encode(segment(POINTERS_MAX))).pointers) == POINTERS_MAX
    assert decode(encode(segment(POINTERS_MAX + 1))) == Stretch(POINTERS_MAX + 1, POINTERS_MAX + 1, [])


@given(st.binary(max_size=100))
def test_bytes_that_are_no_segment_are_an_error(data):
    """Whatever a broker hands out is a segment or says that it is none."""
    try:
        read = decode(data)
    except msgspec.MsgspecError:
        return
    assert isinstance(read, Stretch)


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x80", encode(segment(3))[:-1], encode(segment(3)) + b"\x00"])
def test_odd_bytes_are_no_segment(data):
    """Nothing, another type, one that was cut off, and one with something behind it."""
    with pytest.raises(msgspec.MsgspecError):
        decode(data)
