"""Places where a test may end the process, between any two arrows of the design's picture.

``OCPI_ENGINE_FAULT=accept.stored@17`` ends it with SIGKILL when ``accept.stored`` is passed for the 17th time.
Without the variable a passage costs one look at a number.
"""

import os
import signal
from typing import Final

FAULT_VARIABLE: Final = "OCPI_ENGINE_FAULT"
POINTS: Final = (
    "publish.received",
    "publish.stored",
    "enqueue.announcing",
    "push.read",
    "push.booked",
    "push.sending",
    "push.answered",
    "push.filed",
    "watermark.saved",
    "accept.received",
    "accept.stored",
    "subscribe.stored",
    "subscribe.answered",
    "subscribe.granted",
    "call.asking",
    "call.asked",
    "call.answered",
    "call.received",
    "call.kept",
    "call.handed_over",
    "call.answering",
    "call.concluded",
    "callback.sending",
    "callback.answered",
    "result.received",
    "result.stored",
)

_point, _, _count = os.environ.get(FAULT_VARIABLE, "").partition("@")
_remaining = int(_count or 1)


def passing(point: str) -> None:
    """Pass a point; does nothing unless a test set it."""
    global _remaining  # noqa: PLW0603 (one counter for the process, only in fault tests)
    if point != _point:
        return
    _remaining -= 1
    if _remaining == 0:
        os.kill(os.getpid(), signal.SIGKILL)
