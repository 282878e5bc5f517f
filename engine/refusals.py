"""What can be wrong with something that the back office or an operator asks of the engine."""

from collections.abc import Sequence
from typing import Final

from engine.protocol.modules import Problem

WORDS_MAX: Final = 500  # characters of a partner's words that are kept and shown


class Refused(Exception):
    """It was not done; the message says why and what to do."""


class NotFoundHere(Refused):
    """There is no such thing on this platform."""


class NotAccepted(Refused):
    """An object is not as its module has it; ``problems`` say where."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class PeerSaidNo(Refused):
    """The partner answered, and not with success."""

    def __init__(self, http_status: int | None, status_code: int | None, message: str) -> None:
        self.http_status = http_status
        self.status_code = status_code
        codes = (("HTTP", http_status), ("status", status_code))
        code = ", ".join(f"{name} {number}" for name, number in codes if number is not None)
        super().__init__(f"the partner answered {code}: {message[:WORDS_MAX] or 'no message'}")


class PeerUnreachable(Refused):
    """The partner did not answer, or not in OCPI."""
