"""How long things take at the simulated CPO, and how much of something it takes.

The defaults are what charging stations in the field are like. Tests and the demo make them shorter.
"""

from dataclasses import dataclass
from typing import TypeAlias

Between: TypeAlias = tuple[float, float]
"""An amount, mostly seconds, that differs from time to time: the least and the most of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Durations of everything that the simulated CPO does."""

    # -- what a charging station takes to do what it is asked; OCPP over a mobile network needs a second or two

    reserve_s: Between = (1.0, 3.0)
    start_s: Between = (2.0, 5.0)
    stop_s: Between = (1.0, 4.0)
    unlock_s: Between = (1.0, 4.0)
    display_s: Between = (0.5, 2.0)
    regulate_s: Between = (1.0, 3.0)
    """To take or to clear a charging profile, or to tell which one it follows."""
    accept_reset_s: Between = (1.0, 3.0)
    """To say that it is going to reset itself."""
    reset_s: Between = (25.0, 40.0)
    """From then on until it is back."""

    # -- sessions

    plug_within_s: float = 120.0
    """How long a session waits for its cable; a common connection time-out of charging stations."""
    update_s: float = 60.0
    """Between two updates of a session and its meter readings: a driver who looks sees it move."""
    period_s: float = 900.0
    """Length of a charging period; a quarter of an hour is what meters count in."""
    cdr_s: Between = (2.0, 10.0)
    """From the end of a session to its CDR."""
    need_kwh: Between = (15.0, 55.0)
    """How much a car that nobody said anything about takes until it is full."""

    # -- others

    authorize_within_s: float = 15.0
    """How long an eMSP may think about a token: drivers do not wait longer at a reader."""
    late_by_s: float = 5.0
    """How long after the deadline a result comes that is made late on purpose."""
    regulate_every_s: float = 1.0
    """A party that sets charging profiles more often than that is told TOO_OFTEN."""
    reserve_at_most_s: float = 86_400.0
    """No reservation is longer: nobody is to keep an EVSE from all others for ever."""

    def __post_init__(self) -> None:
        """Refuse a pace at which there would be no end of updates.

        Raises ``ValueError``.
        """
        if self.update_s <= 0:
            raise ValueError("update_s has to be more than 0")
