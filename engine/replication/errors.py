"""What can be wrong with something that the back office or an operator asks of replication."""

from engine.protocol.envelope import OcpiResponse


class Refused(Exception):
    """It was not done; the message says why and what to do."""


class NotFoundHere(Refused):
    """There is no such thing on this platform."""


class PeerSaidNo(Refused):
    """The partner answered with an OCPI status code that is not success."""

    def __init__(self, response: OcpiResponse) -> None:
        """Keep the partner's code and words."""
        self.status_code = response.status_code
        super().__init__(f"the partner answered {response.status_code}: {response.status_message or 'no message'}")


class PeerUnreachable(Refused):
    """The partner did not answer, or not in OCPI."""
