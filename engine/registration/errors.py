"""What can be wrong with something that an operator asks of registration."""


class Refused(Exception):
    """It was not done; the message says why and what to do."""


class NotFoundHere(Refused):
    """There is no such thing on this platform."""


class PeerSaidNo(Refused):
    """The partner answered, and not with success."""

    def __init__(self, http_status: int, status_code: int | None, message: str) -> None:
        self.http_status = http_status
        self.status_code = status_code
        code = f"HTTP {http_status}" if status_code is None else f"HTTP {http_status}, status {status_code}"
        super().__init__(f"the partner answered {code}: {message or 'no message'}")


class PeerUnreachable(Refused):
    """The partner did not answer, or not in OCPI."""
