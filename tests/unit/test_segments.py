"""Segments of the change log as bytes."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.replication.ledger import Ledger
from engine.replication.segments import (
    ADDRESSEES_MAX,
    FEW_MAX,
    POINTERS_MAX,
    Routing,
    Stretch,
    decode,
    encode,
    heartbeat,
)
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


# -- who gets which ---------------------------------------------------------------------------------------------

ISSUER = "BEBEC"


def change(seq: int, *parties: str, readdressed: bool = False) -> Segment:
    """Make the segment of one change, for these parties; for all if none is named."""
    audience = f",{','.join(parties)}," if parties else None
    return Segment("cdrs", seq - 1, seq, (Pointer(ISSUER, f"cdr{seq}", 1, seq, audience, readdressed),))


def routed(routing: Routing, segment: Segment) -> dict[str | None, Stretch]:
    """Route one segment."""
    return {party: decode(data) for party, data in routing.route(segment)}


def test_what_is_for_few_goes_to_those_few():
    """The next one for all covers it, and names them; after that nothing is left to be told."""
    routing = Routing()
    assert set(routed(routing, change(1))) == {None}
    assert set(routed(routing, change(2, "DEPTX", "NLEMS"))) == {"DEPTX", "NLEMS"}
    assert routed(routing, change(3, "DEPTX"))["DEPTX"].few == {"DEPTX": 2}, "it may not have got the one before"

    for_all = routed(routing, change(4))[None]
    assert (for_all.start, for_all.end, for_all.few) == (1, 4, {"DEPTX": 3, "NLEMS": 2})
    assert [seq for _, _, seq, _ in for_all.pointers] == [4]
    assert (routed(routing, change(5))[None].start, routed(routing, change(6))[None].few) == (4, {})


def test_a_heartbeat_covers_what_only_few_were_told():
    """So that those for whom it was not go on without reading the log."""
    routing = Routing()
    routing.route(change(1, "DEPTX"))
    assert decode(routing.heartbeat(1)) == Stretch(0, 1, [], {"DEPTX": 1})
    assert decode(routing.heartbeat(1)) == Stretch(1, 1, [])


def test_what_another_process_wrote_in_between_is_not_covered():
    """A segment says nothing of numbers that this process did not write."""
    routing = Routing()
    routing.route(change(1, "DEPTX"))
    assert routed(routing, change(3))[None].start == 2
    routing.route(change(4, "DEPTX"))
    assert decode(routing.heartbeat(5)) == Stretch(5, 5, [])


def test_what_is_for_many_or_was_for_others_goes_to_all():
    """One message for all costs less than many; who could see an object has to hear that it cannot any more."""
    many = [f"DE{number:03}" for number in range(ADDRESSEES_MAX + 1)]
    assert len(routed(Routing(), change(1, *many[1:]))) == ADDRESSEES_MAX
    assert set(routed(Routing(), change(1, *many))) == {None}
    assert set(routed(Routing(), change(1, "DEPTX", readdressed=True))) == {None}

    routing, told = Routing(), 0
    for seq in range(1, FEW_MAX + 2):
        told += None in routed(routing, change(seq, f"DE{seq}"))
    assert told == 1, "the names that a segment for all carries are bounded (P8)"


@pytest.mark.parametrize("seed", range(100))
def test_nobody_misses_what_was_lost_on_its_way(seed: int):
    """Two processes write and route; segments are lost and doubled; whoever is at a number has read what is theirs."""
    chance = random.Random(seed)
    parties = ["DEPTX", "NLEMS", "FRAAA"]
    ledgers = {party: Ledger(0) for party in parties}
    for ledger in ledgers.values():
        ledger.behind = False
    visible: dict[str, set[int]] = {party: set() for party in parties}
    read: dict[str, set[int]] = {party: set() for party in parties}
    processes, walks = [Routing(), Routing()], 0
    for seq in range(1, 200):
        named = chance.choice([[], ["DEPTX"], ["NLEMS"], ["DEPTX", "FRAAA"], ["BEBEC"]])
        for party in parties:
            if not named or party in named:
                visible[party].add(seq)
        routing = processes[chance.random() < 0.1]
        parcels = routing.route(change(seq, *named))
        if chance.random() < 0.05:
            parcels.append((None, routing.heartbeat(seq)))
        for to, data in parcels:
            for party in parties if to is None else {to} & set(parties):
                for _ in range(chance.choice([0, 1, 1, 1, 1, 2])):
                    ledgers[party].follow(decode(data), ISSUER, party)
        for party, ledger in ledgers.items():
            read[party] |= {int(key.removeprefix("cdr")) for _, key in ledger.take_pointers(1000)}
            ledger.loaded([], lambda *_: None)
            if ledger.behind:
                walks += 1
                read[party] |= {number for number in visible[party] if number > ledger.position}
                ledger.page([], end=seq, more=False, make=lambda *_: None)
            assert {number for number in visible[party] if number <= ledger.position} <= read[party]
    assert walks
