"""When the next certificate is asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.renewal import renewal_due_at

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("lifetime_days", "due_days"),
    [
        (365, 365 * 2 / 3),  # two thirds, well before the last ten days
        (30, 20),  # both rules meet
        (24, 14),  # ten days before the end
        (20, 10),  # both ten days before the end and half of it
        (9, 4.5),  # ten days before the end would be before its beginning: half of it
        (1, 0.5),
        (0, 0),
    ],
)
def test_renewal_starts_when_the_earlier_rule_says_but_not_before_half_of_the_lifetime(lifetime_days, due_days):
    """Two thirds or ten days before the end, whichever is earlier; never before half."""
    begin = 1_800_000_000.0

    due = renewal_due_at(begin, begin + lifetime_days * DAY_S)

    assert due == pytest.approx(begin + due_days * DAY_S)


@given(begin=st.floats(0, 4e9), lifetime_s=st.floats(0, 1e9))
def test_renewal_always_starts_between_half_and_two_thirds_of_the_lifetime(begin, lifetime_s):
    """However long or short a certificate lives, it is never renewed at once and never too late."""
    due = renewal_due_at(begin, begin + lifetime_s)

    assert begin + lifetime_s / 2 - 1e-3 <= due <= begin + lifetime_s * 2 / 3 + 1e-3


def test_a_certificate_that_ends_before_it_begins_is_an_error():
    """Nothing sensible can be said about it."""
    with pytest.raises(ValueError, match="before it begins"):
        renewal_due_at(2.0, 1.0)
