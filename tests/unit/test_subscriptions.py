"""The bodies of requests about subscriptions and of their answers, and the backoff."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.peers.subscriptions import PeerState, read_queue_size, read_state
from engine.protocol import envelope
from engine.protocol.errors import InvalidParameters
from engine.protocol.subscriptions import (
    BACKOFF_MAX_S,
    INT_MAX,
    CancellationReason,
    Parameters,
    backoff_s,
    read_cancellation,
    read_parameters,
    read_reference,
)

LONGEST_S = 86_400.0


def read(text, *, queue_size_required=False):
    """Read subscription parameters from JSON text."""
    return read_parameters(text.encode(), retry_interval_max_s=LONGEST_S, queue_size_required=queue_size_required)


def wrong_fields(text, **options):
    """Read parameters that are refused, and return the fields that are named."""
    with pytest.raises(InvalidParameters) as refused:
        read(text, **options)
    return [problem["field"] for problem in refused.value.data]


# -- parameters ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ('{"retry_interval":5}', Parameters(5.0, 1, None)),
        ('{"retry_interval":0.25,"parallelism_limit":8,"max_queue_size":100}', Parameters(0.25, 8, 100)),
        ('{"retry_interval":1e1,"parallelism_limit":2.0,"max_queue_size":1E3}', Parameters(10.0, 2, 1000)),
        ('{"retry_interval":86400,"parallelism_limit":null,"max_queue_size":null}', Parameters(86_400.0, 1, None)),
        ('{"max_queue_size":1,"x":{},"retry_interval":1e-9}', Parameters(1e-9, 1, 1)),
        ('{"retry_interval":1,"parallelism_limit":9223372036854775807}', Parameters(1.0, INT_MAX, None)),
        ('{"retry_interval":1,"max_queue_size":9223372036854775807}', Parameters(1.0, 1, INT_MAX)),
    ],
)
def test_reading_parameters(text, parameters):
    """Optional fields may be left out or null (W14, W21); numbers are taken however they are written (B44)."""
    assert read(text) == parameters


@pytest.mark.parametrize("interval", ["0", "-1", "-0.0", "86400.1", "1e400", "9" * 400, '"5"', "true", "null", "[5]"])
def test_retry_intervals_that_are_none(interval):
    """The interval is a number of seconds above 0 (B5), and not so long that dates lose their meaning."""
    assert wrong_fields(f'{{"retry_interval":{interval}}}') == ["/retry_interval"]


@pytest.mark.parametrize("number", ["0", "-1", "1.5", '"1"', "true", "1E400", "[]"])
@pytest.mark.parametrize("field", ["parallelism_limit", "max_queue_size"])
def test_limits_are_at_least_one(field, number):
    """A limit of 0 would be a subscription without updates (B36)."""
    assert wrong_fields(f'{{"retry_interval":1,"{field}":{number}}}') == [f"/{field}"]


def test_all_wrong_parameters_are_named_at_once():
    """One answer says all that there is to mend."""
    assert wrong_fields('{"parallelism_limit":0,"max_queue_size":"x"}') == [
        "/retry_interval",
        "/parallelism_limit",
        "/max_queue_size",
    ]


def test_a_proposal_names_its_queue_size():
    """What may be left out of a subscribe (W14) is what a proposal is about."""
    assert wrong_fields('{"retry_interval":1}', queue_size_required=True) == ["/max_queue_size"]
    assert read('{"retry_interval":1,"max_queue_size":9}', queue_size_required=True).queue_size_max == 9


@given(
    interval=st.floats(min_value=1e-6, max_value=LONGEST_S),
    parallelism=st.integers(1, INT_MAX),
    queue_size=st.none() | st.integers(1, INT_MAX),
)
def test_parameters_that_are_written_are_read(interval, parallelism, queue_size):
    """What one platform asks for is what the other understands."""
    parameters = Parameters(interval, parallelism, queue_size)

    assert read(json.dumps(parameters.body())) == parameters


def test_whole_seconds_are_written_without_a_fraction():
    """Readers that expect an integer get one."""
    assert json.dumps(Parameters(5.0, 1, None).body()) == '{"retry_interval": 5, "parallelism_limit": 1}'


# -- other bodies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", CancellationReason)
def test_reasons_of_a_cancellation(reason):
    """The reasons of the draft are read."""
    assert read_cancellation(json.dumps({"reason": reason}).encode()) is reason


@pytest.mark.parametrize(
    "text", ["{}", '{"reason":null}', '{"reason":"BORED"}', '{"reason":"other"}', '{"reason":1e400}']
)
def test_reasons_that_are_none(text):
    """Anything else is refused, and the answer lists the reasons."""
    with pytest.raises(InvalidParameters) as refused:
        read_cancellation(text.encode())

    assert "QUEUE_OVERFLOW, DATA_NO_LONGER_AVAILABLE, OTHER" in refused.value.data[0]["reason"]


def test_reading_a_reference():
    """An object is named by its id alone (B35)."""
    assert read_reference(b'{"id":"Loc/1","x":1}') == "Loc/1"


@pytest.mark.parametrize("text", ["{}", '{"id":""}', '{"id":5}', '{"id":null}', '{"id":1e400}', '{"id":["a"]}'])
def test_references_that_are_none(text):
    """Without an id there is nothing to send again."""
    with pytest.raises(InvalidParameters) as refused:
        read_reference(text.encode())

    assert refused.value.data[0]["field"] == "/id"


# -- answers ------------------------------------------------------------------------------------------------


def answer(data: str):
    """Read an envelope with this data."""
    response = envelope.read(f'{{"status_code":1000,"data":{data}}}'.encode())
    assert response is not None
    return response


@pytest.mark.parametrize(
    ("data", "state"),
    [
        ('{"retry_interval":1,"current_queue_size":0,"max_queue_size":5}', PeerState(1.0, 0, 5)),
        ('{"retry_interval":0.5,"current_queue_size":1.0,"max_queue_size":5e2,"x":1e400}', PeerState(0.5, 1, 500)),
        (f'{{"retry_interval":1,"current_queue_size":{2**62},"max_queue_size":1}}', PeerState(1.0, INT_MAX, 1)),
        ('{"retry_interval":1,"current_queue_size":-1,"max_queue_size":5}', None),
        ('{"retry_interval":1,"current_queue_size":1e400,"max_queue_size":5}', None),
        ('{"retry_interval":1e400,"current_queue_size":1,"max_queue_size":5}', None),
        ('{"retry_interval":"1","current_queue_size":1,"max_queue_size":5}', None),
        ('{"retry_interval":1,"current_queue_size":true,"max_queue_size":5}', None),
        ('{"current_queue_size":1}', None),
        ("[]", None),
        ("null", None),
    ],
)
def test_reading_a_state(data, state):
    """A producer's numbers are stored and shown, so they are ones that can be, or there is no state."""
    assert read_state(answer(data)) == state


