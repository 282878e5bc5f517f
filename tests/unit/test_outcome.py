"""What an answer to a push means."""

import pytest

from engine.protocol import envelope
from engine.protocol.errors import (
    ClientError,
    Immutable,
    InvalidParameters,
    NotSubscribed,
    OcpiError,
    SchemaViolated,
    ServerError,
    SubscriptionError,
    Unavailable,
)
from engine.replication.outcome import SHOWN_MAX, Outcome, of_answer

TIME = "2026-01-02T03:04:05.678Z"
SUCCESS = envelope.success(TIME)


def refusal(error: OcpiError) -> bytes:
    """Write the body of a refusal."""
    return envelope.failure(TIME, error)


@pytest.mark.parametrize("http_status", [200, 201, 202, 299])
def test_a_thousand_in_a_2xx_is_delivered(http_status):
    """Any 2xx will do (B1)."""
    assert of_answer(http_status, SUCCESS).outcome is Outcome.DELIVERED
    assert of_answer(http_status, b'{"timestamp": "", "status_code": 1000}').outcome is Outcome.DELIVERED


@pytest.mark.parametrize("http_status", [199, 302, 400, 404, 500, 503])
def test_a_thousand_with_another_status_is_a_failure(http_status):
    """Two halves of an answer that disagree are no success (B1); but the platform did answer in OCPI."""
    result = of_answer(http_status, SUCCESS)

    assert (result.outcome, result.platform_up) == (Outcome.FAILED, True)
    assert str(http_status) in result.reason


@pytest.mark.parametrize("http_status", [200, 400, 404, 500])
@pytest.mark.parametrize(
    ("error", "outcome"), [(SchemaViolated, Outcome.REJECTED), (NotSubscribed, Outcome.NOT_SUBSCRIBED)]
)
def test_6001_and_6002_are_final_with_any_status(error, outcome, http_status):
    """They say all that there is to say, whatever HTTP says beside them (B1)."""
    assert of_answer(http_status, refusal(error())).outcome is outcome


@pytest.mark.requirement("R.03.02.16")
@pytest.mark.parametrize(
    "error", [ClientError, InvalidParameters, ServerError, Unavailable, SubscriptionError, Immutable]
)
def test_every_other_code_is_tried_again(error):
    """Also 6003, by the letter (B2); the reason names the code and the receiver's words."""
    result = of_answer(error.http_status, refusal(error("some words")))

    assert (result.outcome, result.platform_up) == (Outcome.FAILED, True)
    assert result.reason == f"{error.status_code}: some words"


@pytest.mark.parametrize(
    ("http_status", "up"), [(200, True), (302, True), (403, True), (404, True), (500, False), (502, False)]
)
@pytest.mark.parametrize("body", [b"", b"<html>Bad gateway</html>", b"{}", b"\xff\xfe", b'{"status_code":1000'])
def test_answers_without_an_envelope_are_tried_again(http_status, up, body):
    """A 5xx without an envelope is not the platform but what stands before it (B6)."""
    result = of_answer(http_status, body)

    assert (result.outcome, result.platform_up) == (Outcome.FAILED, up)
    assert f"HTTP {http_status} without an OcpiResponse" in result.reason


def test_what_a_stranger_says_is_kept_in_part():
    """An answer of megabytes does not become a reason of megabytes."""
    assert len(of_answer(200, b"x" * 1_000_000).reason) < SHOWN_MAX + 100
    assert len(of_answer(200, refusal(ClientError("x" * 1_000_000))).reason) <= SHOWN_MAX
    rejected = of_answer(200, refusal(SchemaViolated("no", data=["y" * 1_000_000])))
    assert rejected.reason.startswith('6001: no ["yyy')
    assert len(rejected.reason) < SHOWN_MAX + 100


def test_a_rejection_keeps_what_the_receiver_says_about_it():
    """The operator reads which field it was (P9)."""
    result = of_answer(200, refusal(SchemaViolated("1 fault(s)", data=[{"field": "/evses/0/uid"}])))

    assert result.reason == '6001: 1 fault(s) [{"field":"/evses/0/uid"}]'
