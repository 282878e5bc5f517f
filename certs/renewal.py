"""When to ask for the next certificate. No clock, no I/O."""

from certs.policy import DAY_S

LIFETIME_SHARE = 2 / 3
"""Of the lifetime: what is usual, and of a year it leaves four months to notice that renewal does not work."""

BEFORE_END_S = 10 * DAY_S
"""The partner has 168 hours to answer (R.01.04.04), and people may have to be asked: a week, and a weekend."""

LIFETIME_SHARE_MIN = 1 / 2
"""Not before half of it, however short it is: else a new certificate would be due for renewal when it arrives."""


def renewal_due_at(not_before: float, not_after: float) -> float:
    """Return when to start renewing a certificate of this lifetime.

    Two thirds into its life or ten days before its end, whichever is earlier, but not before half of its life.
    All times in seconds since the epoch.

    Raises:
        ValueError: it ends before it begins.
    """
    lifetime_s = not_after - not_before
    if lifetime_s < 0:
        raise ValueError("a certificate cannot end before it begins")
    early = min(not_before + lifetime_s * LIFETIME_SHARE, not_after - BEFORE_END_S)
    return max(early, not_before + lifetime_s * LIFETIME_SHARE_MIN)
