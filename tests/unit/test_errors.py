"""The draft's status codes as exceptions."""

import pytest

from engine.protocol import errors
from engine.protocol.errors import OcpiError

RESERVED = {code for start in (1900, 2900, 3900, 4900, 5900, 6900) for code in range(start, start + 100)}
CODES = {
    *(2000, 2001, 3000, 4000, 4001, 4002, 4003),
    *(5000, 5001, 5002, 5003, 5004, 5005, 5006, 6000, 6001, 6002, 6003, 7001),
}
STATUSES = {  # everything else is answered with 200
    errors.MalformedBody: 400,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.WrongVerb: 405,
    errors.TooSlow: 408,
    errors.Conflict: 409,
    errors.TooLarge: 413,
    errors.TooMany: 429,
    errors.ServerError: 500,
    errors.Unavailable: 503,
}
ALL = [error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, OcpiError)]
CONCRETE = [error for error in ALL if error is not OcpiError]


@pytest.mark.requirement("R.02.02.11")
def test_only_codes_of_the_draft_are_used():
    """No refusal has a code from the ranges that are kept for custom ones."""
    assert {error.status_code for error in CONCRETE} == CODES
    assert not CODES & RESERVED


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.__name__)
def test_a_refusal_is_http_200_unless_http_itself_is_at_fault(error):
    """What could be read and was not done is told by the status code alone."""
    assert error.http_status == STATUSES.get(error, 200)


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.__name__)
def test_every_refusal_has_words(error):
    """Without a message of its own it says its first line, which is a sentence."""
    assert error().message.endswith((".", ")."))
    assert "\n" not in error().message
    assert error("in other words").message == "in other words"
    assert error(data=[1]).data == [1]
