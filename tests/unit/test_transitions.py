"""The lives of things as tables: every cell of both ends of a subscription, and what a missing cell does."""

from enum import StrEnum
from typing import Any

import pytest

from engine.protocol.subscriptions import (
    INBOUND,
    OUTBOUND,
    TAKES_UPDATES,
    InboundEvent,
    InboundState,
    OutboundEvent,
    OutboundState,
)
from engine.protocol.transitions import IllegalTransition, Lifecycle

# One row for each state, one column for each event, in the order of the enums; a dot is an error.
OUTBOUND_CELLS = """
              SUBSCRIBED  BY_RECEIVER  HERE        ANSWERED  UNKNOWN  PLATFORM
    LIVE      LIVE        ENDED        CANCELLING  .         ENDED    ENDED
    CANCELLING  LIVE      ENDED        .           ENDED     .        ENDED
    ENDED     LIVE        .            .           .         .        ENDED
"""
INBOUND_CELLS = """
              WANTED  GRANTED  REFUSED  NOTICE      STILL_THERE  GONE     DUE     UNWANTED    ANSWERED  PLATFORM  OLDER
    ASKING    ASKING  LIVE     WAITING  ASKING      .            .        .       CANCELLING  .         ENDED     ASKING
    LIVE      ASKING  .        .        CONFIRMING  LIVE         ASKING   .       CANCELLING  .         ENDED     ASKING
    CONFIRMING ASKING .        .        CONFIRMING  LIVE         WAITING  .       CANCELLING  .         ENDED     ASKING
    WAITING   ASKING  .        .        .           .            .        ASKING  ENDED       .         ENDED     ASKING
    CANCELLING ASKING .        .        CANCELLING  .            .        .       CANCELLING  ENDED     ENDED     .
    ENDED     ASKING  .        .        .           .            .        .       ENDED       .         ENDED     .
"""


def cells(table: str, states: type[StrEnum], events: type[StrEnum]):
    """Every cell of a table: state, event, and the state after it or None."""
    rows = [line.split() for line in table.strip().splitlines()[1:]]
    assert [row[0] for row in rows] == [state.name for state in states]
    return [
        pytest.param(states[state], event, None if after == "." else states[after], id=f"{state}-{event.name}")
        for state, *afterwards in rows
        for event, after in zip(events, afterwards, strict=True)
    ]


def check(life: Lifecycle[Any, Any], state: StrEnum, event: StrEnum, after: StrEnum | None):
    """Compare one cell with the table."""
    assert life.allows(state, event) is (after is not None)
    if after is not None:
        assert life.after(state, event) is after
        return
    with pytest.raises(IllegalTransition, match=f"a {life.name} that is {state.value} takes no {event.value}"):
        life.after(state, event)


@pytest.mark.parametrize(("state", "event", "after"), cells(OUTBOUND_CELLS, OutboundState, OutboundEvent))
def test_every_cell_of_the_producers_end(state, event, after):
    """What may happen leads where it should, and whatever else happens is an error."""
    check(OUTBOUND, state, event, after)


@pytest.mark.parametrize(("state", "event", "after"), cells(INBOUND_CELLS, InboundState, InboundEvent))
def test_every_cell_of_the_consumers_end(state, event, after):
    """What may happen leads where it should, and whatever else happens is an error."""
    check(INBOUND, state, event, after)


@pytest.mark.parametrize(("life", "ended"), [(OUTBOUND, OutboundState.ENDED), (INBOUND, InboundState.ENDED)])
def test_the_end_of_a_connection_ends_every_subscription(life, ended):
    """After a bye nothing lives on, in whichever state it was (B20)."""
    for state in life.table:
        (event,) = (event for event in life.table[state] if event.name == "PLATFORM_ENDED")
        assert life.after(state, event) is ended


def test_updates_are_taken_from_the_asking_on():
    """They can overtake the answer to the subscribe (B28); what is not wanted takes none."""
    assert {InboundState.ASKING, InboundState.LIVE, InboundState.CONFIRMING} == TAKES_UPDATES


def test_a_state_that_the_table_does_not_have_takes_nothing():
    """A missing row is as much an error as a missing cell."""
    life = Lifecycle("thing", {OutboundState.LIVE: {OutboundEvent.SUBSCRIBED: OutboundState.LIVE}})

    assert not life.allows(OutboundState.ENDED, OutboundEvent.SUBSCRIBED)
    with pytest.raises(IllegalTransition, match="a thing that is ended takes no subscribe"):
        life.after(OutboundState.ENDED, OutboundEvent.SUBSCRIBED)