@pytest.mark.parametrize(
    ("data", "size"),
    [
        ('{"max_queue_size":5}', 5),
        ('{"max_queue_size":5.0}', 5),
        (f'{{"max_queue_size":{2**62}}}', INT_MAX),
        *((f'{{"max_queue_size":{text}}}', None) for text in ("0", "-5", "1e400", "9" * 99, '"5"', "true", "null")),
        ("{}", None),
        ("[]", None),
    ],
)
def test_reading_the_queue_size_that_was_granted(data, size):
    """What a producer says is taken if it is a size; what is none is as good as nothing said."""
    assert read_queue_size(answer(data)) == size


# -- backoff ------------------------------------------------------------------------------------------------


@pytest.mark.requirement("R.03.03.01")
@pytest.mark.parametrize(("failures", "wait_s"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (11, 512.0), (21, 524_288.0)])
def test_the_pause_doubles_with_each_failure(failures, wait_s):
    """After n attempts without success 2 to the power of n - 1 retry intervals pass (B5)."""
    assert backoff_s(failures, 0.5) == wait_s


def test_nothing_waits_before_its_first_failure():
    """A first attempt has no backoff."""
    assert backoff_s(0, 5.0) == 0.0


@given(failures=st.integers(1, 10**9), interval=st.floats(min_value=1e-9, max_value=LONGEST_S))
def test_the_pause_stays_a_date(failures, interval):
    """However often it failed, the next attempt has a date within a century, and never an earlier one than before."""
    wait_s = backoff_s(failures, interval)

    assert math.isfinite(wait_s)
    assert 0 < wait_s <= BACKOFF_MAX_S
    assert backoff_s(failures + 1, interval) >= wait_s
